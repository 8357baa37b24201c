"""A small network of two classes, written as a person's own: code, weights and labels."""

from __future__ import annotations

from pathlib import Path

import torch

from camserve.build.recipe import OutputChoice, Recipe
from camserve.input_spec import InputSpec


def write_network(folder: Path, name: str, code: str) -> Recipe:
    """Write ``code``, which defines ``Net`` with a layer ``features``, into a folder; return its recipe."""
    (folder / "net.py").write_text(code, encoding="utf-8")
    scope: dict[str, type[torch.nn.Module]] = {}
    exec(code, scope)
    torch.save(scope["Net"]().state_dict(), folder / "net.pt")
    (folder / "labels.txt").write_text("cat\ndog\n", encoding="utf-8")
    return Recipe(
        name=name,
        weights=str(folder / "net.pt"),
        factory="Net",
        model_file=str(folder / "net.py"),
        labels=str(folder / "labels.txt"),
        preprocess=InputSpec(resize=64, crop=64),
        output=OutputChoice(activation="none"),  # weights at random may give scores between 0 and 1 alone
        layer="features",
    )
