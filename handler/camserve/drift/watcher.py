"""The memory of ``camserve watch``: counts of the last windows, and the sequential evidence in them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from camserve.drift.counts import Bins, Snapshot, added, aligned, references
from camserve.drift.statistics import STARTS, log_e_detector
from camserve.drift.version import Version
from camserve.errors import ConfigError

WINDOW_SECONDS = 3600.0
SCHEMA = 1


@dataclass
class Window:
    """What one version counted in one hour."""

    start: float  # seconds since 1970
    counts: Bins = field(default_factory=dict)

    def add(self, more: Bins) -> None:
        """Add counts bin by bin."""
        for feature, bins in more.items():
            mine = self.counts.setdefault(feature, {})
            for name, count in bins.items():
                mine[name] = mine.get(name, 0.0) + count


@dataclass
class History:
    """One version's reference and its last windows, oldest first."""

    reference: Bins
    windows: list[Window] = field(default_factory=list)


@dataclass(frozen=True)
class Evidence:
    """How strongly one version's traffic speaks against its reference."""

    version: Version
    requests: float  # in the windows that are kept
    e: float  # the e-detector over all features: clean traffic reaches A once in A windows, or more rarely
    features: Mapping[str, float]  # each feature's own, strongest first

    def alarms(self, threshold: float) -> bool:
        """Whether the evidence reaches the alarm level."""
        return self.e >= threshold


class Watcher:
    """Collects snapshots of counters into windows, and keeps them in a file."""

    def __init__(self, path: Path, window_seconds: float = WINDOW_SECONDS) -> None:
        """Go on from the state in ``path``, if there is one. ConfigError: it is something else."""
        self._path = path
        self._window_seconds = window_seconds
        self._marks: dict[str, float] = {}
        self._histories: dict[Version, History] = {}
        if path.is_file():
            self._load()

    def observe(self, snapshot: Snapshot, now: float) -> list[Evidence]:
        """Add what was counted since the last snapshot, save, and return the evidence for every version."""
        news = added(self._marks, snapshot)
        for version, reference in references(snapshot).items():
            history = self._histories.get(version)
            if history is None or history.reference != reference:  # a new baseline: old windows say nothing of it
                history = self._histories[version] = History(reference)
            self._window(history, now).add(news.get(version, {}))
        self._marks.update({series.key: value for series, value in snapshot.items()})
        self._save()
        return [evidence(version, history) for version, history in sorted(self._histories.items())]

    def _window(self, history: History, now: float) -> Window:
        start = now - now % self._window_seconds
        if not history.windows or history.windows[-1].start < start:
            history.windows.append(Window(start))
            del history.windows[:-STARTS]
        return history.windows[-1]

    def _load(self) -> None:
        try:
            state = json.loads(self._path.read_text(encoding="utf-8"))
            if state["schema"] != SCHEMA or state["window_seconds"] != self._window_seconds:
                raise ConfigError(f"{self._path} has windows of another length: move it away to start again")
            self._marks = state["marks"]
            for block in state["versions"]:
                windows = [Window(**window) for window in block["windows"]]
                self._histories[Version(block["model"], block["version"])] = History(block["reference"], windows)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ConfigError(f"{self._path} is no state of camserve watch ({error}): move it away") from None

    def _save(self) -> None:
        versions = [
            {
                "model": version.model,
                "version": version.version,
                "reference": history.reference,
                "windows": [vars(window) for window in history.windows],
            }
            for version, history in self._histories.items()
        ]
        state = {"schema": SCHEMA, "window_seconds": self._window_seconds, "marks": self._marks, "versions": versions}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.write_text(json.dumps(state), encoding="utf-8")
        os.replace(fresh, self._path)  # a reader, or a crash, never sees half a file


def evidence(version: Version, history: History) -> Evidence:
    """Return the e-detector over the kept windows."""
    counted = {feature: _stack(history, feature) for feature, bins in history.reference.items() if can_drift(bins)}
    total, own = log_e_detector(counted)
    ranked = sorted(own.items(), key=lambda feature: -feature[1])
    requests = max((float(live.sum()) for _, live in counted.values()), default=0.0)
    return Evidence(version, requests, _exp(total), {feature: _exp(value) for feature, value in ranked})


def can_drift(reference: Mapping[str, float]) -> bool:
    """Whether a feature has more than one bin; a constant, such as the size of pictures from one camera, has not."""
    return len(reference) > 1 and sum(reference.values()) > 0


def _stack(history: History, feature: str) -> tuple[np.ndarray, np.ndarray]:
    reference = history.reference[feature]
    # Bins that only traffic has would make windows of different lengths.
    names = {name for window in history.windows for name in window.counts.get(feature, {})} | set(reference)
    pairs = [
        aligned(reference, {**dict.fromkeys(names, 0.0), **window.counts.get(feature, {})})
        for window in history.windows
    ]
    return pairs[0][0], np.stack([live for _, live in pairs])


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))  # as large as a float can be
