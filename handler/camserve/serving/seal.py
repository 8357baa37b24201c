"""One hash over what an archive says of its network: settings, labels, baseline, and the self-test with its photos.

A class name that moved by one line gives confident wrong answers, which no other check sees. The hash finds what was
changed or lost by mistake. It is no signature: whoever can write an archive can write its hash.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from camserve.errors import ConfigError, quote
from camserve.files import inside, sha256
from camserve.serving.selftest import SELFTEST_FILE
from camserve.settings import Settings

SEAL = "seal.json"  # of an archive: {key of the settings, or file: its SHA-256}
FREE = (
    "runtime",
    "defaults",
    "limits",
    "selftest",
    "monitoring",
    "show_samples",
    "seal",
)  # keys that an operator may change
MEND = "put it back, or build the archive again"


def write_seal(folder: Path, settings: Settings) -> str:
    """Write ``seal.json`` beside what it covers, and return its SHA-256: the setting ``seal``.

    ConfigError: a file that the settings name is missing.
    """
    hashes = {**_hash_settings(settings), **{name: sha256(inside(folder, name)) for name in _files(settings)}}
    (folder / SEAL).write_text(json.dumps(hashes, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return sha256(folder / SEAL)


def check_seal(folder: Path, settings: Settings) -> None:
    """Refuse an unpacked archive of which something was changed since it was built. ConfigError names it."""
    if not settings.seal:
        raise ConfigError("the archive has no seal, since it was built by an older camserve: build it again")
    if sha256(inside(folder, SEAL)) != settings.seal:
        raise ConfigError(f"{SEAL} was changed since the archive was built: {MEND}")
    known = _read(folder / SEAL)
    for key, found in _hash_settings(settings).items():
        if known.get(key) != found:
            raise ConfigError(
                f"{key} in model-config.yaml was changed since the archive was built: {MEND}, as is needed too where "
                f"another version of camserve built it; {', '.join(FREE[:-1])} may be changed there"
            )
    for name in _files(settings):
        _check_file(folder, name, known.get(name))


def _read(path: Path) -> dict[str, object]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        known = None
    if not isinstance(known, dict):
        raise ConfigError(f"{path.name} holds no hashes: build the archive again")
    return known


def _check_file(folder: Path, name: str, expected: object) -> None:
    path = folder / name
    if not path.is_file() or sha256(inside(folder, name)) != expected:
        what = "was changed" if path.is_file() else "was lost"
        raise ConfigError(f"{quote(name)} {what} since the archive was built: {MEND}")


def _hash_settings(settings: Settings) -> dict[str, str]:
    """Return the SHA-256 of each key that belongs to the network."""
    block = {key: value for key, value in dataclasses.asdict(settings).items() if key not in FREE}
    return {
        f"camserve.{key}": hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
        for key, value in block.items()
    }


def _files(settings: Settings) -> list[str]:
    """Return the files that say what the network's numbers mean; weights have a hash of their own."""
    baseline = settings.monitoring.baseline
    labels = [output.labels for output in settings.outputs]
    return [*labels, SELFTEST_FILE, *settings.samples, *([] if baseline is None else [baseline])]
