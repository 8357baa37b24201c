"""One watched forward pass: scores, activations, and everything that a map needs of them.

Parameters are frozen and a hook at the target layer hands on a detached copy, so the trunk of the network builds no
autograd graph and the tail does. One forward pass serves the prediction and every map; a backward pass runs through the
tail only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from camserve.attribution.backward import PICTURES_AT_ONCE, AutogradBackward, Backward, Run
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.linear_head import LinearHead
from camserve.attribution.tape import Tape
from camserve.errors import ConfigError
from camserve.network.hooks import ModuleCall, calls_of, first_tensor
from camserve.network.output import device_of_network
from camserve.values import Layer


@dataclass(frozen=True)
class Tail:
    """What is known of the network after one layer."""

    head: LinearHead | None = None  # where it is average pooling and one linear layer
    backward: Backward | None = None  # a shortcut; None: plain autograd


class Capture:
    """Borrow a network for forward passes and give it back as it was.

    Inside the ``with`` block the network is in eval mode, its parameters are frozen and the target layers are watched.
    Leaving it, by an exception too, restores modes and ``requires_grad`` and removes the hooks; no ``.grad`` is ever
    written. ``network`` maps (N, C, H, W) pixels to (N, C) scores before softmax.
    """

    def __init__(self, network: nn.Module, layers: Sequence[Layer], tails: Mapping[str, Tail] | None = None) -> None:
        """Walk the network once: it must not get other modules, parameters or modes afterwards.

        ``tails`` say, by layer name, what is known of the tails. ConfigError: the network has no such module.
        """
        modules = dict(network.named_modules())
        device = device_of_network(network)
        tails = tails or {}
        self._network = network
        self._training = [module for module in network.modules() if module.training]
        self._unfrozen = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._heads = [tails.get(layer.name, Tail()).head for layer in layers]
        self._backwards: list[Backward] = [
            tails.get(layer.name, Tail()).backward or AutogradBackward.at(layer, device) for layer in layers
        ]
        watched = sorted({name for backward in self._backwards for name in backward.watched})
        for name in (*(layer.name for layer in layers), *watched):
            if name not in modules:
                raise ConfigError(f"the network has no module named '{name}'")
        self._watched = {name: modules[name] for name in watched}
        self._hooks = [_LayerHook(modules[layer.name], layer) for layer in layers]
        self._needs_graph = not layers or any(backward.needs_graph for backward in self._backwards)
        self.pictures_at_once = min(
            (backward.pictures_at_once for backward in self._backwards), default=PICTURES_AT_ONCE
        )

    def __enter__(self) -> Capture:
        """Freeze the network and start to watch."""
        self._set(training=False, frozen=True)
        for hook in self._hooks:
            hook.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the network back as it was."""
        for hook in self._hooks:
            hook.detach()
        self._set(training=True, frozen=False)

    def _set(self, *, training: bool, frozen: bool) -> None:
        for module in self._training:
            module.training = training
        for parameter in self._unfrozen:
            parameter.requires_grad_(not frozen)

    def forward(
        self, pixels: Tensor, tape: bool = False, contexts: Sequence[str] | None = None
    ) -> tuple[LayerOutput, ...]:
        """Run the network once on (N, C, H, W) ``pixels`` and return one ``LayerOutput`` a layer.

        With ``tape`` the tail is recorded, for methods that run it again. ``contexts``, one text a row, go to a network
        that takes them. ConfigError: a layer's module did not run, or
        not as often as its ``call`` says.
        """
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad() if self._needs_graph else torch.inference_mode())
            for hook, backward in zip(self._hooks, self._backwards):
                hook.begin(stack, self._needs_graph, record=tape and backward.needs_graph)
            calls = stack.enter_context(calls_of(self._watched, copy=True))
            try:
                scores = self._network(pixels) if contexts is None else self._network(pixels, contexts)
            finally:
                for hook in self._hooks:
                    hook.end()
        outputs = _rows_of(calls, len(scores))
        found = tuple(
            LayerOutput(hook.finish(scores, outputs), self._network, pixels, head, backward)
            for hook, head, backward in zip(self._hooks, self._heads, self._backwards)
        )
        for hook in self._hooks:
            hook.forget()
        return found


def _rows_of(calls: Sequence[ModuleCall], count: int) -> dict[str, Tensor]:
    """Return (N, M) float32 by module name, of N = ``count`` pictures, which a network may pass on in parts."""
    parts: dict[str, list[Tensor]] = {}
    for call in calls:
        assert call.copy is not None
        parts.setdefault(call.name, []).append(call.copy.flatten(1).float())
    outputs = {name: torch.cat(found) if len(found) > 1 else found[0] for name, found in parts.items()}
    for name, rows in outputs.items():
        if len(rows) != count:
            raise ConfigError(f"module '{name}' gave {len(rows)} rows for {count} pictures")
    return outputs


class _LayerHook:
    """A forward hook that cuts the graph at one call of a module and keeps what the module gave."""

    def __init__(self, module: nn.Module, layer: Layer) -> None:
        self._module = module
        self._layer = layer
        self._stack: ExitStack | None = None  # None: a pass of a method's own, not to be watched
        self.forget()

    def attach(self) -> None:
        self._handle = self._module.register_forward_hook(self)

    def detach(self) -> None:
        self._handle.remove()

    def begin(self, stack: ExitStack, differentiable: bool, record: bool) -> None:
        self._stack, self._differentiable, self._record = stack, differentiable, record
        self.forget()

    def end(self) -> None:
        self._stack = None

    def forget(self) -> None:
        """Keep nothing of the last pass."""
        self._calls = 0
        self._output: Tensor | None = None
        self._tape: Tape | None = None

    def finish(self, scores: Tensor, outputs: Mapping[str, Tensor]) -> Run:
        """Return the pass that has ended, as seen from this layer."""
        if self._output is None:
            needed = self._layer.call + 1
            raise ConfigError(f"module '{self._layer.name}' ran {self._calls} times in a forward pass, not {needed}")
        if self._tape is not None:
            self._tape.close(scores)
        return Run(self._layer, scores, self._output, outputs, self._tape)

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        if self._stack is None:
            return None
        self._calls += 1
        first = first_tensor(output)
        if first is None or self._calls != self._layer.call + 1:
            return None
        handed_on = self._hand_on(first)
        if self._record:
            # Switched on only now, so that the trunk runs as fast, and as compiled, as ever.
            self._tape = self._stack.enter_context(Tape(handed_on))
        return handed_on if isinstance(output, Tensor) else (handed_on, *output[1:])

    def _hand_on(self, first: Tensor) -> Tensor:
        """Keep the layer's tensor and return a copy of it, which what follows is computed from."""
        if self._differentiable:
            self._output, handed_on = start_graph(first)
            return handed_on
        self._output = first
        return first.clone()


def start_graph(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return a tensor that gradients can be asked for, with the values of ``tensor``, and its copy to go on with.

    A deeper layer stays in the graph of a shallower one, so that both get gradients. The copy lets the next module work
    in place, which a leaf forbids and which would otherwise change what this module's output is taken to be (DenseNet
    does both).
    """
    # A trunk may run under no_grad, as in transfer learning; what follows shall have a graph all the same.
    with torch.inference_mode(False), torch.enable_grad():
        if not tensor.requires_grad:
            tensor = (tensor.clone() if tensor.is_inference() else tensor.detach()).requires_grad_()
        return tensor, tensor.clone()
