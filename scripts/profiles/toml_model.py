"""Read a TOML file into a pydantic model, with errors that name the file, the key and the fix."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class ProfileError(Exception):
    """A profile or matrix that cannot be used; the message is one line and names the fix."""


class Strict(BaseModel):
    """A table in which every key is known and every value has its own type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def check_printable(text: str) -> str:
    """Return `text`; ValueError when it holds a newline, a tab or another control character."""
    if not text.isprintable():
        raise ValueError(f"has a control character in {text!r}; write it on one line without any")
    return text


# What #SBATCH lines may hold: Slurm expands nothing there, but a space or a quote ends a value.
Directive = Annotated[str, Field(pattern=r"^[A-Za-z0-9@%+,.:/_=\[\]()&|*!^-]+$")]
# A value that reaches a shell: any printable text, since render.py quotes it.
Text = Annotated[str, AfterValidator(check_printable)]
# A line of shell, rendered as it stands.
ShellLine = Annotated[str, AfterValidator(check_printable)]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
# Names become parts of paths and job names.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
TimeLimit = Annotated[
    str, Field(pattern=r"^(\d+-)?\d{1,3}(:\d{2}){0,2}$", examples=["01:30:00", "2-00:00:00"])
]
# One option of a trainer: its name as after "--", and a plain value.
OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")]
Options = dict[OptionName, bool | int | float | Text]


def read_toml(path: Path, model: type[Model], shown: str) -> Model:
    """Read `path` as `model`. `shown` is the path as errors print it.

    Raises ProfileError with one line: not readable, not TOML, or the first wrong key.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{shown}: cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{shown}: not valid TOML: {error}") from None
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ProfileError(f"{shown}: {explain(error, model)}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Say the first problem of `error` in one line that names the key and the nearest valid one."""
    problem = error.errors(include_url=False)[0]
    where = [str(part) for part in problem["loc"]]
    # A union reports each branch that failed; the branch's name is no key of the file.
    key = ".".join(part for part in where if not part.startswith(("bool", "int", "float", "func")))
    if problem["type"] == "extra_forbidden":
        known = list_keys(model, problem["loc"][:-1])
        return f'unknown key "{key}"; {name_nearest(where[-1], known)}'
    if problem["type"] == "missing":
        return f'missing key "{key}"; add it'
    value = problem["input"]
    if problem["type"] == "string_type":
        if hasattr(value, "isoformat"):
            return f'"{key}" must be text: write {where[-1]} = "{value.isoformat()}"'
        return f'"{key}" must be text in quotes, not {value!r}'
    if problem["type"] == "string_pattern_mismatch":
        return (
            f'"{key}" = {value!r} is not allowed here (it must match {problem["ctx"]["pattern"]})'
        )
    return f'"{key}" = {value!r}: {problem["msg"].removeprefix("Value error, ")}'


def list_keys(model: type[BaseModel], path: tuple) -> list[str]:
    """List the keys of the table at `path` below `model`."""
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None:  # a name inside a dict of tables, such as a job's
            continue
        annotations = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((a for a in annotations if hasattr(a, "model_fields")), model)
    return list(model.model_fields)


def name_nearest(word: str, known: list[str]) -> str:
    """Say which of `known` is meant by `word`, or list them."""
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if nearest:
        return f'did you mean "{nearest[0]}"?'
    return "known: " + ", ".join(sorted(known))
