"""Print a script with which a shell completes commands, options and names of files.

It is made once and needs nothing at work. Commands whose packages are not installed here complete by name alone.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import shtab

from camserve.cli.command import COMMANDS, build_parser

EXAMPLE = """examples:
  camserve completion bash > ~/.local/share/bash-completion/completions/camserve
  camserve completion zsh > "${fpath[1]}/_camserve"
  camserve completion fish > ~/.config/fish/completions/camserve.fish
"""
SHELLS = ("bash", "zsh", "fish", "tcsh")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    parser = build_parser(*filter(_is_installed, COMMANDS))
    _mark_files(parser)
    print(shtab.complete(parser, shell=args.shell))
    return 0


def _is_installed(name: str) -> bool:
    try:
        import_module(f"camserve.cli.{name}")
    except ModuleNotFoundError:
        return False
    return True


def _mark_files(parser: argparse.ArgumentParser) -> None:
    """Let every option and argument that is a path be completed as one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                _mark_files(subparser)
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
