"""Changing the settings of a built archive, which still loads and answers as it did when it was built."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from camserve.build.archive_file import extract_all
from camserve.build.check import multiply_limits
from camserve.build.measure_methods import measure_methods
from camserve.build.pack import place_archive, settings_block, write_config, zip_archive
from camserve.build.pairs import Pairs, read_value, set_value
from camserve.build.replay import replay
from camserve.build.samples import NOISE, PATTERN, pixels_to_try, try_methods
from camserve.build.server_keys import SERVER_KEYS, check_server_keys
from camserve.build.unpack import Contents, read_contents
from camserve.errors import ConfigError, nearest, quote
from camserve.measures import Measures
from camserve.network.factory import load_transform
from camserve.serving.batch import check_contexts
from camserve.serving.load import load_archive, load_classifier, load_pipeline
from camserve.serving.pipeline import Pipeline
from camserve.serving.seal import check_seal, write_seal
from camserve.serving.selftest import SELFTEST_FILE, record_answers, usual_options, write_answers
from camserve.settings import Settings, load_settings
from camserve.values import Progress

CHANGEABLE = ("defaults", "limits", "methods", "monitoring", "runtime", "selftest")  # keys of the settings
ELSEWHERE = {
    "monitoring.baseline": "camserve baseline measures one",
    "monitoring.baseline_sha256": "camserve baseline measures one",
    "runtime.mode": "build the archive again, with runtime.mode in its recipe",
}
SELFTESTED = {
    "refuse": "its photos get the answers that they got",
    "warn": "its self-test only warns, and was not looked at",
    "off": "its self-test is off",
}


def configure_archive(source: Path, out: Path, pairs: Pairs, report: Progress) -> list[str]:
    """Write ``source`` with changed settings to ``out``, which may be ``source``; return a line for each change.

    ``pairs`` are keys and their new values in YAML. Nothing is written where nothing changes, or where the changed
    archive does not load in a process of its own and pass its self-test. ConfigError: why it cannot be.
    """
    with tempfile.TemporaryDirectory(prefix="camserve-archive-") as name:
        folder = Path(name) / "content"
        extract_all(source, folder)
        contents = read_contents(source)
        check_seal(folder, contents.settings)
        config = change_config(contents.config, pairs)
        settings = load_settings(config["camserve"])
        changes = describe_changes(contents.config, config)
        if not changes:
            return []
        check_server_keys(config)
        report(multiply_limits(settings.limits, config))
        if settings.methods != contents.settings.methods:
            measures = _change_methods(folder, contents, settings, report)
            config["camserve"]["measures"] = json.loads(json.dumps(dataclasses.asdict(measures)))
        config["camserve"]["seal"] = write_seal(folder, load_settings(config["camserve"]))
        write_config(config, folder)
        packed = zip_archive(folder, Path(name) / "packed.mar")
        replay(packed, len(os.sched_getaffinity(0)), advice="; nothing was written")
        report(f"it loads in a process of its own; {SELFTESTED[settings.selftest]}")
        place_archive(packed, out)
    return changes


def change_config(config: Mapping[str, Any], pairs: Pairs) -> dict[str, Any]:
    """Return a model-config.yaml with changed values. ConfigError: a key cannot be changed, or a value is no YAML."""
    changed = copy.deepcopy(dict(config))
    for key, text in pairs:
        first, *inner = key.split(".")
        if key in ELSEWHERE:
            raise ConfigError(f"{key} belongs to the archive as it was built: {ELSEWHERE[key]}")
        if first in CHANGEABLE:
            set_value(changed["camserve"], (first, *inner), read_value(key, text))
        elif key.removeprefix("serving.") in SERVER_KEYS:
            set_value(changed, (key.removeprefix("serving."),), read_value(key, text))
        else:
            raise ConfigError(_refuse_key(key))
    return changed


def _refuse_key(key: str) -> str:
    if key.partition(".")[0] in (field.name for field in dataclasses.fields(Settings)):
        return f"{key} belongs to the network: build the archive again"
    known = (*CHANGEABLE, *SERVER_KEYS)
    return f"unknown key {quote(key)}{nearest(key, known)} (there are {', '.join(known)})"


def describe_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a line for each value in force that two model-config.yaml give differently."""
    old, new = flatten(before), flatten(after)
    keys = sorted({*old, *new})
    return [f"{key}: {_show(old, key)} -> {_show(new, key)}" for key in keys if old.get(key) != new.get(key)]


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return every value in force that may be changed, by its key."""
    settings = settings_block(load_settings(config["camserve"]))
    blocks = {name: settings[name] for name in CHANGEABLE}
    server = {key: config[key] for key in SERVER_KEYS if key in config}
    return {**{key: value for key, value in _flatten("", blocks) if key not in ELSEWHERE}, **server}


def _flatten(name: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(name, value)]
    return [pair for key, inner in value.items() for pair in _flatten(f"{name}.{key}" if name else key, inner)]


def _show(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) and value else json.dumps(value)


def _change_methods(folder: Path, contents: Contents, after: Settings, report: Progress) -> Measures:
    """Return the measures of other methods, which are tried on the samples as when an archive is built."""
    before, device = contents.settings, torch.device("cpu")
    name, version = contents.name, contents.version
    load_archive(folder, before, name, version, device)  # which tests it as it was
    if after.score is not None:
        check_contexts(after.methods)
    classifier = load_classifier(folder, before, device)
    pipeline = load_pipeline(folder, after, name, version, device, classifier)
    for sample in after.samples:
        try_methods(folder, pipeline, sample)
    measures = before.measures.methods
    if any(method not in measures for method in after.methods):
        transform = load_transform(folder, before.input)
        pixels = pixels_to_try(folder, before.samples, before.input, before.limits, transform)[NOISE:]
        found = measure_methods(folder, after, classifier, pixels, PATTERN not in after.samples, report).methods
        measures = {**found, **measures}
    _renew_selftest(folder, pipeline)
    kept = {method: measures[method] for method in after.methods}
    return dataclasses.replace(before.measures, methods=kept)


def _renew_selftest(folder: Path, pipeline: Pipeline) -> None:
    """Record the self-test's answers anew where it asks for a method that is no longer served."""
    asked = json.loads((folder / SELFTEST_FILE).read_text(encoding="utf-8"))["options"]["method"]
    if asked not in pipeline.settings.methods:
        options = usual_options(pipeline.settings)
        write_answers(record_answers(pipeline, folder, options), options, folder)
