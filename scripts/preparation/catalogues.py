"""Translations that people made for programs: the pairs in gettext's .po and .mo catalogues."""

import gettext
import re
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from common.console import Progress
from common.errors import UserError
from preparation.texts import explain_unreadable, find_files, is_folder


def find_catalogues(places: Iterable[Path], languages: list[str] | None) -> dict[str, list[Path]]:
    """Return the catalogues of each language wanted, from files and folders of files.

    languages: None where there is only one. A .mo file is passed over beside the .po file that
    it was made from. Raises UserError when a language is missing, or when it must be named.
    """
    found = {}
    for path in list_catalogues(places):
        if language := name_language(path, languages):
            found.setdefault(language, []).append(path)
    names = ", ".join(sorted(found)[:12]) + (", …" if len(found) > 12 else "")
    where = ", ".join(map(str, places))
    if not found:
        raise UserError(f"no .po or .mo catalogues in {where}; name others with --gettext")
    if languages is None and len(found) > 1:
        text = f"{where} has {len(found)} languages ({names})"
        raise UserError(f"{text}; choose with --language")
    missing = [each for each in languages or [] if each not in found]
    if missing:
        raise UserError(f"no catalogue for {', '.join(missing)} in {where}; there are {names}")
    return {each: found[each] for each in dict.fromkeys(languages or found)}


def list_catalogues(places: Iterable[Path]) -> list[Path]:
    """Return the .po files, and the .mo files that stand alone, in the order of their paths."""
    paths = []
    for place in places:
        if not is_folder(place):
            paths.append(place)
            continue
        files = [path for path in find_files(place) if path.suffix in (".po", ".mo")]
        made_from = {path.with_suffix(".mo") for path in files if path.suffix == ".po"}
        paths += [path for path in files if path not in made_from]
    return list(dict.fromkeys(paths))


def name_language(path: Path, wanted: list[str] | None) -> str | None:
    """Return the language of a catalogue: LANGUAGE/LC_MESSAGES/, its header, or its file's name.

    The header costs reading the file; it is asked only where the folder does not tell.
    """
    if path.parent.name == "LC_MESSAGES":
        return path.parent.parent.name
    if wanted and path.stem in wanted:
        return path.stem
    return open_catalogue(path).metadata.get("Language", "").strip() or path.stem


def read_catalogues(paths: list[Path], left_out: Counter) -> list[tuple[str, str]]:
    """Return (original, translation) of all entries that can be used; count the others.

    Fuzzy, that is unconfirmed, and obsolete entries are left out, and those without translation.
    """
    pairs, progress = [], Progress("read", "catalogues")
    for done, path in enumerate(paths):
        catalogue = open_catalogue(path)
        forms = choose_plural_forms(catalogue.metadata.get("Plural-Forms", ""))
        for entry in catalogue:
            if entry.obsolete or "fuzzy" in getattr(entry, "flags", ()):  # .mo entries have none
                left_out["obsolete" if entry.obsolete else "fuzzy"] += 1
                continue
            for source, target in list_pairs(entry, forms):
                if target:
                    pairs.append((source, target))
                else:
                    left_out["untranslated"] += 1
        progress.show(done, len(paths))
    return pairs


def list_pairs(entry, forms: tuple[int, int]) -> list[tuple[str, str]]:
    """Return the pairs of an entry: one, or two where singular and plural are told apart."""
    if not entry.msgid_plural:
        return [(entry.msgid, entry.msgstr)]
    one, many = forms
    plural = (entry.msgid_plural, entry.msgstr_plural.get(many, ""))
    if one == many:  # as in Japanese: the same form for all numbers
        return [plural]
    return [(entry.msgid, entry.msgstr_plural.get(one, "")), plural]


def choose_plural_forms(header: str) -> tuple[int, int]:
    """Return which of a language's plural forms stand for 1 and for 100 things.

    Languages have up to six: Arabic's first is for nothing, Polish has one of its own for 2 to 4.
    header: such as "nplurals=2; plural=(n != 1);"; without one that is valid, English's rule.
    """
    rule = re.search(r"\bplural\s*=\s*([^;]+)", header)
    try:
        choose = gettext.c2py(rule[1])
        return choose(1), choose(100)
    except (ValueError, TypeError, ArithmeticError):
        return 0, 1


def open_catalogue(path: Path):
    """Return polib's catalogue of a .po or .mo file; UserError when it cannot be read."""
    import polib

    try:
        with path.open("rb"):
            pass  # polib takes a path that is not there for a catalogue's text
    except OSError as error:
        raise explain_unreadable(path, error) from None
    try:
        if path.suffix == ".mo":
            with path.open("rb") as file:
                gettext.GNUTranslations(file)  # notices a file that was cut; polib does not
            return polib.mofile(str(path))
        return polib.pofile(str(path))
    except (OSError, ValueError, LookupError, struct.error) as error:
        reason = str(error).replace(str(path), "").strip() or type(error).__name__
        raise UserError(f"{path} is not a gettext catalogue ({reason}); leave it out") from None
