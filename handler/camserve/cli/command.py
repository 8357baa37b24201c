"""The table of subcommands, and the parser of the chosen one.

A subcommand is a module of this folder: its docstring describes it, ``EXAMPLE`` follows the options in its help,
``add_options(parser)`` declares them and ``run(args)`` does the work and returns the exit status.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from camserve import __version__


@dataclass(frozen=True)
class Command:
    """One line of ``camserve --help``, and what to install for it."""

    purpose: str
    extra: str = ""  # beyond the base installation


EXTRAS = {"pyarrow": "bulk"}  # of modules that a command needs for some of its files alone
COMMANDS = {
    "init": Command("write a recipe with every key in it, to be filled in", "serve"),
    "archive": Command("build a .mar that predicts and explains", "serve"),
    "baseline": Command("measure what is normal and add it to a .mar, so that drift can be seen", "serve"),
    "configure": Command("change settings of a .mar", "serve"),
    "evaluate": Command("measure what maps are worth on labelled photos", "serve"),
    "choose": Command("find the method and the layer that suit labelled photos", "serve"),
    "card": Command("draw what classes and channels look for, as one page", "serve"),
    "inspect": Command("show what a .mar holds"),
    "explain": Command("ask an archive or a server about photos", "serve"),
    "show": Command("draw what explain kept: pictures, a sheet, a gallery", "bulk"),
    "serve": Command("start TorchServe with the shipped configuration", "serve"),
    "doctor": Command("say what is unsafe in a server's configuration"),
    "metrics": Command("declare camserve's metrics beside your own"),
    "config": Command("show or copy the shipped configuration, rules and dashboard"),
    "audit": Command("read an audit log: as a table, or compared with labels", "monitor"),
    "watch": Command("raise an alarm when traffic leaves its baseline", "monitor"),
    "calibrate": Command("measure how much clean traffic varies", "monitor"),
    "report": Command("draw an audit log beside the baseline", "monitor"),
    "bench": Command("measure what explaining costs on this machine", "bench"),
    "completion": Command("print what makes a shell complete camserve's commands and options", "completion"),
}


TOKEN_WITH_DASH = r"-[A-Za-z0-9][A-Za-z0-9_-]{6,}"  # no option is as long with one dash


def chosen_command(arguments: Sequence[str]) -> str:
    """Return the name of the subcommand on a command line, or an empty text."""
    return next((argument for argument in arguments if not argument.startswith("-")), "")


def join_tokens(arguments: Sequence[str]) -> list[str]:
    """Return a command line with ``--token -abc…`` as ``--token=-abc…``: one token in 64 begins like an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--token" and re.fullmatch(TOKEN_WITH_DASH, argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def build_parser(*chosen: str) -> argparse.ArgumentParser:
    """Return the parser of ``camserve``, with the options of the chosen subcommands; no other is imported."""
    parser = argparse.ArgumentParser(prog="camserve", description="Explain what a served image classifier looked at.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.purpose)
        if name in chosen:
            _describe(subparser, name)
    return parser


def _describe(parser: argparse.ArgumentParser, name: str) -> None:
    module = import_module(f"camserve.cli.{name}")
    parser.description, parser.epilog = module.__doc__, module.EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(run=module.run, parser=parser)
    module.add_options(parser)
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")


def missing_extra(name: str, error: ModuleNotFoundError) -> str | None:
    """Return the line that says what to install for a subcommand, or None for a module of camserve's own."""
    module = (error.name or "").partition(".")[0]
    if module in ("", "camserve"):
        return None
    extra = EXTRAS.get(module, COMMANDS[name].extra)
    return f"camserve {name} needs {module}: pip install '{f'camserve[{extra}]' if extra else 'camserve'}'"
