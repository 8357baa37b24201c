"""Wheels built from a copy of the sources, and fresh virtual environments outside the clone to install them in."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("handler", "config")
FILES = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
NO_CLONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
TORCHSERVE = "#!{python}\nimport sys\nfrom ts.model_server import start\nsys.exit(start())\n"


def copy_sources(folder):
    """Copy what packages are built from, links as links; a build leaves files behind."""
    folder.mkdir(parents=True)
    for name in FOLDERS:
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
    for path in [*(ROOT / name for name in FILES), *ROOT.glob("*.md")]:
        shutil.copy(path, folder)
    return folder


def build_package(kind, sources, out):
    """Return the wheel or sdist that ``sources`` build."""
    script = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))"
    return out / run([sys.executable, "-c", script], cwd=sources).stdout.splitlines()[-1]


def run(command, check=True, **settings):
    """Run a command that sees nothing of the clone."""
    done = subprocess.run(command, env=NO_CLONE, capture_output=True, text=True, check=False, **settings)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


class Environment:
    """A virtual environment with nothing in it, not even pip."""

    def __init__(self, folder):
        venv.create(folder, with_pip=False)
        self.bin = folder / "bin"
        self.python = self.bin / "python"

    def install(self, *arguments):
        """Run pip for this environment."""
        pip = [sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check", "install"]
        return run([*pip, "--quiet", *arguments], cwd=self.bin)

    def share_packages(self):
        """Let it import what the tests' own environment has, torch above all, but no editable clone."""
        paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        site = run([self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip()
        (Path(site) / "shared.pth").write_text("\n".join(sorted(paths)) + "\n")
        script = self.bin / "torchserve"
        script.write_text(TORCHSERVE.format(python=self.python))
        script.chmod(0o755)

    def camserve(self, *arguments, cwd, check=True):
        """Run the installed command line."""
        return run([self.bin / "camserve", *map(str, arguments)], check=check, cwd=cwd)

    def package_folder(self, cwd):
        """Return where this environment's camserve lies."""
        script = "import camserve; from pathlib import Path; print(Path(camserve.__file__).parent)"
        return Path(run([self.python, "-c", script], cwd=cwd).stdout.strip())
