"""From an archive to its card of pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from camserve.build.samples import PATTERN
from camserve.build.unpack import Contents, load_unpacked, unpacked
from camserve.card.activation import activation_of, as_picture, pixels_of
from camserve.card.ascent import Made, draw_channel, draw_class, dream, invert
from camserve.card.concepts import draw_concepts, find_masks, read_concepts
from camserve.card.dissect import DETECTS, Dissection, dissect
from camserve.card.page import Figure, Section, render
from camserve.card.subject import Subject
from camserve.errors import BadOption, ConfigError, RequestError, unknown_choice
from camserve.network.load import load_network
from camserve.serving.load import device_of
from camserve.serving.pipeline import Pipeline
from camserve.values import Progress, RawRequest

USUAL_CHANNELS = 3
MOST = 20  # classes, and channels, of one card


@dataclass(frozen=True)
class CardPlan:
    """What a card is to show."""

    classes: tuple[str, ...] = ()  # none: the best class of the photo
    channels: tuple[int, ...] = ()  # none: those that carry most of its evidence
    layer: str | None = None  # of the archive's; None: its first
    photo: Path | None = None  # None: the archive's first sample
    concepts: Path | None = None  # a folder of photos with masks, beside the drawn set
    steps: int = 128  # of gradient ascent, for one picture
    seed: int = 0


@dataclass(frozen=True)
class _Shown:
    """The photo of a card, and what was asked about it."""

    name: str
    picture: Tensor  # (3, H, W), 0..1
    classes: Sequence[int]
    channels: Sequence[int]


def make_card(path: Path, plan: CardPlan, report: Progress) -> str:
    """Return the page of a .mar's card; ``report`` gets a line for each picture.

    ConfigError, BadOption, UnknownClass: one line says what cannot be shown.
    """
    masks = find_masks(plan.concepts) if plan.concepts else {}
    for what, chosen in (("classes", plan.classes), ("channels", plan.channels)):
        if len(chosen) > MOST:
            raise BadOption(f"--{what} names {len(chosen)}; the limit is {MOST}")
    with unpacked(path) as (contents, folder):
        pipeline = load_unpacked(folder, contents)
        subject = _subject(folder, contents, pipeline, plan)
        shown = _choose(folder, pipeline, subject, plan, report)
        parts = [
            _classes(subject, shown, plan, report),
            _photo(subject, shown, plan, report),
        ]
        found = _dissect(subject, masks, report)
        parts += [*_channels(subject, shown, found, plan, report), _names(found)]
    facts = (
        f"Weights {pipeline.model.weights}, layer {subject.layer.name}, photo {shown.name}, seed {plan.seed}, "
        f"{plan.steps} steps, torch {torch.__version__}."
    )
    return render(f"{contents.name} {contents.version}: what its classes and channels look for", facts, parts)


def _subject(folder: Path, contents: Contents, pipeline: Pipeline, plan: CardPlan) -> Subject:
    settings, device = contents.settings, device_of(0)
    layers = {layer.name: layer for layer in settings.layers}
    name = plan.layer or settings.layers[0].name
    if name not in layers:
        raise ConfigError(unknown_choice(name, layers, "--layer"))
    network = load_network(folder, settings, device)
    return Subject(network, settings.input, pipeline.heads[0].labels, layers[name], device)


def _choose(folder: Path, pipeline: Pipeline, subject: Subject, plan: CardPlan, report: Progress) -> _Shown:
    """Return the photo, the classes and the channels of a card."""
    sample = pipeline.settings.samples[0] if pipeline.settings.samples else None
    if plan.photo is None and sample is None:
        raise ConfigError("the archive has no sample: name a photo with --photo")
    file = plan.photo or folder / str(sample)
    if plan.photo is None and sample == PATTERN:
        report("the archive has no photo of its own: its test pattern stands for one; name another with --photo")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"--photo: cannot read {file}: {error.strerror}") from None
    (request,) = pipeline.decode([RawRequest(data)])
    if isinstance(request, RequestError):
        raise ConfigError(f"--photo: {file.name}: {request}")
    picture = torch.tensor(request.pixels).permute(2, 0, 1).float().to(subject.device) / 255
    with torch.no_grad():
        scores, maps = subject.look(picture[None])
    best = int(scores[0, : len(subject.labels)].argmax())
    classes = list(dict.fromkeys(map(subject.labels.find, plan.classes))) or [best]
    channels = list(dict.fromkeys(plan.channels)) or _strongest(pipeline, subject, data, classes[0], maps)
    subject.check_channels(channels)
    return _Shown(file.name, picture, classes, channels)


def _strongest(pipeline: Pipeline, subject: Subject, photo: bytes, index: int, maps: Tensor) -> list[int]:
    """Return the channels that carry most of a class's evidence; where no gradient tells, the most active ones."""
    options = {"explain": True, "target": f"index:{index}", "details": "channels", "layer": subject.layer.name}
    answer = json.loads(pipeline.answer([RawRequest(photo, {**options, "compat": "none"})])[0].body)
    (explanation, *_) = answer.get("explanations") or [{}]
    found = [channel["channel"] for channel in explanation.get("channels", ())]
    return (found or maps[0].mean(dim=(1, 2)).argsort(descending=True).tolist())[:USUAL_CHANNELS]


def _classes(subject: Subject, shown: _Shown, plan: CardPlan, report: Progress) -> Section:
    def figures() -> Iterator[Figure | str]:
        for index in shown.classes:
            title = f"class {subject.labels[index]} ({index})"
            made = _try(partial(draw_class, subject, index, plan.steps, plan.seed), title, report)
            yield (
                made
                if isinstance(made, str)
                else Figure(
                    made.picture,
                    title,
                    "Made from noise by climbing the class's score.",
                    "an example of the class, or what the network needs to see; other seeds give other pictures.",
                    f"Score {made.before:.3g} to {made.after:.3g}; {_predicted(subject, made.picture)}.",
                )
            )

    return _section("Pictures of classes", "What raises a class's score most.", figures())


def _predicted(subject: Subject, picture: Tensor) -> str:
    with torch.no_grad():
        scores = subject.look(picture[None].to(subject.device))[0][0, : len(subject.labels)]
    return f"best class of the picture: {subject.labels[int(scores.argmax())]}"


def _photo(subject: Subject, shown: _Shown, plan: CardPlan, report: Progress) -> Section:
    def figures() -> Iterator[Figure | str]:
        yield Figure(shown.picture.cpu(), shown.name, "What the network is shown.", "the whole file: it is cropped.")
        title = f"inverted from {subject.layer.name}"
        made = _try(lambda: invert(subject, shown.picture, plan.steps, plan.seed), title, report)
        yield (
            made
            if isinstance(made, str)
            else Figure(
                made.picture,
                title,
                "Another picture with nearly the same feature maps, found from noise.",
                "what the network saw: what differs from the photo is what this layer does not keep, or what the "
                "search did not find.",
                f"Distance of the maps {made.before:.3g} to {made.after:.3g}, of their size.",
            )
        )

    return _section("A photo, and what the layer keeps of it", "The representation, inverted.", figures())


def _channels(
    subject: Subject, shown: _Shown, found: Dissection, plan: CardPlan, report: Progress
) -> Iterator[Section]:
    for channel in shown.channels:
        named = found.name(channel)
        name = "no concept of the set" if named is None else f"{named[0]}, overlap {named[1]:.2f}"
        figures = chain(_made_of(subject, shown, channel, plan, report), _seen_by(subject, shown, channel))
        yield _section(f"Channel {channel}", f"Marks: {name}.", figures)


def _made_of(subject: Subject, shown: _Shown, channel: int, plan: CardPlan, report: Progress) -> Iterator[Figure | str]:
    title = f"filter picture of channel {channel}"
    made = _try(lambda: draw_channel(subject, channel, plan.steps, plan.seed), title, report)
    yield (
        made
        if isinstance(made, str)
        else Figure(
            made.picture,
            title,
            "Made from noise by climbing the channel's mean activation.",
            "all that the channel answers to: one seed's way up.",
            f"Activation {made.before:.3g} to {made.after:.3g}.",
        )
    )
    title = f"dream of channel {channel}"
    made = _try(lambda: dream(subject, shown.picture, channel, plan.steps, plan.seed), title, report)
    yield (
        made
        if isinstance(made, str)
        else Figure(
            made.picture,
            title,
            "The photo, changed so that the channel is more active.",
            "what is in the photo.",
            f"Activation {made.before:.3g} to {made.after:.3g}.",
        )
    )


def _seen_by(subject: Subject, shown: _Shown, channel: int) -> Iterator[Figure]:
    seen = activation_of(subject, shown.picture, channel)
    is_active = bool(seen.any())
    yield Figure(
        (0.25 + 0.75 * seen) * shown.picture.cpu(),
        f"activation of channel {channel}",
        "The photo, bright where the channel is active." if is_active else "The channel is not active in this photo.",
        "evidence for a class: the channel may speak for none.",
    )
    gradient, guided = pixels_of(subject, shown.picture, channel)
    how = "Guided backpropagation" if guided else "The gradient (no ReLU to guide it)"
    yield Figure(
        as_picture(gradient),
        f"pixels of channel {channel}",
        f"{how} of the channel's mean activation; grey is zero.",
        "a test of the network: guided pictures hardly change with its weights (Adebayo et al. 2018).",
    )


def _dissect(subject: Subject, masks: Mapping[Path, Mapping[str, Path]], report: Progress) -> Dissection:
    size = subject.spec.size
    found = dissect(subject, chain(draw_concepts(size), read_concepts(masks, size)))
    report(f"{len(found.overlap)} channels compared with {len(found.concepts)} concepts in {found.pictures} pictures")
    return found


def _names(found: Dissection) -> Section:
    rows = [("concept", "channel that marks it best", "overlap", "a detector")]
    for concept in found.concepts:
        channel, overlap = found.best(concept)
        rows.append((concept, str(channel), f"{overlap:.3f}", "yes" if overlap > DETECTS else "no"))
    words = (
        "Network Dissection (Bau et al. 2017): intersection over union of where a channel is most active and where the "
        f"concept is; above {DETECTS} the channel is called a detector. It is no proof that the network uses the "
        "concept, and a channel that no concept of the set names may well mark another."
    )
    return Section("Names of channels", words, rows=rows)


def _try(make: Callable[[], Made], title: str, report: Progress) -> Made | str:
    """Return a picture, or why there is none; either way progress is reported."""
    try:
        made = make()
    except ConfigError as error:
        report(f"{title}: left out: {error}")
        return f"{title} is left out: {error}."
    report(f"{title}: {made.before:.4g} to {made.after:.4g}")
    return made


def _section(title: str, words: str, figures: Iterator[Figure | str]) -> Section:
    found = list(figures)
    return Section(
        title,
        " ".join([words, *(figure for figure in found if isinstance(figure, str))]),
        [figure for figure in found if isinstance(figure, Figure)],
    )
