"""Find the first cause of a failed job in its log, and say what to do about it.

The rules of symptoms.ini judge a line; CauseSearch keeps the first line of each worth. Three kinds
of line are no rule but have a grammar of their own: a traceback, torchrun's block on the rank that
failed first, and what bash and srun print of a process that ended.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cache

from common.console import shorten
from scaling.read.symptoms import (
    CERTAIN,
    CONSEQUENCE,
    DEATH,
    FIX,
    QUIET_DEATH,
    ROOT,
    WEAK,
    Rule,
    State,
    Strength,
    load_symptoms,
)

DIED = "rank-died"  # in place of a rule's id
MOST_DEATHS = 1000
# How a process ended, as torchrun, srun and bash print it; WORD is a signal's.
_DEATHS = (
    r"srun: error: (?P<host>[^\s:]+): tasks? (?P<task>[\d,-]+): "
    r"(?:Exited with exit code (?P<code>\d+)$|(?P<word>WORD)\b)",
    r"(?:: line \d+: +\d+ |^)(?P<word>WORD)(?: \(core dumped\))?(?: {3,}(?P<command>.*)|$)",
    r"failed \(exitcode: (?P<code>-?\d+)\) local_rank: (?P<local>\d+) \(pid",
)
_ROOT_BLOCK = "Root Cause (first observed failure)"
_BLOCK_FIELD = re.compile(r"  (time|host|rank|exitcode|error_file|traceback)\s*: ?(.*)")
_STEP_ENDED = re.compile(
    r"\*\*\* (?:STEP|JOB) \S+(?: ON \S+)? (?:CANCELLED|FAILED)|Job step aborted|Terminating StepId|"
    r"Force Terminated"
)
# Our trainers' and job files' own line; `srun: error:` and the like are not.
_OWN_ERROR = re.compile(
    r"(?:\[rank (?P<rank>\d{1,9}) on (?P<host>[\w.-]+)\] |\S+\.py: )?error: (?P<message>\S.*)"
)
_OWN_SUMMARY = re.compile(r"(?:Job \S+|First cause|What to do|Why): ")
_TRACEBACK = re.compile(r"\s*(?:Original )?Traceback \(most recent call last\):")
_EXCEPTION = re.compile(
    r"(?:[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Iteration|Warning|Group)"
    r"|(?:[A-Za-z_]\w*\.)+[A-Z]\w*)(?::.*|$)"
)
# What runs beside the trainer in a job; its end is not the job's. psrecord fails where the trainer
# ended before it began.
_MONITORS = re.compile(r'File ".*(?:/job_summary\.py|/psrecord(?:/\w+\.py)?)"')
_WRAPPED = re.compile(r"Caught \w+ in DataLoader worker process")
_RANK = re.compile(r"\bRank (\d{1,9})\]")
_JOB_ID = re.compile(r"\*\*\* (?:JOB|STEP) (\d+)|\bStepId=(\d+)|\b[Jj]ob (\d+) exceeded")
# What shows that the training went on: the number of a step, in a line or in a progress bar.
_STEP = re.compile(
    r"(\d+)%\||(\d+)/\d+ \[|\b(?:iter(?:ation)?|step|batch|epoch)\b\W{0,4}(\d+)\b.*\b(?:loss|time)",
    re.IGNORECASE,
)
_READ_TRACEBACK = "its traceback, in the log, shows where"


@dataclass(frozen=True)
class Cause:
    """Why a job ended: in words, what to do, and the log line it was read from (from 1).

    rule: the id of the rule, "" for an error that no rule knows. rank and host: where it was, when
    the log says so. status: with which a process ended (negative: a signal), where the line says
    that; order: when, by torchrun, and whether torchrun names another one the first. outlived: the
    training went on after it, and nothing in the log says that it ended. excerpt: (line number,
    text) of the lines around it, which whoever reads the log adds.
    """

    text: str
    hint: str
    state: State
    strength: Strength
    line_number: int
    line: str = ""
    rule: str = ""
    rank: int | None = None
    host: str = ""
    status: int | None = None
    order: tuple[str, bool] = ("", True)
    outlived: bool = False
    excerpt: list[tuple[int, str]] = field(default_factory=list, compare=False)


@dataclass(frozen=True)
class Findings:
    """What part of a log shows of the end: the first cause, and what of it is Slurm's word.

    own: the first cause that the job's own processes show; ending: Slurm's word of how the job
    ended; cause: what counts of the two if Slurm's word is believed. echoing: the ranks whose last
    word blames a peer.
    """

    cause: Cause | None = None
    own: Cause | None = None
    ending: Cause | None = None
    echoing: frozenset[int] = frozenset()


_TO_ZERO = str.maketrans("123456789", "000000000")


def pick_words(lines: list[str]) -> tuple[str, ...]:
    """Return those texts, in small letters, without any of which a line means nothing by itself.

    Only what may stand in one of the lines. Those that differ in numbers alone are one shape.
    """
    shapes = "\n".join(set("\n".join(lines).lower().translate(_TO_ZERO).split("\n")))
    return tuple([word for shape, word in _load_words() if shape in shapes])


@cache
def _load_words() -> list[tuple[str, str]]:
    rules, signals = load_symptoms()
    known = {word for rule in rules for word in rule.words}
    known |= {signal.word.lower() for signal in signals.values()}
    known |= {"error: ", "traceback (most", "exitcode", "root cause (", "terminating stepid"}
    least = [word for word in known if not any(w in word for w in known - {word})]
    return [(word.translate(_TO_ZERO), word) for word in least]


@cache
def _compile_deaths() -> tuple[dict[str, int], list[re.Pattern]]:
    numbers = {signal.word: number for number, signal in load_symptoms()[1].items()}
    return numbers, [re.compile(text.replace("WORD", "|".join(numbers))) for text in _DEATHS]


class CauseSearch:
    """Takes the lines of a log in and chooses the cause that they show.

    A root cause goes before a rank's silent end, that before a doubtful one, and all before a
    consequence; among equals the first one stands. What the training outlived did not end it, and
    what came before a requeue belongs to another attempt. job_id: what Slurm says of another job is
    not believed; None: it may be any.
    """

    def __init__(self, job_id: str | None = None):
        self.job_id = job_id
        self.fresh: dict[Strength, Cause] = {}  # the first of each strength
        self.stale: dict[Strength, Cause] = {}  # those that the training outlived
        self.deaths: list[Cause] = []
        self.ending: Cause | None = None  # Slurm's own word of how the job ended
        self.is_over = False  # whether Slurm ended just this job, and for good
        self.in_traceback = self.of_monitor = False  # of_monitor: no trainer's; see _MONITORS
        self.block: dict[str, str] | None = None  # torchrun's, while it is read
        self.echoing: set[int] = set()  # ranks whose own line blames a peer
        self.step_ended = False
        self.last_step: str | None = None  # since the last cause
        self.slurm_job: str | None = None  # the last one that Slurm spoke of, and where
        self.slurm_line = 0
        self.added: list[Cause] = []  # by the newest line

    # ---- Taking lines in ----

    @property
    def is_reading(self) -> bool:
        """Whether any line may matter now, not only one with a known word."""
        return self.in_traceback or self.block is not None or self._awaits_progress

    @property
    def _awaits_progress(self) -> bool:
        return bool(self.fresh or self.deaths or (self.ending and not self.is_over))

    def add(self, number: int, line: str, words: tuple[str, ...]) -> list[Cause]:
        """Take a clean line in; return what it adds. words: see pick_words."""
        self.added = []
        if self._add_to_block(number, line) or (self.in_traceback and self._close(number, line)):
            return self.added
        small = line.lower()
        if not any(map(small.__contains__, words)):
            if self._awaits_progress:
                self._look_for_progress(line)
        elif _TRACEBACK.match(line):
            self.in_traceback, self.of_monitor = True, False
        elif not _OWN_SUMMARY.match(line) and self._is_of_this_job(number, line):
            self._judge(number, line)
        return self.added

    def pass_epoch(self) -> None:
        """Take in that the training went on; an epoch line may be buffered past a later error.

        What torchrun ended with is not outlived: another node's ranks may still end their epoch.
        """
        if self.fresh or self.deaths:
            self.stale, self.fresh = self.fresh | self.stale, {}
            self.deaths = [death for death in self.deaths if death.rank is not None]
        if not self.is_over:
            self.ending = None

    def _close(self, number: int, line: str) -> bool:
        """Take a line of a traceback in, whose last names the error; whether it was one."""
        if not line or line[0].isspace():  # the frames are source text, not messages
            self.of_monitor = self.of_monitor or bool(_MONITORS.search(line))
            return True
        if not _EXCEPTION.match(line):
            return False
        self.in_traceback = False
        if not self.of_monitor:  # a loader worker's wrapper leaves room for the original
            self._take(_weigh(number, line, WEAK if _WRAPPED.search(line) else ROOT))
        return True

    def _look_for_progress(self, line: str) -> None:
        """Take in that steps went on: two of them, for a rank that lives still ends its step."""
        if found := _STEP.search(line):
            step = found[found.lastindex]
            if self.last_step is not None and self.last_step != step:
                self.pass_epoch()
            self.last_step = step

    def _is_of_this_job(self, number: int, line: str) -> bool:
        """Whether Slurm speaks of this job; of an unknown one the last it speaks of is this."""
        found = _JOB_ID.search(line)
        if not found:
            return True
        job = found[found.lastindex]
        if self.job_id is not None:
            return job == self.job_id
        if self.slurm_job not in (None, job):  # several jobs in one log: the last one counts
            last = self.slurm_line
            self.fresh = {s: cause for s, cause in self.fresh.items() if cause.line_number > last}
            self.stale, self.ending = {}, None
            self.deaths = [death for death in self.deaths if death.line_number > last]
        self.slurm_job, self.slurm_line = job, number
        return True

    def _judge(self, number: int, line: str) -> None:
        if own := _OWN_ERROR.match(line):
            self._take_own(number, line, own)
            return
        self.step_ended = self.step_ended or bool(_STEP_ENDED.search(line))
        numbers, patterns = _compile_deaths()
        if found := next(filter(None, (kind.search(line) for kind in patterns)), None):
            self._take_death(_read_death(number, found.groupdict(""), numbers))
            return
        rule, groups = _find_rule(line)
        if rule is None:
            return
        if rule.id == "slurm-reason" and self.ending is not None:
            text = f"{self.ending.text} ({shorten(groups['reason'])})"
            self.ending = replace(self.ending, text=text)
            return
        if rule.ends == "attempt":  # what follows is the next attempt's, or the next job's
            self.fresh, self.stale, self.ending, self.is_over = {}, {}, None, False
            self.deaths.clear()
            self.in_traceback, self.block = False, None
        cause = _make_cause(number, line, rule, groups)
        if rule.ends:
            self.ending = self.ending or cause
            self.is_over = self.job_id is not None and rule.ends == "job"
        else:
            self._take(cause)

    def _take(self, cause: Cause) -> None:
        self.last_step = None
        if self.fresh.setdefault(cause.strength, cause) is cause:
            self.added.append(cause)

    def _take_own(self, number: int, line: str, own: re.Match) -> None:
        """Take our own line; it replaces the traceback that it closes, for it names the rank.

        A message of ours was written to be the cause; an exception is weighed as any other.
        """
        rule, groups = _find_rule(line)
        cause = Cause(shorten(line), FIX, State.FAILED, ROOT, number, line=line)
        is_message = not _EXCEPTION.match(own["message"])
        if rule is not None and (rule.ours or not is_message or rule.strength is not WEAK):
            known = _make_cause(number, line, rule, groups)
            text = known.text if groups else cause.text
            cause = replace(known, text=text, strength=min(rule.strength, ROOT))
        elif not is_message:
            cause = replace(cause, hint=_READ_TRACEBACK)
        if own["rank"] is not None:
            rank, host = groups.get("rank") or own["rank"], groups.get("host") or own["host"]
            cause = replace(cause, rank=int(rank), host=host)
            if cause.strength is CONSEQUENCE:
                self.echoing.add(cause.rank)
        before = self.fresh.get(cause.strength)
        if before is not None and before.rank is None and _is_same_error(before.line, line):
            place = {"line_number": before.line_number, "excerpt": before.excerpt}
            self.fresh[cause.strength] = replace(cause, **place)
        self._take(cause)

    # ---- How processes ended ----

    def _add_to_block(self, number: int, line: str) -> bool:
        """Take a line of torchrun's blocks in, one per rank that failed; whether it was one."""
        if _ROOT_BLOCK in line:
            self._close_block()
            self.block = {"is_root": "yes"}
            return True
        found = _BLOCK_FIELD.match(line)
        if self.block is None and not found:
            return False
        if found:
            if self.block is None or found[1] in self.block:
                self._close_block()
                self.block = {}
            self.block |= {found[1]: found[2].strip(), "line": str(number)}
            return True
        is_inside = not line or line[0].isspace() or line[0] == "["
        if is_inside and _EXCEPTION.match(line.strip()):
            self.block["error"] = line.strip()
        elif not is_inside and (line.startswith(("====", "----")) or "is_root" not in self.block):
            self._close_block()
        return is_inside

    def _close_block(self) -> None:
        block, self.block = self.block or {}, None
        status = re.match(r"(-?\d{1,9}) ", block.get("exitcode", ""))
        rank = re.match(r"(\d{1,9}) ", block.get("rank", ""))
        if status:
            order = block.get("time", ""), "is_root" not in block
            place = int(rank[1]) if rank else None, shorten(block.get("host", ""), 80), order
            status, number = int(status[1]), int(block["line"])
            self._take_death(
                _make_death(number, status, "a process", *place, error=block.get("error", ""))
            )

    def _take_death(self, death: Cause) -> None:
        """Keep it, unless Slurm had ended the step before: then it killed what was left."""
        if not (self.step_ended and death.status in (-9, -15)) and len(self.deaths) < MOST_DEATHS:
            self.deaths.append(death)
            self.added.append(death)
            self.last_step = None

    def _find_first_death(self) -> Cause | None:
        """Return the end of the rank that failed first, None when the log does not show it."""
        told = [
            death for death in self.deaths
            if CONSEQUENCE not in (death.strength, _weigh_status(death.status))
            and not (death.status == 1 and death.rank in self.echoing)
        ]  # fmt: skip
        ranks = [death for death in told if death.rank is not None]
        ranks.sort(key=lambda death: death.order)
        # srun and bash see torchrun end, which ends with 1 whatever its rank ended with.
        loud = [death for death in ranks + told if _weigh_status(death.status) is DEATH]
        return next(iter(loud or ranks or told), None)

    # ---- Choosing ----

    def finish(self) -> Findings:
        """Return what the lines show.

        Where Slurm ended the job that is the cause, unless an error came before it that the
        training did not outlive.
        """
        own, ending = self._choose_own(), self.ending
        cause = own or ending
        if own and ending:
            is_outlived = own.line_number in {stale.line_number for stale in self.stale.values()}
            is_first = own.line_number < ending.line_number and own.strength >= DEATH
            cause = own if is_first and not is_outlived else ending
        return Findings(cause, own, ending, frozenset(self.echoing))

    def _choose_own(self) -> Cause | None:
        """Return the first cause that the job's own processes show; it names the rank if known."""
        if self.block:
            self._close_block()
        if not (self.fresh or self.stale or self.deaths):
            return None
        death = self._find_first_death()
        fresh = dict(self.fresh)
        if death is not None:
            fresh.setdefault(death.strength, death)
        loud = (CERTAIN, ROOT, DEATH, WEAK)
        order = (
            *((fresh, strength) for strength in loud),
            *((self.stale, strength) for strength in loud),
            *((causes, s) for s in (QUIET_DEATH, CONSEQUENCE) for causes in (fresh, self.stale)),
        )
        cause = next((causes[s] for causes, s in order if s in causes), None)
        if cause is not None and not self.fresh and not self.deaths:
            cause = replace(cause, outlived=True)
        return cause and _name_rank(cause, death)


def _name_rank(cause: Cause, death: Cause | None) -> Cause:
    """Add the rank and its node to a line that leaves them open, as far as they are known.

    The rank that ended first, as after an error that it printed, is the one that printed it.
    """
    is_killed = death is not None and death.status == -9 and death.rank is not None
    if is_killed and cause.state is State.OUT_OF_MEMORY:  # Slurm does not say which rank
        text = f"{_name_place(death.rank, death.host)}: {cause.text}"
        return replace(cause, text=text, rank=death.rank, host=death.host)
    if cause.rank is not None or cause.rule == DIED or not cause.line:
        return cause
    said = _RANK.search(cause.line)
    rank, host = int(said[1]) if said else None, ""
    if death is not None and _weigh_status(death.status) is QUIET_DEATH:
        rank = death.rank if rank is None else rank
        host = death.host if death.rank in (None, rank) else ""
    if not (where := _name_place(rank, host)):
        return cause
    hint = cause.hint.replace("NODE", host) if host else cause.hint
    return replace(cause, text=f"{where}: {cause.text}", hint=hint, rank=rank, host=host)


def _is_same_error(line: str, own: str) -> bool:
    """Whether our own line says what a traceback's last line says, without its class' module."""
    name, colon, message = line.partition(":")
    return f"{name.rpartition('.')[2]}{colon}{message}"[:60] in own


def _weigh(number: int, line: str, most: Strength) -> Cause:
    """Return what the last line of a traceback says, at most so strong."""
    rule, groups = _find_rule(line)
    if rule is None:
        strength = min(most, ROOT)
        return Cause(shorten(line), _READ_TRACEBACK, State.FAILED, strength, number, line=line)
    return replace(_make_cause(number, line, rule, groups), strength=min(most, rule.strength))


def _find_rule(line: str) -> tuple[Rule | None, dict[str, str]]:
    small = line.lower()
    for rule in load_symptoms()[0]:
        groups = rule.match(line, small)
        if groups is not None:
            return rule, groups
    return None, {}


def _make_cause(number: int, line: str, rule: Rule, groups: dict[str, str]) -> Cause:
    said = shorten(line) if rule.quotes else ""
    text = ": ".join(filter(None, [rule.cause.format(**groups), said]))
    fix = rule.fix.format(**groups)
    return Cause(text, fix, rule.state, rule.strength, number, line=said, rule=rule.id)


def _read_death(number: int, found: dict[str, str], numbers: dict[str, int]) -> Cause:
    """Return what srun or bash say of a process; 128 and more is a shell's word for a signal."""
    status = -numbers[found["word"]] if found.get("word") else int(found["code"])
    if 128 < status <= 128 + 64:
        status = 128 - status
    names = {"task": "task ", "local": "local rank ", "command": ""}
    who = next((f"{names[key]}{found[key]}" for key in names if found.get(key)), "a process")
    return _make_death(number, status, shorten(who, 60), host=found.get("host", ""))


def _make_death(
    number: int, status: int, who: str, rank: int | None = None, host: str = "",
    order: tuple[str, bool] = ("", True), error: str = "",
) -> Cause:  # fmt: skip
    """Return how a process ended, or its error where torchrun's block alone shows it."""
    who = _name_place(rank, host, who)
    if error:
        cause = replace(_weigh(number, error, CERTAIN), text=f"{who}: {shorten(error)}", line="")
    else:
        text = f"{who} ended with exit code {status} and printed no error"
        hint = "look at what the trainer calls exit with, and at this rank's last lines above"
        if status < 0:
            known = load_symptoms()[1].get(-status)
            name, hint = (known.name, known.fix) if known else (f"signal {-status}", FIX)
            text = f"{who} was killed by {name}"
        cause = Cause(text, hint, State.FAILED, _weigh_status(status), number)
    return replace(cause, rule=DIED, rank=rank, host=host, status=status, order=order)


def _weigh_status(status: int) -> Strength:
    """Return how much it says of the cause that a process ended so."""
    known = load_symptoms()[1].get(-status)
    return known.strength if known else QUIET_DEATH if status in (0, 1, 2) else DEATH


def _name_place(rank: int | None, host: str, who: str = "") -> str:
    """Return `rank 2 on n1`, as far as it is known."""
    return " on ".join(filter(None, [who if rank is None else f"rank {rank}", host]))
