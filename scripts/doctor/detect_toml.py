"""TOML as a person would write it: values, tables in lists, and a remark on each line."""

import json
import textwrap
from pathlib import Path

from doctor.detect_sources import DetectError

WIDTH = 96
Line = tuple[str, str, str]  # key, TOML value, where it came from; a key "" is only a comment


def quote(text: str) -> str:
    """Write text as a TOML string."""
    return json.dumps(text).replace("\x7f", "\\u007f")


def clean(text: str) -> str:
    """Make text fit for one line of a comment."""
    return "".join(char if char.isprintable() else "?" for char in text)[:600]


def format_line(key: str, value: str, source: str) -> str:
    """Format `key = value   # source`; a long source stands above."""
    if not key:
        return write_comment(value)
    text = f"{key} = {value}"
    if not source:
        return f"{text}\n"
    line = f"{text:<36}# {clean(source)}"
    if len(line) <= WIDTH and "\n" not in text:
        return f"{line}\n"
    return f"{write_comment(source)}{text}\n"


def write_comment(text: str) -> str:
    """Write a remark in lines of at most WIDTH columns, if its words are."""
    lines = textwrap.wrap(clean(text), WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def write_table(values: dict[str, str]) -> str:
    """Write an inline TOML table."""
    return "{ " + ", ".join(f"{key} = {quote(value)}" for key, value in values.items()) + " }"


def write_array(rows: list[str]) -> str:
    """Write a TOML array, one row a line."""
    return "[\n" + "".join(f"    {row},\n" for row in rows) + "]"


def save_draft(text: str, path: Path) -> None:
    """Write a new file, whole or not at all; DetectError when it is there already."""
    try:
        with path.open("x", encoding="utf-8") as new:
            try:
                new.write(text)
                new.flush()
            except OSError:
                path.unlink()
                raise
    except FileExistsError:
        raise DetectError(f"{path} is there already; delete it or choose another NAME") from None
    except OSError as error:
        raise DetectError(f"cannot write {path}: {error.strerror}") from None
