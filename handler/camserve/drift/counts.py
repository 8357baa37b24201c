"""Counts of bins, read from a server or a Prometheus, and what was added since the last reading."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from camserve.client.http import shared_http
from camserve.drift.version import Version
from camserve.errors import ConfigError, describe_silence

LIVE, REFERENCE = "cam_bin_total", "cam_ref_count"
TIMEOUT = 10  # seconds

SAMPLE = re.compile(r"^(\w+)\{(.*)\}\s+(\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Bins = dict[str, dict[str, float]]  # feature -> bin -> requests


@dataclass(frozen=True)
class Series:
    """One counter of one process: its labels make its identity."""

    name: str
    labels: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """A text that is the same for the same series."""
        return f"{self.name}{{{','.join(f'{name}={value}' for name, value in self.labels)}}}"

    @property
    def version(self) -> Version:
        """Whose counter it is."""
        labels = dict(self.labels)
        return Version(labels.get("ModelName", ""), labels.get("ModelVersion", ""))

    @property
    def bin(self) -> tuple[str, str]:
        """Feature and bin."""
        labels = dict(self.labels)
        return labels.get("feature", ""), labels.get("bin", "")


Snapshot = dict[Series, float]


def read_counts(url: str) -> Snapshot:
    """Read the bin counters and references from a metrics port (.../metrics) or a Prometheus. ConfigError: neither."""
    try:
        if url.rstrip("/").endswith("/metrics"):
            answer = shared_http().get(url, timeout=TIMEOUT, follow_redirects=True)
            answer.raise_for_status()
            found = dict(_parse(answer.text.splitlines()))
        else:
            found = {
                _series(name, sample["metric"]): float(sample["value"][1])
                for name in (LIVE, REFERENCE)
                for sample in query(url, name)
            }
    except httpx.HTTPStatusError as error:
        raise ConfigError(f"{url} is no metrics port: it answers {error.response.status_code}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ConfigError(describe_silence(url, error)) from None
    if not any(series.name == REFERENCE for series in found):
        raise ConfigError(
            f"{url} has no {REFERENCE}: the archive has no baseline (camserve baseline), or the server does not "
            "know our metrics (camserve doctor)"
        )
    return found


def query(url: str, expression: str, path: str = "query", **parameters: float) -> list[dict[str, Any]]:
    """Return a Prometheus' answer to a query. ConfigError: its refusal, or that there is none."""
    arguments: dict[str, str | float] = {"query": expression, **parameters}
    try:
        answer = shared_http().get(
            f"{url.rstrip('/')}/api/v1/{path}", params=arguments, timeout=TIMEOUT, follow_redirects=True
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ConfigError(describe_silence(url, error)) from None
    try:
        block = answer.json()
    except ValueError:
        raise ConfigError(f"{url} is no Prometheus: it answers {answer.status_code}") from None
    if block.get("status") != "success":
        raise ConfigError(f"{url} refuses {expression}: {block.get('error')}")
    return list(block["data"]["result"])


def _parse(lines: Iterable[str]) -> Iterator[tuple[Series, float]]:
    for line in lines:
        found = SAMPLE.match(line)
        if found and found[1] in (LIVE, REFERENCE):
            yield _series(found[1], dict(LABEL.findall(found[2]))), float(found[3])


def _series(name: str, labels: Mapping[str, str]) -> Series:
    return Series(name, tuple(sorted((key, value) for key, value in labels.items() if key != "__name__")))


def references(snapshot: Snapshot) -> dict[Version, Bins]:
    """Return each version's reference; all workers have the same one, so the largest is taken."""
    found: dict[Version, Bins] = defaultdict(lambda: defaultdict(dict))
    for series, value in snapshot.items():
        if series.name == REFERENCE:
            feature, bin_ = series.bin
            bins = found[series.version][feature]
            bins[bin_] = max(value, bins.get(bin_, 0.0))
    return {version: {feature: dict(bins) for feature, bins in features.items()} for version, features in found.items()}


def added(before: Mapping[str, float], now: Snapshot) -> dict[Version, Bins]:
    """Return what each version counted since ``before`` (series key -> value); a counter that fell has restarted."""
    found: dict[Version, Bins] = defaultdict(lambda: defaultdict(lambda: defaultdict(float)))
    for series, value in now.items():
        if series.name == LIVE:
            last = before.get(series.key, 0.0)
            feature, bin_ = series.bin
            found[series.version][feature][bin_] += value - last if value >= last else value
    return {version: {feature: dict(bins) for feature, bins in features.items()} for version, features in found.items()}


def aligned(reference: Mapping[str, float], live: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return (K,) reference and (K,) live counts in one order of bins."""
    bins = sorted({*reference, *live})
    return np.array([reference.get(bin_, 0.0) for bin_ in bins]), np.array([live.get(bin_, 0.0) for bin_ in bins])
