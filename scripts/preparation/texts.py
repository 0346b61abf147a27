"""Text files of any origin: found, looked through once, limited, and split for validation."""

import hashlib
import os
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from common.console import Progress
from common.errors import UserError

VAL_EVERY = 14  # one document of so many is validated on: about 7 %
# Beside the standard library's own modules, in its folder.
INSTALLED_PACKAGES = frozenset({"site-packages", "dist-packages"})


class Document(NamedTuple):
    """A text, or a part of one: bytes start to stop of a UTF-8 file with this sha256."""

    path: Path
    sha256: str
    start: int
    stop: int


class Survey(NamedTuple):
    """The documents of a corpus, and how many files were left out for which reason."""

    documents: list[Document]
    left_out: dict[str, int]


def find_standard_library() -> Iterator[Path]:
    """Yield the running Python's own sources, real text that every machine has."""
    files = find_files(Path(sysconfig.get_path("stdlib")), passed_over=INSTALLED_PACKAGES)
    return (path for path in files if path.suffix == ".py")


def find_files(folder: Path, passed_over: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield the plain files below folder, in order; hidden ones are passed over."""
    for parent, folders, names in os.walk(folder, onerror=refuse_unreadable):
        folders[:] = sorted(name for name in set(folders) - passed_over if name[0] != ".")
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and is_plain_file(path):
                yield path


def survey_texts(places: Iterable[Path]) -> Survey:
    """Look through files, and folders of files; raise UserError for one that cannot be read.

    In a folder, files that are not UTF-8 are counted and left out. A file that was named is
    refused then: nobody names a file to have it left out.
    """
    places = [path.expanduser() for path in places]
    files = []
    for place in places:
        if place.exists() and not (is_folder(place) or is_plain_file(place)):
            raise UserError(f"{place} is a pipe or a device; name a file, which is read twice")
        files += find_files(place) if is_folder(place) else [place]
    return survey_files(files, named=set(places))


def survey_files(files: Iterable[Path], named: set[Path] = frozenset()) -> Survey:
    """Return the documents in an order of their own, that of their sha256.

    So the same texts give the same data wherever they lie and whatever they are called, and a
    part of the data is a mixture of all of them. A text that comes twice is taken once.
    """
    files, found = list(files), {}
    left_out = {"not UTF-8": 0, "empty": 0, "repeated": 0}
    progress = Progress("read", "files")
    for done, path in enumerate(files):
        content = read_bytes(path)
        sha256 = hashlib.sha256(content).hexdigest()
        if not is_utf8(content):
            left_out["not UTF-8"] += 1
            if path in named:
                fix = f"convert it, such as: iconv -f ISO-8859-1 -t UTF-8 {path}"
                raise UserError(f"{path} is not UTF-8 text; {fix}")
        elif not content.strip():
            left_out["empty"] += 1
        elif sha256 in found:
            left_out["repeated"] += 1
        else:
            found[sha256] = Document(path, sha256, 0, len(content))
        progress.show(done, len(files))
    return Survey([found[sha256] for sha256 in sorted(found)], left_out)


def limit_bytes(documents: list[Document], max_bytes: int) -> list[Document]:
    """Return the first documents, max_bytes of them at most; the last is cut at a line's end."""
    kept = []
    for document in documents:
        if document.stop > max_bytes:
            stop = find_cut(read_bytes(document.path), max_bytes)
            return kept + ([document._replace(stop=stop)] if stop else [])
        kept.append(document)
        max_bytes -= document.stop
    return kept


def split_documents(documents: list[Document]) -> tuple[list[Document], list[Document]]:
    """Return the training and the validation documents; neither is empty.

    The sha256 of a document decides, so that adding a text moves no other to the other side. A
    single document is cut at a line's end. Raises UserError when there is too little to split.
    """
    if len(documents) == 1:
        (whole,) = documents
        content = read_bytes(whole.path)[: whole.stop]
        cut = find_cut(content, len(content) - -(-len(content) // VAL_EVERY))
        if not cut:
            raise UserError(f"{whole.path} is too short to split into training and validation")
        return [whole._replace(stop=cut)], [whole._replace(start=cut)]
    val = [each for each in documents if int(each.sha256[-8:], 16) % VAL_EVERY == 0]
    val = val or documents[-1:]
    train = [each for each in documents if each not in val]
    return (train, val) if train else (val[:-1], val[-1:])


def find_cut(content: bytes, limit: int) -> int:
    """Return where to cut at limit or before: behind a line's end, or else between characters."""
    if limit >= len(content):
        return len(content)
    if cut := content.rfind(b"\n", 0, limit) + 1:
        return cut
    while limit and content[limit] & 0xC0 == 0x80:  # in the middle of a UTF-8 sequence
        limit -= 1
    return limit


def read_text(document: Document) -> str:
    """Return the document's text with its line ends as they are; UserError when it has changed."""
    content = read_bytes(document.path)
    if hashlib.sha256(content).hexdigest() != document.sha256:
        raise UserError(f"{document.path} was changed while it was read; run the command again")
    return content[document.start : document.stop].decode()


def is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise explain_unreadable(path, error) from None


def is_plain_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise explain_unreadable(path, error) from None


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise explain_unreadable(path, error) from None


def refuse_unreadable(error: OSError) -> None:
    raise explain_unreadable(error.filename, error) from None


def explain_unreadable(path: str | Path, error: OSError) -> UserError:
    return UserError(f"cannot read {path} ({error.strerror}); fix that, or leave it out")


def is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
