"""The option ``channels``: of which feature maps a map is made."""

from __future__ import annotations

from camserve.errors import BadOption, quote
from camserve.intake.option_values import MOST_ENTRIES, read_list, read_number, read_text, read_whole
from camserve.values import ChannelChoice

MOST_CHANNELS = 1_000_000  # of any layer: how many the served one has is known when it has run
FORMS = "all, numbers such as 3,17, top:K, weights:LOW..HIGH or activation:NUMBER"


def read_channels(value: object) -> ChannelChoice | None:
    """Return the channels that a value names; None: all. BadOption: it names none."""
    if not isinstance(value, list):
        text = read_text(value, "channels")
        if text == "all":
            return None
        kind, colon, rest = text.partition(":")
        if colon:
            return _read_kind(kind, rest, text)
    numbers = [_read_number(part) for part in read_list(value, "channels")]
    if len(numbers) > MOST_ENTRIES:
        raise BadOption(f"option 'channels' has too many entries; the limit is {MOST_ENTRIES}")
    return ChannelChoice("numbers", tuple(dict.fromkeys(numbers)))


def _read_kind(kind: str, rest: str, text: str) -> ChannelChoice:
    if kind == "top":
        return ChannelChoice("top", (read_whole(rest, "channels top:K", 1, MOST_ENTRIES),))
    if kind == "activation":
        return ChannelChoice("activation", (_read_number(rest),))
    if kind == "weights":
        low, dots, high = rest.partition("..")
        if dots:
            window = _read_weight(low), _read_weight(high)
            if window[0] <= window[1]:
                return ChannelChoice("weights", window=window)
    raise BadOption(f"option 'channels' takes {FORMS}, not {quote(text)}")


def _read_number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise BadOption(f"option 'channels' takes {FORMS}, not {quote(text)}")
    return read_whole(text, "channels", 0, MOST_CHANNELS)


def _read_weight(text: str) -> float:
    return read_number(text, "channels weights:LOW..HIGH", float("-inf"), float("inf"))
