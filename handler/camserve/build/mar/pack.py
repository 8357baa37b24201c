"""The .mar as a file: the same content gives the same bytes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from camserve.build.locate import module_path
from camserve.build.mar.file import CONFIG, MANIFEST, extract_all
from camserve.build.mar.unpack import read_contents
from camserve.build.write_file import write_whole
from camserve.errors import ConfigError
from camserve.fast import compiled
from camserve.files import sha256
from camserve.measures import Evaluated
from camserve.monitor.baseline import BASELINE
from camserve.serving.seal import check_seal, write_seal
from camserve.settings import Monitoring, Settings, load_settings

ENTRY = "gradcam_handler"  # the module that TorchServe loads
WEIGHTS = "weights.safetensors"
PROGRAM = "program.pt2"
STORED = (WEIGHTS, PROGRAM, compiled.WEIGHTS, compiled.TAIL)  # weights hardly shrink, and load faster uncompressed
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold
CREATED_ON = "01/01/1980 00:00:00"


def pack_archive(name: str, version: str, content: Path, work: Path) -> Path:
    """Return the path of NAME.mar in ``work``: ``content`` with the entry file and torch-model-archiver's manifest."""
    # Only building needs the archiver; what changes an archive does not.
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_packaging_utils import ModelExportUtils

    entry = module_path(ENTRY)
    shutil.copy(entry, content)
    (content / MANIFEST).parent.mkdir()
    keys = ModelArchiverConfig(model_name=name, handler=entry.name, version=version, config_file=CONFIG)
    (content / MANIFEST).write_text(ModelExportUtils.generate_manifest_json(keys), encoding="utf-8")
    return zip_archive(content, work / f"{name}.mar")


def add_baseline(source: Path, out: Path, baseline: bytes) -> None:
    """Write the archive ``source`` with this baseline to ``out``, which may be ``source``; all else stays.

    ConfigError: it is no archive, or not as it was built.
    """

    def add(folder: Path, block: dict[str, Any]) -> None:
        (folder / BASELINE).write_bytes(baseline)
        entry = {"baseline": BASELINE, "baseline_sha256": sha256(folder / BASELINE)}
        block.setdefault("monitoring", {}).update(entry)

    _change(source, out, add)


def add_evaluated(archive: Path, evaluated: Evaluated, defaults: Mapping[str, str]) -> None:
    """Write an evidence card, and other defaults, into an archive; errors as above."""

    def add(_folder: Path, block: dict[str, Any]) -> None:
        block["evaluated"] = json.loads(json.dumps(dataclasses.asdict(evaluated)))
        block.setdefault("defaults", {}).update(defaults)

    _change(archive, archive, add)


def _change(source: Path, out: Path, change: Callable[[Path, dict[str, Any]], None]) -> None:
    """Write an archive to ``out`` after ``change`` of its folder and its block of settings."""
    with tempfile.TemporaryDirectory(prefix="camserve-archive-") as name:
        folder = Path(name) / "content"
        extract_all(source, folder)
        contents = read_contents(source)
        check_seal(folder, dataclasses.replace(contents.settings, monitoring=Monitoring()))
        config = contents.config
        change(folder, config["camserve"])
        config["camserve"]["seal"] = write_seal(folder, load_settings(config["camserve"]))
        write_config(config, folder)
        place_archive(zip_archive(folder, Path(name) / out.name), out)


def place_archive(packed: Path, out: Path) -> None:
    """Copy a packed archive to ``out``, whole or not at all. ConfigError: it cannot be written there."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, partial(shutil.copyfile, packed))
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}") from None


def settings_block(settings: Settings) -> dict[str, Any]:
    """Return settings as the block of a model-config.yaml, whose tuples are lists."""
    block: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return block


def write_config(config: dict[str, object], folder: Path) -> None:
    """Write an archive's model-config.yaml."""
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")


def zip_archive(folder: Path, target: Path) -> Path:
    """Return ``target``, the .mar of an unpacked archive: the same content gives the same bytes."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":  # which the build's own imports leave
                name = path.relative_to(folder).as_posix()
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.external_attr = 0o644 << 16
                entry.compress_type = zipfile.ZIP_STORED if name in STORED else zipfile.ZIP_DEFLATED
                archive.writestr(entry, _with_fixed_date(path.read_bytes()) if name == MANIFEST else path.read_bytes())
    return target


def _with_fixed_date(manifest: bytes) -> bytes:
    content = {**json.loads(manifest), "createdOn": CREATED_ON}
    return json.dumps(content, indent=2, sort_keys=True).encode()
