"""From an answer's maps to its pictures, as its options ask for them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from camserve.answer.caption import write_caption, write_legend
from camserve.answer.compat import pytorch_grad_cam_view
from camserve.answer.render import Caption, Scene, boxes, draw, encode
from camserve.answer.respond import data_uri, show_picture, write_prediction
from camserve.choices import CONTENT_TYPES, DRAWN_FORMATS
from camserve.errors import TooMuchWork
from camserve.values import Answer, Box, Explanation, Options, Response, clip_box
from camserve.warning_codes import NO_TIME_TO_DRAW

PICTURE_KIND = "JPEG"  # of pictures inside JSON


def takes_time(options: Options) -> bool:
    """Whether ``draw_answer`` has more to do for these options than to look at them."""
    return options.compat is not None or _draws(options)


def _draws(options: Options) -> bool:
    return bool(options.picture or set(options.formats) & set(DRAWN_FORMATS))


def drawn_side(options: Options, width: int, height: int, most: int) -> int:
    """Return the longest side in pixels of what is drawn on a picture; 0: nothing is. ``most`` is the limit."""
    if not _draws(options):
        return 0
    return options.size or min(most, max(width, height))


def draw_answer(answer: Answer, input_size: tuple[int, int], most: int, most_bytes: int) -> Answer | Response:
    """Return the answer with its pictures, or the picture that was asked for in place of an answer.

    ``input_size`` is the height and width of the network's input, ``most`` the limit of ``drawn_side``. Where the time
    is over, the first picture alone is drawn. TooMuchWork: the picture that was asked for is longer than
    ``most_bytes``.
    """
    options = answer.request.options
    if options.compat is not None:
        alike = (as_others_see(explanation, options.compat, input_size) for explanation in answer.explanations)
        answer = replace(answer, explanations=tuple(alike))
    if options.picture and answer.explanations and answer.explanations[0].grid is not None:
        return _show(answer, answer.explanations[0], options.picture, most, most_bytes)
    illustrated: list[Explanation] = []
    for explanation in answer.explanations:
        is_first = not any(earlier.images for earlier in illustrated)
        illustrated.append(_illustrate(answer, explanation, most, is_first))
    return replace(answer, explanations=tuple(illustrated))


def _show(answer: Answer, explanation: Explanation, kind: str, most: int, most_bytes: int) -> Response:
    body = encode(draw("overlay", _scene(answer, explanation, most)), kind)
    if len(body) > most_bytes:  # a longer answer ends the worker
        raise TooMuchWork(
            f"the picture has {len(body)} bytes; the limit of an answer is {most_bytes}: ask for a "
            "smaller size, or for image/jpeg"
        )
    return show_picture(explanation, CONTENT_TYPES[kind], body)


def as_others_see(explanation: Explanation, library: str, size: tuple[int, int]) -> Explanation:
    """Replace the grid by the map (H, W) of ``size`` that another library would return."""
    if explanation.grid is None:
        return explanation
    raw = torch.from_numpy(explanation.grid * explanation.scale)
    return replace(explanation, grid=pytorch_grad_cam_view(raw[None], size)[0].numpy(), compat=library)


def _illustrate(answer: Answer, explanation: Explanation, most: int, is_first: bool) -> Explanation:
    if explanation.grid is None:
        return explanation
    formats = answer.request.options.formats
    drawn = [name for name in formats if name in DRAWN_FORMATS]
    scene = _scene(answer, explanation, most)
    images: dict[str, str] = {}
    for name in drawn:
        if (is_first and not images) or time.monotonic() <= answer.request.spare_until:
            images[name] = data_uri(CONTENT_TYPES[PICTURE_KIND], encode(draw(name, scene), PICTURE_KIND))
    is_complete = len(images) == len(drawn)
    picture, threshold = answer.request.picture, answer.request.options.box_threshold
    found: list[Box] = []
    if "boxes" in formats:
        found = boxes(explanation.grid, answer.request.region, threshold, explanation.of_tokens)
    # What a box covers of padding is no part of the picture.
    found = [box for box in (clip_box(box, picture.width, picture.height) for box in found) if box is not None]
    grid = explanation.grid if "grid" in formats or not is_complete else None
    warnings = explanation.warnings if is_complete else (*explanation.warnings, NO_TIME_TO_DRAW)
    return replace(explanation, images=images, boxes=tuple(found), grid=grid, warnings=warnings)


def _scene(answer: Answer, explanation: Explanation, most: int) -> Scene:
    assert explanation.grid is not None
    options, picture = answer.request.options, answer.request.picture
    left, top, right, bottom = answer.request.region
    across, down = picture.image.width / picture.width, picture.image.height / picture.height
    region = (left * across, top * down, right * across, bottom * down)
    size = drawn_side(options, picture.width, picture.height, most)
    return Scene(
        picture.image,
        region,
        explanation.grid if explanation.compat is not None else explanation.grid * np.float32(explanation.shown),
        options.palette,
        options.opacity,
        size,
        explanation.evidence,
        write_legend(explanation.status, explanation.scale, explanation.shown, explanation.compat)
        if options.legend or options.caption
        else None,
        _caption(answer, explanation) if options.caption else None,
    )


def _caption(answer: Answer, explanation: Explanation) -> Caption:
    contrast = explanation.contrast
    return write_caption(
        write_prediction(explanation.target.prediction),
        None if contrast is None else write_prediction(contrast),
        explanation.method,
        explanation.evidence,
        (warning.code for warning in (*explanation.warnings, *answer.warnings)),
        cast("Mapping[str, Any] | None", explanation.details.get("of_channels")),
    )
