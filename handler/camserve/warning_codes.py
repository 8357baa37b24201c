"""Every warning that an answer may carry, once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AnswerWarning:
    """A warning as data."""

    code: str
    message: str


NOTHING_FOUND = {  # evidence -> what its absence means, and what to do
    "for": "nothing {place} speaks for the target: the map is all zero; ask for evidence=against to see what "
    "speaks against it, or evidence=signed for both",
    "against": "nothing {place} speaks against the target: the map is all zero; ask for evidence=for",
    "signed": "nothing {place} changes the target's score: the map is all zero; ask for another {instead}",
}
NOWHERE_ACTIVE = {
    "for": "channel {channel} is nowhere above zero in this picture: the map is all zero; ask for evidence=signed to "
    "see where it is below",
    "signed": "channel {channel} is nowhere active in this picture: the map is all zero; ask for another channel",
}
EXPLANATION_FAILED = AnswerWarning("EXPLANATION_FAILED", "this map could not be computed; the prediction stands")
OUT_OF_TIME = AnswerWarning(
    "OUT_OF_TIME", "this map was given up when its time was over; the prediction stands: ask for a cheaper method"
)
NO_TIME_TO_DRAW = AnswerWarning(
    "NO_TIME_TO_DRAW",
    "the server is busy, and pictures of this map were left out: draw them from the grid, or ask again",
)
FAILS_SANITY_CHECK = AnswerWarning(
    "FAILS_SANITY_CHECK",
    "on this network the method hardly depends on the classifier's weights (Adebayo et al. 2018): it shows where "
    "something is, not evidence for the class",
)
WEAK_EVIDENCE = AnswerWarning(
    "WEAK_EVIDENCE",
    "there is far less evidence for this class than a predicted one usually has: it is hardly in the picture, and the "
    "pattern of its map, which is drawn weak, says little; ask for target=predicted, or top:5",
)
SATURATED_SOFTMAX = AnswerWarning(
    "SATURATED_SOFTMAX", "the probability is as good as 1 and tells no more; the map is of the score before softmax"
)
FIRST_FRAME_ONLY = AnswerWarning("FIRST_FRAME_ONLY", "the picture is animated: only its first frame was looked at")
WITHOUT_PICTURES = AnswerWarning(
    "OPTION_REDUCED", "the answer was too long: its pictures were left out; ask for a smaller size"
)
WITHOUT_GRIDS = AnswerWarning(
    "OPTION_REDUCED", "the answer was too long: its maps were left out; ask for fewer targets"
)
OUT_OF_DISTRIBUTION = AnswerWarning(
    "OUT_OF_DISTRIBUTION",
    "the model's scores for this picture are lower than for 99 % of the pictures that it was checked on: it may show "
    "something that the model does not know",
)
LOW_CONFIDENCE = AnswerWarning(
    "LOW_CONFIDENCE", "the best class has so little probability that answers like this one are often wrong"
)


def warn_blank(evidence: str, of_some: bool = False) -> AnswerWarning:
    """Return the warning for a map, of all channels or ``of_some``, that shows nothing of this ``evidence``."""
    place, instead = ("in the chosen channels", "choice") if of_some else ("at this layer", "layer or method")
    return AnswerWarning("NO_POSITIVE_EVIDENCE", NOTHING_FOUND[evidence].format(place=place, instead=instead))


def warn_inactive(evidence: str, channel: int) -> AnswerWarning:
    """Return the warning for the activation of a channel that is all zero, by the ``evidence`` that was asked for."""
    return AnswerWarning("NO_POSITIVE_EVIDENCE", NOWHERE_ACTIVE[evidence].format(channel=channel))


def warn_guessed_depth(bits: int) -> AnswerWarning:
    """Return the warning for a 16-bit picture that was taken for one of so many ``bits``."""
    return AnswerWarning(
        "DEPTH_GUESSED",
        f"nothing says how many of its 16 bits the picture uses: by its largest value it was taken for {bits} bits; "
        "write a PNG sBIT chunk, or set input.depth in the archive",
    )


def warn_double_negative(share: float) -> AnswerWarning:
    """Return the warning for a map of whose positive mass ``share``, 0..1, is made by two negative factors."""
    return AnswerWarning(
        "DOUBLE_NEGATIVE",
        f"{share:.0%} of the positive map is negative weight times negative activation: evidence only in "
        "name; compare method=hirescam, or a layer after a ReLU",
    )


def warn_partial_evidence(share: float) -> AnswerWarning:
    """Return the warning for a map of layers that ``share``, 0..1, of the scores' variance passes."""
    return AnswerWarning(
        "PARTIAL_EVIDENCE",
        f"only {share:.0%} of what makes the scores differ passes this layer: the map is of that part, and "
        "shows nothing of the rest",
    )
