"""What is whole in a JSON file that breaks off: a cut number is never a shorter number."""

import json
import re

_SPACE = re.compile(r"[ \t\n\r]*")
_SCALAR = re.compile(
    r"(-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null|-?Infinity|NaN)"
)
_DEEPEST = 50
_CONSTANTS = {"true": True, "false": False, "null": None}


class _Cut(Exception):
    """The text ends here, or is no JSON any more; `value` is what was whole before."""

    def __init__(self, value: object = None, has_value: bool = False):
        super().__init__()
        self.value, self.has_value = value, has_value


def read_prefix(text: str) -> object:
    """Return what a cut JSON text holds in whole members and entries; None when nothing.

    The last member counts only when a comma or bracket follows it. What comes after the
    first thing that is no JSON is left out.
    """
    try:
        return _read(text, _skip(text, 0), 0)[0]
    except _Cut as cut:
        return cut.value
    except RecursionError:
        return None


def _skip(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()


def _read(text: str, at: int, depth: int) -> tuple[object, int]:
    """Return (value, where it ends); raise _Cut with what is whole of it."""
    opening = text[at : at + 1]
    if opening in ("{", "[") and depth < _DEEPEST:
        return _read_members(text, at + 1, depth, {} if opening == "{" else [])
    if opening == '"':
        try:
            return json.decoder.scanstring(text, at + 1, False)
        except ValueError:
            raise _Cut from None
    match = _SCALAR.match(text, at)
    if match is None or match.end() == len(text):
        raise _Cut
    word = match[1]
    try:
        return (_CONSTANTS[word] if word in _CONSTANTS else json.loads(word)), match.end()
    except ValueError:  # more digits than Python reads
        raise _Cut from None


def _read_members(text: str, at: int, depth: int, found: dict | list) -> tuple[object, int]:
    closing = "}" if isinstance(found, dict) else "]"
    at = _skip(text, at)
    while text[at : at + 1] != closing:
        key = None
        try:
            if closing == "}":
                key, at = _read(text, at, depth + 1)
                at = _skip(text, at)
                if not isinstance(key, str) or text[at : at + 1] != ":":
                    raise _Cut
                at = _skip(text, at + 1)
            value, at = _read(text, at, depth + 1)
            at = _skip(text, at)
        except _Cut as cut:
            if cut.has_value and (key is not None or closing == "]"):
                _add(found, key, cut.value)
            raise _Cut(found, has_value=True) from None
        if text[at : at + 1] not in (",", closing):
            if isinstance(value, dict | list | str):  # closed by itself: it cannot be shorter
                _add(found, key, value)
            raise _Cut(found, has_value=True)
        _add(found, key, value)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found, at + 1


def _add(found: dict | list, key: str | None, value: object) -> None:
    if isinstance(found, dict):
        found[key] = value
    else:
        found.append(value)
