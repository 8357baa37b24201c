"""The kinds of requests that the server benchmark sends, which of them it compares, and what they answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from camserve.bench.contenders import (
    CAMSERVE,
    CAMSERVE_BF16,
    CAMSERVE_INT8,
    CAMSERVE_OPENVINO,
    CAMSERVE_OPENVINO_BF16,
    NAIVE,
    STOCK,
)
from camserve.bench.load import LoadReply
from camserve.errors import ConfigError

CONNECTIONS = 16
PHOTOS = 8
WARM_UP_LOAD_SECONDS = 2.0  # of each workload
PICTURE_SIDE = "600"  # longest side of drawn pictures, pixels


@dataclass(frozen=True)
class Workload:
    """One kind of request to one server."""

    name: str
    server: str
    headers: Mapping[str, str] = field(default_factory=dict)


NO_MAP = {"X-Camserve-Explain": "false"}
EXPLAINED = Workload("camserve, explained", CAMSERVE)
PLAIN = Workload("camserve, plain", CAMSERVE, NO_MAP)
PICTURE = Workload("camserve, overlay picture", CAMSERVE, {"Accept": "image/jpeg", "X-Camserve-Size": PICTURE_SIDE})
STOCK_PLAIN = Workload("image_classifier, plain", STOCK)
NAIVE_EXPLAINED = Workload("pytorch-grad-cam, explained", NAIVE)
COMPILED = Workload("camserve openvino, explained", CAMSERVE_OPENVINO)
HALVED = Workload("camserve bf16, explained", CAMSERVE_BF16)
COMPILED_HALVED = Workload("camserve openvino bf16, explained", CAMSERVE_OPENVINO_BF16)
QUANTISED = Workload("camserve openvino int8, explained", CAMSERVE_INT8)
QUANTISED_PLAIN = Workload("camserve openvino int8, plain", CAMSERVE_INT8, NO_MAP)
WORKLOADS = (
    *(EXPLAINED, STOCK_PLAIN, COMPILED, HALVED, COMPILED_HALVED, QUANTISED, QUANTISED_PLAIN, PLAIN),
    *(NAIVE_EXPLAINED, PICTURE),
)
COMPARED = (EXPLAINED, PLAIN, COMPILED, STOCK_PLAIN, NAIVE_EXPLAINED)  # of one precision: they must predict the same
ALONE = (EXPLAINED, PLAIN, COMPILED, HALVED, STOCK_PLAIN)
LOADED = (EXPLAINED, COMPILED, STOCK_PLAIN, NAIVE_EXPLAINED)
RATIOS = (
    (EXPLAINED, STOCK_PLAIN),
    (COMPILED, STOCK_PLAIN),
    (HALVED, STOCK_PLAIN),
    (COMPILED_HALVED, STOCK_PLAIN),
    (QUANTISED, STOCK_PLAIN),
    (EXPLAINED, PLAIN),
    (QUANTISED, QUANTISED_PLAIN),
    (EXPLAINED, NAIVE_EXPLAINED),
    (PICTURE, EXPLAINED),
)


def read_best_class(reply: LoadReply) -> int:
    """Read the best class from an answer of any of the three handlers. ConfigError: it is a refusal."""
    if reply.status != 200:
        raise ConfigError(f"a server answers {reply.status}: {reply.body[:200].decode(errors='replace')}")
    answer: dict[str, Any] = json.loads(reply.body)
    if "predictions" in answer:
        return int(answer["predictions"][0]["index"])
    classes: dict[str, float] = answer.get("classes", answer)
    return int(max(classes, key=lambda name: classes[name]))
