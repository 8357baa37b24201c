"""Weights of convolutions in the order in which oneDNN reads them.

PyTorch keeps weights in an order of its own and brings them into the processor's at every call: for one
picture in ResNet-50 that is three tenths of the time. Here it is done once. What a convolution computes
stays the same, but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from camserve.attribution.capture import Capture
from camserve.network.output import ScoringNetwork
from camserve.values import Layer

ONEDNN: Any = torch.ops.mkldnn
OPERATORS = ("_convolution_pointwise", "_reorder_convolution_weight", "_get_mkldnn_serialized_md")
CONVOLUTIONS = (torch.conv2d, torch.ops.aten.conv2d.default)


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Say whether oneDNN computes convolutions of this kind here."""
    if device.type != "cpu" or not all(hasattr(ONEDNN, name) for name in OPERATORS):
        return False
    if dtype == torch.bfloat16:
        return bool(ONEDNN._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(ONEDNN._is_mkldnn_fp16_supported())
    return True


class PackedWeight(torch.Tensor):
    """The frozen weights (out, in / groups, height, width) of a convolution, kept in oneDNN's order alone.

    Every other operator gets them unpacked. The order depends on the size of the input and on the number of
    threads, so it is chosen at the first input of each size; sizes that want the same order share one copy.
    """

    _is_param = True  # a module takes it in place of a parameter
    _bias: Tensor | None
    _orders: list[Tensor]
    _order_of: dict[torch.Size, Tensor]

    def __new__(cls, weight: Tensor, bias: Tensor | None) -> PackedWeight:
        """Take over weights, with a float32 ``bias`` (out,) to be added in place of the convolution's own."""
        self: PackedWeight = torch.Tensor._make_wrapper_subclass(
            cls, weight.shape, weight.stride(), dtype=weight.dtype, device=weight.device
        )
        self._bias, self._orders, self._order_of = bias, [weight], {}
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        """Return ordinary weights: a copy is made to be changed or trained."""
        copied = self.unpacked().clone(memory_format=torch.channels_last)
        memo[id(self)] = parameter = nn.Parameter(copied, requires_grad=False)
        return parameter

    def unpacked(self) -> Tensor:
        """Return the weights in PyTorch's order."""
        first = self._orders[0]
        return first.to_dense() if first.is_mkldnn else first

    def convolve(
        self,
        pixels: Tensor,
        bias: Tensor | None = None,
        stride: Sequence[int] | int = 1,
        padding: Sequence[int] | int | str = 0,
        dilation: Sequence[int] | int = 1,
        groups: int = 1,
    ) -> Tensor:
        """Convolve (N, in, H, W); the arguments are those of ``torch.conv2d``."""
        # oneDNN's own operator has no derivative, and knows no padding by name.
        if pixels.requires_grad or isinstance(padding, str) or pixels.ndim != 4:
            return torch.conv2d(pixels, self.unpacked(), bias, stride, padding, dilation, groups)
        arguments = (_pair(padding), _pair(stride), _pair(dilation), groups)
        packed = self._order_of.get(pixels.shape)
        if packed is None:
            packed = self._order_of[pixels.shape] = self._order((*arguments, list(pixels.shape)))
        exact = None if bias is None else self._bias
        output: Tensor = ONEDNN._convolution_pointwise(pixels, packed, exact, *arguments, "none", [], "")
        return output

    def _order(self, arguments: tuple[Any, ...]) -> Tensor:
        """Return the weights as an input of this size wants them; keep each order once."""
        wanted: Tensor = ONEDNN._reorder_convolution_weight(self.unpacked(), *arguments)
        known = [weight for weight in self._orders if weight.is_mkldnn]
        for weight in known:
            if order(weight) == order(wanted):
                return weight
        self._orders = [*known, wanted]
        return wanted

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take over the convolutions."""
        with torch._C.DisableTorchFunctionSubclass():
            if func in CONVOLUTIONS and len(args) > 1 and isinstance(args[1], PackedWeight):
                return args[1].convolve(args[0], *args[2:], **(kwargs or {}))
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Give every other operator the weights unpacked."""
        given = tree_map_only(PackedWeight, PackedWeight.unpacked, (args, kwargs or {}))
        return func(*given[0], **given[1])


def _pair(value: Sequence[int] | int) -> list[int]:
    both = [value] if isinstance(value, int) else list(value)
    return both * 2 if len(both) == 1 else both


def order(packed: Tensor) -> bytes:
    """Name the order in which packed weights lie."""
    return bytes(ONEDNN._get_mkldnn_serialized_md(packed).tolist())


def packable(network: ScoringNetwork, layers: Sequence[Layer], pixels: Tensor) -> dict[str, Tensor | None]:
    """Name the weights of convolutions that no gradient passes when maps of ``layers`` are made; to each its bias.

    ``pixels`` (N, C, H, W) are what the network may see.
    """
    watch = _Watch()
    with watch, Capture(network, layers) as capture:
        capture.forward(pixels)
    return {
        name: watch.biases[id(weight)]
        for name, weight in network.named_parameters(remove_duplicate=False)
        if id(weight) in watch.biases and id(weight) not in watch.passed
    }


class _Watch(TorchFunctionMode):
    """Note which tensors were the weights of convolutions, by identity."""

    def __init__(self) -> None:
        super().__init__()
        self.biases: dict[int, Tensor | None] = {}
        self.passed: set[int] = set()  # by a gradient

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in CONVOLUTIONS and len(args) > 1:
            bias = args[2] if len(args) > 2 else (kwargs or {}).get("bias")
            self.biases[id(args[1])] = None if bias is None else bias.detach()
            if args[0].requires_grad:
                self.passed.add(id(args[1]))
        return func(*args, **(kwargs or {}))


def pack(network: ScoringNetwork, biases: Mapping[str, Tensor | None], pixels: Tensor) -> int:
    """Pack the named weights of a frozen network in place, each with a float32 bias; return how many were.

    ``pixels`` (N, C, H, W) are what the network may see. Where it then fails, or its scores change by more than
    rounding, nothing is packed.
    """
    if not biases:
        return 0
    weights = {name: weight for name, weight in network.named_parameters(remove_duplicate=False) if name in biases}
    with torch.no_grad():
        expected = network(pixels)
    packed = {id(weight): PackedWeight(weight.detach(), biases[name]) for name, weight in weights.items()}
    for name, weight in weights.items():
        network.put(name, packed[id(weight)])
    if network.gives(expected, pixels):
        return len(weights)
    for name, weight in weights.items():
        network.put(name, weight)
    return 0
