"""The class names that a recipe means by ``labels``: one a line, or JSON as other tools write it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from camserve.build.locate import find_file
from camserve.errors import ConfigError, quote
from camserve.labels import BY_INDEX, BY_NAME, RESERVED, Labels
from camserve.values import Progress

IMAGENET = "imagenet"
IMAGENET_NAMES = "package://camserve/config/labels/imagenet.txt"  # torchvision's, which takes seconds to import
INDICES = "index"  # classes are called as their indices, as by TorchServe without index_to_name.json
WRAPPERS = (
    "id2label",
    "object_type_names",
    "label2id",
    "label_names",
    "pretrained_cfg",
)  # keys of a file that holds more than names
FORMS = 'a list of names, {"0": "cat"}, {"0": ["n01", "cat"]}, {"cat": 0}, or a config.json with id2label'


def read_class_names(labels: str | None) -> list[str] | None:
    """Return the class names of a recipe by class index; None where they follow from the number of classes.

    ConfigError: the file is missing, or is not one name a line or JSON of a known form.
    """
    if labels is None or labels == INDICES:
        return None
    path = find_file(IMAGENET_NAMES if labels == IMAGENET else labels)
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows begin a file with a byte-order mark
        names = _names_of(json.loads(text)) if path.suffix == ".json" else text.splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"labels: {path.name} is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"labels: {path.name} is not JSON: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"labels: {path.name}: {error}") from None
    _check_lines(names, path)
    return names


def label_names(labels: str | None, classes: int, report: Progress, noun: str = "class") -> list[str]:
    """Return one name a class; ``report`` gets what a caller should know of them.

    ``noun`` says what a class is called that nobody has named.

    ConfigError: there are more or fewer names than classes.
    """
    names = read_class_names(labels)
    if names is None:
        return [str(index) if labels == INDICES else f"{noun} {index}" for index in range(classes)]
    return fit_names(names, classes, report)


def fit_names(names: list[str], classes: int, report: Progress) -> list[str]:
    """Return the names; ``report`` gets what a caller should know of them. ConfigError: their number is another."""
    if len(names) != classes:
        raise ConfigError(f"labels: {len(names)} names for {classes} classes")
    for line in _describe_words(names):
        report(line)
    return names


def _names_of(block: object) -> list[str]:
    if isinstance(block, Mapping):
        inner = next((block[key] for key in WRAPPERS if key in block), None)
        if inner is not None:
            return _names_of(inner)
        numbered = {str(_index(key, value)): _name(key, value) for key, value in block.items()}
        missing = next((index for index in range(len(block)) if str(index) not in numbered), None)
        if missing is not None:
            raise ConfigError(f"class {missing} has no name")
        return [numbered[str(index)] for index in range(len(block))]
    if isinstance(block, list):
        return [_name(index, value) for index, value in enumerate(block)]
    raise ConfigError(f"names must be {FORMS}")


def _index(key: str, value: object) -> object:
    return value if type(value) is int else key  # {"cat": 0}, as ImageFolder's class_to_idx


def _name(key: object, value: object) -> str:
    if type(value) is int:
        return str(key)
    last = value[-1] if isinstance(value, list) and value else value
    if not isinstance(last, str):
        raise ConfigError(f"names must be {FORMS}; that of {quote(key)} is {quote(value)}")
    return last


def _check_lines(names: Sequence[str], path: Path) -> None:
    """Refuse what the archive's own file, of one name a line, cannot hold."""
    Labels(names)
    for index, name in enumerate(names):
        if len(name.splitlines()) > 1:
            raise ConfigError(f"labels: {path.name}: the name of class {index} has a line break")


def _describe_words(names: Sequence[str]) -> list[str]:
    lines = [
        f"labels: '{name}' is also a word of an option: ask for the class as {BY_NAME}{name}"
        for name in names
        if RESERVED.fullmatch(name)
    ]
    if Labels(names).numeric:
        lines.append(f"labels: some names are numbers: a number is a name, and {BY_INDEX}N asks by index")
    return lines
