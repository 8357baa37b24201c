"""Where the tokens of each attention lie on the grid of a layer, found by running the tail.

Windows are cut, shifted, padded and merged in as many ways as there are networks. With attention made the identity
no token learns of another, so that a change in one row or column of the layer's output reaches the tokens that lie
there and no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from camserve.attribution.attention_record import IdentityAttention
from camserve.attribution.capture import Capture
from camserve.attribution.layer_output import LayerOutput
from camserve.errors import ConfigError

TOGETHER = 8  # pictures in one pass of the tail: the first is not changed
DRAWS = 8  # of noise, until every position has a token: a small change can be lost in rounding
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}  # of the largest change


@dataclass(frozen=True)
class Windows:
    """The windows of one attention, which its heads share."""

    count: int  # W
    tokens: int  # L of each window
    token: Tensor  # (P,) int64: which of the W * L tokens each position of the layer is part of
    window: Tensor  # (M,) int64: which window each of the attention's M matrices is of

    def by_window(self, matrices: Tensor) -> Tensor:
        """Return the mean over heads (N, W, L, L) of matrices (..., L, L)."""
        rows = matrices.float().reshape(-1, len(self.window), self.tokens, self.tokens)
        if self.count == 1:
            return rows.mean(dim=1, keepdim=True)
        sums = rows.new_zeros(len(rows), self.count, self.tokens, self.tokens).index_add_(1, self.window, rows)
        return sums * self.count / len(self.window)

    def gather(self, values: Tensor) -> Tensor:
        """Return the values (N, W, L) of tokens from those of positions (N, P): sums over what was merged."""
        sums = values.new_zeros(len(values), self.count * self.tokens).index_add_(1, self.token, values)
        return sums.view(len(values), self.count, self.tokens)

    def scatter(self, values: Tensor) -> Tensor:
        """Return the values (N, P) of positions from those of tokens (N, W, L), divided equally where they merged."""
        merged = self.gather(values.new_ones(1, len(self.token))).clamp(min=1)
        return (values / merged).flatten(1)[:, self.token]


def all_tokens(attention: Tensor, count: int) -> Windows:
    """Return the one window of attention (..., L, L) over all L positions of ``count`` pictures."""
    tokens = attention.shape[-1]
    matrices = attention.numel() // (count * tokens * tokens)
    zeros = torch.zeros(matrices, dtype=torch.int64, device=attention.device)
    return Windows(1, tokens, torch.arange(tokens, device=attention.device), zeros)


_known: WeakKeyDictionary[nn.Module, dict[object, list[Windows] | str]] = WeakKeyDictionary()


def find_windows(output: LayerOutput) -> list[Windows]:
    """Return the windows of every attention after a layer without prefix tokens, the first one first.

    They are looked for once for each network and picture size. ConfigError: the tokens of one do not divide the grid.
    """
    known = _known.setdefault(output.network, {})
    key = (output.layer, output.pixels.shape[1:], output.pixels.dtype)
    if key not in known:
        try:
            known[key] = _look(output)
        except ConfigError as error:
            known[key] = str(error)
    found = known[key]
    if isinstance(found, str):
        raise ConfigError(f"method 'attention' cannot place windows on the grid of '{output.layer.name}': {found}")
    return found


@torch.no_grad()
def _look(output: LayerOutput) -> list[Windows]:
    height, width = output.activations.shape[2:]
    generator = torch.Generator().manual_seed(0)
    with Capture(output.network, (output.layer,)) as capture:
        (probed,) = capture.forward(output.pixels.new_zeros(TOGETHER, *output.pixels.shape[1:]), tape=True)
    lines = [(1, row) for row in range(height)] + [(2, column) for column in range(width)]
    changed: list[Tensor] = []
    for _ in range(DRAWS):
        found = [_changes(probed, part, generator) for part in _split(lines)]
        drawn = [torch.cat(parts) for parts in zip(*found)]
        changed = [one | other for one, other in zip(changed, drawn)] if changed else drawn
        windows = [_windows(lines_of, height) for lines_of in changed]
        whole = [one for one in windows if one is not None]
        if len(whole) == len(windows):
            return whole
    raise ConfigError("something beside attention mixes its tokens, or leaves some out")


def _split(lines: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
    for start in range(0, len(lines), TOGETHER - 1):
        yield lines[start : start + TOGETHER - 1]


def _changes(probed: LayerOutput, lines: Sequence[tuple[int, int]], generator: torch.Generator) -> list[Tensor]:
    """Return for each attention which tokens (len(lines), M, L) a change in one row or column of the grid reaches."""
    shape = probed.activations.shape[1:]
    plain, other = (torch.randn(shape, generator=generator).to(probed.activations) for _ in range(2))
    shown = plain.repeat(TOGETHER, 1, 1, 1)
    for picture, (axis, at) in zip(shown[1:], lines):
        picture.select(axis, at).copy_(other.select(axis, at))
    with IdentityAttention() as seen:
        probed.rescore(shown)
    return [_differs(diagonal, len(lines), probed.pixels.dtype) for diagonal in seen.diagonals]


def _differs(diagonal: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    rows = diagonal.reshape(TOGETHER, -1, diagonal.shape[-1])
    change = (rows[1 : count + 1] - rows[:1]).abs()
    return change > ROUNDING[dtype] * change.max()


def _windows(changed: Tensor, height: int) -> Windows | None:
    """Return the windows of one attention from which tokens (h + w, M, L) each row and column reaches.

    None: a position is part of no token or of several, or windows differ in their number of heads.
    """
    tokens = changed.shape[2]
    lines = changed.permute(1, 2, 0)
    reached = lines[..., :height].any(dim=2, keepdim=True) & lines[..., height:].any(dim=2, keepdim=True)
    different, window = torch.unique((lines & reached).flatten(1).to(torch.uint8), dim=0, return_inverse=True)
    heads = torch.bincount(window)
    token = _tokens(different.view(len(different) * tokens, -1).bool(), height)
    if token is None or not bool((heads == heads[0]).all()):
        return None
    return Windows(len(different), tokens, token, window)


def _tokens(lines: Tensor, height: int) -> Tensor | None:
    """Return which token each position is part of, (P,), from the rows and columns (W * L, h + w) that reach tokens.

    Row by row: a table of all positions and tokens would be the square of the grid. None: there is not one for each.
    """
    found = []
    for row in range(height):
        here = lines[:, row].nonzero().flatten()
        columns = lines[here, height:].int()
        if not bool((columns.sum(dim=0) == 1).all()):
            return None
        found.append(here[columns.argmax(dim=0)])
    return torch.cat(found)
