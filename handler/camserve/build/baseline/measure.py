"""Measuring what is normal: every signal over reference photos, summarised for the archive."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import camserve
from camserve.build.baseline.photos import find_images
from camserve.build.baseline.reference import Reference, reference_of
from camserve.build.baseline.truth import read_labels
from camserve.build.mar.unpack import open_archive, read_contents
from camserve.errors import CamserveError, ConfigError, RequestError
from camserve.monitor.baseline import Accuracy, Baseline, Bins, ClassBins, Provenance, Unusual
from camserve.monitor.measure import MeasuredRows
from camserve.monitor.recorder import Finished
from camserve.monitor.signals import CLASS, NAMES, SIGNALS
from camserve.serving.pipeline import Pipeline
from camserve.settings import Settings
from camserve.values import Progress, RawRequest

LEAST_IMAGES = 500
ADVISED_IMAGES = 2000
LEAST_VALUES = 100  # of one signal: maps are fewer than photos where some are blank or not requested
FEWEST_OF_A_CLASS = 5  # the usual least count of a chi-square bin
TOO_FEW_VALUES = f"fewer than {LEAST_VALUES} photos have it"
TOO_FEW_OF_A_CLASS = f"no class was predicted {FEWEST_OF_A_CLASS} times among every second photo; take more photos"
TOP_CLASSES = 14  # with one bin of their own; all others share one
UNUSUAL = 0.01  # share of the reference below the thresholds of "out of distribution"
BATCH = 8  # photos
REPORTED = 50  # batches between two lines of progress


@dataclass
class Collector:
    """A recorder that keeps every signal of every row, for a reference small enough to keep."""

    batches: list[MeasuredRows] = field(default_factory=list)
    failures: int = 0

    def record(self, finished: Finished) -> None:
        """Keep the rows of one batch."""
        self.batches.extend(finished.measured)

    def refused(self, error: RequestError) -> None:
        """Nothing: a row that is refused has no signals."""

    def failed(self) -> None:
        """Count a batch whose signals could not be measured."""
        self.failures += 1


def measure_baseline(archive: Path, folder: Path, labels: Path | None, date: str, report: Progress) -> Baseline:
    """Return the baseline of an archive's model over the photos of a folder.

    ``report`` gets lines of progress. ConfigError: too few photos could be read, or none has a label.
    """
    if labels is not None and read_contents(archive).settings.outputs[0].is_quantity:
        raise ConfigError("--labels name classes, and the archive's task is regression: leave them out")
    images = find_images(folder)
    if len(images) < ADVISED_IMAGES:
        report(f"{len(images)} photos; {ADVISED_IMAGES} or more show drift sooner ({LEAST_IMAGES} is the least)")
    with open_archive(archive, baseline=False) as pipeline:
        reference = reference_of(_measure_photos(pipeline, images, folder, report))
        correct = {} if labels is None else judge(reference, read_labels(labels, pipeline.heads[0].labels))
        if labels is not None and not correct:
            raise ConfigError(f"{labels} names none of the photos in {folder}")
        map_filter = pipeline.monitor.map_filter
        assert map_filter is not None
        made = provenance_of(pipeline.settings, map_filter.layer, map_filter.usual.methods[0], len(reference.ids), date)
        baseline = summarise_reference(reference, correct, made, pipeline.settings.monitoring.low_confidence)
    report_signals_off(baseline, report)
    return baseline


def report_signals_off(baseline: Baseline, report: Progress) -> None:
    """Report each signal that the reference holds too little of."""
    for name in baseline.signals_off:
        report(f"the signal {name} is off: {TOO_FEW_OF_A_CLASS if name == CLASS else TOO_FEW_VALUES}")


def _measure_photos(pipeline: Pipeline, images: Sequence[Path], folder: Path, report: Progress) -> list[MeasuredRows]:
    map_filter = pipeline.monitor.map_filter
    assert map_filter is not None
    collector = Collector()
    pipeline.monitor.report_to(collector)
    must_explain = map_filter.usual.explain is False
    unreadable = 0
    for start in range(0, len(images), BATCH):
        rows = [
            RawRequest(path.read_bytes(), must_explain=must_explain, request_id=path.relative_to(folder).as_posix())
            for path in images[start : start + BATCH]
        ]
        unreadable += sum(answer.status != 200 for answer in pipeline.answer(rows))
        if start and start % (BATCH * REPORTED) == 0:
            report(f"{start} of {len(images)} photos")
    if unreadable:
        report(f"{unreadable} of {len(images)} photos could not be answered and were left out")
    if collector.failures:
        raise CamserveError("the signals of a photo could not be measured; the log says why")
    return collector.batches


def judge(reference: Reference, truth: Mapping[str, int]) -> dict[str, bool]:
    """Return, by request id, whether the best class is the labelled one."""
    return {name: truth[name] == best for name, best in zip(reference.ids, reference.classes.tolist()) if name in truth}


def provenance_of(settings: Settings, layer: str, method: str, images: int, date: str) -> Provenance:
    """Return what a baseline of so many ``images`` is made of, and with."""
    return Provenance(settings.model.sha256, layer, method, camserve.__version__, torch.__version__, date, images)


def summarise_reference(
    reference: Reference, correct: Mapping[str, bool], provenance: Provenance, low_confidence: float | None
) -> Baseline:
    """Return the summary of a reference; ``correct`` says by request id whether a prediction is the label.

    ConfigError: there are fewer than 500 photos.
    """
    values = reference.values
    if len(values) < LEAST_IMAGES:
        raise ConfigError(f"a baseline needs {LEAST_IMAGES} pictures or more; {len(values)} could be read")
    columns = {name: column[np.isfinite(column)] for name, column in zip(NAMES, values.T)}
    known = [name for name, column in columns.items() if len(column) >= LEAST_VALUES]
    baseline = Baseline(
        signals={name: quantile_bins(columns[name], SIGNALS[name].bins) for name in known},
        classes=class_bins(reference.classes if len(columns["confidence"]) else np.zeros(0, np.int64)),
        unusual=_unusual(columns),
        shares={"blank": float(reference.blank.mean())},
        provenance=provenance,
        accuracy=_accuracy(reference, correct),
        heatmap=_write_map(reference.mean_map),
    )
    shares = reference.flag_shares(baseline, low_confidence)
    return dataclasses.replace(baseline, shares={**baseline.shares, **shares})


def _unusual(columns: Mapping[str, np.ndarray]) -> Unusual | None:
    """Return what is unusual of confidence and energy; None: quantities have neither."""
    if not len(columns["confidence"]):
        return None
    return Unusual(*(float(np.quantile(columns[name], UNUSUAL, method="lower")) for name in ("energy", "confidence")))


def quantile_bins(values: np.ndarray, bins: int) -> Bins:
    """Return (M,) values cut into ``bins`` of equal counts, or fewer where many values are the same.

    Edges lie halfway between two values: many pictures share one shape, and rounding must not send them elsewhere.
    """
    inner = np.quantile(values, np.arange(1, bins) / bins, method="higher")
    known = np.unique(values)
    above = np.searchsorted(known, np.unique(inner[inner > known[0]]))
    edges = (known[above - 1] + known[above]) / 2
    place = np.searchsorted(edges, values, side="right")
    counts = np.bincount(place, minlength=len(edges) + 1)
    means = np.bincount(place, values, minlength=len(edges) + 1) / np.maximum(counts, 1)
    return Bins(
        tuple(edges.tolist()), tuple(counts.tolist()), tuple(means.tolist()), float(values.mean()), float(values.std())
    )


def class_bins(classes: np.ndarray) -> ClassBins:
    """Return the frequent classes of (M,) class indices, chosen on one half of them and counted on the other.

    If they were chosen and counted on the same pictures, those that are frequent by chance would drift later.
    """
    chosen = np.bincount(classes[::2])
    counts = np.bincount(classes[1::2], minlength=len(chosen))
    top = np.argsort(-chosen, kind="stable")[:TOP_CLASSES]
    top = top[chosen[top] >= FEWEST_OF_A_CLASS]
    return ClassBins(tuple(top.tolist()), (*counts[top].tolist(), int(counts.sum() - counts[top].sum())))


def _accuracy(reference: Reference, correct: Mapping[str, bool]) -> Accuracy | None:
    if not correct:
        return None
    pairs = [
        (confidence, correct[name])
        for name, confidence in zip(reference.ids, reference.column("confidence").tolist())
        if name in correct
    ]
    if not pairs:
        return None
    wrong = sum(not is_correct for _, is_correct in pairs)
    ordered = sorted(confidence for confidence, _ in pairs)
    return Accuracy(1 - wrong / len(pairs), ordered[min(wrong, len(pairs) - 1)])


def _write_map(mean_map: np.ndarray | None) -> tuple[tuple[float, ...], ...]:
    return () if mean_map is None else tuple(tuple(float(f"{cell:.6g}") for cell in row) for row in mean_map)
