#!/usr/bin/env python
"""Check your answer to an exercise of experiments/EXERCISES.md against your own runs.

    python scripts/check_exercise.py 1            which of its jobs are still to be run
    python scripts/check_exercise.py 1 12.3       is 12.3 the answer?
    python scripts/check_exercise.py 1 --show     the answer, how it comes about, and why

The exit status is 0 when the answer is right (without an answer: when all runs are there), and 1
when it is not yet.
"""

import argparse
from pathlib import Path

from common.console import printable, run_command
from scaling.arguments import DEFAULT_FOLDER, make_parser


def main() -> int:
    arguments = parse_arguments()
    from scaling.exercises import EXERCISE_LIST, find_answer, judge, list_missing, read_facts

    number, root = arguments.number, arguments.experiments
    exercise = EXERCISE_LIST[number]
    print(f"Exercise {number}: {exercise.title} (experiments/EXERCISES.md)")
    if missing := list_missing(exercise, root):
        print("Not yet: these jobs have no run to look at:")
        print("".join(f"  {printable(line)}\n" for line in missing), end="")
        return 1
    answer = find_answer(number, root)
    if arguments.show:
        print(f"Answer: {answer.text}")
        print("".join(f"  {printable(line)}\n" for line in answer.shown), end="")
        print(f"Why: {read_facts(number)['why']}")
        return 0
    if arguments.answer is None:
        print(
            f"All its runs are there. Your answer: python scripts/check_exercise.py {number} ANSWER"
        )
        return 0
    is_right, said = judge(answer, arguments.answer)
    more = f"; what is behind it: python scripts/check_exercise.py {number} --show"
    print(f"{arguments.answer}: {said}{more if is_right else ''}")
    return 0 if is_right else 1


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    text = "the exercise, 1 to 6"
    parser.add_argument("number", metavar="N", type=int, choices=range(1, 7), help=text)
    text = "your answer: a number, or the word that the question asks for"
    parser.add_argument("answer", metavar="ANSWER", nargs="?", help=text)
    text = "the folder with exercises/, whose runs count (default: experiments)"
    parser.add_argument(
        "--experiments", metavar="FOLDER", type=Path, default=DEFAULT_FOLDER, help=text
    )
    parser.add_argument("--show", action="store_true", help="print the answer and why")
    return parser.parse_intermixed_args()  # the answer may stand last


if __name__ == "__main__":
    run_command(main)
