"""Values of a profile that depend on a job's size, and its small tables."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from profiles.toml_model import (
    Directive,
    Interface,
    ShellLine,
    Span,
    Strict,
    Text,
    TimeLimit,
    span_holds,
)

Launcher = Literal["torchrun", "srun"]


class Scales(Strict):
    """Conditions on a job: it must meet each one that is given. `"1-4"`, `"8+"` or `"2"`."""

    gpus_per_node: Span | None = None
    nodes: Span | None = None

    def hold(self, nodes: int, gpus_per_node: int) -> bool:
        """Say whether a job of `nodes` x `gpus_per_node` GPUs is meant."""
        return span_holds(self.nodes, nodes) and span_holds(self.gpus_per_node, gpus_per_node)


class Rule(Scales):
    """A value for some scales; the first rule that holds wins, one without conditions always."""

    use: Directive


class TimeRule(Scales):
    """A time limit for some scales."""

    use: TimeLimit


class TextRule(Scales):
    """The value of an environment variable for some scales."""

    use: Text


class CountRule(Scales):
    """A number for some scales."""

    use: Annotated[int, Field(ge=1)]


class LauncherRule(Scales):
    """A launcher for some scales."""

    use: Launcher


class Limit(Scales):
    """Scales that the site forbids, and its words for why."""

    because: Text


class Master(Strict):
    """How to name the address at which ranks of several nodes meet: one of these."""

    suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$")] | None = None
    interface: Interface | None = None
    command: ShellLine | None = None
    lookup: bool = False  # of a name with a suffix: its address instead

    @model_validator(mode="after")
    def name_one(self) -> "Master":
        if sum(value is not None for value in (self.suffix, self.interface, self.command)) != 1:
            raise ValueError("takes one of suffix, interface and command")
        if self.lookup and self.suffix is None:
            raise ValueError("looks up names with a suffix only; give suffix, or drop lookup")
        return self


class Expected(Strict):
    """What a job reached before on this cluster, for the tables to compare with."""

    throughput: float = Field(gt=0, description="global, in the workload's unit")
    tolerance_pct: float = Field(gt=0, le=100)
    source: Text = Field(description="who measured it, when, with what")
