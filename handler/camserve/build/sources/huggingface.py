"""A folder written by transformers' save_pretrained: architecture, preprocessing and labels come from its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from camserve.build.locate import archive_name
from camserve.build.preprocess.agreement import check_agreement
from camserve.build.sources.timm import describe_folder
from camserve.build.weights.pretrained import CONFIG, PREPROCESSOR, read_json_file, read_processor
from camserve.errors import ConfigError
from camserve.values import Progress

FORM = "hf:FOLDER of save_pretrained or of timm"
SCHEME = "hf:"
NETWORK = "package://camserve/build/carried/transformers_network.py"
# Keys of a config.json that say nothing of the architecture, or say it in the words of this recipe.
LEFT = (
    *("architectures", "transformers_version", "_name_or_path", "dtype", "torch_dtype", "id2label", "label2id"),
    *("num_labels", "auto_map", "finetuning_task", "problem_type"),
)
TASKS = {"multi_label_classification": "multilabel"}  # of problem_type
INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # of PIL's numbers
SMALL = 384  # pixels from which ConvNeXt's processor squashes instead of cropping


def fits(text: str) -> bool:
    """Say whether a text names a folder of transformers."""
    return text.startswith(SCHEME)


def describe(text: str, given: Mapping[str, Any], report: Progress) -> dict[str, Any]:
    """Return the keys of a folder's classifier. ConfigError: a file is missing or says what cannot be served."""
    folder = Path(text[len(SCHEME) :])
    config = read_json_file(folder / CONFIG)
    if "model_type" not in config:
        if "architecture" in config:
            return describe_folder(folder, given, report)
        raise ConfigError(f"{folder / CONFIG} names no model_type: is it a folder written by save_pretrained?")
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # transformers' own default
    architecture = {key: value for key, value in config.items() if key not in LEFT}
    block: dict[str, Any] = {
        "name": archive_name(folder.resolve().name),
        "model_file": NETWORK,
        "factory": "classifier",
        "args": {**architecture, "num_labels": len(names)},
        "weights": str(folder),
        "output": {"select": "logits", "activation": "none"},  # by the library's own convention
        "task": TASKS.get(str(config.get("problem_type")), "multiclass"),
    }
    if "id2label" in config and "labels" not in given:
        block["labels"] = str(folder / CONFIG)
        report(f"labels: the {len(names)} of id2label in {CONFIG}")
    if "preprocess" not in given:
        block["preprocess"] = _geometry(folder)
        report(f"preprocess {block['preprocess']}: from {PREPROCESSOR}")
    return block


def _geometry(folder: Path) -> dict[str, Any]:
    """Return the input block that a folder's image processor means. ConfigError: it cannot be written as one."""
    processor = read_processor(folder)
    settings = {key: value for key, value in processor.to_dict().items() if value is not None}
    block = {**_sides(settings, folder), **_numbers(settings)}
    block["interpolation"] = INTERPOLATIONS.get(int(settings.get("resample", 2)), "bilinear")
    if settings.get("do_flip_channel_order"):
        block["color"] = "bgr"

    def theirs(image: Any) -> Any:
        return processor(image, return_tensors="pt")["pixel_values"][0]

    check_agreement(block, theirs, f"{folder / PREPROCESSOR} ({settings.get('image_processor_type')})")
    return block


def _sides(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    size = _pair(settings.get("size")) if settings.get("do_resize") else None
    crop = _pair(settings.get("crop_size")) if settings.get("do_center_crop") else None
    share = settings.get("crop_pct")
    if isinstance(size, int) and share and (crop is not None or size < SMALL):
        return {"resize": int(size / share), "crop": crop or size}
    if isinstance(size, int) and settings.get("image_processor_type", "").startswith("Levit"):
        size = int(size * 256 / 224)  # as its processor does, whatever the size
    if isinstance(size, int) and crop is None:
        size = [size, size] if share else None
    if size is None:
        raise ConfigError(f"{folder / PREPROCESSOR} gives pictures of many sizes; one is served: give --preprocess")
    return {"resize": size, "crop": crop}


def _pair(size: Any) -> int | list[int] | None:
    """Return the short side, or height and width, of the forms that processors of all ages write."""
    if isinstance(size, Mapping):
        sides = (size.get("height"), size.get("width"))
        size = size.get("shortest_edge") or (None if None in sides else list(sides))
    return size if isinstance(size, (int, list)) else None


def _numbers(settings: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return mean and deviation of pixels in 0..1: (p * factor - mean) / std, of p in 0..255, is what is meant."""
    factor = 255 * settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 255.0
    normal = settings.get("do_normalize", False)
    mean = settings["image_mean"] if normal else (0.0, 0.0, 0.0)
    std = settings["image_std"] if normal else (1.0, 1.0, 1.0)
    shift = 1.0 if settings.get("rescale_offset") else 0.0
    again = std if settings.get("include_top") and normal else (1.0, 1.0, 1.0)  # EfficientNet divides once more
    return {
        "mean": [(value + shift) / factor for value in mean],
        "std": [value * more / factor for value, more in zip(std, again)],
    }
