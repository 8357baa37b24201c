"""The network of an archive: built, filled and written as what a server loads without running a pickle."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from camserve.build.checkpoint import find_state_dict, read_checkpoint
from camserve.build.convert import export_program, stage_program
from camserve.build.local_modules import local_modules
from camserve.build.locate import find_file, find_weights
from camserve.build.needs import STOCK_TORCH, describe_needs
from camserve.build.pack import PROGRAM, WEIGHTS
from camserve.build.pretrained import digest
from camserve.build.recipe import Recipe
from camserve.files import sha256
from camserve.network.factory import build_network
from camserve.network.load import fill
from camserve.network.program import load_program
from camserve.network.weights import VERSIONS, versions_of
from camserve.settings import ModelSpec
from camserve.values import Progress


def stage_network(
    recipe: Recipe, content: Path, size: tuple[int, int], report: Progress
) -> tuple[nn.Module, ModelSpec]:
    """Return a recipe's network for pictures of ``size``, and write what loads it again to ``content``.

    ``report`` gets what was assumed. ConfigError: the network cannot be built, or its weights do not fit.
    """
    given = find_weights(recipe.weights)
    traits: dict[str, Any] = {"task": recipe.task, "threshold": recipe.threshold}
    spec = ModelSpec(weights=PROGRAM, **traits)
    if recipe.factory is not None or not stage_program(given, size, content / PROGRAM):
        spec = _code_of(recipe, traits)
        network = build_network(spec, content)
        _fill_from(given, network, recipe, report)
        if recipe.export:
            spec = ModelSpec(weights=PROGRAM, **traits)
            export_program(network, size, content / PROGRAM)
            report(f"exported: a server needs no model code, and torch {torch.__version__} or later ({STOCK_TORCH})")
        else:
            _save_weights(network, content / WEIGHTS)
            for line in describe_needs(network, spec, recipe.bundle):
                report(line)
    if spec.weights == PROGRAM:
        network = load_program(content / PROGRAM, None, size)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    report(f"loaded {recipe.weights}: {millions:.1f} M parameters")
    hashes = sha256(content / spec.weights), digest(given)
    return network, dataclasses.replace(spec, sha256=hashes[0], source_sha256=hashes[1])


def _code_of(recipe: Recipe, traits: Mapping[str, Any]) -> ModelSpec:
    if recipe.model_file is None:
        return ModelSpec(recipe.factory, recipe.args, **traits)
    file = find_file(recipe.model_file)
    return ModelSpec(recipe.factory, recipe.args, file.name, local_modules(file), WEIGHTS, **traits)


def _fill_from(path: Path, network: nn.Module, recipe: Recipe, report: Progress) -> None:
    loaded = read_checkpoint(path, recipe.trust_pickle)
    weights, assumed = find_state_dict(network, loaded, path.name, recipe.weights_key)
    short = {str(tensor.dtype).split(".")[-1] for tensor in weights.values() if _is_short(tensor)}
    if short:
        assumed.append(f"{' and '.join(sorted(short))} numbers, which are served as float32")
    if assumed:
        report(f"{path.name}: {', '.join(assumed)}")
    fill(network, weights)


def _is_short(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype.itemsize < torch.float32.itemsize


def _save_weights(network: nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    # Clones: safetensors refuses tensors that share memory, and tied weights do.
    state = network.state_dict()
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, path, {VERSIONS: json.dumps(versions_of(state), sort_keys=True)})
