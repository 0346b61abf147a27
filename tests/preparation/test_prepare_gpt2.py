"""prepare_data.py gpt2: the tokens of any text, the vocabulary, and what is refused."""

import hashlib
import json
import mmap
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from array import array
from functools import partial
from pathlib import Path

import pytest
from test_prepare_data import SCRIPT, assert_refused, list_names, read_tree, run_on_small_disk
from test_prepare_data import prepare as prepare_workload
from tokenizers import Tokenizer

from preparation import bpe, gpt2, texts

prepare = partial(prepare_workload, workload="gpt2")
SMALL = ["--vocab-size", 300]


def write_corpus(folder: Path, count: int = 40) -> Path:
    """Write files of a few lines each, in two folders; return the folder."""
    for i in range(count):
        path = folder / ("a" if i % 2 else "b") / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Text {i}: the sum of {i} and {i} is {2 * i}.\n" * 3)
    return folder


def read_bin(path: Path) -> list[int]:
    """Read the tokens as documented: little-endian uint16, no header."""
    numbers = array("H", path.read_bytes())
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def read_documents(root: Path) -> dict[str, list[str]]:
    """Decode both files; return the documents of each, between the separators."""
    tokenizer = Tokenizer.from_file(str(root / "tokenizer.json"))
    end_id = json.loads((root / "meta.json").read_text())["end_of_text_id"]
    documents = {}
    for split in ("train", "val"):
        ids, found = read_bin(root / f"{split}_small.bin"), []
        assert ids[-1] == end_id
        while ids:
            end = ids.index(end_id)
            found.append(tokenizer.decode(ids[:end], skip_special_tokens=False))
            ids = ids[end + 1 :]
        documents[split] = found
    return documents


# ------------------------------------------------------------------------------
# The files
# ------------------------------------------------------------------------------

AWKWARD = {
    "plain.txt": "Zu viel? Nein: „schön“ – naïve café.\n",
    "crlf.txt": "one\r\ntwo\r\n\r\nthree",
    "spaces.py": "def f(x):\n\n\n    return   x\t# \t end   \n\n\n",
    "separator.txt": "A text that names <|endoftext|> twice: <|endoftext|>.",
    "bytes.txt": "\ufeffa BOM, a \x00 null, \u2028 lines, 🙂🙂 中文 ﬁ \u0301\n",
    "blank.txt": "\n" * 50 + "x" + " " * 50,
}


def test_the_tokens_give_every_text_back(tmp_path):
    (tmp_path / "in").mkdir()
    for name, text in AWKWARD.items():
        (tmp_path / "in" / name).write_bytes(text.encode())
    status, out, err = prepare(tmp_path / "data", "--text", tmp_path / "in", *SMALL)
    assert (status, err) == (0, "")
    assert "data is ready: text, 6 documents, vocabulary " in out
    documents = read_documents(tmp_path / "data")
    assert sorted(documents["train"] + documents["val"]) == sorted(AWKWARD.values())
    assert documents["train"] and documents["val"]


def test_meta_says_what_a_reader_needs(tmp_path):
    assert prepare(tmp_path / "data", "--text", write_corpus(tmp_path / "in"), *SMALL)[0] == 0
    root = tmp_path / "data"
    assert list_names(root) == [
        "dataset.json", "meta.json", "tokenizer.json", "train_small.bin", "val_small.bin",
    ]  # fmt: skip
    meta = json.loads((root / "meta.json").read_text())
    train, val = (read_bin(root / f"{split}_small.bin") for split in ("train", "val"))
    assert [meta[key] for key in ("schema_version", "dtype", "byte_order")] == [
        "1.0",
        "uint16",
        "little",
    ]
    assert (meta["train_tokens"], meta["val_tokens"]) == (len(train), len(val))
    assert (meta["train_documents"], meta["val_documents"]) == (train.count(299), val.count(299))
    assert meta["train_documents"] + meta["val_documents"] == 40
    assert meta["vocab_size"] == 300 == 1 + max(train)  # the separator has the last id
    assert (meta["end_of_text"], meta["end_of_text_id"]) == ("<|endoftext|>", 299)
    in_bytes = sum(path.stat().st_size for path in (tmp_path / "in").rglob("*.txt"))
    assert meta["train_bytes"] + meta["val_bytes"] == in_bytes
    for name, sha256 in meta["sha256"].items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == sha256
    assert meta["made_from"]["source"] == "text"
    assert str(tmp_path) not in (root / "meta.json").read_text()  # nothing of this machine


def test_the_file_can_be_memory_mapped(tokens):
    with (tokens / "train_small.bin").open("rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)).cast("H")
    assert len(mapped) > 30 * 16 * 128  # the rehearsal: 30 steps of 16 sequences
    assert max(mapped) == 2047 and min(mapped) >= 0


def test_the_standard_library_comes_back_word_for_word(tokens):
    """Every whole document is a file of this Python's; nothing is in both splits."""
    survey = texts.survey_files(texts.find_standard_library())
    sums = {document.sha256 for document in survey.documents}
    documents = read_documents(tokens)
    assert len(documents["train"]) > 50 and documents["val"]
    found = [[hashlib.sha256(text.encode()).hexdigest() for text in documents[split]]
             for split in ("train", "val")]  # fmt: skip
    foreign = [each for each in found[0] + found[1] if each not in sums]
    assert len(foreign) <= 1  # the one that --max-bytes cut
    assert not set(found[0]) & set(found[1])
    total = sum(len(text.encode()) for each in documents.values() for text in each)
    assert 1_990_000 < total <= 2_000_000


def test_the_same_text_gives_the_same_bytes_wherever_it_lies(tmp_path):
    """Other names, other folders, another order, another process with other hash seeds."""
    write_corpus(tmp_path / "in")
    (tmp_path / "moved").mkdir()
    for i, path in enumerate(sorted((tmp_path / "in").rglob("*.txt"))):
        shutil.copy(path, tmp_path / "moved" / f"{97 * i % 41}.md")
    assert prepare(tmp_path / "one", "--text", tmp_path / "in", *SMALL)[0] == 0
    command = [sys.executable, SCRIPT, "gpt2", tmp_path / "two", "--text", tmp_path / "moved"]
    environment = os.environ | {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "1"}
    subprocess.run([*command, "--vocab-size", "300"], check=True, env=environment)
    assert read_tree(tmp_path / "one") == read_tree(tmp_path / "two")
    out = prepare(tmp_path / "one", "--text", tmp_path / "moved", *SMALL)[1]
    assert "one is already there: text, 40 documents, vocabulary 300" in out


def test_another_text_or_vocabulary_is_other_data(tmp_path):
    write_corpus(tmp_path / "in")
    arguments = [tmp_path / "data", "--text", tmp_path / "in"]
    assert prepare(*arguments, *SMALL)[0] == 0
    assert_refused(prepare(*arguments, "--vocab-size", 301), "holds other data", "vocab_size 300")
    assert_refused(prepare(*arguments, *SMALL, "--max-bytes", 500), "holds other data")
    (tmp_path / "in/new.txt").write_text("more")
    assert_refused(prepare(*arguments, *SMALL), "holds other data (workload gpt2, source text")


@pytest.mark.parametrize("name", ["train_small.bin", "val_small.bin", "tokenizer.json"])
def test_data_that_lost_a_file_are_not_taken_for_whole(tmp_path, name):
    write_corpus(tmp_path / "in")
    arguments = [tmp_path / "data", "--text", tmp_path / "in", *SMALL]
    assert prepare(*arguments)[0] == 0
    (tmp_path / "data" / name).unlink()
    assert_refused(prepare(*arguments), "data has lost or gained tokens since it was made")


# ------------------------------------------------------------------------------
# Which text, and which part of it
# ------------------------------------------------------------------------------


def test_the_split_is_by_document_and_stays_when_text_is_added(tmp_path):
    before = texts.survey_texts([write_corpus(tmp_path / "in", 400)]).documents
    train, val = texts.split_documents(before)
    assert 0.04 < len(val) / 400 < 0.11 and len(train) + len(val) == 400
    write_corpus(tmp_path / "in", 500)
    more_train, more_val = texts.split_documents(texts.survey_texts([tmp_path / "in"]).documents)
    assert set(train) < set(more_train) and set(val) < set(more_val)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_documents_are_still_split(tmp_path, count):
    survey = texts.survey_texts([write_corpus(tmp_path / "in", count)])
    train, val = texts.split_documents(survey.documents)
    assert train and val
    if count == 1:
        parts = [texts.read_text(*part) for part in (train, val)]
        assert "".join(parts) == (tmp_path / "in/b/0.txt").read_text()
        assert all(part.endswith("\n") for part in parts)


@pytest.mark.parametrize(
    ("content", "limit", "cut"),
    [
        (b"one\ntwo\nthree\n", 100, 14),
        (b"one\ntwo\nthree\n", 14, 14),
        (b"one\ntwo\nthree\n", 13, 8),  # behind a line's end
        (b"one\ntwo\nthree\n", 8, 8),
        (b"onetwothree", 5, 5),  # no line ends
        ("ééé".encode(), 3, 2),  # between two characters
        ("🙂".encode(), 3, 0),
    ],
)
def test_a_text_is_cut_where_it_does_not_hurt(content, limit, cut):
    assert texts.find_cut(content, limit) == cut


@pytest.mark.parametrize("max_bytes", [1, 60, 200, 1000, 10**6])
def test_max_bytes_is_kept_and_nearly_used_up(tmp_path, max_bytes):
    documents = texts.survey_texts([write_corpus(tmp_path / "in")]).documents
    total, line = sum(each.stop for each in documents), 45
    kept = sum(each.stop for each in texts.limit_bytes(documents, max_bytes))
    assert min(total, max_bytes) - line < kept <= max_bytes


def test_what_is_left_out_is_counted_and_said(tmp_path):
    folder = write_corpus(tmp_path / "in", 4)
    (folder / "latin.txt").write_bytes("für".encode("latin-1"))
    (folder / "utf16.txt").write_bytes("für".encode("utf-16"))
    (folder / "empty.txt").write_text("")
    (folder / "blank.txt").write_text(" \n")
    (folder / "again.txt").write_text((folder / "a/1.txt").read_text())
    (folder / ".hidden").write_text("hidden")
    (folder / "gone.txt").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.txt")
    out = prepare(tmp_path / "data", "--text", folder, *SMALL)[1]
    assert "4 documents (left out: 2 not UTF-8, 2 empty, 1 repeated), vocabulary " in out


def test_the_standard_library_is_without_installed_packages():
    found = list(texts.find_standard_library())
    assert any(path.name == "argparse.py" for path in found)
    assert not any("site-packages" in path.parts or path.suffix != ".py" for path in found)


def test_a_file_named_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "latin.txt").write_bytes("für".encode("latin-1"))
    result = prepare(tmp_path / "data", "--text", tmp_path / "latin.txt")
    assert_refused(result, f"{tmp_path}/latin.txt is not UTF-8 text; convert it", "iconv -f")
    assert list_names(tmp_path) == ["latin.txt"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nowhere.txt", "cannot read {}/nowhere.txt (No such file or directory); fix that"),
        ("broken", "cannot read {}/broken/mem (Input/output error); fix that, or leave it out"),
        ("pipe", "{}/pipe is a pipe or a device; name a file, which is read twice"),
        ("nothing", "no text in {}/nothing; name files in UTF-8 with --text"),
        ("blank.txt", "no text in {}/blank.txt (left out: 1 empty); name files"),
        ("short.txt", "{}/short.txt is too short to split into training and validation"),
    ],
)
def test_text_that_cannot_be_used_is_one_line(tmp_path, name, expected):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/mem").symlink_to("/proc/self/mem")  # reading it fails, even for root
    (tmp_path / "blank.txt").write_text("\n")
    (tmp_path / "short.txt").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    result = prepare(tmp_path / "data", "--text", tmp_path / name, *SMALL)
    assert_refused(result, expected.format(tmp_path))
    assert not (tmp_path / "data").exists()


def test_a_text_that_changes_meanwhile_is_noticed_in_the_worker(tmp_path):
    """The error crosses the border of the process that learns the vocabulary, and stays a line."""
    survey = texts.survey_texts([write_corpus(tmp_path / "in", 3)])
    (tmp_path / "in/a/1.txt").write_text("changed")
    with pytest.raises(gpt2.UserError, match=r"1\.txt was changed while it was read; run the"):
        gpt2.train_tokenizer(survey.documents, 300)


# ------------------------------------------------------------------------------
# Vocabularies
# ------------------------------------------------------------------------------


def test_a_text_too_small_for_the_vocabulary_says_how_much_it_gave(tmp_path):
    write_corpus(tmp_path / "in", 3)
    out = prepare(tmp_path / "data", "--text", tmp_path / "in", "--vocab-size", 5000)[1]
    meta = json.loads((tmp_path / "data/meta.json").read_text())
    assert 257 < meta["vocab_size"] < 400 and meta["end_of_text_id"] == meta["vocab_size"] - 1
    assert f"vocabulary {meta['vocab_size']:,}, " in out


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_vocabulary_is_learnt_from_the_training_text_alone(tmp_path, split):
    """A word of validation's alone is never one token; the same word in training is."""
    write_corpus(tmp_path / "in")
    for i in range(200):
        path = tmp_path / "in" / f"word{i}.txt"
        path.write_text(f"{i}" + " Quetzalcoatlus" * 50)
        (document,) = texts.survey_texts([path]).documents
        falls_to_val = int(document.sha256[-8:], 16) % texts.VAL_EVERY == 0
        if falls_to_val != (split == "val"):
            path.unlink()
    assert len(list((tmp_path / "in").glob("word*.txt"))) > 3
    assert prepare(tmp_path / "data", "--text", tmp_path / "in", "--vocab-size", 320)[0] == 0
    vocabulary = Tokenizer.from_file(str(tmp_path / "data/tokenizer.json")).get_vocab()
    assert ("ĠQuetzalcoatlus" in vocabulary) == (split == "train")


def test_a_tokenizer_file_is_used_as_it_is(tmp_path, tokens):
    write_corpus(tmp_path / "in")
    file = tokens / "tokenizer.json"
    arguments = [tmp_path / "data", "--text", tmp_path / "in", "--tokenizer", file]
    assert prepare(*arguments)[0] == 0
    meta = json.loads((tmp_path / "data/meta.json").read_text())
    assert (meta["vocab_size"], meta["end_of_text_id"]) == (2048, 2047)
    assert "is already there" in prepare(*arguments)[1]
    written = Tokenizer.from_file(str(tmp_path / "data/tokenizer.json"))
    assert written.get_vocab() == Tokenizer.from_file(str(file)).get_vocab()


def make_tokenizer(tokens: Path, how: str) -> str:
    tokenizer = Tokenizer.from_file(str(tokens / "tokenizer.json"))
    if how == "too large":
        tokenizer.add_tokens([f"<{i}>" for i in range(65_536 - 2048)])
    content = json.loads(tokenizer.to_str())
    if how == "no separator":
        content["added_tokens"] = []
    elif how == "lower case":
        content["normalizer"] = {"type": "Lowercase"}
    return '{"model": 1}' if how == "garbage" else json.dumps(content)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("too large", "has 65,536 tokens, more than 65,535, which uint16 files cannot hold; take"),
        ("no separator", "has no token <|endoftext|>; take one made for GPT-2"),
        ("lower case", "loses characters; take the tokenizer.json of a byte-level BPE"),
        ("garbage", "is not a tokenizer.json ("),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path, tokens, how, expected):
    write_corpus(tmp_path / "in")
    (tmp_path / "t.json").write_text(make_tokenizer(tokens, how))
    arguments = [tmp_path / "data", "--text", tmp_path / "in", "--tokenizer", tmp_path / "t.json"]
    assert_refused(prepare(*arguments), f"{tmp_path}/t.json {expected}")
    assert list_names(tmp_path) == ["in", "t.json"]


# GPT-2's own ------------------------------------------------------------------


@pytest.fixture
def published(tokens, server, monkeypatch):
    """A vocabulary in the form of GPT-2's, served; return its base address."""
    model = json.loads((tokens / "tokenizer.json").read_text())["model"]
    encoder = json.dumps(model["vocab"] | {"<|endoftext|>": 2047})
    merges = "#version: 0.2\n" + "".join(f"{' '.join(pair)}\n" for pair in model["merges"])
    server.files = {"/g/encoder.json": encoder.encode(), "/g/vocab.bpe": merges.encode()}
    sums = {name.removeprefix("/g/"): hashlib.sha256(content).hexdigest()
            for name, content in server.files.items()}  # fmt: skip
    monkeypatch.setattr(bpe, "GPT2_SHA256", sums)
    monkeypatch.setattr(gpt2, "GPT2_SHA256", sums)
    return server.url.replace("/tiny.zip", "/g")


def test_gpt2s_vocabulary_is_fetched_checked_and_used(tmp_path, tokens, published):
    write_corpus(tmp_path / "in")
    arguments = [tmp_path / "data", "--text", tmp_path / "in", "--gpt2-tokenizer"]
    assert prepare(*arguments, "--url", published + "/")[0] == 0
    assert list_names(tmp_path) == ["data", "in"]
    meta = json.loads((tmp_path / "data/meta.json").read_text())
    assert (meta["vocab_size"], meta["end_of_text_id"]) == (2048, 2047)
    assert meta["made_from"]["parameters"]["tokenizer"] == "gpt2"
    again = [tmp_path / "same", "--text", tmp_path / "in", "--tokenizer", tokens / "tokenizer.json"]
    assert prepare(*again)[0] == 0
    for name in ("train_small.bin", "val_small.bin"):  # the same vocabulary, the same tokens
        assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("cut", "cannot download {}/encoder.json (cut off after 700 of "),
        ("other", "vocab.bpe (5 bytes) has sha256 "),
        ("gone", "cannot download {}/vocab.bpe (Not Found); "),
    ],
)
def test_a_vocabulary_that_cannot_be_had_is_one_line(tmp_path, server, published, damage, expected):
    write_corpus(tmp_path / "in")
    if damage == "cut":
        server.stop_after = 700
    elif damage == "other":
        server.files["/g/vocab.bpe"] = b"other"
    else:
        del server.files["/g/vocab.bpe"]
    arguments = [tmp_path / "data", "--text", tmp_path / "in", "--gpt2-tokenizer"]
    result = prepare(*arguments, "--url", published)
    assert_refused(result, expected.format(published))
    if damage != "other":
        assert "gpt2 " in result[2] and "--tokenizer tokenizer.json" in result[2]
    assert list_names(tmp_path) == ["in"]


def test_vocabulary_files_that_do_not_fit_together_are_one_line():
    with pytest.raises(gpt2.UserError, match="do not fit together"):
        bpe.assemble_tokenizer('{"a": 0}', "#version\nb c\n")


# ------------------------------------------------------------------------------
# Long texts, disks, signals, the command line
# ------------------------------------------------------------------------------


def test_a_long_text_in_pieces_has_the_tokens_of_the_whole(tokens, monkeypatch):
    tokenizer = Tokenizer.from_file(str(tokens / "tokenizer.json"))
    lines = [" indented", "'s", "", "\tx  ", "def f():", "中文", "  ", "123", "\u00a0nbsp", "%"]
    text = "\n".join(lines[i * i % 10] for i in range(2000)) + "\r\n\n x"
    pieces = gpt2.cut_pieces(text, 50)
    assert "".join(pieces) == text and len(pieces) > 50
    whole = tokenizer.encode(text).ids
    assert [i for piece in pieces for i in tokenizer.encode(piece).ids] == whole


def test_batches_change_nothing(tmp_path, monkeypatch):
    write_corpus(tmp_path / "in")
    assert prepare(tmp_path / "one", "--text", tmp_path / "in", *SMALL)[0] == 0
    monkeypatch.setattr(gpt2, "BATCH_CHARACTERS", 100)
    assert prepare(tmp_path / "two", "--text", tmp_path / "in", *SMALL)[0] == 0
    assert read_tree(tmp_path / "one") == read_tree(tmp_path / "two")


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare (util-linux)")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    arguments = ("gpt2", "--vocab-size", 300, "--max-bytes", 3_000_000)
    result = run_on_small_disk(tmp_path, "size=1m", *arguments)
    expected = "/disk/data (No space left on device); free some, or choose a DIR on"
    assert_refused((result.returncode, result.stdout, result.stderr), expected)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_answered_at_once_and_leaves_nothing(tmp_path, signum):
    """While the vocabulary is learnt, which takes many seconds, and no Python code runs."""
    command = [sys.executable, SCRIPT, "gpt2", tmp_path / "data"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip
    deadline_s = time.monotonic() + 60
    while not any(tmp_path.glob(".data.*.tmp/dataset")):
        assert time.monotonic() < deadline_s and process.poll() is None
        time.sleep(0.05)
    time.sleep(2)
    start_s = time.monotonic()
    os.killpg(process.pid, signum)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - start_s < 4
    assert process.returncode == 128 + signum
    expected = f"stopped before {tmp_path / 'data'} was complete; run the same command again"
    assert err == f"error: {expected}\n"
    assert list_names(tmp_path) == []


def test_a_group_may_read_the_data(tmp_path):
    write_corpus(tmp_path / "in")
    arguments = [tmp_path / "data", "--text", tmp_path / "in", *SMALL]
    assert prepare(*arguments, umask=0o077)[0] == 0
    for path in [tmp_path / "data", *(tmp_path / "data").iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "the following arguments are required: DIR"),
        ("data --text", "expected at least one argument"),
        ("data --vocab-size 65536", "'65536' is not a whole number from 257 to 65535"),
        ("data --vocab-size 256", "'256' is not a whole number from 257 to 65535"),
        ("data --max-bytes 0", "'0' is not a whole number from 1 to"),
        ("data --vocab-size 300 --gpt2-tokenizer", "not allowed with argument"),
        ("data --tokenizer t --gpt2-tokenizer", "not allowed with argument"),
        ("data --url http://x/", "--url does not apply to --vocab-size"),
        ("data --tokenizer t --url http://x/", "--url does not apply to --tokenizer"),
        ("data --text .", "DIR lies in ., which is read; choose one elsewhere"),
        ("data --gpt2-tokenizer --url ftp://x/", "does not begin with http:// or https://"),
    ],
)
def test_wrong_arguments_exit_with_2(tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    status, out, err = prepare(*arguments.split())
    assert (status, out) == (2, "")
    assert expected in err.splitlines()[-1]
    assert list_names(tmp_path) == []


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    write_corpus(tmp_path / "in")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    result = prepare(tmp_path / "data", "--text", tmp_path / "in")
    assert_refused(result, "package tokenizers is missing; run: bash scripts/setup_env.sh --workl")
    assert list_names(tmp_path) == ["in"]
