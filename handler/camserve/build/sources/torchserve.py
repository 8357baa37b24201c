"""An archive that TorchServe's own image_classifier serves: it becomes one that explains, of the same name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from camserve.build.label_files import INDICES
from camserve.build.locate import unpack_kept
from camserve.build.mar.file import MANIFEST, open_mar, read_config, read_manifest, read_member
from camserve.build.sources.model_file import only_class
from camserve.errors import ConfigError, quote
from camserve.files import inside
from camserve.values import Progress

FORM = "OLD.mar of TorchServe's image_classifier"
PACKED = (".tar.gz", ".tgz")  # of torch-model-archiver --archive-format tgz
HANDLER = "image_classifier"
LABELS = "index_to_name.json"
LEFT = ("pt2", "handler", "camserve", "micro_batching")  # keys of a model-config.yaml that speak to the old handler


def fits(text: str) -> bool:
    """Say whether a text names an archive."""
    return text.endswith((".mar", *PACKED))


def describe(text: str, given: Mapping[str, Any], report: Progress) -> dict[str, Any]:
    """Return the keys of the network, labels and workers of an archive. ConfigError: another handler serves it."""
    if text.endswith(PACKED):
        raise ConfigError(
            f"{text} is not read: an archive must be a .mar, which is a zip file (mkdir old; tar -xzf {text} -C old; "
            "cd old; zip -r ../old.mar .)"
        )
    with open_mar(Path(text)) as archive:
        model = read_manifest(archive)
        _check(text, model)
        if LABELS in archive.namelist():
            read_member(archive, LABELS)  # of a size that can be read
        file = model.get("configFile") or ""
        workers = _workers(read_config(archive, file)) if file in archive.namelist() else {}
    folder = unpack_kept(Path(text))
    block = _network(text, folder, model, given, report)
    if "preprocess" not in given:
        block["preprocess"] = "imagenet"
        report(f"preprocess imagenet: {HANDLER} resizes to 256, crops 224 and takes ImageNet's mean and deviation")
    if "labels" not in given:
        named = (folder / LABELS).is_file()
        block["labels"] = f"{text}/{LABELS}" if named else INDICES
        report(f"labels: {LABELS}" if named else f"labels: class indices, since it has no {LABELS}")
    if workers:
        block["serving"] = workers
        report(f"workers as before: {workers}")
    _advise(folder, given, report)
    return block


def _network(
    text: str, folder: Path, model: Mapping[str, Any], given: Mapping[str, Any], report: Progress
) -> dict[str, Any]:
    block = {"name": model["modelName"], "version": str(model["modelVersion"])}
    block["weights"] = f"{text}/{model['serializedFile']}"
    if file := model.get("modelFile"):
        block["model_file"] = f"{text}/{file}"
        block["factory"] = given.get("factory") or only_class(inside(folder, file))
        report(f"factory {block['factory']} of {file}")
    return block


def _advise(folder: Path, given: Mapping[str, Any], report: Progress) -> None:
    if "defaults" not in given:
        report("clients get camserve's answer; --keep-answers gives those that ask for no option what they get today")
    if (folder / "requirements.txt").is_file():
        report("its requirements.txt is not carried: install these packages on the server")


def _check(text: str, model: Mapping[str, Any]) -> None:
    handler = str(model.get("handler", "none"))
    if handler.partition(":")[0] != HANDLER:
        raise ConfigError(
            f"{text} is served by the handler {quote(handler)}, whose code may do anything to a picture: only "
            f"{HANDLER} is known; unpack it, and give its model file and weights with --preprocess"
        )
    for key in ("serializedFile", "modelFile", "configFile"):
        needed = key == "serializedFile"
        if not isinstance(model.get(key, None if needed else ""), str):
            raise ConfigError(f"{text}: its {MANIFEST} {'has no' if needed else 'names no file as'} {key}")


def _workers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return TorchServe's own keys of an archive's model-config.yaml."""
    return {key: value for key, value in config.items() if key not in LEFT}
