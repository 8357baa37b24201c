"""Matrix products that read no more of a weight than counts."""

from __future__ import annotations

import torch
from torch import Tensor

SUM = 0  # torch.embedding_bag's number for it
LONG = 256  # rows of a weight, from which on adding them up is worth a second thread
FEW = 16  # rows that are multiplied
MOST = 0.6  # of a weight's rows: to read more of them one by one takes longer than to read all in their order


@torch.no_grad()
def picked(weight: Tensor, rows: Tensor, factors: Tensor) -> Tensor:
    """Return the sum over m of factors[t, m] * weight[rows[t, m]], (T, K), of a weight (M, K)."""
    count, each = rows.shape
    if each == 1:
        return weight.index_select(0, rows.view(-1)) * factors
    starts = torch.arange(0, count * each, each, device=rows.device)
    sums: Tensor = torch.embedding_bag(weight, rows.flatten(), starts, False, SUM, False, factors.flatten())[0]
    return sums


@torch.no_grad()
def product(rows: Tensor, weight: Tensor) -> Tensor:
    """Return rows (R, M) @ weight (M, K), and on a CPU read those rows of the weight alone that count, if they are few.

    A target names a class or two of a thousand, and a ReLU lets half of a gradient through. To look for them would
    make a GPU wait.
    """
    count, width = rows.shape
    if rows.device.type != "cpu":
        return rows @ weight
    values = rows.reshape(-1)
    found = values.nonzero().view(-1)
    if len(found) > MOST * width:
        return whole_product(rows, weight)
    # A long sum is cut into parts, one for each thread.
    parts = max(1, torch.get_num_threads() // count) if len(found) > LONG else 1
    if count == 1:
        named, starts = found, torch.arange(parts, device=rows.device) * (len(found) // parts)
    else:
        named = found % width
        starts = torch.searchsorted(found, torch.arange(count * parts, device=rows.device) * width // parts)
    sums: Tensor = torch.embedding_bag(weight, named, starts, False, SUM, False, values[found])[0]
    return sums if parts == 1 else sums.view(count, parts, -1).sum(dim=1)


@torch.no_grad()
def whole_product(rows: Tensor, weight: Tensor) -> Tensor:
    """Return rows (R, M) @ weight (M, K) in parts, one for each thread: PyTorch gives a product of few rows to one."""
    count, width = rows.shape
    threads = torch.get_num_threads()
    # A shorter precision would round each part.
    if count > FEW or width % threads or rows.device.type != "cpu" or rows.dtype != torch.float32:
        return rows @ weight
    cut = rows.view(count, threads, -1).transpose(0, 1)
    return torch.bmm(cut, weight.view(threads, -1, weight.shape[1])).sum(dim=0)
