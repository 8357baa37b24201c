"""From an archive to its card of pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from camserve.build.mar.unpack import load_unpacked, unpacked
from camserve.build.trial.samples import PATTERN
from camserve.card.concepts import draw_concepts, find_masks, read_concepts
from camserve.card.dissect import Dissection, dissect, join
from camserve.card.page import render
from camserve.card.plan import CardPhoto, CardPlan
from camserve.card.sections import draw_channels, draw_class_pictures, draw_photo, list_names
from camserve.card.subject import Subject
from camserve.errors import BadOption, ConfigError, RequestError, unknown_choice
from camserve.network.load import load_network
from camserve.serving.load import device_of
from camserve.serving.pipeline import Pipeline
from camserve.settings import Settings
from camserve.values import Layer, Progress, RawRequest

USUAL_CHANNELS = 3
MOST = 20  # classes, and channels, of one card


def make_card(path: Path, plan: CardPlan, report: Progress) -> str:
    """Return the page of a .mar's card; ``report`` gets a line for each picture.

    ConfigError, BadOption, UnknownClass: one line says what cannot be shown.
    """
    masks = find_masks(plan.concepts) if plan.concepts else {}
    for what, chosen in (("classes", plan.classes), ("channels", plan.channels)):
        if len(chosen) > MOST:
            raise BadOption(f"--{what} names {len(chosen)}; the limit is {MOST}")
    with unpacked(path) as (contents, folder):
        layer = _choose_layer(contents.settings, plan)
        name, photo = _read_photo(folder, contents.settings, plan, report)
        pipeline = load_unpacked(folder, contents)
        subject = _subject(folder, contents.settings, pipeline, layer)
        shown = _choose(pipeline, subject, name, photo, plan)
        if shown.remark:
            report(shown.remark)
        parts = [
            draw_class_pictures(subject, shown, plan, report),
            draw_photo(subject, shown, plan, report),
        ]
        found = name_channels(subject, masks, report)
        parts += [*draw_channels(subject, shown, found, plan, report), list_names(found)]
    facts = (
        f"Weights {pipeline.model.weights}, layer {layer.name}, photo {name}, seed {plan.seed}, {plan.steps} steps, "
        f"torch {torch.__version__}. {shown.remark}"
    )
    return render(f"{contents.name} {contents.version}: what its classes and channels look for", facts, parts)


def _choose_layer(settings: Settings, plan: CardPlan) -> Layer:
    layers = {layer.name: layer for layer in settings.layers}
    name = plan.layer or settings.layers[0].name
    if name not in layers:
        raise ConfigError(unknown_choice(name, layers, "--layer"))
    return layers[name]


def _read_photo(folder: Path, settings: Settings, plan: CardPlan, report: Progress) -> tuple[str, bytes]:
    """Return the name and the content of the photo's file."""
    sample = settings.samples[0] if settings.samples else None
    if plan.photo is None and sample is None:
        raise ConfigError("the archive has no sample: name a photo with --photo")
    file = plan.photo or folder / str(sample)
    if plan.photo is None and sample == PATTERN:
        report("the archive has no photo of its own: its test pattern stands for one; name another with --photo")
    try:
        return file.name, file.read_bytes()
    except OSError as error:
        raise ConfigError(f"--photo: cannot read {file}: {error.strerror}") from None


def _subject(folder: Path, settings: Settings, pipeline: Pipeline, layer: Layer) -> Subject:
    device = device_of(0)
    network = load_network(folder, settings, device)
    return Subject(network, settings.input, pipeline.heads[0].labels, layer, device)


def _choose(pipeline: Pipeline, subject: Subject, name: str, photo: bytes, plan: CardPlan) -> CardPhoto:
    """Return the photo, the classes and the channels of a card."""
    (request,) = pipeline.decode([RawRequest(photo)])
    if isinstance(request, RequestError):
        raise ConfigError(f"--photo: {name}: {request}")
    picture = torch.tensor(request.pixels).permute(2, 0, 1).float().to(subject.device) / 255
    with torch.no_grad():
        scores, maps = subject.look(picture[None])
    best = int(scores[0, : len(subject.labels)].argmax())
    classes = list(dict.fromkeys(map(subject.labels.find, plan.classes))) or [best]
    channels, remark = list(dict.fromkeys(plan.channels)), ""
    if not channels:
        channels = _strongest(pipeline, subject, photo, classes[0])
    if not channels:
        channels = maps[0].mean(dim=(1, 2)).argsort(descending=True).tolist()[:USUAL_CHANNELS]
        label = subject.labels[classes[0]]
        remark = f"No channel is known to carry evidence of {label} in this photo: the most active ones are shown."
    subject.check_channels(channels)
    return CardPhoto(name, picture, classes, channels, remark)


def _strongest(pipeline: Pipeline, subject: Subject, photo: bytes, index: int) -> list[int]:
    """Return the channels that carry most of the evidence for or against a class; none where no gradient tells."""
    options = {"explain": True, "target": f"index:{index}", "details": "channels", "layer": subject.layer.name}
    answer = json.loads(pipeline.answer([RawRequest(photo, {**options, "compat": "none"})])[0].body)
    (explanation, *_) = answer.get("explanations") or [{}]
    found = [channel["channel"] for channel in explanation.get("channels", ()) if channel["share"] > 0]
    return found[:USUAL_CHANNELS]


def name_channels(subject: Subject, masks: Mapping[Path, Mapping[str, Path]], report: Progress) -> Dissection:
    """Return how well channels mark what is drawn and, named apart, what the masks of a person's photos show."""
    size = subject.spec.size
    found = dissect(subject, draw_concepts(size))
    if masks:  # apart: a photo without a mask of "red" may hold red
        found = join(found, dissect(subject, read_concepts(masks, size)))
    report(f"{len(found.overlap)} channels compared with {len(found.concepts)} concepts in {found.pictures} pictures")
    return found
