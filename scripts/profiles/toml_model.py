"""Read a TOML file into a pydantic model, with errors that name the file, the key and the fix."""

import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from common.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


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
# A whole directive. (A second pattern on Directive would only take the first one's place.)
Argument = Annotated[str, Field(pattern=r"^-[A-Za-z0-9@%+,.:/_=\[\]()&|*!^-]+$")]
# A value that reaches a shell: any printable text, since render.py quotes it.
Text = Annotated[str, AfterValidator(check_printable)]
# One more option of a command, which render.py quotes too.
Word = Annotated[str, Field(pattern="^-"), AfterValidator(check_printable)]
# A line of shell, rendered as it stands.
ShellLine = Annotated[str, AfterValidator(check_printable)]
# A folder as a shell finds it: it may name variables ($TMPDIR, ${SLURM_TMPDIR}), nothing more.
ShellPath = Annotated[str, Field(pattern=r"^[A-Za-z0-9$/][A-Za-z0-9_./${}-]*$")]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
# Names become parts of paths and job names.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
TimeLimit = Annotated[
    str, Field(pattern=r"^(\d+-)?\d{1,3}(:\d{2}){0,2}$", examples=["01:30:00", "2-00:00:00"])
]
# Slurm's timer is coarse: a margin of 30 s was measured to arrive 55 s before a limit.
MarginS = Annotated[int, Field(ge=60, le=65535)]  # sbatch(1): at most 65535
# Scales in a rule: "2", "1-4" or "8+".
Span = Annotated[str, Field(pattern=r"^[1-9]\d*(-[1-9]\d*|\+)?$")]
Interface = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,15}$")]
# One option of a trainer: its name as after "--", and a plain value.
OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")]
Options = dict[OptionName, bool | int | float | Text]


def read_toml(path: Path, shown: str) -> dict:
    """Read a TOML file; `shown` is its path as errors print it.

    Raises UserError with one line when it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{shown}: cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{shown}: not valid TOML: {error}") from None


def merge_toml(facts: dict, mine: dict) -> dict:
    """Lay `mine` over `facts`: tables are merged key by key, all else is replaced."""
    merged = dict(facts)
    for key, value in mine.items():
        both_tables = isinstance(value, dict) and isinstance(facts.get(key), dict)
        merged[key] = facts[key] | value if both_tables else value
    return merged


def parse_model(data: dict, model: type[Model], shown: str) -> Model:
    """Check `data` against `model`; UserError names the first wrong key in one line."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{shown}: {explain(error, model, data)}") from None


def explain(error: ValidationError, model: type[BaseModel], data: dict) -> str:
    """Say the first problem of `error` in one line that names the key and the nearest valid one."""
    problem = pick_problem(error)
    where, value = problem["loc"], problem["input"]
    key = name_key(where, data)
    if problem["type"] == "extra_forbidden":
        return f'unknown key "{key}"; {name_nearest(where[-1], list_keys(model, where[:-1]))}'
    if problem["type"] == "missing":
        return f'missing key "{".".join(filter(None, [key, where[-1]]))}"; add it'
    if problem["type"] == "string_type":
        if hasattr(value, "isoformat"):
            return f'"{key}" must be text: write {key.split(".")[-1]} = "{value.isoformat()}"'
        return f'"{key}" must be text in quotes, not {value!r}'
    if problem["type"] == "string_pattern_mismatch":
        return (
            f'"{key}" = {value!r} is not allowed here (it must match {problem["ctx"]["pattern"]})'
        )
    return f'"{key}" = {value!r}: {problem["msg"].removeprefix("Value error, ")}'


def pick_problem(error: ValidationError) -> dict:
    """Pick the problem to name: of the first key that has any, a misspelling, else the deepest.

    A value that may be text or a list of rules fails as both; what is deeper is what was meant.
    """
    problems = error.errors(include_url=False)
    missing = [p["loc"][-1] for p in problems if p["type"] == "missing"]
    for problem in problems:  # a misspelt key that must be there is both unknown and missing
        unknown = problem["type"] == "extra_forbidden"
        if unknown and difflib.get_close_matches(problem["loc"][-1], missing, n=1):
            return problem
    first = [p for p in problems if p["loc"][:1] == problems[0]["loc"][:1]]
    return max(first, key=lambda p: (p["type"] == "extra_forbidden", len(p["loc"])))


def name_key(where: tuple, data: dict) -> str:
    """Write a place in `data` as dotted keys, without the names of the types that were tried."""
    parts, here = [], data
    for part in where:
        if (isinstance(here, dict) and part in here) or (
            isinstance(here, list) and isinstance(part, int)
        ):
            parts.append(str(part))
            here = here[part]
    return ".".join(parts)


def list_keys(model: type[BaseModel], path: tuple) -> list[str]:
    """List the keys of the table at `path` below `model`."""
    for part in path:
        field = model.model_fields.get(part)
        if field is not None:
            model = next(find_models(field.annotation), model)
    return list(model.model_fields)


def find_models(annotation) -> Iterator[type[BaseModel]]:
    """Find the models in an annotation such as `str | list[Rule] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from find_models(part)


def span_holds(span: str | None, number: int) -> bool:
    """Say whether `number` lies in `span` ("2", "1-4", "8+"; None holds every number)."""
    if span is None:
        return True
    if span.endswith("+"):
        return number >= int(span[:-1])
    first, _, last = span.partition("-")
    return int(first) <= number <= int(last or first)


def name_nearest(word: str, known: list[str]) -> str:
    """Say which of `known` is meant by `word`, or list them."""
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if nearest:
        return f'did you mean "{nearest[0]}"?'
    return "known: " + ", ".join(sorted(known))
