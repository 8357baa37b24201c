"""The settings of an archive, read once and strictly.

The block ``camserve:`` of an archive's ``model-config.yaml`` becomes one ``Settings``. An unknown
key, a missing one or a wrong value is a ``ConfigError`` of one line that names it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional, Union

from camserve.choices import COMPATS, EVIDENCE, FORMATS, PALETTES
from camserve.errors import ConfigError, quote, unknown_choice
from camserve.strict import read
from camserve.values import Layer

TASKS = ("multiclass", "multilabel", "binary")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
MODES = ("eager", "aot")
PRECISIONS = ("fp32", "bf16", "fp16")
SELFTESTS = ("refuse", "warn", "off")
ENVELOPES = ("plain", "cloudevents")
LAYOUTS = ("NCHW", "NHWC", "NLC")


@dataclass(frozen=True)
class ModelSpec:
    """How the network is built and which weights it gets."""

    factory: Optional[str] = None  # "package.module:callable", or the callable's name inside ``file``
    args: dict[str, Any] = field(default_factory=dict)
    file: Optional[str] = None  # a model file inside the archive
    modules: tuple[str, ...] = ()  # those that travel beside it, which it imports
    weights: str = "weights.safetensors"  # or an exported program, .pt2, which needs no factory
    sha256: str = ""  # of that file
    source_sha256: str = ""  # of the weights file that it was made from
    task: str = "multiclass"  # softmax; multilabel: a sigmoid each; binary: one logit
    threshold: float = 0.5  # of probability, above which a multilabel class counts as predicted

    def __post_init__(self) -> None:
        _one_of(self.task, TASKS, "model.task")
        is_program = self.weights.endswith(".pt2")
        _require(is_program or self.factory is not None, "model.factory is missing (only a .pt2 program needs none)")


@dataclass(frozen=True)
class InputSpec:
    """How an uploaded picture becomes the network's input. The numbers belong to the weights.

    The defaults are those of most ImageNet weights.
    """

    resize: Union[int, tuple[int, int], None] = 256  # short side, or (height, width) regardless of aspect
    crop: Union[int, tuple[int, int], None] = 224  # centre crop: side, or (height, width)
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of pixels in 0..1
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    color: str = "rgb"

    def __post_init__(self) -> None:
        _one_of(self.interpolation, INTERPOLATIONS, "input.interpolation")
        _one_of(self.color, ("rgb",), "input.color")
        _require(len(self.mean) == 3 and len(self.std) == 3, "input.mean and input.std take three numbers")
        _require(all(deviation > 0 for deviation in self.std), "input.std must be above 0")
        sides = [side for spec in (self.resize, self.crop) for side in (spec if isinstance(spec, tuple) else (spec,))]
        _require(all(side is None or side > 0 for side in sides), "input.resize and input.crop must be above 0")
        if self.crop is None:
            _require(isinstance(self.resize, tuple), "input.resize must be [height, width] where nothing is cropped")
        elif self.resize is not None:
            low = self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)
            _require(
                all(crop <= side for crop, side in zip(_pair(self.crop), low)),
                "input.crop must not be larger than input.resize",
            )
        else:
            raise ConfigError("input.resize is missing")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        sides = self.resize if self.crop is None else self.crop
        assert sides is not None
        return _pair(sides)


@dataclass(frozen=True)
class RuntimeSpec:
    """How the network is run. Maps are always summed in float32."""

    mode: str = "eager"  # aot: the trunk is compiled into native code when the archive is built
    fast: bool = True  # False: plain autograd on the network as it is; the same answers, later
    precision: str = "fp32"  # fp32, bf16, fp16: of weights and activations
    channels_last: bool = True  # pixels beside one another in memory: what convolutions like best
    threads: Optional[int] = None  # of one worker, for the network and for decoding; null: cores / workers

    def __post_init__(self) -> None:
        _one_of(self.mode, MODES, "runtime.mode")
        _one_of(self.precision, PRECISIONS, "runtime.precision")
        _require(self.threads is None or self.threads > 0, "runtime.threads must be above 0")
        _require(self.fast or self.mode == "eager", "runtime.mode aot is a shortcut: it needs runtime.fast true")


@dataclass(frozen=True)
class CompiledSpec:
    """What an archive of mode aot carries, and the only kind of machine that can run it."""

    machine: str
    trunk_sha256: str
    tail_sha256: str


@dataclass(frozen=True)
class Defaults:
    """The options of a request that does not give them, in the words of a request."""

    explain: str = "true"
    target: str = "predicted"
    method: str = "gradcam"
    evidence: str = EVIDENCE[0]
    format: str = FORMATS[0]
    top_k: str = "5"
    compat: str = COMPATS[0]
    palette: str = PALETTES[0]
    opacity: str = "0.6"
    legend: str = "false"


@dataclass(frozen=True)
class Limits:
    """The limits of a request."""

    max_bytes: int = 6_000_000  # of the encoded picture
    max_pixels: int = 25_000_000
    max_side: int = 10_000  # pixels
    min_side: int = 8  # pixels
    max_targets: int = 5
    max_methods: int = 3
    max_layers: int = 3
    max_maps: int = 9
    max_picture_side: int = 1024  # of drawn pictures, pixels
    max_top_k: int = 100
    max_instances: int = 16  # pictures in one KServe body
    max_response_bytes: int = 6_000_000
    explain_ms: int = 10_000  # for the explanations of one batch, which are then given up


@dataclass(frozen=True)
class AuditSpec:
    """Where and how single requests are recorded: signals and hashes, and pictures only with ``pictures``."""

    directory: str  # absolute; every worker writes files of its own
    rate: float = 0.01  # share of all requests
    per_minute: int = 60  # most records of each special kind (errors, blank maps, ...) beyond that share
    max_bytes: int = 100_000_000  # of one worker's files; the oldest go first
    min_free_bytes: int = 1_000_000_000  # left on the disk, or nothing is written
    pictures: bool = False  # thumbnails and maps too
    envelope: str = "plain"

    def __post_init__(self) -> None:
        _one_of(self.envelope, ENVELOPES, "envelope")
        _require(self.directory.startswith("/"), f"directory must be absolute, not {quote(self.directory)}")
        _require(0 <= self.rate <= 1, f"rate must be 0 to 1, not {self.rate:g}")
        for name in ("per_minute", "max_bytes", "min_free_bytes"):
            _require(getattr(self, name) >= 0, f"{name} must not be below 0")


@dataclass(frozen=True)
class Monitoring:
    """What is measured while the model serves."""

    enabled: bool = True  # count signals into the server's metrics
    baseline: Optional[str] = None  # a file of the archive
    baseline_sha256: str = ""
    low_confidence: Optional[float] = None  # warn below this probability; default: the baseline's ATC threshold
    audit: Optional[AuditSpec] = None  # off


@dataclass(frozen=True)
class Settings:
    """One archive's settings."""

    model: ModelSpec
    input: InputSpec
    layers: tuple[Layer, ...]  # the first is the default target layer
    labels: str = "labels.txt"
    runtime: RuntimeSpec = field(default_factory=RuntimeSpec)
    compiled: Optional[CompiledSpec] = None
    methods: tuple[str, ...] = ("gradcam",)
    defaults: Defaults = field(default_factory=Defaults)
    limits: Limits = field(default_factory=Limits)
    samples: tuple[str, ...] = ()
    selftest: str = "refuse"  # what a wrong answer to a sample photo at load does: refuse, warn, off
    monitoring: Monitoring = field(default_factory=Monitoring)

    def __post_init__(self) -> None:
        _require(bool(self.layers), "layers must name at least one target layer")
        _one_of(self.selftest, SELFTESTS, "selftest")
        if self.runtime.mode != "eager":
            _require(len(self.layers) == 1, f"runtime.mode {self.runtime.mode} serves one target layer, not several")
        for layer in self.layers:
            _one_of(layer.layout, LAYOUTS, f"layers.{layer.name}.layout")


def load_settings(block: object) -> Settings:
    """Read the ``camserve:`` block of a model-config.yaml; ConfigError names what is wrong."""
    return read(Settings, block, "camserve")


def _pair(side: Union[int, tuple[int, int]]) -> tuple[int, int]:
    return side if isinstance(side, tuple) else (side, side)


def _one_of(value: str, known: tuple[str, ...], where: str) -> None:
    _require(value in known, unknown_choice(value, known, where))


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)
