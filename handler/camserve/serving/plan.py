"""What each row of a batch asks for, known and limited before any of it is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from camserve.answer.draw import drawn_side
from camserve.choices import DRAWN_FORMATS
from camserve.errors import RequestError, TooMuchWork
from camserve.intake.decode import LIGHT
from camserve.intake.opened import OpenedPicture
from camserve.intake.option_parsers import count_targets
from camserve.settings import Limits
from camserve.values import Options, RawRequest

TOGETHER = 16  # pictures of bodies of many in one forward pass: time is looked at between two


@dataclass(frozen=True)
class Plan:
    """One row with its options checked and its picture's header read."""

    raw: RawRequest
    options: Options
    picture: OpenedPicture

    @property
    def maps(self) -> int:
        """How many maps may be computed."""
        maps = count_targets(self.options.targets) * len(self.options.methods)
        return 0 if self.options.explain is False else maps

    def drawn(self, most: int) -> int:
        """Return how many pixels may be drawn; ``most`` is the limit of a side."""
        longest = drawn_side(self.options, self.picture.width, self.picture.height, most)
        shortest = (
            longest * min(self.picture.width, self.picture.height) // max(self.picture.width, self.picture.height)
        )
        formats = len(set(self.options.formats) & set(DRAWN_FORMATS))
        return longest * shortest * (1 if self.options.picture else self.maps * formats)


Planned = Union[Plan, RequestError]


def refuse_excess(plans: Sequence[Planned], limits: Limits) -> list[Planned]:
    """Refuse the pictures of a body that go beyond what one body may ask for, the first ones first served."""
    spent: dict[int, Counter[str]] = {}
    return [_admit(plan, spent, limits) if isinstance(plan, Plan) else plan for plan in plans]


def _admit(plan: Plan, spent: dict[int, Counter[str]], limits: Limits) -> Planned:
    if plan.raw.body is None:
        return plan
    of_body = spent.setdefault(plan.raw.body, Counter())
    amounts = {
        "decoded pixels": (plan.picture.pixels, limits.max_body_pixels),
        "maps": (plan.maps, limits.max_body_maps),
        "drawn pixels": (plan.drawn(limits.max_picture_side), limits.max_body_drawn),
    }
    for what, (amount, most) in amounts.items():
        if of_body[what] + amount > most:
            return TooMuchWork(
                f"with this picture its body asks for {of_body[what] + amount} {what}; the limit of a body is {most}: "
                "send fewer pictures in one, or ask for less"
            )
    of_body.update({what: amount for what, (amount, _) in amounts.items()})
    return plan


def in_groups(plans: Sequence[Planned], at_once: int) -> list[list[int]]:
    """Divide the rows, by their numbers, among forward passes.

    Refused ones and single pictures come first, small ones before large; bodies of many pictures behind those, in
    groups of their own.
    """
    accepted = {number: plan for number, plan in enumerate(plans) if isinstance(plan, Plan)}
    refused = [number for number in range(len(plans)) if number not in accepted]
    sizes = Counter(plan.raw.body for plan in accepted.values())
    single = [number for number, plan in accepted.items() if plan.raw.body is None or sizes[plan.raw.body] == 1]
    single.sort(key=lambda number: accepted[number].picture.weight > LIGHT)
    # By size, one body after the other: so that some are answered whole.
    many = sorted(set(accepted) - set(single), key=lambda number: (sizes[accepted[number].raw.body], number))
    first, *others = [*_chunks(single, at_once), *_chunks(many, min(at_once, TOGETHER))] or [[]]
    return [sorted(refused + first), *others]


def _chunks(numbers: Sequence[int], size: int) -> list[list[int]]:
    return [sorted(numbers[start : start + size]) for start in range(0, len(numbers), size)]
