"""The order of the stages: rows in, rows out. No other file knows it."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO

import torch
from PIL import Image
from torch import nn

from camserve.answer.compat import pytorch_grad_cam_view
from camserve.answer.predictions import RowScores, read, row_scores
from camserve.answer.render import CONTENT_TYPES, Scene, boxes, draw, encode
from camserve.answer.respond import ModelName, data_uri, refuse, respond, show
from camserve.attribution.capture import Capture, Tail
from camserve.attribution.explain import explain
from camserve.attribution.map_request import map_requests
from camserve.attribution.methods import METHODS
from camserve.choices import TEXT_FORMATS
from camserve.errors import ModelFailed, RequestError
from camserve.intake.decode import decoding
from camserve.intake.options import PARSERS, OptionSchema
from camserve.intake.preprocess import enough, fit, normalise, shrink
from camserve.labels import Labels
from camserve.monitor import Monitor, PassObservation
from camserve.monitor.audit import THUMBNAIL
from camserve.network.precision import DTYPES
from camserve.serving.guard import Result, Row, attempt
from camserve.settings import Settings
from camserve.values import Answer, Explanation, Options, RawRequest, Request, Response
from camserve.warning_codes import FIRST_FRAME_ONLY, AnswerWarning

logger = logging.getLogger(__name__)

PICTURE_KIND = "JPEG"  # of pictures inside JSON
NOTHING = Image.new("RGB", (1, 1))  # in the place of a picture that nobody will draw


@dataclass(frozen=True)
class Classifier:
    """A network that is ready to be asked: frozen, in eval mode, on its device."""

    network: nn.Module  # (N, 3, H, W) pixels -> (N, C) scores before softmax
    labels: Labels
    device: torch.device
    tails: Mapping[str, Tail]  # what is known of the network after each target layer


class Pipeline:
    """One loaded archive: answers batches of rows, each row in its own guard."""

    def __init__(self, classifier: Classifier, settings: Settings, model: ModelName, monitor: Monitor) -> None:
        """Stand ready. ConfigError: a target layer is not in the network."""
        self.settings = settings
        self.labels = classifier.labels
        self.model = model
        self.monitor = monitor
        self.network = classifier.network
        self._device = classifier.device
        self._dtype = DTYPES[settings.runtime.precision]
        self._tails = classifier.tails
        self._layers = {layer.name: layer for layer in settings.layers}
        self._menu = OptionSchema(settings, classifier.labels)
        self._threads = ThreadPoolExecutor(torch.get_num_threads(), "picture")
        self._captures: dict[tuple[str, ...], Capture] = {}
        self._at_once = self._capture(tuple(self._layers)).pictures_at_once

    def card(self) -> dict[str, object]:
        """Return what a client may know of the model: classes, layers, methods, input, options and limits."""
        settings = self.settings
        methods = {name: METHODS[name] for name in settings.methods}
        return {
            "model": dataclasses.asdict(self.model),
            "task": settings.model.task,
            "labels": list(self.labels),
            "layers": [dataclasses.asdict(layer) for layer in settings.layers],
            "methods": {name: {"source": each.source, "passes": each.passes} for name, each in methods.items()},
            "input": dataclasses.asdict(settings.input),
            "options": list(PARSERS),
            "defaults": dataclasses.asdict(settings.defaults),
            "limits": dataclasses.asdict(settings.limits),
        }

    def warm_up(self, most: int) -> None:
        """Answer batches of every size up to ``most`` (above 8: only doublings), before anybody waits for one.

        Libraries choose and compile their kernels, and the allocator grows to its size, at the first of each size.
        """
        height, width = self.settings.input.size
        buffer = BytesIO()
        Image.linear_gradient("L").resize((width, height)).convert("RGB").save(buffer, "JPEG")
        doublings = [8 << step for step in range(1, 32) if 8 << step < most]
        for size in (*range(1, min(most, 8) + 1), *doublings, *([most] if most > 8 else [])):
            self.answer([RawRequest(buffer.getvalue())] * size)

    def answer(self, rows: Sequence[RawRequest]) -> list[Response]:
        """Answer every row, in order; a bad row gets its own refusal and nothing is raised.

        More rows than one forward pass should hold are answered group by group.
        """
        arrival = time.monotonic()
        groups = [rows[start : start + self._at_once] for start in range(0, len(rows), self._at_once)]
        return [response for group in groups for response in self._respond_all(group, arrival)]

    def _respond_all(self, rows: Sequence[RawRequest], arrival: float) -> list[Response]:
        self.monitor.begin()
        with self.monitor.stage("decode"):
            accepted = self._in_threads(lambda row: attempt(self._accept, row, arrival), rows)
        answers = iter(self._answers([each for each in accepted if isinstance(each, Request)]))
        outcomes = [each if isinstance(each, RequestError) else next(answers) for each in accepted]
        with self.monitor.stage("render"):
            drawn = self._in_threads(
                lambda each: attempt(self._draw, each) if isinstance(each, Answer) else each, outcomes
            )
        written = [attempt(self._write, each) if isinstance(each, Answer) else each for each in drawn]
        ends = [last if isinstance(last, RequestError) else first for first, last in zip(outcomes, written)]
        self.monitor.end(rows, ends)
        return [
            each if isinstance(each, Response) else refuse(each, row.request_id) for row, each in zip(rows, written)
        ]

    def _in_threads(self, work: Callable[[Row], Result], rows: Sequence[Row]) -> list[Result]:
        """Resizing, decoders and encoders let go of Python's lock, so that rows need not wait for one another."""
        return [work(row) for row in rows] if len(rows) == 1 else list(self._threads.map(work, rows))

    def _accept(self, row: RawRequest, arrival: float) -> Request:
        options = self._menu.options(row)
        spec = self.settings.input

        def needed(width: int, height: int) -> tuple[int, int]:
            seen, kept = enough(width, height, spec), self._kept_side(options, width, height) / max(width, height)
            return max(seen[0], math.ceil(width * kept)), max(seen[1], math.ceil(height * kept))

        with decoding(row.image, self.settings.limits, needed) as picture:
            pixels, region = fit(picture, spec)
            # From here on nobody needs the picture larger than it will be drawn: a batch of them could fill the memory.
            kept = self._kept_side(options, picture.width, picture.height)
            picture = replace(picture, image=shrink(picture.image, kept) if kept else NOTHING)
        until = math.inf if options.deadline_ms is None else arrival + options.deadline_ms / 1000
        return Request(picture, pixels, region, options, row.request_id, until)

    def _kept_side(self, options: Options, width: int, height: int) -> int:
        """Return how long the longer side of a picture must stay for what will be drawn of it; 0: nothing will."""
        if options.picture or set(options.formats) - TEXT_FORMATS:
            return options.size or min(self.settings.limits.max_picture_side, max(width, height))
        audit = self.settings.monitoring.audit
        return THUMBNAIL if audit is not None and audit.pictures else 0

    def _answers(self, requests: Sequence[Request]) -> list[Answer | RequestError]:
        """Answer good rows together; where that fails, in halves, until the culprit stands alone."""
        if not requests:
            return []
        outcome = attempt(self._run, requests)
        if not isinstance(outcome, RequestError):
            return outcome
        if len(requests) == 1:
            return [outcome]
        half = len(requests) // 2
        return self._answers(requests[:half]) + self._answers(requests[half:])

    def _run(self, requests: Sequence[Request]) -> list[Answer | RequestError]:
        with self.monitor.stage("preprocess"):
            pixels = normalise([request.pixels for request in requests], self.settings.input, self._device)
            glimpse = self.monitor.sample_pixels(requests)
        model = self.settings.model
        several = model.threshold if model.task == "multilabel" else None
        with self._capture(self._layers_for(requests)) as capture:
            with self.monitor.stage("forward"):
                tape = any(METHODS[method].tape for request in requests for method in request.options.methods)
                seen = capture.forward(pixels.to(self._dtype), tape)
                scores, probabilities = read(seen[0].scores, model.task)
                looks = row_scores(scores, probabilities, self.labels, several)
            latest = time.monotonic() + self.settings.limits.explain_ms / 1000
            asked = [
                question
                for row, (request, outlook) in enumerate(zip(requests, looks))
                if outlook.finite and request.options.explain is not False
                for question in map_requests(
                    row, outlook, request.options, self.settings.layers[0].name, min(request.until, latest)
                )
            ]
            wanted = [each for each in asked if looks[each.row].meets(requests[each.row].options.explain)]
            with self.monitor.stage("explain"):
                explained = dict(zip(wanted, explain({each.layer.name: each for each in seen}, wanted)))
        told = [explained.get(question) or question.without_map("skipped") for question in asked]
        tales = [[tale for each, tale in zip(asked, told) if each.row == row] for row in range(len(requests))]
        warnings: dict[int, tuple[AnswerWarning, ...]] = {}
        if glimpse is not None:
            finite = [row for row, each in enumerate(looks) if each.finite]
            observation = PassObservation(
                requests, scores, probabilities, [each.best for each in looks], glimpse, tales
            )
            warnings = dict(zip(finite, self.monitor.look(lambda: observation.only(finite))))
        return [
            self._answer(request, outlook, tale, warnings.get(row, ()))
            for row, (request, outlook, tale) in enumerate(zip(requests, looks, tales))
        ]

    def _capture(self, names: tuple[str, ...]) -> Capture:
        """Return what watches these layers: made once, since looking the network over takes time."""
        if names not in self._captures:
            layers = tuple(self._layers[name] for name in names)
            self._captures[names] = Capture(self.network, layers, self._tails)
        return self._captures[names]

    def _layers_for(self, requests: Sequence[Request]) -> tuple[str, ...]:
        first = (self.settings.layers[0].name,)
        asked = {name for request in requests for name in request.options.layers or first}
        return tuple(name for name in self._layers if name in asked)

    def _answer(
        self,
        request: Request,
        outlook: RowScores,
        explanations: list[Explanation],
        cautions: tuple[AnswerWarning, ...],
    ) -> Answer | RequestError:
        if not outlook.finite:
            return ModelFailed("the model's scores for this picture are not finite numbers")
        warnings = (FIRST_FRAME_ONLY,) if "animated" in request.picture.traits else ()
        top = outlook.top(request.options.top_k)
        return Answer(request, top, tuple(explanations), (*warnings, *cautions))

    def _draw(self, answer: Answer) -> Answer | Response:
        """Return the answer with its pictures, or the picture that was asked for in place of an answer."""
        options = answer.request.options
        if options.compat is not None:
            seen_alike = (as_others_see(each, options.compat, self.settings.input.size) for each in answer.explanations)
            answer = replace(answer, explanations=tuple(seen_alike))
        if options.picture and answer.explanations and answer.explanations[0].grid is not None:
            drawn = draw("overlay", self._scene(answer, answer.explanations[0]))
            return show(answer.explanations[0], CONTENT_TYPES[options.picture], encode(drawn, options.picture))
        return replace(answer, explanations=tuple(self._illustrate(answer, each) for each in answer.explanations))

    def _write(self, answer: Answer) -> Response:
        if "timing" in answer.request.options.details:
            answer = replace(answer, timing_ms=self.monitor.stages)
        return respond(answer, self.model, self.settings.limits.max_response_bytes)

    def _illustrate(self, answer: Answer, explanation: Explanation) -> Explanation:
        if explanation.grid is None:
            return explanation
        formats = answer.request.options.formats
        scene = self._scene(answer, explanation)
        images = {
            name: data_uri(CONTENT_TYPES[PICTURE_KIND], encode(draw(name, scene), PICTURE_KIND))
            for name in formats
            if name not in TEXT_FORMATS
        }
        found = boxes(explanation.grid, answer.request.region) if "boxes" in formats else []
        grid = explanation.grid if "grid" in formats else None
        return replace(explanation, images=images, boxes=tuple(found), grid=grid)

    def _scene(self, answer: Answer, explanation: Explanation) -> Scene:
        assert explanation.grid is not None
        options = answer.request.options
        picture = answer.request.picture
        left, top, right, bottom = answer.request.region
        across, down = picture.image.width / picture.width, picture.image.height / picture.height
        region = (left * across, top * down, right * across, bottom * down)
        size = self._kept_side(options, picture.width, picture.height)
        return Scene(picture.image, region, explanation.grid, options.palette, options.opacity, size)


def as_others_see(explanation: Explanation, library: str, size: tuple[int, int]) -> Explanation:
    """Replace the grid by the map (H, W) of ``size`` that another library would return."""
    if explanation.grid is None:
        return explanation
    raw = torch.from_numpy(explanation.grid * explanation.scale)
    return replace(explanation, grid=pytorch_grad_cam_view(raw[None], size)[0].numpy(), compat=library)
