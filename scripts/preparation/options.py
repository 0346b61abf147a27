"""Options that apply to some of a workload's sources only, and what they accept."""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple


class Option(NamedTuple):
    """One option --name of a workload; the default holds for the sources that it applies to."""

    name: str
    applies_to: tuple[str, ...]
    type: Callable[[str], Any]
    metavar: str
    default: Any
    help: str
    default_text: str | None = None  # what the help calls the default, where it is no value


def add_options(parser: argparse.ArgumentParser, options: tuple[Option, ...]) -> None:
    for option in options:
        default = option.default if option.default_text is None else option.default_text
        sources = ", --".join(option.applies_to)
        # The default is set in read_settings, which refuses an option that does not apply.
        parser.add_argument(
            f"--{option.name.replace('_', '-')}",
            metavar=option.metavar,
            type=option.type,
            default=None,
            help=f"{option.help} (for --{sources}; default: {default})",
        )


def read_settings(args: argparse.Namespace, options: tuple[Option, ...]) -> dict:
    """Return the settings of args.source; exit 2 when a given option does not apply."""
    settings = {}
    for option in options:
        given = getattr(args, option.name)
        if args.source in option.applies_to:
            settings[option.name] = option.default if given is None else given
        elif given is not None:
            flag = f"--{option.name.replace('_', '-')}"
            args.parser.error(f"{flag} does not apply to --{args.source}")
    return settings


# Types ------------------------------------------------------------------------


def whole_number(least: int, most: int = 1_000_000) -> Callable[[str], int]:
    """Return an argparse type for the whole numbers from least to most."""

    def convert(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
            why = f"{text!r} is not a whole number from {least} to {most}"
            raise argparse.ArgumentTypeError(why)
        return int(text)

    return convert


def http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with http:// or https://")
    return text


def md5_digest(text: str) -> str:
    if len(text) != 32 or not set(text.lower()) <= set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(f"{text!r} is not 32 hexadecimal digits")
    return text.lower()
