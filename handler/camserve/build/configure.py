"""Changing the settings of a built archive, which still loads and answers as it did when it was built."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from functools import partial
from pathlib import Path

import torch

from camserve.build.changes import change_config, describe_changes
from camserve.build.check import multiply_limits
from camserve.build.mar.file import extract_all
from camserve.build.mar.pack import place_archive, write_config, zip_archive
from camserve.build.mar.replay import replay
from camserve.build.mar.unpack import Contents, read_contents
from camserve.build.pairs import Pairs
from camserve.build.runtime.compile import require_compiled
from camserve.build.server_keys import check_server_keys
from camserve.build.trial.measure_methods import measure_methods
from camserve.build.trial.record import record_selftest
from camserve.build.trial.samples import NOISE, PATTERN, pixels_to_try, try_methods
from camserve.measures import Measures
from camserve.network.factory import load_transform
from camserve.network.load import load_network
from camserve.serving.batch import check_contexts
from camserve.serving.cores import count_cores
from camserve.serving.load import load_archive, load_classifier, load_pipeline
from camserve.serving.pipeline import Pipeline
from camserve.serving.seal import check_seal, write_seal
from camserve.serving.selftest import SELFTEST_FILE
from camserve.settings import Settings, load_settings
from camserve.values import Progress

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
        replay(packed, count_cores(), advice="; nothing was written")
        report(f"it loads in a process of its own; {SELFTESTED[settings.selftest]}")
        place_archive(packed, out)
    return changes


def _change_methods(folder: Path, contents: Contents, after: Settings, report: Progress) -> Measures:
    """Return the measures of other methods, which are tried on the samples as when an archive is built."""
    before, device = contents.settings, torch.device("cpu")
    name, version = contents.name, contents.version
    load_archive(folder, before, name, version, device)  # which tests it as it was
    if after.score is not None:
        check_contexts(after.methods)
    classifier = load_classifier(folder, before, device)
    require_compiled(classifier, before)
    pipeline = load_pipeline(folder, after, name, version, device, classifier)
    for sample in after.samples:
        try_methods(folder, pipeline, sample)
    measures = before.measures.methods
    if any(method not in measures for method in after.methods):
        transform = load_transform(folder, before.input)
        pixels = pixels_to_try(folder, before.samples, before.input, before.limits, transform)[NOISE:]
        load = partial(load_network, folder, after, device)
        found = measure_methods(load, after, classifier, pixels, PATTERN not in after.samples, report).methods
        measures = {**found, **measures}
    _renew_selftest(folder, pipeline)
    kept = {method: measures[method] for method in after.methods}
    return dataclasses.replace(before.measures, methods=kept)


def _renew_selftest(folder: Path, pipeline: Pipeline) -> None:
    """Record the self-test's answers anew where it asks for a method that is no longer served."""
    method = json.loads((folder / SELFTEST_FILE).read_text(encoding="utf-8"))["options"]["method"]
    if method not in pipeline.settings.methods:
        record_selftest(folder, pipeline)
