"""prepare_data.py translation: pairs from aligned files and gettext catalogues, and the split."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import polib
import pytest
from test_prepare_data import SCRIPT, assert_refused, list_names, read_tree, run_on_small_disk
from test_prepare_data import prepare as prepare_workload
from tokenizers import Tokenizer

from preparation import catalogues, translation
from prepared_data import PAIRS_LANGUAGES

prepare = partial(prepare_workload, workload="translation")
NAMES = ("train.src", "train.tgt", "val.src", "val.tgt")


def write_aligned(folder: Path, count: int = 60) -> list:
    """Write two files of numbered sentences; return the options that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "en").write_text("".join(f"This is sentence {i}.\n" for i in range(count)))
    (folder / "de").write_text("".join(f"Dies ist Satz {i}.\n" for i in range(count)))
    return ["--source", folder / "en", "--target", folder / "de"]


def read_pairs(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Return the pairs of each split, read as any reader would."""
    lines = {name: (root / name).read_text(encoding="utf-8").splitlines() for name in NAMES}
    splits = ("train", "val")
    return {
        split: list(zip(lines[f"{split}.src"], lines[f"{split}.tgt"], strict=True))
        for split in splits
    }


# ------------------------------------------------------------------------------
# Two aligned files
# ------------------------------------------------------------------------------


def test_aligned_lines_stay_pairs(tmp_path):
    status, out, err = prepare(tmp_path / "data", *write_aligned(tmp_path / "in"))
    assert (status, err) == (0, "")
    read = read_pairs(tmp_path / "data")
    number = {split: len(read[split]) for split in read}
    assert sum(number.values()) == 60 and min(number.values()) > 0
    counts = f"{number['train']} train and {number['val']} val pairs, "
    assert "data is ready: text, vocabulary " in out and counts in out
    found = read["train"] + read["val"]
    expected = {(f"This is sentence {i}.", f"Dies ist Satz {i}.") for i in range(60)}
    assert set(found) == expected and len(found) == 60


def test_meta_says_what_a_reader_needs(tmp_path):
    assert prepare(tmp_path / "data", *write_aligned(tmp_path / "in"))[0] == 0
    root = tmp_path / "data"
    assert list_names(root) == sorted(["dataset.json", "meta.json", "tokenizer.json", *NAMES])
    meta = json.loads((root / "meta.json").read_text())
    tokenizer = Tokenizer.from_file(str(root / "tokenizer.json"))
    ids = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3}
    assert {name: tokenizer.token_to_id(name) for name in ids} == ids
    assert [meta[f"{name}_id"] for name in ("pad", "bos", "eos", "unk")] == [0, 1, 2, 3]
    assert meta["vocab_size"] == tokenizer.get_vocab_size()
    for name in NAMES:
        lines = (root / name).read_text().splitlines()
        assert meta[f"{name[:-4]}_pairs"] == len(lines)
        longest = max(len(tokenizer.encode(line).ids) for line in lines)
        assert meta["longest_tokens"][name] == longest
    for name, sha256 in meta["sha256"].items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == sha256
    assert str(tmp_path) not in (root / "meta.json").read_text()


def test_what_cannot_be_used_is_dropped_in_pairs_and_counted(tmp_path):
    source = ["one", "", "three", "  ", "five", "one", "one", "\ufeffeight", "nine\u2028nine"]
    target = ["eins", "zwei", "", "\t", " fünf\r", "eins", "ein", "acht", "neun\x85 \x0bneun"]
    (tmp_path / "s").write_text("\n".join(source), encoding="utf-8", newline="")
    (tmp_path / "t").write_text("\ufeff" + "\n".join(target) + "\n", encoding="utf-8", newline="")
    options = ["--source", tmp_path / "s", "--target", tmp_path / "t"]
    out = prepare(tmp_path / "data", *options)[1]
    assert "text (left out: 3 empty, 1 repeated), vocabulary" in out
    read = read_pairs(tmp_path / "data")
    assert sorted(read["train"] + read["val"]) == [
        ("five", "fünf"),
        ("nine nine", "neun neun"),
        ("one", "ein"),
        ("one", "eins"),
        ("\ufeffeight", "acht"),  # a mark within a file is part of its text
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two\nlines", "two lines"),
        (" a \r\n  b\n\n\nc ", "a b c"),
        ("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg", "a b c d e f g"),
        ("no\u00a0break : 5\u202f%", "no\u00a0break : 5\u202f%"),  # French typography stays
        ("%(n)s  of\t{x}", "%(n)s  of\t{x}"),
        ("\n", ""),
    ],
)
def test_a_sentence_is_one_line(text, line):
    assert translation.join_lines(text) == line
    assert len(line.splitlines()) <= 1


def test_lines_end_where_wc_says(tmp_path):
    """U+2028 or a form feed inside a line must not shift all pairs behind it."""
    (tmp_path / "s").write_text("a\u2028a\nb\x0cb\nc\rc\n", encoding="utf-8", newline="")
    assert len(translation.read_lines(tmp_path / "s")) == 3


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (b"a\nb\n", b"a\n", "s has 2 lines and {}/t 1; line n of one must be the translation"),
        (b"a\nb\xff\n", b"a\nb\n", "s is not UTF-8 in line 2; convert it, such as: iconv -f ISO"),
        (b"", b"", "no pairs of sentences found; give more text"),
        (b"\n\n", b"\n\n", "no pairs of sentences found (left out: 2 empty); give more text"),
        (b"a\n", b"b\n", "a single sentence cannot be split for validation; give more text"),
        (None, b"b\n", "cannot read {}/s (No such file or directory); fix that, or leave it out"),
    ],
)
def test_files_that_do_not_fit_are_one_line(tmp_path, source, target, expected):
    if source is not None:
        (tmp_path / "s").write_bytes(source)
    (tmp_path / "t").write_bytes(target)
    result = prepare(tmp_path / "data", "--source", tmp_path / "s", "--target", tmp_path / "t")
    assert_refused(result, expected.format(tmp_path))
    assert "data" not in list_names(tmp_path)


# ------------------------------------------------------------------------------
# The split
# ------------------------------------------------------------------------------


def make_pairs(count: int, tags: tuple[str, ...] = ("",)) -> list[translation.Pair]:
    return [translation.Pair(f"s{i}", f"t{i}{tag}", tag) for i in range(count) for tag in tags]


def test_the_split_stays_when_pairs_are_added():
    few, many = (translation.split_pairs(make_pairs(count), 14) for count in (500, 900))
    assert set(few["train"]) < set(many["train"]) and set(few["val"]) < set(many["val"])
    assert 0.04 < len(many["val"]) / 900 < 0.11


@pytest.mark.parametrize("val_every", [2, 5, 100])
def test_the_share_of_validation_can_be_chosen(val_every):
    share = len(translation.split_pairs(make_pairs(5000), val_every)["val"]) / 5000
    assert share == pytest.approx(1 / val_every, rel=0.3)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_pairs_are_still_split(count):
    for val_every in (2, 1000):
        split = translation.split_pairs(make_pairs(count), val_every)
        assert split["train"] and split["val"]
        assert len(split["train"]) + len(split["val"]) == count


def test_no_sentence_is_on_both_sides():
    """Nor one that is translated into two languages, or twice into one."""
    split = translation.split_pairs(make_pairs(300, ("<de>", "<fr>")), 14)
    trained, validated = ({pair.source for pair in split[name]} for name in ("train", "val"))
    assert not trained & validated and len(trained | validated) == 300


def test_the_same_pairs_give_the_same_bytes(tmp_path):
    write_aligned(tmp_path / "in")
    for side in ("en", "de"):  # the same pairs the other way round, in other files
        lines = (tmp_path / "in" / side).read_text().splitlines()
        (tmp_path / f"{side}.txt").write_text("\n".join(reversed(lines)))
    options = ["--source", tmp_path / "in/en", "--target", tmp_path / "in/de"]
    assert prepare(tmp_path / "one", *options)[0] == 0
    options = ["--source", tmp_path / "en.txt", "--target", tmp_path / "de.txt"]
    assert prepare(tmp_path / "two", *options)[0] == 0
    assert read_tree(tmp_path / "one") == read_tree(tmp_path / "two")
    assert "one is already there: text, vocabulary " in prepare(tmp_path / "one", *options)[1]
    other = prepare(tmp_path / "one", *options, "--max-pairs", 30)
    assert_refused(other, "holds other data (workload translation")
    (tmp_path / "one/val.tgt").write_text("")
    assert_refused(
        prepare(tmp_path / "one", *options), "has lost or gained pairs since it was made"
    )


# ------------------------------------------------------------------------------
# Catalogues
# ------------------------------------------------------------------------------

HEADER = r"""msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\n"
"Language: de\n"

"""
CATALOGUE = r"""msgid "Save"
msgstr "Sichern"

#, fuzzy
msgid "Unsure"
msgstr "Sicher"

msgid "Untranslated"
msgstr ""

msgid ""
"Please enter\n"
"%(name)s and {count:d}.\n"
msgstr ""
"Bitte %(name)s\n"
"und {count:d} eingeben.\n"

#, python-format
msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d Datei"
msgstr[1] "%d Dateien"

msgid "%d mile"
msgid_plural "%d miles"
msgstr[0] "%d Meile"
msgstr[1] ""

msgctxt "month"
msgid "May"
msgstr "Mai"

msgctxt "verb"
msgid "May"
msgstr "Darf"

msgctxt "noun"
msgid "Save"
msgstr "Sichern"

#~ msgid "Old"
#~ msgstr "Alt"
"""
EXPECTED = [
    ("%d file", "%d Datei"),
    ("%d files", "%d Dateien"),
    ("%d mile", "%d Meile"),
    ("May", "Darf"),
    ("May", "Mai"),
    ("Please enter %(name)s and {count:d}.", "Bitte %(name)s und {count:d} eingeben."),
    ("Save", "Sichern"),
]


def write_catalogue(path: Path, text: str = HEADER + CATALOGUE, mo: bool = False) -> Path:
    """Write a .po file, or the .mo file that is made from it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if mo:
        polib.pofile(text).save_as_mofile(str(path))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["de.po", "de/LC_MESSAGES/app.po", "locale/de.mo"])
def test_a_catalogue_gives_the_pairs_that_people_confirmed(tmp_path, name):
    path = write_catalogue(tmp_path / name, mo=name.endswith(".mo"))
    for place in (path, tmp_path):
        target = tmp_path / f"data{place is path}"
        status, out, err = prepare(target, "--gettext", place)
        assert (status, err) == (0, "")
        read = read_pairs(target)
        # A .mo file holds whole, confirmed entries only.
        expected = [each for each in EXPECTED if path.suffix == ".po" or "mile" not in each[0]]
        assert sorted(read["train"] + read["val"]) == expected
        assert "gettext into de" in out
        if path.suffix == ".po":
            expected = {"fuzzy": 1, "untranslated": 2, "obsolete": 1, "repeated": 1}
            assert json.loads((target / "dataset.json").read_text())["left_out_pairs"] == expected


PLURALS = {
    "de": ("nplurals=2; plural=(n != 1);", ["eins", "viele"], [("one", "eins"), ("all", "viele")]),
    "ja": ("nplurals=1; plural=0;", ["hitotsu"], [("all", "hitotsu")]),
    "pl": (
        "nplurals=3; plural=(n==1 ? 0 : n%10>=2 && n%10<=4 && (n%100<10 || n%100>=20) ? 1 : 2);",
        ["plik", "pliki", "plików"],
        [("one", "plik"), ("all", "plików")],
    ),
    "ar": (
        "nplurals=6; plural=n==0 ? 0 : n==1 ? 1 : n==2 ? 2 : n%100>=3 && n%100<=10 ? 3 : "
        "n%100>=11 && n%100<=99 ? 4 : 5;",
        ["zero", "one", "two", "few", "many", "other"],
        [("one", "one"), ("all", "other")],
    ),
    "none": ("", ["eins", "viele"], [("one", "eins"), ("all", "viele")]),
    "wrong": ("nplurals=2; plural=import os;", ["a", "b"], [("one", "a"), ("all", "b")]),
    "zero": ("nplurals=2; plural=n/0;", ["a", "b"], [("one", "a"), ("all", "b")]),
}


@pytest.mark.parametrize("language", PLURALS)
def test_each_languages_own_rule_chooses_the_plural(tmp_path, language):
    rule, forms, expected = PLURALS[language]
    text = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n'
    text += f'"Plural-Forms: {rule}\\n"\n\n' if rule else "\n"
    text += 'msgid "one"\nmsgid_plural "all"\n'
    text += "".join(f'msgstr[{i}] "{form}"\n' for i, form in enumerate(forms))
    path = write_catalogue(tmp_path / "x.po", text)
    assert catalogues.read_catalogues([path], Counter()) == expected


def test_the_language_is_read_from_folder_header_or_name(tmp_path):
    write_catalogue(tmp_path / "locale/fr/LC_MESSAGES/app.po")  # the folder before the header
    write_catalogue(tmp_path / "po/app.po")  # the header: de
    write_catalogue(tmp_path / "po/pt_BR.po", HEADER.replace("Language: de", "X: y") + CATALOGUE)
    found = catalogues.find_catalogues([tmp_path], ["fr", "de", "pt_BR"])
    assert {language: [path.name for path in paths] for language, paths in found.items()} == {
        "fr": ["app.po"], "de": ["app.po"], "pt_BR": ["pt_BR.po"],
    }  # fmt: skip


def test_installed_packages_are_looked_through(tmp_path):
    path = write_catalogue(tmp_path / "lib/site-packages/app/locale/de/LC_MESSAGES/app.po")
    assert catalogues.find_catalogues([tmp_path], ["de"]) == {"de": [path]}


def test_a_compiled_catalogue_beside_its_source_is_not_read_twice(tmp_path):
    po = write_catalogue(tmp_path / "de/LC_MESSAGES/app.po")
    write_catalogue(po.with_suffix(".mo"), mo=True)
    other = write_catalogue(po.with_name("other.mo"), mo=True)
    assert catalogues.find_catalogues([tmp_path], None) == {"de": [po, other]}


def write_locales(folder: Path, languages: str) -> Path:
    for language in languages.split():
        text = HEADER + f'msgid "Yes"\nmsgstr "Ja {language}"\n\nmsgid "No"\nmsgstr "Nein"\n'
        write_catalogue(folder / language / "LC_MESSAGES/app.po", text)
    return folder


def test_several_languages_are_asked_for_by_a_tag(tmp_path):
    folder = write_locales(tmp_path / "locale", "de fr sv")
    assert prepare(tmp_path / "data", "--gettext", folder, "--language", "de", "fr")[0] == 0
    read = read_pairs(tmp_path / "data")
    assert sorted(read["train"] + read["val"]) == [
        ("<de> No", "Nein"), ("<de> Yes", "Ja de"), ("<fr> No", "Nein"), ("<fr> Yes", "Ja fr"),
    ]  # fmt: skip
    tokenizer = Tokenizer.from_file(str(tmp_path / "data/tokenizer.json"))
    tokenizer.encode_special_tokens = True  # the tag is one token, and stays in a translation
    ids = tokenizer.encode("<de> Yes").ids
    assert ids[0] == tokenizer.token_to_id("<de>") >= 260
    assert tokenizer.decode(ids) == "<de> Yes"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "locale has 3 languages (de, fr, sv); choose with --language"),
        (["--language", "xx", "de"], "no catalogue for xx in {}/locale; there are de, fr, sv"),
    ],
)
def test_a_language_that_is_not_clear_is_asked_for(tmp_path, options, expected):
    folder = write_locales(tmp_path / "locale", "de fr sv")
    result = prepare(tmp_path / "data", "--gettext", folder, *options)
    assert_refused(result, expected.format(tmp_path))
    assert list_names(tmp_path) == ["locale"]


BROKEN = {
    "syntax.po": b'msgid "a"\nmsgstr "b"\nnonsense\n',
    "latin.po": HEADER.encode() + 'msgid "for"\nmsgstr "für"\n'.encode("latin-1"),
    "cut.mo": None,
    "text.mo": b"no catalogue",
    "empty.mo": b"",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_catalogue_is_one_line(tmp_path, name):
    path = tmp_path / "de/LC_MESSAGES" / name
    path.parent.mkdir(parents=True)
    if name == "cut.mo":
        content = write_catalogue(tmp_path / "whole.mo", mo=True).read_bytes()
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(BROKEN[name])
    result = prepare(tmp_path / "data", "--gettext", tmp_path / "de")
    assert_refused(result, f"{path} is not a gettext catalogue (", "); leave it out")
    assert "data" not in list_names(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nowhere.po", "cannot read {}/nowhere.po (No such file or directory); fix that"),
        ("nothing", "no .po or .mo catalogues in {}/nothing; name others with --gettext"),
        ("empty.po", "no pairs of sentences found; give more text"),
    ],
)
def test_catalogues_that_are_not_there_are_one_line(tmp_path, name, expected):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "empty.po").write_text("")
    result = prepare(tmp_path / "data", "--gettext", tmp_path / name)
    assert_refused(result, expected.format(tmp_path))


# ------------------------------------------------------------------------------
# 5,000 real pairs
# ------------------------------------------------------------------------------


def test_djangos_translations_are_5000_pairs(pairs):
    meta = json.loads((pairs / "meta.json").read_text())
    read = read_pairs(pairs)
    assert (len(read["train"]), len(read["val"])) == (meta["train_pairs"], meta["val_pairs"])
    assert meta["train_pairs"] + meta["val_pairs"] == 5000 and meta["val_pairs"] > 250
    assert meta["vocab_size"] == 4000
    every = read["train"] + read["val"]
    assert len(set(every)) == 5000
    tags = Counter(source.split()[0] for source, _ in every)
    assert sorted(tags) == sorted(f"<{language}>" for language in PAIRS_LANGUAGES)
    assert min(tags.values()) > 600
    for source, target in [("<de> Monday", "Montag"), ("<fr> Monday", "lundi")]:
        assert (source, target) in {(source, target.lower() if "fr" in source else target)
                                    for source, target in every}  # fmt: skip


def test_no_english_sentence_of_django_is_trained_and_validated_on(pairs):
    read = read_pairs(pairs)
    trained, validated = (
        {source.split(" ", 1)[1] for source, _ in read[split]} for split in ("train", "val")
    )
    assert not trained & validated and len(validated) > 30


def test_the_tokenizer_gives_every_sentence_back(pairs):
    tokenizer = Tokenizer.from_file(str(pairs / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    tags = {tokenizer.token_to_id(f"<{language}>") for language in PAIRS_LANGUAGES}
    for source, target in read_pairs(pairs)["val"]:
        ids = tokenizer.encode(source).ids
        assert ids[0] in tags and not tags & set(ids[1:]) and min(ids) > 3
        for text in (source, target):
            assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_sentence_that_names_a_special_token_is_text(pairs):
    tokenizer = Tokenizer.from_file(str(pairs / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    assert min(tokenizer.encode("a <eos> b <pad>").ids) > 3


# ------------------------------------------------------------------------------
# Disks, signals, the command line
# ------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare (util-linux)")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    options = write_aligned(tmp_path / "in", 50_000)
    result = run_on_small_disk(tmp_path, "size=1m", "translation", *options)
    expected = "/disk/data (No space left on device); free some, or choose a DIR on"
    assert_refused((result.returncode, result.stdout, result.stderr), expected)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(tmp_path, signum):
    options = write_aligned(tmp_path / "in", 200_000)
    command = [sys.executable, SCRIPT, "translation", tmp_path / "data", *options]
    # Under nohup the tests ignore SIGHUP, and what they start would too.
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signum, signal.SIG_DFL),
    )  # fmt: skip
    deadline_s = time.monotonic() + 60
    while not any(tmp_path.glob(".data.*.tmp/dataset/train.src")):
        assert time.monotonic() < deadline_s and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    expected = f"stopped before {tmp_path / 'data'} was complete; run the same command again"
    assert err == f"error: {expected}\n"
    assert list_names(tmp_path) == ["in"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "the following arguments are required: DIR"),
        ("data", "one of the arguments --source --gettext is required"),
        ("data --source a", "--source and --target go together"),
        ("data --gettext a --target b", "--source and --target go together"),
        ("data --source a --target b --gettext c", "not allowed with argument"),
        ("data --source a --target b --language de", "--language does not apply to --source"),
        ("data --gettext a --vocab-size 299", "'299' is not a whole number from 300 to 65535"),
        ("data --gettext a --vocab-size 65536", "'65536' is not a whole number from 300 to 65535"),
        ("data --gettext a --val-every 1", "'1' is not a whole number from 2"),
        ("data --gettext a --max-pairs 0", "'0' is not a whole number from 1"),
    ],
)
def test_wrong_arguments_exit_with_2(tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    status, out, err = prepare(*arguments.split())
    assert (status, out) == (2, "")
    assert expected in err.splitlines()[-1]
    assert list_names(tmp_path) == []


@pytest.mark.parametrize("package", ["polib", "tokenizers"])
def test_a_missing_package_is_one_line(tmp_path, monkeypatch, package):
    write_catalogue(tmp_path / "de.po")
    monkeypatch.setitem(sys.modules, package, None)
    result = prepare(tmp_path / "data", "--gettext", tmp_path / "de.po")
    assert_refused(result, f"package {package} is missing; run: bash scripts/setup_env.sh --work")
    assert list_names(tmp_path) == ["de.po"]
