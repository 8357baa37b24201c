"""The settings of an archive, read once and strictly.

The block ``camserve:`` of an archive's ``model-config.yaml`` becomes one ``Settings``. An unknown
key, a missing one or a wrong value is a ``ConfigError`` of one line that names it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Optional

from camserve.choices import COMPATS, EVIDENCE, FORMATS, PALETTES
from camserve.errors import quote
from camserve.input_spec import InputSpec
from camserve.measures import Evaluated, Measures, Quantised
from camserve.output_spec import OutputSpec
from camserve.strict import read, require, require_choice, require_ranges
from camserve.values import Layer, MapSource

MODES = ("eager", "openvino")
PRECISIONS = ("fp32", "bf16", "fp16")  # of weights and activations
PRECISIONS_OF = {"eager": PRECISIONS, "openvino": ("fp32", "bf16", "int8")}
SELFTESTS = ("refuse", "warn", "off")
ENVELOPES = ("plain", "cloudevents")
LAYOUTS = ("NCHW", "NHWC", "NLC")
MOST_BYTES = 2_000_000_000  # TorchServe counts them in 32 bits
# The least and the most of each number, in the order of the dataclasses.
RUNTIME_RANGES = {"threads": (1, 1024), "latency_ms": (1, 600_000)}
LIMIT_RANGES = {
    "max_bytes": (1, MOST_BYTES),
    "max_pixels": (1, 1_000_000_000),
    "max_side": (1, 65_535),
    "min_side": (1, 65_535),
    "max_targets": (1, 1000),
    "max_methods": (1, 100),
    "max_layers": (1, 100),
    "max_maps": (1, 1000),
    "max_picture_side": (1, 8192),
    "max_top_k": (1, 100_000),
    "max_instances": (1, 1000),
    "max_body_pixels": (1, 10_000_000_000),
    "max_body_maps": (1, 10_000),
    "max_body_drawn": (1, 10_000_000_000),
    "max_response_bytes": (1, MOST_BYTES),
    "answer_ms": (1, 600_000),
}
AUDIT_RANGES = {
    "rate": (0, 1),
    "per_minute": (0, 1_000_000),
    "max_bytes": (0, 10**15),
    "min_free_bytes": (0, 10**18),
}


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

    def __post_init__(self) -> None:
        is_program = self.weights.endswith(".pt2")
        require(is_program or self.factory is not None, "model.factory is missing (only a .pt2 program needs none)")


@dataclass(frozen=True)
class RuntimeSpec:
    """How the network is run. Maps are always summed in float32."""

    mode: str = "eager"  # openvino: what stands before the target layer runs in OpenVINO, on CPUs
    fast: bool = True  # False: plain autograd on the network as it is; the same answers, later
    precision: str = "fp32"  # fp32, bf16; fp16 of mode eager; int8 of mode openvino, before the target layer
    channels_last: bool = True  # pixels beside one another in memory: what convolutions like best
    threads: Optional[int] = None  # of one worker, for the network and for decoding; null: cores / workers
    latency_ms: Optional[int] = None  # p99 of answers that `camserve bench --batching` keeps to; null: the knee

    def __post_init__(self) -> None:
        require_choice(self.mode, MODES, "runtime.mode")
        require_choice(self.precision, PRECISIONS_OF[self.mode], f"runtime.precision in mode {self.mode}")
        require_ranges(self, RUNTIME_RANGES)
        require(self.fast or self.mode == "eager", "runtime.mode openvino is a shortcut: it needs runtime.fast true")

    @property
    def eager(self) -> RuntimeSpec:
        """The same without OpenVINO: how the network runs where that cannot."""
        return replace(self, mode="eager", precision="fp32" if self.precision == "int8" else self.precision)


@dataclass(frozen=True)
class CompiledSpec:
    """What an archive of mode openvino carries."""

    trunk_sha256: str
    weights_sha256: str
    tail_sha256: str
    quantised: Optional[Quantised] = None  # the trunk's weights and activations are int8


@dataclass(frozen=True)
class Defaults:
    """The options of a request that does not give them, in the words of a request."""

    explain: str = "true"  # or a condition on the prediction
    target: str = "predicted"  # the class that is explained
    method: str = "gradcam"  # one of ``methods``
    evidence: str = EVIDENCE[0]  # for, against or signed
    format: str = FORMATS[0]  # what an answer shows of a map
    top_k: str = "5"  # number of predictions
    compat: str = COMPATS[0]  # the library whose answer is reproduced
    palette: str = PALETTES[0]  # of drawn maps
    opacity: str = "0.6"  # of drawn maps, where they are strongest
    legend: str = "false"  # a colour bar under drawn maps
    caption: str = "false"  # class, probability and scale under drawn maps
    box_threshold: str = "0.2"  # share of a map's maximum that a box surrounds
    context: str = ""  # what ``score`` gets where a request gives none


@dataclass(frozen=True)
class Limits:
    """The limits of a request."""

    max_bytes: int = 6_000_000  # of the encoded picture
    max_pixels: int = 25_000_000  # of the decoded picture
    max_side: int = 10_000  # pixels of a picture's side
    min_side: int = 8  # pixels of a picture's side
    max_targets: int = 5  # classes that one request asks about
    max_methods: int = 3  # of one request
    max_layers: int = 3  # that one request fuses
    max_maps: int = 9  # targets times methods
    max_picture_side: int = 1024  # of drawn pictures, pixels
    max_top_k: int = 100  # predictions
    max_instances: int = 16  # pictures in one KServe body
    max_body_pixels: int = 50_000_000  # decoded, of all pictures of a body
    max_body_maps: int = 64  # of all pictures of a body
    max_body_drawn: int = 30_000_000  # pixels of all its drawn pictures
    max_response_bytes: int = 6_000_000  # of an answer
    answer_ms: Optional[int] = None  # of a batch, after which no further work is begun; null: what suits the machine

    def __post_init__(self) -> None:
        require_ranges(self, LIMIT_RANGES)
        require(self.min_side <= self.max_side, f"min_side {self.min_side} is above max_side {self.max_side}")


# Of a photo of one's own, where nobody else waits: what an answer costs and how large it draws stays limited.
OWN_LIMITS = Limits(
    min_side=1,
    **{
        name: int(most)
        for name, (_, most) in LIMIT_RANGES.items()
        if name not in ("min_side", "max_picture_side", "answer_ms")
    },
)


@dataclass(frozen=True)
class AuditSpec:
    """Where and how single requests are recorded: signals and hashes, and pictures only with ``pictures``."""

    directory: str  # absolute; every worker writes files of its own
    rate: float = 0.01  # share of all requests
    per_minute: int = 60  # most records of each special kind (errors, blank maps, ...) beyond that share
    max_bytes: int = 100_000_000  # of the folder; the oldest go first, files that are open never
    min_free_bytes: int = 1_000_000_000  # left on the disk, or nothing is written
    pictures: bool = False  # thumbnails and maps too
    envelope: str = "plain"

    def __post_init__(self) -> None:
        require_choice(self.envelope, ENVELOPES, "envelope")
        require(self.directory.startswith("/"), f"directory must be absolute, not {quote(self.directory)}")
        require_ranges(self, AUDIT_RANGES)


@dataclass(frozen=True)
class Monitoring:
    """What is measured while the model serves."""

    enabled: bool = True  # count signals into the server's metrics
    baseline: Optional[str] = None  # a file of the archive
    baseline_sha256: str = ""
    low_confidence: Optional[float] = None  # warn below this probability; default: the baseline's ATC threshold
    audit: Optional[AuditSpec] = None  # off

    def __post_init__(self) -> None:
        require_ranges(self, {"low_confidence": (0, 1)})


@dataclass(frozen=True)
class Settings:
    """One archive's settings."""

    model: ModelSpec
    input: InputSpec
    layers: tuple[Layer, ...]  # the first is the default target layer
    members: tuple[str, ...] = ()  # layers whose maps are added up where a request names none: those of an ensemble
    members_share: float = 1.0  # of the scores' variance that passes all of them
    outputs: tuple[OutputSpec, ...] = (OutputSpec(),)
    score: Optional[str] = None  # module:callable that asks the network, with the context of each row
    runtime: RuntimeSpec = field(default_factory=RuntimeSpec)
    compiled: Optional[CompiledSpec] = None
    methods: tuple[str, ...] = ("gradcam",)
    defaults: Defaults = field(default_factory=Defaults)
    limits: Limits = field(default_factory=Limits)
    samples: tuple[str, ...] = ()
    show_samples: bool = False  # on the page for browsers, to whoever may ask the model
    measures: Measures = field(default_factory=Measures)
    evaluated: Evaluated = field(default_factory=Evaluated)
    selftest: str = "refuse"  # what a wrong answer to a sample photo at load does: refuse, warn, off
    monitoring: Monitoring = field(default_factory=Monitoring)
    seal: str = ""  # SHA-256 of seal.json, which holds those of labels, settings, self-test and baseline

    def __post_init__(self) -> None:
        require(bool(self.layers), "layers must name at least one target layer")
        names = [output.name for output in self.outputs]
        require(bool(names), "outputs must describe at least one")
        require(len(names) == 1 or len(set(names) - {""}) == len(names), "outputs must each have a name of its own")
        require(
            self.monitoring.low_confidence is None or not self.outputs[0].is_quantity,
            "monitoring.low_confidence has no use: task regression has no confidence",
        )
        require_choice(self.selftest, SELFTESTS, "selftest")
        if self.runtime.mode != "eager":
            require(
                self.score is None, f"runtime.mode {self.runtime.mode} cannot convert what score does: leave one out"
            )
            require(len(self.layers) == 1, f"runtime.mode {self.runtime.mode} serves one target layer, not several")
        for layer in self.layers:
            require_choice(layer.layout, LAYOUTS, f"layers.{layer.name}.layout")
        for name in self.members:
            require_choice(name, tuple(layer.name for layer in self.layers), "members")

    def map_source(self, names: tuple[str, ...] = ()) -> MapSource:
        """Return where the maps are read that a request asks for at the named layers, or at none in particular."""
        added = not names and bool(self.members)
        names = names or self.members or (self.layers[0].name,)
        layers = [layer for layer in self.layers if layer.name in names]
        share = self.members_share if added else max(layer.share for layer in layers)
        return MapSource(names, added, share, of_tokens=any(layer.layout == "NLC" for layer in layers))


def load_settings(block: object) -> Settings:
    """Read the ``camserve:`` block of a model-config.yaml; ConfigError names what is wrong."""
    return read(Settings, block, "camserve")
