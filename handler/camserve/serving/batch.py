"""From accepted requests to answers: one forward pass, its maps, and the monitor's view of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from camserve.answer.predictions import RowScores, read_scores
from camserve.attribution.capture import Capture, Tail
from camserve.attribution.chosen_channels import check_channels
from camserve.attribution.explain import explain
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.map_request import MapRequest, map_requests
from camserve.attribution.methods import METHODS
from camserve.errors import ConfigError, ModelFailed, RequestError
from camserve.fast.split import Split
from camserve.intake.preprocess import normalise
from camserve.intake.transform import Transform
from camserve.monitor import Monitor, PassObservation
from camserve.network.precision import dtype_of
from camserve.output_spec import Head
from camserve.serving.cores import one_thread
from camserve.settings import RuntimeSpec, Settings
from camserve.values import Answer, Explanation, Picture, Request
from camserve.warning_codes import FIRST_FRAME_ONLY, AnswerWarning, warn_guessed_depth


@dataclass(frozen=True)
class Classifier:
    """A loaded network: frozen, in eval mode, on its device."""

    network: nn.Module  # (N, C, H, W) pixels -> (N, C) scores before softmax
    heads: tuple[Head, ...]
    device: torch.device
    tails: Mapping[str, Tail]  # what is known of the network after each target layer
    transform: Transform | None = None  # of pictures, in the place of camserve's own
    runtime: RuntimeSpec | None = None  # how it runs; None: as the settings say
    slowed: str = ""  # why it does not run as the settings say


class BatchRunner:
    """Predicts and explains batches of accepted requests."""

    def __init__(self, classifier: Classifier, settings: Settings, monitor: Monitor) -> None:
        """Stand ready. ConfigError: a target layer is not in the network, or a method does not go with ``score``."""
        if settings.score is not None:
            check_contexts(settings.methods)
        self._settings = settings
        self._monitor = monitor
        self._heads = classifier.heads
        self._network = classifier.network
        self._device = classifier.device
        self._dtype = dtype_of(settings.runtime)
        self._tails = classifier.tails
        self._layers = {layer.name: layer for layer in settings.layers}
        self._captures: dict[tuple[str, ...], Capture] = {}
        self.rows_at_once = self._capture(tuple(self._layers)).pictures_at_once  # of one forward pass

    def run(self, requests: Sequence[Request]) -> list[Answer | RequestError]:
        """Return the answer to each request, or its refusal where its scores are not finite."""
        # Threads of torch would go on spinning beside those of OpenVINO, for little: only a slow method has much work.
        slow = any(METHODS[method].slow for request in requests for method in request.options.methods)
        with nullcontext() if slow or not isinstance(self._network, Split) else one_thread():
            return self._run(requests)

    def _run(self, requests: Sequence[Request]) -> list[Answer | RequestError]:
        with self._monitor.stage("preprocess"):
            pixels = normalise([request.pixels for request in requests], self._settings.input, self._device)
            if not self._settings.runtime.channels_last:
                pixels = pixels.contiguous()
            sample = self._monitor.sample_pixels(requests)
        with self._capture(self._layers_for(requests)) as capture:
            with self._monitor.stage("forward"):
                tape = any(METHODS[method].tape for request in requests for method in request.options.methods)
                takes_context = self._settings.score is not None
                contexts = [request.options.context for request in requests] if takes_context else None
                outputs = capture.forward(pixels.to(self._dtype), tape, contexts)
                heads = read_scores(outputs[0].scores, self._heads)
                rows = [heads[request.options.head].row(number) for number, request in enumerate(requests)]
            refusals = self._refuse_channels(requests, outputs)
            explanations = self._explain(requests, rows, outputs, refusals)
        warnings: Mapping[int, Sequence[AnswerWarning]] = {}
        if sample is not None:
            head = heads[0]  # signals are those of the default head
            best = head.order[:, 0].tolist()
            observation = PassObservation(requests, head.scores, head.probabilities, best, sample, explanations)
            served = [number for number in np.flatnonzero(head.finite).tolist() if number not in refusals]
            warnings = self._observe(observation, served)
        return [
            refusals.get(number)
            or self._answer(
                request, row, explanations[number], warnings.get(number, ()) if self._is_usual(request) else ()
            )
            for number, (request, row) in enumerate(zip(requests, rows))
        ]

    def _capture(self, names: tuple[str, ...]) -> Capture:
        """Return what watches these layers: made once, since looking the network over takes time."""
        if names not in self._captures:
            layers = tuple(self._layers[name] for name in names)
            self._captures[names] = Capture(self._network, layers, self._tails)
        return self._captures[names]

    def _layers_for(self, requests: Sequence[Request]) -> tuple[str, ...]:
        sources = (self._settings.map_source(request.options.layers) for request in requests)
        wanted = {name for source in sources for name in source.layers}
        return tuple(name for name in self._layers if name in wanted)

    def _refuse_channels(self, requests: Sequence[Request], outputs: Sequence[LayerOutput]) -> dict[int, RequestError]:
        """Return the refusal, by row number, of each row that names channels which its layer does not have."""
        refusals: dict[int, RequestError] = {}
        for number, request in enumerate(requests):
            try:
                names = self._settings.map_source(request.options.layers).layers
                check_channels(request.options.channels, outputs, names)
            except RequestError as error:
                refusals[number] = error
        return refusals

    def _explain(
        self,
        requests: Sequence[Request],
        rows: Sequence[RowScores],
        outputs: Sequence[LayerOutput],
        refusals: Mapping[int, RequestError],
    ) -> list[list[Explanation]]:
        """Return the explanations of each row; those whose condition is not met are skipped."""
        wanted = [one for one in self._map_requests(requests, rows) if one.row not in refusals]
        due = [
            map_request
            for map_request in wanted
            if rows[map_request.row].meets(requests[map_request.row].options.explain)
        ]
        with self._monitor.stage("explain"):
            computed = dict(zip(due, explain({output.layer.name: output for output in outputs}, due)))
        explanations: list[list[Explanation]] = [[] for _ in rows]
        for map_request in wanted:
            explanation = computed.get(map_request) or map_request.without_map("skipped")
            explanations[map_request.row].append(explanation)
        return explanations

    def _map_requests(self, requests: Sequence[Request], rows: Sequence[RowScores]) -> list[MapRequest]:
        source, usual = self._settings.map_source, self._settings.map_source()
        return [
            map_request
            for number, (request, row) in enumerate(zip(requests, rows))
            if row.finite and request.options.explain is not False
            for map_request in map_requests(
                number,
                row,
                request.options,
                source(request.options.layers),
                request.until,
                request.spare_until,
                self._settings.measures,
                self._is_usual(request) and source(request.options.layers) == usual,
            )
        ]

    def _observe(self, observation: PassObservation, served: Sequence[int]) -> dict[int, tuple[AnswerWarning, ...]]:
        """Return the monitor's warnings by row number; it is shown the rows that are served, all of finite scores."""
        return dict(zip(served, self._monitor.observe(lambda: observation.only(served))))

    def _is_usual(self, request: Request) -> bool:
        """Whether the monitor's limits hold for a row: they are of the first head and the default context."""
        return request.options.head == 0 and request.options.context == self._settings.defaults.context

    def _answer(
        self,
        request: Request,
        row: RowScores,
        explanations: Sequence[Explanation],
        warnings: Sequence[AnswerWarning],
    ) -> Answer | RequestError:
        if not row.finite:
            return ModelFailed("the model's scores for this picture are not finite numbers")
        doubts = _doubts(request.picture)
        predictions = row.top(request.options.top_k)
        return Answer(request, predictions, tuple(explanations), (*doubts, *warnings), row.head.spec.name)


def check_contexts(methods: Sequence[str]) -> None:
    """Refuse methods that would run the network again without the contexts of the rows (ConfigError)."""
    rerunning = [method for method in methods if METHODS[method].reruns]
    if rerunning:
        raise ConfigError(
            f"methods: {', '.join(rerunning)} run the network again, without the context that score takes"
        )


def _doubts(picture: Picture) -> Iterator[AnswerWarning]:
    """Return the warnings of how a picture was read."""
    if "animated" in picture.traits:
        yield FIRST_FRAME_ONLY
    if picture.guessed_depth is not None:
        yield warn_guessed_depth(picture.guessed_depth)
