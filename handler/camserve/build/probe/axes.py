"""How the axes of a module's output lie, judged by its shape at one or two picture sizes."""

from __future__ import annotations

import math

from camserve.values import Layer

Shape = tuple[int, ...]
Key = tuple[str, int]  # module name and call

MAX_PREFIX = 10  # tokens before the grid: class and distillation tokens, registers
LAYOUTS_4D = {"NCHW": (1, 2, 3), "NHWC": (3, 1, 2)}  # where channels, rows and columns stand


def lay_out(key: Key, shape: Shape, taller: Shape | None, size: tuple[int, int]) -> Layer | str:
    """Return where a module's output (2, ...) for pictures of ``size`` has its positions, or why it has none.

    ``taller`` is its output's shape for one picture of twice the height, where the network takes one.
    """
    if len(shape) == 4:
        found = _maps(shape, taller, size)
    elif len(shape) == 3:
        found = _tokens(shape, taller, size)
    else:
        found = None
    if found is None or found[2] == (1, 1):
        return f"its output of shape {show(shape)} has no spatial extent"
    return Layer(key[0], *found, key[1])


def show(shape: Shape) -> str:
    """Word a shape with its batch axis as N."""
    return f"({', '.join(['N', *map(str, shape[1:])])})"


def _maps(shape: Shape, taller: Shape | None, size: tuple[int, int]) -> tuple[str, int, tuple[int, int]] | None:
    for layout, (channels, rows, columns) in LAYOUTS_4D.items():
        grid = shape[rows], shape[columns]
        if taller is None or taller[1:] == shape[1:]:
            fits = _follows(grid, size)
        else:
            same = all(taller[axis] == shape[axis] for axis in (channels, columns))
            fits = len(taller) == 4 and taller[0] == 1 and same and taller[rows] > shape[rows]
        if fits:
            return layout, 0, grid
    return None


def _tokens(shape: Shape, taller: Shape | None, size: tuple[int, int]) -> tuple[str, int, tuple[int, int]] | None:
    _, tokens, channels = shape
    prefixes = range(MAX_PREFIX + 1)
    if taller is not None:
        if len(taller) != 3 or taller[0] != 1 or taller[2] != channels:
            return None
        # Twice the height is twice the grid, and the same prefix.
        prefix = 2 * tokens - taller[1]
        prefixes = range(prefix, prefix + 1) if 0 <= prefix <= MAX_PREFIX else range(0)
    for prefix in prefixes:
        grid = _grid(tokens - prefix, size)
        if grid is not None:
            return "NLC", prefix, grid
    return None


def _grid(count: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return rows and columns of ``count`` positions that have the picture's aspect."""
    if count <= 1:
        return None
    rows = round(math.sqrt(count * size[0] / size[1]))
    exact = rows > 0 and count % rows == 0 and _follows((rows, count // rows), size)
    return (rows, count // rows) if exact else None


def _follows(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a grid has the picture's aspect, to less than one cell."""
    return abs(grid[0] - grid[1] * size[0] / size[1]) < 1
