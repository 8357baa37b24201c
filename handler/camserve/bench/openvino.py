"""OpenVINO: under the maps, and alone, as the peer whose plain prediction an explained one is held against."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from camserve.bench.networks import SIDE, BenchNetwork, photo_shape
from camserve.bench.pairs import Work
from camserve.fast.compiled import Trunk, convert_trunk
from camserve.fast.export import example, export_network
from camserve.fast.prepare import Prepared, find_tails, rewrite
from camserve.fast.split import Split, split
from camserve.network.output import ScoringNetwork
from camserve.serving.cores import one_thread
from camserve.settings import RuntimeSpec

ALONE = "OpenVINO alone, plain"


def in_openvino(
    subject: BenchNetwork, network: ScoringNetwork, device: torch.device, side: int = SIDE, shortens: bool = True
) -> BenchNetwork:
    """Return the subject with its trunk in OpenVINO; ``network`` is its own in float32, and is changed.

    ``shortens`` as for ``split``. CompilationUnavailable: it cannot be converted.
    """
    runtime = RuntimeSpec(mode="openvino", precision=subject.runtime.precision)
    rewrite(network, (subject.layer,), photo_shape(side), runtime)
    sample = example(photo_shape(side), torch.float32, device)
    trunk, tail = split(network, subject.layer, sample, shortens)
    halved = Split(network, Trunk(convert_trunk(trunk, sample), runtime.precision), tail, subject.layer)
    heads = {name: tail.head for name, tail in subject.prepared.tails.items() if tail.head is not None}
    prepared = Prepared(halved, find_tails(halved, (subject.layer,), photo_shape(side), heads))
    return replace(subject, network=network, prepared=prepared, runtime=runtime)


def openvino_works(subject: BenchNetwork, photos: Tensor, side: int) -> dict[str, Work]:
    """Return what is timed on (N, C, H, W) ``photos``: OpenVINO's whole network first, with our threads and precision.

    CompilationUnavailable: it is not installed, or cannot convert the network.
    """
    sample = example(photo_shape(side), torch.float32, photos.device)
    # A copy has its weights unpacked.
    whole = convert_trunk(export_network(copy.deepcopy(subject.network).float(), sample), sample)
    halved = in_openvino(subject, copy.deepcopy(subject.network).float(), photos.device, side)
    return {
        ALONE: partial(Trunk(whole, subject.runtime.precision), photos),
        "mode openvino, plain": one_thread()(partial(halved.predict, photos)),  # as a worker does it
        "mode openvino, explained": one_thread()(partial(halved.explain, photos)),
        "mode eager, explained": partial(subject.explain, photos),
    }
