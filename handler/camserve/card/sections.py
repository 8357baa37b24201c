"""The sections of a card: each picture with its words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from camserve.card.activation import activation_of, as_picture, pixels_of
from camserve.card.ascent import Ascent, draw_channel, draw_class, dream, invert
from camserve.card.dissect import DETECTS, Dissection
from camserve.card.page import CardFigure, Section
from camserve.card.plan import CardPhoto, CardPlan
from camserve.card.subject import Subject
from camserve.errors import ConfigError
from camserve.input_spec import InputSpec
from camserve.values import Progress

NEAR = 0.1  # squared distance, of the squared size of a photo's feature maps, up to which others are nearly the same
Words = tuple[str, str, str]  # what a picture shows, what it is not, and what was measured of it


def draw_class_pictures(subject: Subject, shown: CardPhoto, plan: CardPlan, report: Progress) -> Section:
    """Return the pictures of the chosen classes."""

    def words(made: Ascent) -> Words:
        return (
            "Made from noise by climbing the class's score above that of the others.",
            "an example of the class, or what the network needs to see; other seeds give other pictures.",
            f"Score {made.before:.3g} to {made.after:.3g}; {_predicted(subject, made.picture)}.",
        )

    figures = (
        _draw(
            partial(draw_class, subject, index, plan.steps, plan.seed),
            f"class {subject.labels[index]} ({index})",
            words,
            report,
        )
        for index in shown.classes
    )
    return _section("Pictures of classes", "What raises a class's score most.", figures)


def _predicted(subject: Subject, picture: Tensor) -> str:
    with torch.no_grad():
        scores = subject.look(picture[None].to(subject.device))[0][0, : len(subject.labels)]
    return f"best class of the picture: {subject.labels[int(scores.argmax())]}"


def draw_photo(subject: Subject, shown: CardPhoto, plan: CardPlan, report: Progress) -> Section:
    """Return the photo, and the picture that its feature maps are inverted to."""
    make = partial(invert, subject, shown.picture, plan.steps, plan.seed)
    figures = (
        CardFigure(shown.picture.cpu(), shown.name, "What the network is shown.", describe_fitting(subject.spec)),
        _draw(make, f"inverted from {subject.layer.name}", describe_inverted, report),
    )
    return _section("A photo, and what the layer keeps of it", "The representation, inverted.", figures)


def describe_fitting(spec: InputSpec) -> str:
    """Return in words what was done to a photo before the network is shown it."""
    is_squashed = spec.pad is None and isinstance(spec.resize, tuple)
    done = ["padded"] if spec.pad is not None else []
    if spec.resize is not None:
        done.append("resized without regard to its proportions" if is_squashed else "resized")
    # Without padding or a shape to be resized to, ``resized`` is only the shorter side.
    if spec.crop is not None and not (spec.resize and (spec.pad or is_squashed) and spec.size == spec.resized):
        fits = spec.resize is not None and all(side <= whole for side, whole in zip(spec.size, spec.resized))
        done.append("cropped" if fits else "cropped or padded")
    return f"the file as it is: it is {', '.join(done)}."


def describe_inverted(made: Ascent) -> Words:
    """Return the words of an inverted picture, which say how near its feature maps are."""
    near = "nearly the same feature maps" if made.after <= NEAR else "feature maps nearer to the photo's"
    return (
        f"Another picture with {near}, found from noise.",
        "what the network saw: what differs from the photo is what this layer does not keep, or what the search did "
        "not find.",
        f"Squared distance of the maps {made.before:.3g} to {made.after:.3g}, of their size.",
    )


def draw_channels(
    subject: Subject, shown: CardPhoto, found: Dissection, plan: CardPlan, report: Progress
) -> Iterator[Section]:
    """Yield one section a channel: its name, and the pictures of it."""
    for channel in shown.channels:
        named = found.name(channel)
        name = "no concept of the set" if named is None else f"{named[0]}, overlap {named[1]:.2f}"
        figures = chain(_made_of(subject, shown, channel, plan, report), _seen_by(subject, shown, channel))
        yield _section(f"Channel {channel}", f"Marks: {name}.", figures)


def _made_of(
    subject: Subject, shown: CardPhoto, channel: int, plan: CardPlan, report: Progress
) -> Iterator[CardFigure | str]:
    yield _draw(
        partial(draw_channel, subject, channel, plan.steps, plan.seed),
        f"filter picture of channel {channel}",
        lambda made: (
            "Made from noise by climbing the channel's mean activation.",
            "all that the channel answers to: one seed's way up.",
            _activation(made),
        ),
        report,
    )
    yield _draw(
        partial(dream, subject, shown.picture, channel, plan.steps, plan.seed),
        f"dream of channel {channel}",
        lambda made: (
            "The photo, changed so that the channel is more active.",
            "what is in the photo.",
            _activation(made),
        ),
        report,
    )


def _activation(made: Ascent) -> str:
    return f"Activation {made.before:.3g} to {made.after:.3g}."


def _seen_by(subject: Subject, shown: CardPhoto, channel: int) -> Iterator[CardFigure]:
    seen = activation_of(subject, shown.picture, channel)
    is_active = bool(seen.any())
    yield CardFigure(
        (0.25 + 0.75 * seen) * shown.picture.cpu(),
        f"activation of channel {channel}",
        "The photo, bright where the channel is active." if is_active else "The channel is not active in this photo.",
        "evidence for a class: the channel may speak for none.",
    )
    gradient, guided = pixels_of(subject, shown.picture, channel)
    how = "Guided backpropagation" if guided else "The gradient (no ReLU to guide it)"
    yield CardFigure(
        as_picture(gradient),
        f"pixels of channel {channel}",
        f"{how} of the channel's mean activation; grey is zero.",
        "a test of the network: guided pictures hardly change with its weights (Adebayo et al. 2018).",
    )


def list_names(found: Dissection) -> Section:
    """Return the table of concepts, each with the channel that marks it best."""
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


def _draw(
    make: Callable[[], Ascent], title: str, words: Callable[[Ascent], Words], report: Progress
) -> CardFigure | str:
    """Return a picture with its words, or why there is none; either way progress is reported."""
    try:
        made = make()
    except ConfigError as error:
        report(f"{title}: left out: {error}")
        return f"{title} is left out: {error}."
    report(f"{title}: {made.before:.4g} to {made.after:.4g}")
    return CardFigure(made.picture, title, *words(made))


def _section(title: str, words: str, figures: Iterable[CardFigure | str]) -> Section:
    found = list(figures)
    return Section(
        title,
        " ".join([words, *(figure for figure in found if isinstance(figure, str))]),
        [figure for figure in found if isinstance(figure, CardFigure)],
    )
