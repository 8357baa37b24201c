"""One watched forward pass: scores, activations, and everything a map needs from them.

Parameters are frozen and a hook at the target layer hands on a detached copy, so the trunk of the
network builds no autograd graph and the tail does. One forward pass serves the prediction and
every map; a backward pass runs through the tail only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from camserve.attribution.objectives import Objectives
from camserve.attribution.tape import Head, NotReplayable, Tape
from camserve.errors import ConfigError, OutOfTime
from camserve.fast.graph_walk import Steps, Sums, find_steps, operators, pull_back
from camserve.values import Layer

PICTURES_AT_ONCE = 32  # in one forward pass
BLOCKS_AT_ONCE = 16  # the same where autograd keeps what a transformer's last block computes of each: most of the peak
RERUN_BATCH = 16  # pictures in one pass of a method's own
ROWS_AT_ONCE = 32  # gradients that one backward pass carries: as many as a forward pass carries pictures
CLASS_TOKENS_AT_ONCE = 8  # the same where most of a gradient is zero: more only fill the caches with zeros


class Capture:
    """Borrow a network for a forward pass, as often as wanted, and give it back as it was.

    Inside the ``with`` block the network is in eval mode, its parameters are frozen and the target
    layers are watched. Leaving it, by an exception too, restores modes and ``requires_grad`` and
    removes the hooks; no ``.grad`` is ever written.

    ``network`` maps (N, 3, H, W) pixels to (N, C) scores before softmax.
    """

    def __init__(self, network: nn.Module, layers: tuple[Layer, ...], heads: Mapping[str, Head] | None = None) -> None:
        """Name what to borrow, and the closed form of the tail for layers that have one, by layer name.

        Where every layer has one, no autograd graph is built at all. The network is walked once, here: it must not
        get other modules, parameters or modes. ConfigError: the network has no such module.
        """
        modules = dict(network.named_modules())
        self._heads = heads or {}
        known = {layer.name: self._heads[layer.name].hidden for layer in layers if layer.name in self._heads}
        hidden = {name: each.module for name, each in known.items() if each is not None}
        for name in (*(layer.name for layer in layers), *hidden.values()):
            if name not in modules:
                raise ConfigError(f"the network has no module named '{name}'")
        self._network = network
        self._training = [module for module in network.modules() if module.training]
        self._unfrozen = [each for each in network.parameters() if each.requires_grad]
        self._sums = Sums((*network.parameters(), *network.buffers()))
        self._watches = [(modules[layer.name], _Watch(layer)) for layer in layers]
        self._analytic = bool(layers) and all(layer.name in self._heads for layer in layers)
        self._hidden = {name: _Given(module) for name, module in hidden.items()}
        self._hooks: list[tuple[nn.Module, _Watch | _Given]] = [
            *self._watches,
            *((modules[each.name], each) for each in self._hidden.values()),
        ]

    def __enter__(self) -> Capture:
        """Freeze the network and start to watch."""
        self._set(training=False, frozen=True)
        self._handles = [module.register_forward_hook(hook) for module, hook in self._hooks]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the network back as it was."""
        for handle in self._handles:
            handle.remove()
        self._set(training=True, frozen=False)

    def _set(self, *, training: bool, frozen: bool) -> None:
        for module in self._training:
            module.training = training
        for parameter in self._unfrozen:
            parameter.requires_grad_(not frozen)

    @cached_property
    def pictures_at_once(self) -> int:
        """How many pictures one forward pass should hold, so that explaining them takes no more memory than they do."""
        on_cpu = all(each.device.type == "cpu" for each in self._network.parameters())
        blocks = any(watch.layer.prefix and watch.layer.name not in self._heads for _, watch in self._watches)
        return BLOCKS_AT_ONCE if on_cpu and blocks else PICTURES_AT_ONCE

    def forward(self, pixels: Tensor, tape: bool = False) -> tuple[LayerOutput, ...]:
        """Run the network once on (N, 3, H, W) ``pixels``: one ``LayerOutput`` for each layer.

        With ``tape`` the tail is recorded, for methods that run it again (``LayerOutput.rescore``).
        ConfigError: a layer's module did not run, or not as often as its ``call`` says.
        """
        with torch.inference_mode(self._analytic), ExitStack() as stack:
            if not self._analytic:
                stack.enter_context(torch.enable_grad())
            for _, watch in self._watches:
                head = self._heads.get(watch.layer.name)
                copy = not self._analytic or head is None or not head.intact
                watch.begin(stack, differentiable=not self._analytic, copy=copy, record=tape and head is None)
            for each in self._hidden.values():
                each.begin()
            try:
                scores = self._network(pixels)
            finally:
                for _, hook in self._hooks:
                    hook.end()
        seen = tuple(self._seen(watch, scores, pixels) for _, watch in self._watches)
        for _, hook in self._hooks:
            hook.forget()
        return seen

    def _seen(self, watch: _Watch, scores: Tensor, pixels: Tensor) -> LayerOutput:
        output = watch.output()
        if watch.tape is not None:
            watch.tape.close(scores)
        head, given = self._heads.get(watch.layer.name), self._hidden.get(watch.layer.name)
        hidden = None if given is None else given.values(len(scores))
        return LayerOutput(watch.layer, scores, output, self._network, pixels, head, hidden, watch.tape, self._sums)


class _Watch:
    """A forward hook that cuts the graph at one call of a module and keeps what it saw."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self._stack: ExitStack | None = None  # None: a pass of a method's own, not to be watched
        self.forget()

    def begin(self, stack: ExitStack, *, differentiable: bool, copy: bool, record: bool) -> None:
        self._stack, self._differentiable, self._copy, self._record = stack, differentiable, copy, record
        self.forget()

    def end(self) -> None:
        self._stack = None

    def forget(self) -> None:
        """Hold on to nothing of the last pass."""
        self._calls = 0
        self._output: Tensor | None = None
        self.tape: Tape | None = None

    def output(self) -> Tensor:
        if self._output is None:
            needed = self.layer.call + 1
            raise ConfigError(f"module '{self.layer.name}' ran {self._calls} times in a forward pass, not {needed}")
        return self._output

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        if self._stack is None:
            return None
        self._calls += 1
        if self._calls != self.layer.call + 1:
            return None
        first = output if isinstance(output, Tensor) else output[0]
        # A deeper layer stays in the graph of a shallower one, so that both get gradients.
        cut = self._differentiable and not first.requires_grad
        self._output = first.detach().requires_grad_() if cut else first
        if not self._copy:
            return None
        # The copy lets the next module work in place, which a leaf forbids and which would
        # otherwise change what this module's output is taken to be (DenseNet does both).
        handed_on = self._output.clone()
        if self._record:
            # Switched on only now, so that the trunk runs as fast, and as compiled, as ever.
            self.tape = self._stack.enter_context(Tape(handed_on))
        return handed_on if isinstance(output, Tensor) else (handed_on, *output[1:])


class _Given:
    """A forward hook that keeps what the hidden layer of a tail's closed form gave."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._on = False  # off: a pass of a method's own
        self.forget()

    def begin(self) -> None:
        self._on = True
        self.forget()

    def end(self) -> None:
        self._on = False

    def forget(self) -> None:
        """Hold on to nothing of the last pass."""
        self._outputs: list[Tensor] = []

    def values(self, count: int) -> Tensor:
        """Return (N, M) float32 of N = ``count`` pictures, which a network may pass on in parts."""
        given = sum(map(len, self._outputs))
        if given != count:
            raise ConfigError(f"module '{self.name}' gave {given} rows for {count} pictures")
        whole = self._outputs[0] if len(self._outputs) == 1 else torch.cat(self._outputs)
        return whole.flatten(1).float()

    def __call__(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if self._on:
            # A copy: the next module may work in place.
            self._outputs.append(output.detach().clone())


class LayerOutput:
    """What one layer showed in one forward pass."""

    def __init__(
        self,
        layer: Layer,
        scores: Tensor,
        output: Tensor,
        network: nn.Module,
        pixels: Tensor,
        head: Head | None,
        hidden: Tensor | None,
        tape: Tape | None,
        sums: Sums,
    ) -> None:
        """Keep the graph of the tail alive; it is freed with this object."""
        self.layer = layer
        self.network = network  # for methods that run passes of their own
        self.pixels = pixels  # (N, 3, H, W), what the network was shown
        self.head = head
        self.scores = scores.detach().float()  # (N, C)
        self.activations = on_grid(output.detach(), layer)  # (N, K, h, w) float32
        self._scores = scores
        self._output = output
        self._hidden = hidden  # (N, M), what the hidden layer of the closed form gave
        self._tape = tape
        self._sums = sums
        self._gradients: dict[int, tuple[Objectives, Tensor]] = {}
        self._means: dict[int, tuple[Objectives, Tensor]] = {}
        self.until = math.inf  # time.monotonic() after which no further pass is begun

    def check_time(self) -> None:
        """Stop what takes too long. OutOfTime: it is later than ``until``."""
        if time.monotonic() > self.until:
            raise OutOfTime(f"the time for the explanations at '{self.layer.name}' is over")

    def targeted(self, targets: Objectives, scores: Tensor | None = None) -> Tensor:
        """Return the value (T,) of each target: its weighted sum of its row's scores, or of others (N, C)."""
        asked = (self.scores if scores is None else scores)[targets.rows].gather(1, targets.classes)
        return (targets.signs * asked).sum(dim=1)

    @torch.no_grad()
    def rerun(self, pixels: Tensor) -> Tensor:
        """Return the scores (M, C) float32 of other pixels (M, 3, H, W): the whole network runs again.

        OutOfTime: between two of its passes.
        """
        scores = []
        with Capture(self.network, ()):
            for part in torch.split(pixels, RERUN_BATCH):
                self.check_time()
                scores.append(self.network(part))
        return torch.cat(scores).float()

    def rescore(self, activations: Tensor) -> Tensor:
        """Return the scores (N, C) that other activations (N, K, h, w) would get: the tail alone is run again.

        ConfigError: the tail was not recorded, or cannot be run again. OutOfTime.
        """
        self.check_time()
        if self.head is not None:
            return self.head.scores(activations)
        if self._tape is None:
            raise ConfigError(
                f"the tail after '{self.layer.name}' was not recorded: Capture.forward(pixels, tape=True)"
            )
        try:
            return self._tape.replay(off_grid(activations, self.layer, self._output.detach())).float()
        except NotReplayable as error:
            raise ConfigError(f"the tail after '{self.layer.name}' cannot be run again: {error}") from None

    def gradients(self, targets: Objectives) -> Tensor:
        """Return d target / d activation, (T, K, h, w) float32: one tail-backward per target of a row.

        Where the tail's closed form is known there is no backward pass. ConfigError: no gradient reaches the layer.
        OutOfTime: between two passes.
        """
        if self.head is not None:
            return self.mean_gradients(targets)[:, :, None, None].expand(-1, -1, *self.activations.shape[2:])
        # Methods that share a targets object share its backward pass.
        return self._once(
            self._gradients, targets, lambda: on_grid(self._backward(targets, self._pull_back), self.layer)
        )

    def mean_gradients(self, targets: Objectives) -> Tensor:
        """Return the mean of ``gradients`` over the positions, (T, K) float32; errors as there.

        Where pooling follows the layer it is found without them.
        """
        return self._once(self._means, targets, lambda: self._find_mean(targets))

    def _find_mean(self, targets: Objectives) -> Tensor:
        if self.head is None:
            return self._mean_backward(targets)
        given = None if self._hidden is None else self._of(targets, self._hidden)
        return self.head.mean_gradients(targets, self.activations[0, 0].numel(), given)

    def _mean_backward(self, targets: Objectives) -> Tensor:
        steps = self._steps if self.layer.layout == "NCHW" and id(targets) not in self._gradients else None
        if steps is None:
            return self.gradients(targets).mean(dim=(2, 3))
        self.check_time()
        return self._backward(targets, lambda weights: steps.mean_gradient(weights, self._sums))

    def _once(
        self, known: dict[int, tuple[Objectives, Tensor]], targets: Objectives, find: Callable[[], Tensor]
    ) -> Tensor:
        if id(targets) not in known:
            known[id(targets)] = (targets, find())
        return known[id(targets)][1]

    def _backward(self, targets: Objectives, pull: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what ``pull`` makes, (S, N, ...) of (S, N, C), of the targets' weights: one of each row at a time."""
        if not self._scores.requires_grad:
            raise ConfigError(f"the scores do not depend on the output of '{self.layer.name}'")
        if self._is_every_row(targets):  # copies of what is large take as long as the backward pass of a small tail
            return pull(targets.weights.to(self._scores)[None])[0]
        turns = torch.tensor(_turns(targets.numbers), device=targets.rows.device)
        # Rows do not mix, so one backward pass serves one target of every row at once.
        weights = self._scores.new_zeros((int(turns.max()) + 1, *self._scores.shape))
        weights[turns, targets.rows] = targets.weights.to(weights)
        at_once = max(1, (CLASS_TOKENS_AT_ONCE if self._class_token else ROWS_AT_ONCE) // len(self._scores))
        parts = [pull(part) for part in torch.split(weights, at_once)]
        gradients = torch.cat(parts) if len(parts) > 1 else parts[0]
        return gradients[turns, targets.rows]

    def activations_of(self, targets: Objectives) -> Tensor:
        """Return the activation (T, K, h, w) of each target's row."""
        return self._of(targets, self.activations)

    @property
    def linear_head(self) -> Head | None:
        """The closed form where it is pooling and one linear layer alone."""
        return None if self.head is None or self.head.hidden is not None else self.head

    def operators(self) -> set[str]:
        """Return the names that autograd has for the ways back through the operators of the tail."""
        return operators(self._scores)

    def _of(self, targets: Objectives, values: Tensor) -> Tensor:
        """Return the values (T, ...), of (N, ...), of each target's row."""
        return values if self._is_every_row(targets) else values[targets.rows]

    def _is_every_row(self, targets: Objectives) -> bool:
        """Whether the targets are one of each row, in order."""
        return targets.per_row(len(self.scores)) == 1

    @cached_property
    def _steps(self) -> Steps | None:
        return find_steps(self._scores, self._output) if self._scores.requires_grad else None

    @property
    def _class_token(self) -> bool:
        """Whether most rows of most gradients may be zero, on a device where finding them is cheap."""
        return self.layer.prefix > 0 and self._scores.device.type == "cpu"

    def _pull_back(self, weights: Tensor) -> Tensor:
        """Return the gradients (S, ...) of S targets of every row, (S, N, C): together, or else one after the other."""
        self.check_time()
        try:
            if self._steps is not None:
                return self._steps.gradient(weights)
            gradient = pull_back(self._scores, self._output, weights, idle_rows=self._class_token)
        except RuntimeError:  # an operator of the network's own that takes one gradient only, or too little memory
            if len(weights) == 1:
                raise
            return torch.cat([self._pull_back(each[None]) for each in weights])
        if gradient is None:
            raise ConfigError(f"the scores do not depend on the output of '{self.layer.name}'")
        return gradient


def _turns(rows: Sequence[int]) -> list[int]:
    """Number the targets of each row: how many of the same row stand before each."""
    counts: dict[int, int] = {}
    turns = []
    for row in rows:
        turns.append(counts.get(row, 0))
        counts[row] = turns[-1] + 1
    return turns


def on_grid(tensor: Tensor, layer: Layer) -> Tensor:
    """Lay a module's output out as (N, K, h, w) float32."""
    if layer.layout == "NHWC":
        tensor = tensor.permute(0, 3, 1, 2)
    elif layer.layout == "NLC":
        tokens = tensor[:, layer.prefix :].transpose(1, 2)
        tensor = tokens.reshape(*tokens.shape[:2], *layer.grid)
    return tensor.float()


def off_grid(activations: Tensor, layer: Layer, like: Tensor) -> Tensor:
    """Undo ``on_grid``: lay (N, K, h, w) out as the module's own output ``like``, whose prefix tokens are kept."""
    if layer.layout == "NHWC":
        activations = activations.permute(0, 2, 3, 1)
    elif layer.layout == "NLC":
        tokens = activations.flatten(2).transpose(1, 2).to(like.dtype)
        activations = torch.cat([like[:, : layer.prefix], tokens], dim=1)
    return activations.to(like.dtype)
