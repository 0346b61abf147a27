"""Read a TOML file into a pydantic model, with errors that name the file, the key and the fix."""

import difflib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from common.errors import UserError
from common.toml import tomllib

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A table in which every key is known and every value has its own type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    instead: ClassVar[dict[str, str]] = {}  # a key that people try -> what to write instead


def check_printable(text: str) -> str:
    """Return `text`; ValueError when it holds a newline, a tab or another control character."""
    if not text.isprintable():
        raise ValueError(f"has a control character in {text!r}; write it on one line without any")
    return text


def check_option(text: str) -> str:
    """Return `text`; ValueError when it holds a space between an option's name and its value."""
    name, space, value = text.partition(" ")
    if space and re.fullmatch(r"--[a-z][a-z-]*", name) and value.strip():
        raise ValueError(f"one word holds one option; write {show(f'{name}={value.strip()}')}")
    return text


def shaped(pattern: str, words: str) -> object:
    """A text of the form `pattern`; the error says in words what may stand there."""

    whole = pattern.removesuffix("$") + r"\Z" * pattern.endswith("$")  # $ passes a last newline

    def check(text: str) -> str:
        if not re.search(whole, text):
            raise ValueError(f"write {words}")
        return text

    return Annotated[
        str, AfterValidator(check), WithJsonSchema({"type": "string", "pattern": pattern})
    ]


def check_time(text: str) -> str:
    """Return a time limit as Slurm reads it; ValueError shows how to write what was meant."""
    if re.search(TIME, text):
        return text
    meant = write_time(text)
    raise ValueError(
        f"Slurm does not read that; write {show(meant)}"
        if meant
        else 'Slurm does not read that; write "02:00:00" for two hours, "2-00:00:00" for two days'
    )


def write_time(text: str) -> str | None:
    """Write `2h`, `90 min` or `1d 12h` as Slurm does; None when that is not what `text` says."""
    text = text.lower().removeprefix("--time=").strip()
    if re.search(TIME, text):
        return text
    if re.fullmatch(r"\d+\s*h\s*\d{1,2}", text):  # 1h30
        text += "m"
    if re.fullmatch(r"\d{4,}", text):  # minutes, as Slurm counts
        text += "m"
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([dhms])[a-z]*[\s,]*", text)
    if not parts or re.sub(r"(\d+(?:\.\d+)?)\s*([dhms])[a-z]*[\s,]*", "", text):
        return None
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    seconds = round(sum(float(number) * units[unit] for number, unit in parts))
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock


# What #SBATCH lines may hold: Slurm expands nothing there, but a space or a quote ends a value.
_PLAIN = "[A-Za-z0-9@%+,.:/_=\\[\\]()&|*!^-]"
_WORDS = "letters, digits and @ % + , . : / _ = [ ] ( ) & | * ! ^ -, without spaces or quotes"
Directive = shaped(f"^{_PLAIN}+$", _WORDS)
# The type alone: the count is the job's, and a list would become `--gres=gpu:a100,h100:4`.
GpuType = shaped(
    r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
    "one type, without count or list; where any of several will do, name them by a constraint",
)
# A whole directive.
Argument = shaped(f"^-{_PLAIN}+$", f'one option, such as "--nice=100", of {_WORDS}')
# A value that reaches a shell: any printable text, since render.py quotes it.
Text = Annotated[str, AfterValidator(check_printable)]
# One more option of a command, which render.py quotes too.
Word = Annotated[
    shaped("^-", 'one option, which begins with "-"'),
    AfterValidator(check_printable),
    AfterValidator(check_option),
]
# A line of shell, rendered as it stands.
ShellLine = Annotated[str, AfterValidator(check_printable)]
# A folder as a shell finds it: it may name variables ($TMPDIR, ${SLURM_TMPDIR}), nothing more.
ShellPath = shaped(
    r"^[A-Za-z0-9$/][A-Za-z0-9_./${}-]*$", "a folder, which may begin with a variable ($TMPDIR)"
)
EnvName = shaped(r"^[A-Za-z_][A-Za-z0-9_]*$", "a variable's name: letters, digits and _")
# Names become parts of paths and job names.
Name = shaped(r"^[A-Za-z0-9][A-Za-z0-9._-]*$", "a name of letters, digits and . _ -")
TIME = r"^(\d+-)?\d{1,3}(:\d{2}){0,2}$"
TimeLimit = Annotated[
    str,
    AfterValidator(check_time),
    WithJsonSchema({"type": "string", "pattern": TIME, "examples": ["01:30:00", "2-00:00:00"]}),
]
# Slurm's timer is coarse: a margin of 30 s was measured to arrive 55 s before a limit.
MarginS = Annotated[int, Field(ge=60, le=65535)]  # sbatch(1): at most 65535
# Scales in a rule: "2", "1-4" or "8+".
Span = Annotated[
    shaped(r"^[1-9]\d*(-[1-9]\d*|\+)?$", 'a number, a range or a least number: "2", "1-4" or "8+"'),
    AfterValidator(lambda span: check_span(span)),  # which stands further down
]
Interface = shaped(r"^[A-Za-z0-9._-]{1,15}$", "an interface's name, such as ib0")
# One option of a trainer: its name as after "--", and a plain value.
OptionName = shaped(
    r"^[a-zA-Z][a-zA-Z0-9]*([._-][a-zA-Z0-9]+)*$", "an option's name, without the --"
)
Options = dict[OptionName, bool | int | float | Text]


def read_toml(path: Path, shown: str) -> dict:
    """Read a TOML file; `shown` is its path as errors print it.

    Raises UserError with one line when it cannot be read or is not TOML.
    """
    try:
        start = path.read_bytes()[:4]
        if b"\0" in start or start[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise UserError(f"{shown}: is UTF-16 text; save it as UTF-8")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # with or without a BOM
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{shown}: line {line} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{shown}: not valid TOML: {explain_toml(str(error), path)}") from None


def explain_toml(error: str, path: Path) -> str:
    """Add to TOML's own words the line that is meant, and what is most often wrong with it."""
    found = re.search(r"\(at line (\d+),", error)
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    line = lines[int(found[1]) - 1].strip() if found and int(found[1]) <= len(lines) else ""
    if not line or not line.isprintable() or len(line) > 120:
        return error
    if error.startswith("Cannot overwrite"):
        return f"{error}: {line}; it stands in the file twice: keep one"
    bare = re.fullmatch(r"([\w-]+)\s*=\s*([A-Za-z0-9./][^\s\"'#\[\]{}]*)", line)
    fix = f"; text stands in quotes: {bare[1]} = {show(bare[2])}" if bare else ""
    curly = "; write straight quotes" if set(line) & set("\u201c\u201d\u201e\u2018\u2019") else ""
    return f"{error}: {line}{fix or curly}"


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
    """Say the first problem of `error` in one line that names the key and what to write."""
    problem = pick_problem(error)
    where, value, kind = problem["loc"], problem["input"], problem["type"]
    key = name_key(where, data)
    said = problem["msg"].removeprefix("Value error, ")
    if not where:  # of the file as a whole: its keys are in the message
        return said
    if kind == "extra_forbidden":
        return explain_unknown(key, where, model)
    if kind == "missing":
        return f'missing key "{".".join(filter(None, [key, where[-1]]))}"; add it'
    if kind == "model_type" and isinstance(where[-1], int) and not isinstance(value, dict | list):
        known = ("string_type", "int_type", "bool_type")
        lists = [p["input"] for p in error.errors(include_url=False) if p["type"] in known]
        if lists and isinstance(lists[0], list):  # values where one may stand, or rules
            return explain_list(key.rpartition(".")[0], lists[0])
    if fix := show_fix(key.split(".")[-1], value, kind):
        return f'"{key}" {fix}'
    if kind == "string_type":
        return f'"{key}" must be text in quotes, not {value!r}'
    if kind == "model_type" and isinstance(value, str | int):
        keys = ", ".join(list_keys(model, tuple(part for part in where if isinstance(part, str))))
        return f'"{key}" must be a table: write {{ … = {show(value)} }}, with one of {keys}'
    if kind == "literal_error":
        return explain_choice(key, value, problem["ctx"]["expected"])
    if kind == "string_pattern_mismatch":
        pattern = problem["ctx"]["pattern"]
        return f'"{key}" = {value!r} is not allowed here (it must match {pattern})'
    if isinstance(value, dict | list):  # too long to show, and the message names what is wrong
        return f'"{key}": {said}'
    return f'"{key}" = {value!r}: {said}'


def explain_list(key: str, values: list) -> str:
    """Say that a list of values stands where one value may, or a list of rules."""
    rules = [{"nodes": str(n + 1), "use": each} for n, each in enumerate(values[:-1])]
    use = [*rules, {"use": values[-1]}] if rules else values[0]
    kind = "text" if isinstance(values[0], str) else "value"
    said = f"one {kind}, or rules such as these" if rules else f"{kind}, not a list"
    return f'"{key}" must be {said}: write {key.split(".")[-1]} = {show(use)}'


def explain_unknown(key: str, where: tuple, model: type[Strict]) -> str:
    """Say what an unknown key should have been: a field of the file itself, or the nearest one."""
    name = where[-1]
    if len(where) > 1 and name in model.model_fields:
        return f'"{key}" is a key of the file itself: move it above the first [table]'
    if len(where) == 1 and name.lower() in model.instead:
        return f'unknown key "{key}"; {model.instead[name.lower()]}'
    if len(where) == 1 and "env" in model.model_fields and re.search("[A-Z].*_|^nccl_", name):
        return f'unknown key "{key}"; a variable stands below [env]'
    return f'unknown key "{key}"; {name_nearest(name, list_keys(model, where[:-1]))}'


def explain_choice(key: str, value: object, expected: str) -> str:
    """Say which of a few words may stand here, and which is meant."""
    known = re.findall(r"'([^']+)'", expected)
    word = str(value).lstrip("-").partition("=")[0].replace("_", "-").lower()
    meant = [word] if word in known else difflib.get_close_matches(word, known, n=1, cutoff=0.8)
    fix = f"did you mean {show(meant[0])}?" if meant else f"known: {', '.join(map(show, known))}"
    return f'"{key}" = {value!r} is not known here; {fix}'


def show_fix(name: str, value: object, kind: str) -> str:
    """Show how to write a value of the wrong type; "" where what is meant is open."""
    text = str(value).rpartition("=")[2].strip() if isinstance(value, str) else ""
    match kind, value:
        case "string_type", _ if hasattr(value, "isoformat"):
            return f'must be text: write {name} = "{value.isoformat()}"'
        case "string_type", int() if name == "time" and not isinstance(value, bool):
            return (
                f"must be text: write {name} = {show(write_time(f'{value}m'))} for {value} minutes"
            )
        case "string_type", int() | float():
            return f"must be text in quotes, not {value!r}: write {name} = {show(show(value))}"
        case "string_type", {"use": _}:
            return f"must be text or a list of rules: write {name} = [{show(value)}]"
        case "string_type", [str() as only]:
            return f"must be text, not a list: write {name} = {show(only)}"
        case "string_type", [str(), *_] if name in ("container", "starter"):
            words = " ".join(map(str, value))
            return f"must be text, not a list: write {name} = {show(words)}"
        case "list_type", str() if re.fullmatch(r"\d+\s*-\s*\d+", value):
            return f"must be a list: write {name} = [{value.replace('-', ', ')}]"
        case "list_type", dict() if not {"use", "because"} & value.keys():
            return f'must be a list, not a table: write {name} = ["…"]'
        case "list_type", str() | int() | dict():
            return f"must be a list: write {name} = [{show(value)}]"
        case "dict_type", _:
            return f"must be a table: write [{name}], and below it one line for each name"
        case "int_type", float() if value.is_integer():
            return f"must be a whole number: write {name} = {value:.0f}"
        case "int_type", str() if text.isdigit():
            return f"must be a number without quotes: write {name} = {text}"
        case "bool_type", str() if text.lower() in ("true", "yes", "false", "no"):
            yes = text.lower() in ("true", "yes")
            return f"must stand without quotes: write {name} = {show(yes)}"
        case "bool_type", _:
            return f"is yes or no: write {name} = true, or false"
    return ""


def show(value: object) -> str:
    """Write a value as TOML does, on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {show(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(show, value)) + "]"
    text = str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=not value.isprintable())
    return text.lower() if isinstance(value, bool) else text


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
    ranks = [
        (p["type"] == "extra_forbidden", len(p["loc"]), not p["type"].endswith("_type"))
        for p in first
    ]
    return first[ranks.index(max(ranks))]


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


def read_span(span: str | None) -> tuple[int, float]:
    """The least and the greatest number of `span` ("2", "1-4", "8+"; None holds every number)."""
    if span is None:
        return 1, math.inf
    if span.endswith("+"):
        return int(span[:-1]), math.inf
    first, _, last = span.partition("-")
    return int(first), int(last or first)


def span_holds(span: str | None, number: int) -> bool:
    """Say whether `number` lies in `span`."""
    least, greatest = read_span(span)
    return least <= number <= greatest


def check_span(span: str) -> str:
    """Return `span`; ValueError when it holds no number, as "4-2"."""
    least, greatest = read_span(span)
    if least > greatest:
        raise ValueError(f'holds no number; write "{greatest}-{least}"')
    return span


def name_nearest(word: str, known: list[str]) -> str:
    """Say which of `known` is meant by `word`, or list them."""
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if nearest:
        return f'did you mean "{nearest[0]}"?'
    return "known: " + ", ".join(sorted(known))
