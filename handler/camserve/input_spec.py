"""The settings of an archive's input: how an uploaded picture becomes what the network is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Union

from camserve.strict import require, require_choice
from camserve.values import InputShape

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
COLORS = {"rgb": 3, "bgr": 3, "gray": 1, "rgba": 4}  # -> channels


@dataclass(frozen=True)
class InputSpec:
    """How an uploaded picture becomes the network's input. The numbers belong to the weights.

    The defaults are those of most ImageNet weights.
    """

    channels: int = 3  # of the network's input
    color: str = "rgb"  # what the channels are, in their order
    depth: Optional[int] = None  # bits of 16-bit greys; null: what the file says, or a guess and a warning
    resize: Union[int, tuple[int, int], None] = 256  # short side, or (height, width) regardless of aspect
    crop: Union[int, tuple[int, int], None] = 224  # centre crop: side, or (height, width)
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of pixels in 0..1
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        self._check_channels()
        self._check_geometry()

    def _check_channels(self) -> None:
        require_choice(self.color, COLORS, "input.color")
        fitting = [color for color, channels in COLORS.items() if channels == self.channels]
        require(
            self.color in fitting,
            f"input.color {self.color} has {COLORS[self.color]} channels, and input.channels is {self.channels}: "
            + (f"name {' or '.join(fitting)}" if fitting else "1, 3 and 4 channels have a color"),
        )
        require(
            len(self.mean) == len(self.std) == self.channels,
            f"input.mean and input.std take one number a channel: {self.channels}",
        )
        require(all(deviation > 0 for deviation in self.std), "input.std must be above 0")
        require(self.depth is None or 8 < self.depth <= 16, "input.depth must be 9 to 16 bits, or null")

    def _check_geometry(self) -> None:
        require_choice(self.interpolation, INTERPOLATIONS, "input.interpolation")
        sides = [side for spec in (self.resize, self.crop) for side in (spec if isinstance(spec, tuple) else (spec,))]
        require(all(side is None or side > 0 for side in sides), "input.resize and input.crop must be above 0")
        if self.crop is None:
            require(isinstance(self.resize, tuple), "input.resize must be [height, width] where nothing is cropped")
            return
        require(self.resize is not None, "input.resize is missing")
        assert self.resize is not None
        require(
            all(crop <= side for crop, side in zip(_pair(self.crop), _pair(self.resize))),
            "input.crop must not be larger than input.resize",
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        sides = self.resize if self.crop is None else self.crop
        assert sides is not None
        return _pair(sides)

    @property
    def shape(self) -> InputShape:
        """Channels, height and width of the network's input."""
        return (self.channels, *self.size)


def _pair(side: Union[int, tuple[int, int]]) -> tuple[int, int]:
    return side if isinstance(side, tuple) else (side, side)
