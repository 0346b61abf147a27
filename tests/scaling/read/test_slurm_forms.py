"""scaling.read.slurm_log and causes: logs of several ranks, runs and launchers, read in blocks."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_slurm_out import CAUSES, PREEMPTED

from run_folders import EPOCH_LINE, epoch_line, out_text
from scaling.read.cause_rules import RULES, TELLING_WORDS
from scaling.read.causes import CauseSearch, read_evidence
from scaling.read.epoch_line import parse_epoch_lines, parse_label
from scaling.read.slurm_log import LogReader, SlurmOut, read_slurm_out
from scaling.read.text import read_blocks, read_lines

quick = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(tmp_path: Path, content: str | bytes) -> SlurmOut:
    path = tmp_path / "ddp_1g1n_12.out"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_slurm_out(path)


def rates(log: SlurmOut) -> list[list[float]]:
    return [[epoch.throughput_per_s for epoch in attempt.epochs] for attempt in log.attempts]


def printed(*ranks: str, epochs: int = 3) -> str:
    """Each rank prints each epoch, rank by rank; the first rank's rate is 1, the second's 2."""
    lines = [
        rank + epoch_line(epoch, epochs, throughput=float(at))
        for epoch in range(1, epochs + 1)
        for at, rank in enumerate(ranks, start=1)
    ]
    return "\n".join(lines) + "\n"


LABELS = [
    ("0: ", (0,)), (" 12: ", (12,)), ("[default3]:", (3,)), ("[rank1]: ", (1,)),
    ("[1,7]<stdout>:", (7,)),
    ("[4] ", (4,)), ("2: [default1]:", (2, 1)), ("", ()),
    ("node1:12:12 [0] ", ()), ("10:00:00 ", ()),
]  # fmt: skip


@pytest.mark.parametrize(("label", "ranks"), LABELS)
def test_labels(label, ranks):
    assert parse_label(label + EPOCH_LINE) == ranks


INTERLEAVED = {
    "srun --label": printed("0: ", "1: "),
    "the lowest rank last": printed("3: ", "0: ", "2: "),
    "torchrun --tee": printed("[default0]:", "[default1]:"),
    "srun --label and --tee": printed("0: [default0]:", "0: [default1]:", "1: [default0]:"),
    "Open MPI": printed("[1,0]<stdout>:", "[1,1]<stdout>:"),
    "printed plainly and by --tee": printed("", "[default0]:"),
}


@pytest.mark.parametrize("name", INTERLEAVED)
def test_of_several_ranks_the_lowest_labelled_one_counts(tmp_path, name):
    log = read(tmp_path, INTERLEAVED[name])
    assert len(log.attempts) == 1
    assert rates(log) == [[2.0] * 3 if "last" in name else [1.0] * 3]
    assert not log.is_mixed


def test_ranks_without_a_label_that_differ_are_mixed(tmp_path):
    assert read(tmp_path, printed("", "")).is_mixed
    assert read(tmp_path, printed("", "", "", "", epochs=2)).is_mixed


NOT_MIXED = {
    "one rank": out_text(),
    "each line twice": "".join(f"{epoch_line(n)}\n{epoch_line(n)}\n" for n in (1, 2, 3)),
    "begun anew after epoch 1": epoch_line(1, throughput=5.0) + "\n" + out_text(),
    "resumed in the middle": f"{epoch_line(1)}\n{epoch_line(2, throughput=5.0)}\n{epoch_line(2)}\n"
    f"{epoch_line(3)}\n",
    "one epoch, run twice": f"{epoch_line(1, 1, 5.0)}\n{epoch_line(1, 1, 6.0)}\n",
}


@pytest.mark.parametrize("text", NOT_MIXED.values(), ids=NOT_MIXED)
def test_what_is_no_mixture(tmp_path, text):
    assert not read(tmp_path, text).is_mixed


SEVERAL_RUNS = {
    "other figures": (out_text(throughput=1.0) + out_text(throughput=2.0), [[1.0] * 3, [2.0] * 3]),
    "the same figures": (out_text(throughput=1.0) * 2, [[1.0] * 3, [1.0] * 3]),
    "three, two of them cut": (
        out_text(1, throughput=1.0) + out_text(2, throughput=2.0) + out_text(throughput=3.0),
        [[1.0], [2.0] * 2, [3.0] * 3],
    ),
    "requeued, resumed": (
        f"{epoch_line(1, throughput=1.0)}\n{PREEMPTED.format('JOB REQUEUE')}\n"
        f"{epoch_line(2, throughput=2.0)}\n{epoch_line(3, throughput=2.0)}\n",
        [[1.0], [1.0, 2.0, 2.0]],
    ),
    "of another length": (out_text(2, 2, 1.0) + out_text(throughput=2.0), [[1.0] * 2, [2.0] * 3]),
}


@pytest.mark.parametrize(("text", "expected"), SEVERAL_RUNS.values(), ids=SEVERAL_RUNS)
def test_several_runs_in_one_log_are_told_apart(tmp_path, text, expected):
    assert rates(read(tmp_path, text)) == expected


def test_two_lines_in_one_and_a_torn_one_before_a_whole_one():
    both = epoch_line(1) + epoch_line(2)
    assert [epoch.epoch for epoch in parse_epoch_lines(both)] == [1, 2]
    torn = epoch_line(1)[:40] + epoch_line(2)
    assert [epoch.epoch for epoch in parse_epoch_lines(torn)] == [2]


def test_an_epoch_that_another_program_speaks_of_is_no_torn_line(tmp_path):
    text = "Epoch [1/3]:  50%|####\nEpoch [1/3], Loss: 0.5\nEpoch [1/3] LR: 0.00\nEpoch [2/\n"
    assert read(tmp_path, text).unreadable == [3, 4]


def test_totals_of_every_workload(tmp_path):
    text = out_text() + "Best validation perplexity: 172.26\nBest BLEU: 23.40\n"
    attempt = read(tmp_path, text).last_attempt
    assert (attempt.best_val_perplexity, attempt.best_val_bleu) == (172.26, 23.4)
    assert read(tmp_path, text[:-2]).last_attempt.best_val_bleu is None  # `23.4` of `23.40`?


def test_an_endless_log_is_kept_short(tmp_path):
    text = "".join(epoch_line(1, throughput=float(n)) + "\n" for n in range(3000))
    log = read(tmp_path, text)
    assert (len(log.attempts), log.forgotten_attempts) == (1000, 2000)
    assert log.last_attempt.last.throughput_per_s == 2999.0
    many = "".join(f"{epoch_line(n, 25_000)}\n" for n in range(1, 25_001))
    assert len(read(tmp_path, many).last_attempt.by_number) == 20_000
    torn = read(tmp_path, "Epoch [2/3] LR: 0.0\n" * 2000)
    assert len(torn.unreadable) == 1000


# ---- In blocks as line by line -------------------------------------------------------------

LINES = st.one_of(
    st.text(max_size=30),
    st.sampled_from([line for text, *_ in CAUSES for line in text.splitlines()]),
    st.sampled_from(
        [EPOCH_LINE, epoch_line(1), EPOCH_LINE[:60], epoch_line(1) + epoch_line(2),
         "0: " + EPOCH_LINE,
         "[default1]:" + epoch_line(1), "\x1b[1mEpoch\x1b[0m" + EPOCH_LINE[5:], "\u0130 error: x",
         "Total training time: 93.1 s", "Best BLEU: 2.5", PREEMPTED.format("PREEMPTION"),
         EPOCH_LINE.replace("2.16%", "2.16\u200b%"), "Traceback (most recent call last):",
         "  x", "",
         "KeyboardInterrupt", EPOCH_LINE + " \t", "\u2028" + EPOCH_LINE]
    ),
)  # fmt: skip


@quick
@given(st.lists(LINES, max_size=15), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_blocks_give_what_lines_give(tmp_path, lines, end, is_ended):
    path = tmp_path / "ddp_1g1n_12.out"
    path.write_bytes((end.join(lines) + end * is_ended).encode("utf-8", "surrogatepass"))
    by_line = LogReader(path)
    for by_line.log.lines, (line, has_end) in enumerate(read_lines(path), start=1):
        by_line.take(line, by_line.log.lines, has_end)
    by_block = read_slurm_out(path)
    assert (by_block.lines, by_block.unreadable) == (by_line.log.lines, by_line.log.unreadable)
    assert list(map(describe, by_block.attempts)) == list(map(describe, by_line.log.attempts))
    search = CauseSearch()
    for block in read_blocks(path):
        search.add_block(block)
    assert (search.choose(), search.ending) == read_evidence(line for line, _ in read_lines(path))


def describe(attempt) -> tuple:
    totals = (attempt.total_training_s, attempt.best_val_loss, attempt.best_val_bleu)
    return [(e.text, e.line_number, e.scores) for e in attempt.epochs], totals, attempt.repeated


def split_alternatives(pattern: str) -> list[str]:
    """The alternatives of a pattern, brackets opened."""
    depth, parts = 0, [""]
    for char in pattern:
        depth += (char == "(") - (char == ")")
        if char == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


@pytest.mark.parametrize("rule", RULES, ids=[rule.pattern.pattern[:40] for rule in RULES])
def test_each_rule_needs_a_telling_word(rule):
    for alternative in split_alternatives(rule.pattern.pattern):
        for spelt in spell(alternative.lower()):
            assert any(word in spelt for word in TELLING_WORDS), f"{alternative}: {spelt}"


def spell(pattern: str) -> list[str]:
    """The texts that a rule's alternative stands for, as far as telling words go."""
    pattern = re.sub(r"\(\?<!.*?\)", "", pattern)
    group = re.search(r"\(\?:([^()]*)\)", pattern)
    if group:
        before, after = pattern[: group.start()], pattern[group.end() :].removeprefix("?")
        options = group[1].split("|") + ([""] if pattern[group.end() :].startswith("?") else [])
        return [text for option in options for text in spell(before + option + after)]
    if optional := re.search(r"([\w ])\?", pattern):
        start, end = optional.span()
        return [t for x in (optional[1], "") for t in spell(pattern[:start] + x + pattern[end:])]
    pattern = re.sub(r"\[_-\]", "_", pattern)
    return [re.sub(r"\\(.)", r"\1", re.sub(r"\\[sdSb]\+?|\\b|\.\*", " ", pattern))]
