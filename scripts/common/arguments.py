"""The parser of every command: help as its docstring is typed, --version, --quiet, short errors."""

import argparse
import platform
import sys
from pathlib import Path

from common import console
from common.sources import hash_sources, read_git_commit


class CommandParser(argparse.ArgumentParser):
    """argparse, with what all commands share; a wrong use is one line on stderr and status 2."""

    def __init__(self, description: str | None = None, **options):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(description=description, **options)
        text = "print the commit of these sources, and Python's version"
        kept = argparse.SUPPRESS  # in no namespace
        self.add_argument("--version", action=PrintVersion, nargs=0, default=kept, help=text)
        text = "print results and errors alone: no warning, no progress, no hint"
        self.add_argument("--quiet", action=_Quiet, nargs=0, default=kept, help=text)

    def parse_known_args(self, args=None, namespace=None):
        if namespace is None:  # else the words of a subcommand
            console.set_quiet(False)
        return super().parse_known_args(args, namespace)

    def error(self, message: str):
        print(f"error: {console.printable(message)}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


class _Quiet(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        console.set_quiet(True)


class PrintVersion(argparse.Action):
    """The option --version: prints which sources these are, and ends the command."""

    def __call__(self, parser, namespace, values, option_string=None):
        print(describe_version(parser.prog))
        parser.exit()


def describe_version(command: str) -> str:
    """Return `submit.py of commit 1a2b…-dirty, Python 3.11.2`; without git the sources' hash."""
    scripts = Path(__file__).resolve().parents[1]
    commit = read_git_commit(scripts)
    sources = f"commit {commit}"
    if commit == "unknown":
        sources = f"no known commit (sha256 {hash_sources(Path(sys.argv[0]))[:12]})"
    return f"{command} of {sources}, Python {platform.python_version()}"
