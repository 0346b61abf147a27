"""Numbers out of JSON that others wrote."""

import math


def number(record: dict, key: str) -> float | None:
    """Return record[key] when it is a finite number, else None: null, text, true, NaN."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer beyond any float
        return None


def pick(record: dict, *keys: str) -> float | None:
    """Return the first of these fields that holds a number."""
    return next((found for key in keys if (found := number(record, key)) is not None), None)


def finite(value: object) -> object:
    """Return a value for strict JSON: NaN and infinity anywhere in it become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def section(record: dict, key: str) -> dict:
    """Return the object at record[key], {} when there is none."""
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def text(record: dict, *keys: str) -> str | None:
    """Return the first of these fields that holds text."""
    return next((v for key in keys if isinstance(v := record.get(key), str) and v), None)
