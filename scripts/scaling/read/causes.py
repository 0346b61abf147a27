"""Find the first cause of a failed job in its log, and say what to do about it.

The table of `scaling.read.symptoms` judges a line; CauseSearch keeps the first line of each worth.
Three kinds of line are no row of it but have a grammar of their own: a traceback, torchrun's block
on the rank that failed first, and what bash and srun print of a process that ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from common.console import shorten
from scaling.read.symptoms import (
    CERTAIN,
    CONSEQUENCE,
    DEATH,
    FIX,
    QUIET_DEATH,
    ROOT,
    RULES,
    SIGNALS,
    WEAK,
    Rule,
    State,
    Strength,
)
from scaling.read.text import clean_line

# ---- How a process ended, as torchrun, srun and bash print it ----

DIED = "rank-died"  # in place of a rule's id
_BY_WORD = {word: number for number, (_, word, _, _) in SIGNALS.items()}
_WORD = "|".join(_BY_WORD)
_SRUN_TASK = re.compile(
    rf"srun: error: (?P<host>[^\s:]+): tasks? (?P<task>[\d,-]+): "
    rf"(?:Exited with exit code (?P<code>\d+)$|(?P<word>{_WORD})\b)"
)
_BASH_JOB = re.compile(
    rf"(?:: line \d+: +\d+ |^)(?P<word>{_WORD})(?: \(core dumped\))?(?: {{3,}}(?P<command>.*)|$)"
)
_LAUNCHER_SAW = re.compile(r"failed \(exitcode: (?P<code>-?\d+)\) local_rank: (?P<local>\d+) \(pid")
_ROOT_BLOCK = "Root Cause (first observed failure)"
_BLOCK_FIELD = re.compile(r"  (time|host|rank|exitcode|error_file|traceback)\s*: ?(.*)")
_STEP_ENDED = re.compile(
    r"\*\*\* (?:STEP|JOB) \S+(?: ON \S+)? (?:CANCELLED|FAILED)|Job step aborted|Terminating StepId|"
    r"Force Terminated"
)


@dataclass(frozen=True)
class Death:
    """How a process ended: its status (negative: a signal), and what torchrun or srun say of it."""

    status: int
    line_number: int
    rank: int | None = None
    host: str = ""
    task: str = ""  # of srun's
    command: str = ""  # of bash's
    order: tuple[str, bool] = ("", True)  # of torchrun's: when, and whether it names it the root
    error: str = ""  # the last line of the traceback that torchrun shows

    @property
    def strength(self) -> Strength:
        if self.status < 0:
            return SIGNALS[-self.status][3] if -self.status in SIGNALS else DEATH
        return QUIET_DEATH if self.status in (0, 1, 2) else DEATH

    @property
    def who(self) -> str:
        name = f"task {self.task}" if self.task else shorten(self.command, 60) or "a process"
        if self.rank is not None:
            name = f"rank {self.rank}"
        return f"{name} on {self.host}" if self.host else name

    def make_cause(self) -> Cause:
        """Return as a cause how it ended, or its error where torchrun's block alone shows it."""
        state, strength = State.FAILED, self.strength
        if self.error:
            known = _weigh(self.line_number, self.error, CERTAIN)
            text, hint = f"{self.who}: {shorten(self.error)}", known.hint
            state, strength = known.state, known.strength
        elif self.status < 0:
            name, _, hint, _ = SIGNALS.get(-self.status, (f"signal {-self.status}", "", FIX, WEAK))
            text = f"{self.who} was killed by {name}"
        else:
            text = f"{self.who} ended with exit code {self.status} and printed no error"
            hint = "look at what the trainer calls exit with, and at this rank's last lines above"
        return Cause(
            text, hint, state, strength, self.line_number, rule=DIED, rank=self.rank, host=self.host
        )

    @property
    def is_echo(self) -> bool:
        """Whether its error is what another's end made of it."""
        rule = _find_rule(self.error)[0] if self.error else None
        return CONSEQUENCE in (self.strength, rule and rule.strength)


@dataclass(frozen=True)
class Cause:
    """Why a job ended: in words, what to do, and the log line it was read from (from 1).

    rule: the id of the rule, "" for an error that no rule knows. rank and host: where it was, when
    the log says so. outlived: the training went on after it, and nothing in the log says that it
    ended. excerpt: (line number, text) of the lines around it, where the log was read whole.
    """

    text: str
    hint: str
    state: State
    strength: Strength
    line_number: int
    excerpt: tuple[tuple[int, str], ...] = ()
    line: str = ""
    rule: str = ""
    rank: int | None = None
    host: str = ""
    outlived: bool = False


# Our trainers' and job files' own line; `srun: error:` and the like are not.
_OWN_ERROR = re.compile(
    r"(?:\[rank (?P<rank>\d{1,9}) on (?P<host>[\w.-]+)\] |\S+\.py: )?error: (?P<message>\S.*)"
)
_OWN_SUMMARY = re.compile(r"(?:Job \S+|First cause|What to do|Why): ")
_TRACEBACK = re.compile(r"(?:Original )?Traceback \(most recent call last\):")
_EXCEPTION = re.compile(
    r"(?:[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Iteration|Warning|Group)"
    r"|(?:[A-Za-z_]\w*\.)+[A-Z]\w*)(?::.*|$)"
)
_WRAPPED = re.compile(r"Caught \w+ in DataLoader worker process")
_RANK = re.compile(r"\bRank (\d{1,9})\]")
_JOB_ID = re.compile(r"\*\*\* (?:JOB|STEP) (\d+)|\bStepId=(\d+)|\b[Jj]ob (\d+) exceeded")
# What shows that the training went on: the number of a step, in a line or in a progress bar.
_STEP = re.compile(
    r"(\d+)%\||(\d+)/\d+ \[|\b(?:iter(?:ation)?|step|batch|epoch)\b\W{0,4}(\d+)\b.*\b(?:loss|time)",
    re.IGNORECASE,
)
# A line without any of them, in small letters, means nothing here outside a traceback.
_KNOWN = {part for rule in RULES for part in rule.parts} | {word.lower() for word in _BY_WORD}
_KNOWN |= {"error: ", "traceback (most", "exitcode", "root cause (", "terminating stepid"}
WORDS = tuple(word for word in _KNOWN if not any(w in word for w in _KNOWN - {word}))

_READ_TRACEBACK = "its traceback, in the log, shows where"


def find_cause(lines: Iterable[str], job_id: str | None = None) -> Cause | None:
    """Return the first cause that the log shows, None when it shows none.

    A root cause goes before a rank's silent end, that before a doubtful one, and all before a
    consequence; among equals the first one stands. What the training outlived did not end it, and
    what came before a requeue belongs to another attempt.
    """
    return search_lines(lines, job_id).choose()


def search_lines(lines: Iterable[str], job_id: str | None = None) -> CauseSearch:
    """Return a search that has taken the lines of a log in."""
    search = CauseSearch(job_id)
    for number, line in enumerate(lines, start=1):
        if "Epoch [" in line and " LR: " in line:
            search.pass_epoch()
        elif "NCCL INFO " not in line:
            search.add(number, clean_line(line))
    return search


class CauseSearch:
    """Takes the lines of a log in and chooses the cause that they show.

    job_id: what Slurm says of another job is not believed; None: it may be any.
    `ending` is Slurm's own word of how the job ended, None without one.
    """

    def __init__(self, job_id: str | None = None):
        self.job_id = job_id
        self.fresh: dict[Strength, Cause] = {}  # the first of each strength
        self.stale: dict[Strength, Cause] = {}  # those that the training outlived
        self.deaths: list[Death] = []
        self.added: list[int] = []  # by the newest line: the lines of its causes
        self.ending: Cause | None = None
        self.is_over = False  # whether Slurm ended just this job, and for good
        self.in_traceback = self.of_summary = False  # of_summary: it is the job's summary's own
        self.block: dict[str, str] | None = None  # torchrun's, while it is read
        self.echoing: set[int] = set()  # ranks whose own line blames a peer
        self.step_ended = False
        self.last_step: str | None = None  # since the last cause
        self.slurm_job: str | None = None  # the last one that Slurm spoke of, and where
        self.slurm_line = 0

    # ---- Taking lines in ----

    @property
    def is_reading(self) -> bool:
        """Whether any line may matter now, not only one with a known word."""
        return self.in_traceback or self.block is not None or self._awaits_progress

    @property
    def _awaits_progress(self) -> bool:
        return bool(self.fresh or self.deaths or (self.ending and not self.is_over))

    def add(self, number: int, line: str) -> list[int]:
        """Take a clean line in; return the lines of the causes that it adds."""
        self.added = []
        self._add(number, line)
        return self.added

    def _add(self, number: int, line: str) -> None:
        if self._add_to_block(number, line):
            return
        if self.in_traceback:
            if not line or line[0].isspace():  # the frames are source text, not messages
                self.of_summary = self.of_summary or 'job_summary.py"' in line
                return
            if _EXCEPTION.match(line):
                self.in_traceback = False
                if not self.of_summary:  # a loader worker's wrapper leaves room for the original
                    self._take(_weigh(number, line, WEAK if _WRAPPED.search(line) else ROOT))
                return
        small = line.lower()
        if not any(map(small.__contains__, WORDS)):
            if self._awaits_progress:
                self._look_for_progress(line)
        elif _TRACEBACK.match(line.lstrip()):
            self.in_traceback, self.of_summary = True, False
        elif not _OWN_SUMMARY.match(line) and self._is_of_this_job(number, line):
            self._judge(number, line)

    def _judge(self, number: int, line: str) -> None:
        if own := _OWN_ERROR.match(line):
            self._take_own(number, line, own)
            return
        self.step_ended = self.step_ended or bool(_STEP_ENDED.search(line))
        for kind in (_SRUN_TASK, _BASH_JOB, _LAUNCHER_SAW):
            if found := kind.search(line):
                self._take_death(_read_death(number, found.groupdict()))
                return
        self._take_rule(number, line)

    def pass_epoch(self) -> None:
        """Take in that the training went on; an epoch line may be buffered past a later error.

        What torchrun ended with is not outlived: another node's ranks may still end their epoch.
        """
        if self.fresh or self.deaths:
            self.stale, self.fresh = self.fresh | self.stale, {}
            self.deaths = [death for death in self.deaths if death.rank is not None]
        if not self.is_over:
            self.ending = None

    def end_attempt(self) -> None:
        """Forget what was seen: what follows is the next attempt's, or the next job's."""
        self.fresh, self.stale, self.ending, self.is_over = {}, {}, None, False
        self.deaths.clear()
        self.in_traceback, self.block = False, None

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

    def _take_rule(self, number: int, line: str) -> None:
        rule, groups = _find_rule(line)
        if rule is None:
            return
        if rule.id == "slurm-reason" and self.ending is not None:
            text = f"{self.ending.text} ({shorten(groups['reason'])})"
            self.ending = replace(self.ending, text=text)
            return
        if rule.ends_attempt:
            self.end_attempt()
        cause = _make_cause(number, line, rule, groups)
        if rule.ends_job:
            self.ending = self.ending or cause
            self.is_over = self.job_id is not None and not rule.ends_attempt
        else:
            self._take(cause)

    def _take(self, cause: Cause) -> None:
        self.last_step = None
        if self.fresh.setdefault(cause.strength, cause) is cause:
            self.added.append(cause.line_number)

    def _take_own(self, number: int, line: str, own: re.Match) -> None:
        """Take our own line; it replaces the traceback that it closes, for it names the rank.

        A message of ours was written to be the cause; an exception is weighed as any other.
        """
        rule, groups = _find_rule(line)
        cause = Cause(shorten(line), FIX, State.FAILED, ROOT, number, line=line)
        is_message = not _EXCEPTION.match(own["message"])
        if rule is not None and (rule.is_ours or not is_message or rule.strength is not WEAK):
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
            self.fresh[cause.strength] = replace(cause, line_number=before.line_number)
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
            self.block[found[1]] = found[2].strip()
            self.block["line"] = str(number)
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
            self._take_death(
                Death(
                    int(status[1]),
                    int(block["line"]),
                    rank=int(rank[1]) if rank else None,
                    host=shorten(block.get("host", ""), 80),
                    error=block.get("error", ""),
                    order=(block.get("time", ""), "is_root" not in block),
                )
            )

    def _take_death(self, death: Death) -> None:
        """Keep it, unless Slurm had ended the step before: then it killed what was left."""
        if not (self.step_ended and death.status in (-9, -15)) and len(self.deaths) < 1000:
            self.deaths.append(death)
            self.added.append(death.line_number)
            self.last_step = None

    def find_first_death(self) -> Death | None:
        """Return the end of the rank that failed first, None when the log does not show it."""
        told = [
            death for death in self.deaths
            if not (death.is_echo or (death.status == 1 and death.rank in self.echoing))
        ]  # fmt: skip
        ranks = [death for death in told if death.rank is not None]
        ranks.sort(key=lambda death: death.order)
        # srun and bash see torchrun end, which ends with 1 whatever its rank ended with.
        loud = [death for death in ranks + told if death.strength is DEATH]
        return next(iter(loud or ranks or told), None)

    # ---- Choosing ----

    def list_causes(self) -> list[Cause]:
        """Return the causes that may still be chosen."""
        return [*self.fresh.values(), *self.stale.values(), *filter(None, [self.ending])]

    def choose(self) -> Cause | None:
        """Return the first cause, None without one; it names the rank where that is known.

        Where Slurm ended the job that is the cause, unless an error came before it that the
        training did not outlive.
        """
        cause, ending = self.choose_without_ending(), self.ending
        if cause is None or ending is None:
            return cause or ending
        outlived = {stale.line_number for stale in self.stale.values()}
        is_first = cause.line_number < ending.line_number and cause.strength >= DEATH
        return cause if is_first and cause.line_number not in outlived else ending

    def choose_without_ending(self) -> Cause | None:
        """Return the first cause that the job's own processes show."""
        if self.block:
            self._close_block()
        if not (self.fresh or self.stale or self.deaths):
            return None
        death = self.find_first_death()
        fresh = dict(self.fresh)
        if death is not None:
            cause = death.make_cause()
            fresh.setdefault(cause.strength, cause)
        loud = (CERTAIN, ROOT, DEATH, WEAK)
        order = (
            *((fresh, strength) for strength in loud),
            *((self.stale, strength) for strength in loud),
            *((causes, s) for s in (QUIET_DEATH, CONSEQUENCE) for causes in (fresh, self.stale)),
        )
        cause = next((causes[s] for causes, s in order if s in causes), None)
        if cause is not None and not self.fresh and not self.deaths:
            cause = replace(cause, outlived=True)
        return cause and self._name_rank(cause, death)

    def _name_rank(self, cause: Cause, death: Death | None) -> Cause:
        """Add the rank and its node to a line that leaves them open, as far as they are known.

        The rank that ended first, as after an error that it printed, is the one that printed it.
        """
        is_killed = death is not None and death.status == -9 and death.rank is not None
        if is_killed and cause.state is State.OUT_OF_MEMORY:  # Slurm does not say which rank
            text = f"{death.who}: {cause.text}"
            return replace(cause, text=text, rank=death.rank, host=death.host)
        if cause.rank is not None or cause.rule == DIED or not cause.line:
            return cause
        said = _RANK.search(cause.line)
        rank, host = int(said[1]) if said else None, ""
        if death is not None and death.strength is QUIET_DEATH:
            rank = death.rank if rank is None else rank
            host = death.host if death.rank in (None, rank) else ""
        where = " on ".join(filter(None, ["" if rank is None else f"rank {rank}", host]))
        if not where:
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
    for rule in RULES:
        groups = rule.match(line, small)
        if groups is not None:
            return rule, groups
    return None, {}


def _make_cause(number: int, line: str, rule: Rule, groups: dict[str, str]) -> Cause:
    said = shorten(line) if rule.quotes else ""
    text = ": ".join(filter(None, [rule.cause.format(**groups), said]))
    fix = rule.fix.format(**groups)
    return Cause(text, fix, rule.state, rule.strength, number, line=said, rule=rule.id)


def _read_death(number: int, found: dict[str, str | None]) -> Death:
    """Return what srun or bash say of a process; 128 and more is a shell's word for a signal."""
    status = int(found.get("code") or 0)
    if found.get("word"):
        status = -_BY_WORD[found["word"]]
    if 128 < status <= 128 + 64:
        status = 128 - status
    local = found.get("local")
    command = f"local rank {local}" if local else found.get("command") or ""
    task, host = found.get("task") or "", found.get("host") or ""
    return Death(status, number, host=host, task=task, command=command)
