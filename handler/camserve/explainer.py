"""The answers of a server, in this process, for a network of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from camserve.attribution.methods import METHODS
from camserve.build.choose_methods import WITHOUT_GRADIENTS
from camserve.build.in_process import pipeline_of
from camserve.build.locate import archive_name
from camserve.build.preprocess.transforms import read_preprocessing
from camserve.build.recipe import Recipe
from camserve.client.answers import Answer
from camserve.client.options import RequestOptions, write_options
from camserve.client.photos import Photo, read_photo
from camserve.client.replies import read_reply
from camserve.errors import CamserveError, ConfigError, unknown_choice
from camserve.intake.decode import check_decoders
from camserve.serving.description import describe_model
from camserve.settings import OWN_LIMITS, RuntimeSpec
from camserve.values import Progress, RawRequest

if TYPE_CHECKING:
    from typing_extensions import Unpack

QUICK = tuple(name for name, method in METHODS.items() if not method.slow and method.gradients)
USUAL = (*QUICK, WITHOUT_GRADIENTS, "eigencam")  # offered where nobody names methods


class Explainer:
    """Predicts and explains photos with a copy of a network, as an archive of it would.

    What the archive builder finds out about a network is found out here too: its scores, its target layer, whether its
    gradients are right. ``report`` gets a line for each of these.
    """

    def __init__(
        self,
        model: nn.Module,
        labels: Sequence[str] | str | None = None,
        preprocess: object = None,
        *,
        layer: str = "auto",
        task: str | None = None,
        methods: Sequence[str] = USUAL,
        samples: Iterable[Photo] = (),
        fast: bool = True,
        device: torch.device | str | None = None,
        report: Progress = print,
    ) -> None:
        """Copy ``model`` and look it over, which takes some seconds; later changes of it are not seen.

        ``labels`` is a list, or a file as in a recipe, or comes with the weights that ``preprocess`` names; that is as
        for ``read_preprocessing``. Of ``methods`` those stay that work on this network. From ``samples``, photos, it is
        learnt what is usual: without them no ``strength`` is said. ConfigError: it cannot be explained as it is.
        """
        preprocessing = read_preprocessing(preprocess, report)
        check_decoders(preprocessing.spec)
        for method in methods:
            if method not in METHODS:
                raise ConfigError(unknown_choice(method, METHODS, "method"))
        recipe = Recipe(
            name=archive_name(type(model).__name__),
            weights="",
            labels=labels if isinstance(labels, str) else None,
            task=task,
            layer=layer,
            methods=tuple(methods),
            runtime=RuntimeSpec(fast=fast),
            limits=OWN_LIMITS,
        )
        names = None if labels is None or isinstance(labels, str) else [str(name) for name in labels]
        photos = [read_photo(photo) for photo in samples]
        with torch.inference_mode(False), torch.enable_grad():
            self._pipeline = pipeline_of(model, recipe, names, preprocessing, photos, device, report)

    def __call__(self, photo: Photo, **options: Unpack[RequestOptions]) -> Answer:
        """Return the answer to one photo, with options as in a request. Errors: RequestError, ConfigError."""
        (answer,) = self._answer([photo], {**options})
        if isinstance(answer, CamserveError):
            raise answer
        return answer

    def explain_many(
        self, photos: Iterable[Photo], *, batch: int = 8, **options: Unpack[RequestOptions]
    ) -> Iterator[Answer | CamserveError]:
        """Yield the answer to each photo, in order, so many in one pass; an error stands in its answer's place."""
        if isinstance(photos, (str, bytes, bytearray)) or batch < 1:
            raise ConfigError("explain_many takes an iterable of photos, and a batch of 1 or more")
        remaining = iter(photos)
        while chosen := list(islice(remaining, batch)):
            yield from self._answer(chosen, {**options})

    @property
    def layer(self) -> str:
        """The target layer, by its name in the network; several are joined by ``+``."""
        return self._pipeline.settings.map_source().name

    def describe(self) -> dict[str, Any]:
        """Return the model description, as a server shows it."""
        return describe_model(self._pipeline.model, self._pipeline.heads, self._pipeline.settings)

    def _answer(self, photos: Sequence[Photo], options: dict[str, object]) -> list[Answer | CamserveError]:
        fields = write_options({"explain": True, **options})
        files = [_read(photo) for photo in photos]
        rows = [RawRequest(file, fields) for file in files if isinstance(file, bytes)]
        with torch.inference_mode(False), torch.enable_grad():
            responses = iter(self._pipeline.answer(rows) if rows else ())
        answers: list[Answer | CamserveError] = []
        for file in files:
            if isinstance(file, CamserveError):
                answers.append(file)
                continue
            response = next(responses)
            try:
                answers.append(read_reply(response.status, response.body, file))
            except CamserveError as error:
                answers.append(error)
        return answers


def _read(photo: Photo) -> bytes | ConfigError:
    try:
        return read_photo(photo)
    except ConfigError as error:
        return error
