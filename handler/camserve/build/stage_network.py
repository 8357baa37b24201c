"""The network of an archive: built, filled and written as what a server loads without running a pickle."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from camserve.build.local_modules import local_modules
from camserve.build.locate import find_file, find_weights
from camserve.build.mar.needs import describe_needs
from camserve.build.mar.pack import PROGRAM, WEIGHTS
from camserve.build.mar.stock import STOCK_TORCH
from camserve.build.recipe import Recipe
from camserve.build.weights.checkpoint import find_state_dict
from camserve.build.weights.convert import export_program, stage_program
from camserve.build.weights.pretrained import digest
from camserve.build.weights.read import read_checkpoint
from camserve.errors import ConfigError
from camserve.files import sha256
from camserve.network.factory import build_network, plain_network
from camserve.network.load import fill
from camserve.network.program import load_program
from camserve.network.weights import VERSIONS, versions_of
from camserve.settings import ModelSpec
from camserve.values import InputShape, Progress


def stage_network(recipe: Recipe, content: Path, shape: InputShape, report: Progress) -> tuple[nn.Module, ModelSpec]:
    """Return a recipe's network for pictures of ``shape``, and write what loads it again to ``content``.

    ``report`` gets what was assumed. ConfigError: the network cannot be built, or its weights do not fit.
    """
    given = find_weights(recipe.weights)
    target = content / PROGRAM
    if recipe.factory is None and stage_program(given, shape, target):
        network, spec = load_program(target, None, shape), ModelSpec(weights=PROGRAM)
    else:
        network, spec = _make_network(recipe, given, content, report)
        if recipe.export:
            export_program(network, shape, target)
            report(f"exported: a server needs no model code, and torch {torch.__version__} or later ({STOCK_TORCH})")
            network, spec = load_program(target, None, shape), ModelSpec(weights=PROGRAM)
        else:
            _save_weights(network, content / WEIGHTS)
            for line in describe_needs(network, spec, recipe.bundle):
                report(line)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    report(f"loaded {recipe.weights}: {millions:.1f} M parameters")
    hashes = sha256(content / spec.weights), digest(given)
    return network, dataclasses.replace(spec, sha256=hashes[0], source_sha256=hashes[1])


def _make_network(recipe: Recipe, weights: Path, content: Path, report: Progress) -> tuple[nn.Module, ModelSpec]:
    """Return the factory's network with its weights, or the network that a trusted pickle holds, for export."""
    loaded = read_checkpoint(weights, recipe.trust_pickle)
    if recipe.factory is None:
        return plain_network(_whole_network(loaded, weights, recipe.export)), ModelSpec(weights=PROGRAM)
    spec = _code_spec(recipe)
    network = build_network(spec, content)
    _fill_from(loaded, network, weights.name, recipe, report)
    return network, spec


def _code_spec(recipe: Recipe) -> ModelSpec:
    file = find_file(recipe.model_file) if recipe.model_file else None
    return ModelSpec(
        recipe.factory,
        recipe.args,
        file.name if file else None,
        local_modules(file) if file else (),
    )


def _whole_network(loaded: object, weights: Path, export: bool) -> nn.Module:
    parts = (loaded, *loaded.values()) if isinstance(loaded, Mapping) else (loaded,)
    network = next((part for part in parts if isinstance(part, nn.Module)), None)
    if network is None:
        raise ConfigError(f"factory is missing: {weights.name} holds weights alone, and it says whose they are")
    if not export:
        raise ConfigError(f"{weights.name} is a whole network: --export carries it without its code; or give --factory")
    return network


def _fill_from(loaded: object, network: nn.Module, file: str, recipe: Recipe, report: Progress) -> None:
    weights, assumed = find_state_dict(network, loaded, file, recipe.weights_key)
    short = {str(tensor.dtype).split(".")[-1] for tensor in weights.values() if _is_short(tensor)}
    if short:
        assumed.append(f"{' and '.join(sorted(short))} numbers, which are served as float32")
    if assumed:
        report(f"{file}: {', '.join(assumed)}")
    fill(network, weights)


def _is_short(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype.itemsize < torch.float32.itemsize


def _save_weights(network: nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    # Clones: safetensors refuses tensors that share memory, and tied weights do.
    state = network.state_dict()
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, path, {VERSIONS: json.dumps(versions_of(state), sort_keys=True)})
