"""What a drawn map says in words, the same for a server and for whoever draws from an answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from camserve.answer.render import Caption
from camserve.answer.respond import word_meaning

QUESTIONS = {"for": "evidence for it", "against": "evidence against it", "signed": "evidence for and against it"}
DIGITS = 3  # of a probability
MOST_LETTERS = 24  # of channel numbers, above which they are counted
TINY = 1e-6  # nothing is drawn that is so faint


def write_caption(
    target: Mapping[str, Any],
    contrast: Mapping[str, Any] | None,
    method: str,
    evidence: str,
    codes: Iterable[str],
    of_channels: Mapping[str, Any] | None = None,
) -> Caption:
    """Return the caption of a map of a written ``target``; ``codes`` are those of its warnings and of its answer's.

    A class bears its index too: a font may lack the letters of its label. ``of_channels`` is as an answer has it.
    """
    question = word_question(method, evidence, contrast, of_channels)
    warnings = ", ".join(dict.fromkeys(codes))
    return Caption(f"{_name(target)} {word_meaning(target, DIGITS)}", question, warnings)


def word_question(
    method: str, evidence: str, contrast: Mapping[str, Any] | None, of_channels: Mapping[str, Any] | None
) -> str:
    """Return what a map answers: ``gradcam: evidence for it rather than cup (968), in channels top:5 (41% of all)``."""
    question = f"{method}: {word_subject(QUESTIONS[evidence], _name(contrast) if contrast else None)}"
    return word_channels(question, of_channels)


def word_subject(subject: str, rival: str | None) -> str:
    """Return the subject and, where there is one, the rival that it is compared with."""
    return subject if rival is None else f"{subject} rather than {rival}"


def word_channels(question: str, of_channels: Mapping[str, Any] | None) -> str:
    """Return what is asked of the chosen channels: an activation leaves nothing of the question, None all of it."""
    if of_channels is None:
        return question
    kind, _, number = of_channels["asked"].partition(":")
    if kind == "activation":
        return f"activation of channel {number}, whatever the class"
    asked = of_channels["asked"]
    named = f"channels {asked}" if len(asked) <= MOST_LETTERS else f"{of_channels['count']} channels"
    share = "" if of_channels["share"] is None else f" ({of_channels['share']:.0%} of all)"
    return f"{question}, in {named}{share}"


def _name(prediction: Mapping[str, Any]) -> str:
    return f"{prediction['label']} ({prediction['index']})"


def write_legend(status: str, scale: float, shown: float, compat: str | None) -> str:
    """Return what the value 1 of a map stands for that is drawn fainter by ``shown``."""
    if compat is not None:
        return compat  # its maps have lost their scale
    if status == "blank":
        return "blank"
    return f"{'weak: ' if shown < 1 else ''}1 = {scale / max(shown, TINY):.3g}"
