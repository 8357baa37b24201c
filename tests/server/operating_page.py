"""The commands of docs/operating.md, run as they stand there."""

import os
import re
import subprocess
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"


def commands(name):
    """Return the lines of a marked block."""
    (block,) = re.findall(f"<!-- {name} -->\n```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return block.splitlines()


def run(lines, **variables):
    """Return what the lines print."""
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    done = subprocess.run(
        ["bash", "-eu", "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
