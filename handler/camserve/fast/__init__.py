"""The engine room: everything here only makes a network or its maps faster.

``serving`` asks ``prepare`` once, at load. Every shortcut is verified on the network at hand against the plain path and
left out where it does not agree; ``runtime: {fast: false}`` runs without the room and gives the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shortcut:
    """One way to the same answer, sooner."""

    name: str
    module: str  # of this room
    replaces: str
    verified: str  # against the plain path, at load or when the archive is built
    private_names: tuple[str, ...]  # of torch, tried on 2.4.0, 2.11.0 and 2.14.1
    gain: str  # time without it / with it, of an explained pass: camserve bench --shortcuts


SHORTCUTS = (
    Shortcut(
        "closed form",
        "closed_form",
        "the backward pass through a tail of linear layers",
        "scores, gradients, and scores of activations that no picture gives",
        ("torch.ops.aten: *_backward of relu, relu6, hardswish, silu, gelu and tanh",),
        "CPU: MobileNetV3-L 1.06, ResNet-50 1.02; H200: ResNet-50 1.11 to 1.16",
    ),
    Shortcut(
        "zero rows",
        "zero_rows",
        "products with the rows of a gradient that are all zero, on a CPU, where the head reads one token",
        "gradients",
        ("torch.utils._python_dispatch.TorchDispatchMode; torch.ops.aten.mm, bmm",),
        "CPU: ViT-B/16 1.03 to 1.07 at batch 1, 1.05 at batch 8",
    ),
    Shortcut(
        "folding",
        "fold",
        "batch normalisation after a convolution",
        "scores",
        (),
        "CPU: ResNet-50 1.10 to 1.21, MobileNetV3-L 1.20 to 1.26; H200: ResNet-50 1.25 to 1.29",
    ),
    Shortcut(
        "packing",
        "packing",
        "bringing a convolution's weights into oneDNN's order at every call",
        "scores",
        (
            "torch.ops.mkldnn._convolution_pointwise, _reorder_convolution_weight, _get_mkldnn_serialized_md",
            "Tensor._make_wrapper_subclass, torch._C.DisableTorchFunctionSubclass",
        ),
        "CPU, one picture: ResNet-50 1.20; batch 8: 1.01",
    ),
    Shortcut(
        "channels last",
        "prepare",
        "the order of a picture's numbers in memory",
        "nothing: torch's own layout",
        (),
        "CPU, one picture: ResNet-50 1.12; H200: ResNet-50 1.06",
    ),
    Shortcut(
        "one token",
        "token_tail",
        "the last block's products for tokens that the head does not read, where the trunk runs in OpenVINO",
        "activation, scores and gradients",
        (),
        "CPU, seconds of the processor: ViT-B/16 1.04 at batch 1, 1.06 at batch 8",
    ),
    Shortcut(
        "OpenVINO",
        "compiled",
        "running the trunk in torch (runtime.mode: openvino)",
        "activation, scores and gradients",
        (),
        "CPU, batch 8, seconds of the processor: MobileNetV2 1.63, EfficientNet-B0 1.55, ResNet-50 1.11",
    ),
)
