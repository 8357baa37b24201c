"""Matrix products that read no more of a weight than counts."""

from __future__ import annotations

import torch
from torch import Tensor

SUM = 0  # torch.embedding_bag's number for it
LONG = 256  # rows of a weight, from which on adding them up is worth a second thread


@torch.no_grad()
def product(rows: Tensor, weight: Tensor) -> Tensor:
    """Return rows (R, M) @ weight (M, K), and read no row of the weight that is multiplied by zero alone.

    A target names a class or two of a thousand, and a ReLU lets half of a gradient through.
    """
    count, width = rows.shape
    values = rows.reshape(-1)
    found = values.nonzero().view(-1)
    if len(found) > width:  # a plain product reads each row of the weight once for all
        return rows @ weight
    # A long sum is cut into parts, one for each thread.
    parts = max(1, torch.get_num_threads() // count) if len(found) > LONG and rows.device.type == "cpu" else 1
    if count == 1:
        named, starts = found, torch.arange(parts, device=rows.device) * (len(found) // parts)
    else:
        named = found % width
        starts = torch.searchsorted(found, torch.arange(count * parts, device=rows.device) * width // parts)
    sums: Tensor = torch.embedding_bag(weight, named, starts, False, SUM, False, values[found])[0]
    return sums if parts == 1 else sums.view(count, parts, -1).sum(dim=1)
