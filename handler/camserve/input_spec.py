"""The settings of an archive's input: how an uploaded picture becomes what the network is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Union

from camserve.strict import require, require_choice
from camserve.values import InputShape

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
EXTRA_FORMATS = ("tiff", "avif")
PADS = ("square", "letterbox")
SCALES = (1, 255)
NORMALISATIONS = ("fixed", "image")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COLORS = {"rgb": 3, "bgr": 3, "gray": 1, "rgba": 4}  # -> channels


@dataclass(frozen=True)
class InputSpec:
    """How an uploaded picture becomes the network's input. The numbers belong to the weights.

    The defaults are those of most ImageNet weights.
    """

    channels: int = 3  # of the network's input
    exact: bool = False  # True: large JPEGs are decoded whole, as other programs do, and not at 1/2, 1/4 or 1/8
    extra_formats: tuple[str, ...] = ()  # tiff, avif: accepted beside JPEG, PNG, WebP, GIF and BMP
    color: str = "rgb"  # what the channels are, in their order
    depth: Optional[int] = None  # bits of 16-bit greys; null: what the file says, or a guess and a warning
    resize: Union[int, tuple[int, int], None] = 256  # short side, or (height, width) regardless of aspect
    crop: Union[int, tuple[int, int], None] = 224  # centre crop: side, or (height, width)
    interpolation: str = "bilinear"  # nearest, bilinear, bicubic, lanczos
    pad: Optional[str] = None  # square: before resizing; letterbox: to ``resize``, after fitting the picture into it
    pad_color: tuple[int, int, int] = (0, 0, 0)  # red, green, blue, 0..255; also around a picture smaller than ``crop``
    scale: int = 1  # the network's white, before ``mean`` and ``std``: 1 or 255
    normalise: str = "fixed"  # by ``mean`` and ``std``; image: by the picture's own
    mean: tuple[float, ...] = IMAGENET_MEAN  # of pixels in 0..scale
    std: tuple[float, ...] = IMAGENET_STD  # as ``mean``
    transform: Optional[str] = None  # module:callable, in the place of all but ``channels``, ``color`` and the size

    def __post_init__(self) -> None:
        for name in self.extra_formats:
            require_choice(name, EXTRA_FORMATS, "input.extra_formats")
        require_choice(self.color, COLORS, "input.color")
        require(self.depth is None or 8 < self.depth <= 16, "input.depth must be 9 to 16 bits, or null")
        self._check_geometry()
        if self.transform is None:
            self._check_channels()
            self._check_numbers()
        else:
            self._check_transform()

    def _check_transform(self) -> None:
        require(self.channels > 0, "input.channels must be above 0")
        require(self.color != "bgr", "input.transform gets an rgb picture where its color is bgr: name rgb")
        for name in ("pad", "pad_color", "scale", "normalise", "mean", "std"):
            require(
                getattr(self, name) == getattr(InputSpec, name),
                f"input.{name} has no use beside input.transform, which does it all: leave it out",
            )

    def _check_channels(self) -> None:
        fitting = [color for color, channels in COLORS.items() if channels == self.channels]
        require(
            self.color in fitting,
            f"input.color {self.color} has {COLORS[self.color]} channels, and input.channels is {self.channels}: "
            + (f"name {' or '.join(fitting)}" if fitting else "others than 1, 3 and 4 need input.transform"),
        )

    def _check_numbers(self) -> None:
        require_choice(self.scale, SCALES, "input.scale")
        require_choice(self.normalise, NORMALISATIONS, "input.normalise")
        usual = self.mean == IMAGENET_MEAN and self.std == IMAGENET_STD
        if self.normalise == "image":
            require(usual, "input.mean and input.std have no use where input.normalise is image: leave them out")
            return
        require(
            not (usual and self.scale != 1),
            "input.mean and input.std are missing: those of ImageNet are for input.scale 1, not 255",
        )
        require(
            len(self.mean) == len(self.std) == self.channels,
            f"input.mean and input.std take one number a channel: {self.channels}",
        )
        require(all(deviation > 0 for deviation in self.std), "input.std must be above 0")

    def _check_geometry(self) -> None:
        require_choice(self.interpolation, INTERPOLATIONS, "input.interpolation")
        sides = [side for spec in (self.resize, self.crop) for side in (spec if isinstance(spec, tuple) else (spec,))]
        require(all(side is None or side > 0 for side in sides), "input.resize and input.crop must be above 0")
        if self.pad is not None:
            require_choice(self.pad, PADS, "input.pad")
        require(all(0 <= value <= 255 for value in self.pad_color), "input.pad_color must be three numbers, 0 to 255")
        require(self.pad != "letterbox" or self.resize is not None, "input.pad letterbox needs input.resize")
        require(
            self.crop is not None
            or isinstance(self.resize, tuple)
            or (self.pad is not None and self.resize is not None),
            "input.resize must be [height, width] where nothing is cropped or padded",
        )

    def describe(self) -> str:
        """Word what the network is shown, for a person who builds an archive."""
        shape = " x ".join(map(str, self.shape))
        if self.transform is not None:
            return f"{shape}, made by {self.transform}"
        numbers = f"mean {_list(self.mean)}, std {_list(self.std)}, of pixels in 0..{self.scale}"
        return f"{shape}, {self.color}, " + (numbers if self.normalise == "fixed" else "standardised by the picture")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        return self.resized if self.crop is None else _pair(self.crop)

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width that ``resize`` names; one number is both."""
        assert self.resize is not None
        return _pair(self.resize)

    @property
    def shape(self) -> InputShape:
        """Channels, height and width of the network's input."""
        return (self.channels, *self.size)


def _list(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:.3g}" for number in numbers)


def _pair(side: Union[int, tuple[int, int]]) -> tuple[int, int]:
    return side if isinstance(side, tuple) else (side, side)
