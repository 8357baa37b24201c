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

    positions: Tensor  # (W, L, P) float32: 1 where a position of the layer is part of a window's token, else 0
    window: Tensor  # (M,) int64: which window each of the attention's M matrices is of

    def by_window(self, matrices: Tensor) -> Tensor:
        """Return the mean over heads (N, W, L, L) of matrices (..., L, L)."""
        count, tokens = self.positions.shape[:2]
        rows = matrices.float().reshape(-1, len(self.window), tokens, tokens)
        if count == 1:
            return rows.mean(dim=1, keepdim=True)
        sums = rows.new_zeros(len(rows), count, tokens, tokens).index_add_(1, self.window, rows)
        return sums * count / len(self.window)

    def gather(self, values: Tensor) -> Tensor:
        """Return the values (N, W, L) of tokens from those of positions (N, P): sums over what was merged."""
        return torch.einsum("np,wlp->nwl", values, self.positions)

    def scatter(self, values: Tensor) -> Tensor:
        """Return the values (N, P) of positions from those of tokens (N, W, L), divided equally where they merged."""
        merged = self.positions.sum(dim=2).clamp(min=1)
        return torch.einsum("nwl,wlp->np", values / merged, self.positions)


def all_tokens(attention: Tensor, count: int) -> Windows:
    """Return the one window of attention (..., L, L) over all L positions of ``count`` pictures."""
    tokens = attention.shape[-1]
    matrices = attention.numel() // (count * tokens * tokens)
    zeros = torch.zeros(matrices, dtype=torch.int64, device=attention.device)
    return Windows(torch.eye(tokens, device=attention.device)[None], zeros)


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
        if all(_divides(one) for one in windows):
            return windows
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


def _windows(changed: Tensor, height: int) -> Windows:
    """Return the windows of one attention from which tokens (h + w, M, L) each row and column reaches."""
    by_row, by_column = changed[:height].permute(1, 2, 0), changed[height:].permute(1, 2, 0)
    positions = (by_row[..., :, None] & by_column[..., None, :]).flatten(2)
    different, window = torch.unique(positions.to(torch.uint8), dim=0, return_inverse=True)
    return Windows(different.float(), window)


def _divides(windows: Windows) -> bool:
    """Whether every position is part of one token, and every window has as many heads."""
    shares = windows.positions.sum(dim=(0, 1))
    heads = torch.bincount(windows.window)
    return bool((shares == 1).all()) and bool((heads == heads[0]).all())
