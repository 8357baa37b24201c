"""The command ``camserve``: one file a subcommand, imported when it is chosen."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from camserve.cli.command import build_parser, chosen_command, missing_extra
from camserve.errors import CamserveError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit status is 0, 1 (the work failed) or 2 (usage)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = chosen_command(arguments)
    try:
        args = build_parser(name).parse_args(arguments)
        return int(args.run(args))
    except CamserveError as error:
        print(f"camserve: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        line = missing_extra(name, error)
        if line is None:
            raise
        print(line, file=sys.stderr)
    except KeyboardInterrupt:
        pass
    return 1
