"""The command ``camserve``: one file a subcommand, imported when it is chosen."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

from camserve.cli.command import build_parser, chosen_command, join_tokens, missing_extra
from camserve.cli.terminal import INTERRUPTED, RED, paint
from camserve.errors import CamserveError, first_line, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit status is 0, 1 (the work failed), 2 (usage) or 130 (Ctrl-C)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = chosen_command(arguments)
    try:
        args = build_parser(name).parse_args(join_tokens(arguments))
        return int(args.run(args))
    except KeyboardInterrupt:
        print("camserve: stopped by Ctrl-C", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(paint(_line(name, error), RED, sys.stderr), file=sys.stderr)
    return 1


def _line(name: str, error: Exception) -> str:
    """Return the one line that a person reads of an error; no traceback is for a user."""
    if isinstance(error, CamserveError):
        return printable(f"camserve: {error}")
    advice = missing_extra(name, error) if isinstance(error, ModuleNotFoundError) else None
    line = printable(first_line(error))
    return advice or f"camserve: {type(error).__name__}: {line} (camserve {name} --debug shows where)"
