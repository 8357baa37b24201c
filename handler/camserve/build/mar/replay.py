"""The packed archive, loaded and tested in a process that has nothing of the builder's."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from camserve.errors import LINE_LIMIT, ConfigError

# As a worker does it: the archive's folder comes first on the path.
BUNDLE = "; modules that lie beside the model file or are installed go in by bundle"
SCRIPT = """
import sys
from pathlib import Path
folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))
import torch, yaml
from camserve.errors import CamserveError
from camserve.serving.load import load_archive
from camserve.settings import load_settings
torch.set_num_threads(int(sys.argv[2]))
settings = load_settings(yaml.safe_load((folder / "model-config.yaml").read_text(encoding="utf-8"))["camserve"])
try:
    pipeline = load_archive(folder, settings, "replay", "1.0", torch.device("cpu"))
except Exception as error:
    sys.exit(str(error) if isinstance(error, CamserveError) else f"{type(error).__name__}: {error}")
if sys.argv[3] and pipeline.settings.runtime.mode != sys.argv[3]:
    sys.exit(f"it runs in mode {pipeline.settings.runtime.mode}: {pipeline.slowed}")
"""


def replay(path: Path, threads: int, advice: str = BUNDLE, mode: str = "") -> None:
    """Load a .mar in a fresh process and repeat its self-test.

    ConfigError, which ends with ``advice``: it does not load, does not get the answers of its build, or does not run
    in ``mode``, where one is given.
    """
    with tempfile.TemporaryDirectory(prefix="camserve-replay-") as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        # -I: neither PYTHONPATH nor the working directory, where the builder's own modules may lie.
        command = [sys.executable, "-I", "-c", SCRIPT, folder, str(threads), mode]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise ConfigError(f"the packed archive does not answer in a process of its own: {last[:LINE_LIMIT]}{advice}")
