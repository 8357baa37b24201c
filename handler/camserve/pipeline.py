"""The order of the stages: rows in, rows out. No other file knows it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from camserve.cams import METHODS
from camserve.capture import Capture
from camserve.classifier import Classifier, load_classifier
from camserve.decode import decode, harden_pillow
from camserve.errors import InternalError, ModelFailed, OutOfMemory, RequestError
from camserve.explain import explain, questions
from camserve.monitor import Monitor
from camserve.options import PARSERS, Menu
from camserve.predict import Outlook, look
from camserve.preprocess import preprocess
from camserve.render import CONTENT_TYPES, Scene, boxes, draw, encode
from camserve.respond import ModelName, data_uri, refuse, respond, show
from camserve.settings import Settings
from camserve.values import Answer, Box, Caution, Explanation, Layer, RawRequest, Request, Response

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

FIRST_FRAME_ONLY = Caution("FIRST_FRAME_ONLY", "the picture is animated: only its first frame was looked at")
PICTURE_KIND = "JPEG"  # of pictures inside JSON


class Pipeline:
    """One loaded archive: answers batches of rows, each row in its own guard."""

    def __init__(self, classifier: Classifier, settings: Settings, model: ModelName, monitor: Monitor) -> None:
        """Stand ready. ConfigError: a target layer is not in the network."""
        self.settings = settings
        self.labels = classifier.labels
        self.model = model
        self._monitor = monitor
        self._network = classifier.network
        self._device = classifier.device
        self._heads = classifier.heads
        self._layers = {layer.name: layer for layer in settings.layers}
        self._menu = Menu(settings, classifier.labels)
        Capture(self._network, settings.layers)

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

    def answer(self, rows: Sequence[RawRequest]) -> list[Response]:
        """Answer every row, in order; a bad row gets its own refusal and nothing is raised."""
        self._monitor.begin()
        accepted = [attempt(self._accept, row) for row in rows]
        answers = iter(self._answers([each for each in accepted if isinstance(each, Request)]))
        outcomes = [each if isinstance(each, RequestError) else next(answers) for each in accepted]
        return [self._respond(row, outcome) for row, outcome in zip(rows, outcomes)]

    def _accept(self, row: RawRequest) -> Request:
        with self._monitor.stage("decode"):
            options = self._menu.options(row)
            return Request(decode(row.image, self.settings.limits), options, row.request_id)

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
        with self._monitor.stage("preprocess"):
            batch = preprocess([request.picture for request in requests], self.settings.input, self._device)
        with Capture(self._network, self._layers_for(requests), self._heads) as capture:
            with self._monitor.stage("forward"):
                tape = any(METHODS[method].tape for request in requests for method in request.options.methods)
                seen = capture.forward(batch.pixels, tape)
                outlooks = look(seen[0].scores, self.labels)
            asked = [
                question
                for row, (request, outlook) in enumerate(zip(requests, outlooks))
                if outlook.finite and request.options.explain is not False
                for question in questions(row, outlook, request.options, self.settings.layers[0].name)
            ]
            wanted = [each for each in asked if outlooks[each.row].meets(requests[each.row].options.explain)]
            with self._monitor.stage("explain"):
                explained = dict(zip(wanted, explain({each.layer.name: each for each in seen}, wanted)))
        told = [explained.get(question) or question.answer("skipped") for question in asked]
        return [
            self._answer(request, outlook, region, [tale for each, tale in zip(asked, told) if each.row == row])
            for row, (request, outlook, region) in enumerate(zip(requests, outlooks, batch.regions))
        ]

    def _layers_for(self, requests: Sequence[Request]) -> tuple[Layer, ...]:
        first = (self.settings.layers[0].name,)
        asked = [name for request in requests for name in request.options.layers or first]
        return tuple(self._layers[name] for name in dict.fromkeys(asked))

    def _answer(
        self, request: Request, outlook: Outlook, region: Box, explanations: list[Explanation]
    ) -> Answer | RequestError:
        if not outlook.finite:
            return ModelFailed("the model's scores for this picture are not finite numbers")
        warnings = (FIRST_FRAME_ONLY,) if request.picture.frames > 1 else ()
        return Answer(request, region, outlook.top(request.options.top_k), tuple(explanations), warnings)

    def _respond(self, row: RawRequest, outcome: Answer | RequestError) -> Response:
        written = attempt(self._write, outcome) if isinstance(outcome, Answer) else outcome
        return written if isinstance(written, Response) else refuse(written, row.request_id)

    def _write(self, answer: Answer) -> Response:
        with self._monitor.stage("render"):
            options = answer.request.options
            if options.picture and answer.explanations and answer.explanations[0].grid is not None:
                drawn = draw("overlay", self._scene(answer, answer.explanations[0]))
                return show(answer.explanations[0], CONTENT_TYPES[options.picture], encode(drawn, options.picture))
            answer = replace(answer, explanations=tuple(self._illustrate(answer, each) for each in answer.explanations))
        if "timing" in options.details:
            answer = replace(answer, timing_ms=self._monitor.stages)
        return respond(answer, self.model, self.settings.limits.max_response_bytes)

    def _illustrate(self, answer: Answer, explanation: Explanation) -> Explanation:
        if explanation.grid is None:
            return explanation
        formats = answer.request.options.formats
        scene = self._scene(answer, explanation)
        images = {
            name: data_uri(CONTENT_TYPES[PICTURE_KIND], encode(draw(name, scene), PICTURE_KIND))
            for name in formats
            if name not in ("grid", "boxes")
        }
        found = boxes(explanation.grid, answer.region) if "boxes" in formats else []
        grid = explanation.grid if "grid" in formats else None
        return replace(explanation, images=images, boxes=tuple(found), grid=grid)

    def _scene(self, answer: Answer, explanation: Explanation) -> Scene:
        assert explanation.grid is not None
        options = answer.request.options
        picture = answer.request.picture
        size = options.size or min(self.settings.limits.max_picture_side, max(picture.width, picture.height))
        return Scene(picture.image, answer.region, explanation.grid, options.palette, options.opacity, size)


def attempt(work: Callable[..., Result], *args: object) -> Result | RequestError:
    """Call ``work``; whatever it raises becomes the refusal of the row or rows it was about."""
    try:
        return work(*args)
    except RequestError as error:
        return error
    except (MemoryError, torch.cuda.OutOfMemoryError):
        logger.exception("out of memory")
        return OutOfMemory("there is not enough memory for this picture")
    except Exception as error:
        logger.exception("unexpected failure")
        kind = ModelFailed if isinstance(error, RuntimeError) else InternalError
        return kind(f"the server failed on this picture ({type(error).__name__}); the log says more")


def load_pipeline(folder: Path, settings: Settings, name: str, version: str, device: torch.device) -> Pipeline:
    """Load an unpacked archive. ConfigError: one line says what in it is wrong."""
    harden_pillow()
    classifier = load_classifier(folder, settings, device)
    model = ModelName(name, version, f"sha256:{settings.model.source_sha256[:12]}")
    return Pipeline(classifier, settings, model, Monitor())
