"""The network of an archive: built, filled and written as what a server loads without running a pickle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from torch import nn

from camserve.build.checkpoint import find_state_dict, read_checkpoint
from camserve.build.convert import stage_program
from camserve.build.local_modules import local_modules
from camserve.build.locate import find_file
from camserve.build.pack import PROGRAM, WEIGHTS
from camserve.build.recipe import Recipe
from camserve.files import sha256
from camserve.network.factory import build_network
from camserve.network.load import fill
from camserve.network.program import load_program
from camserve.network.weights import VERSIONS, versions_of
from camserve.settings import ModelSpec
from camserve.values import InputShape, Progress


def stage_network(recipe: Recipe, content: Path, shape: InputShape, report: Progress) -> tuple[nn.Module, ModelSpec]:
    """Return a recipe's network for pictures of ``shape``, and write what loads it again to ``content``.

    ``report`` gets what was assumed. ConfigError: the network cannot be built, or its weights do not fit.
    """
    given = find_file(recipe.weights)
    if recipe.factory is None and stage_program(given, shape, content / PROGRAM):
        spec = ModelSpec(weights=PROGRAM)
        network = load_program(content / PROGRAM, None, shape)
    else:
        file = Path(recipe.model_file).name if recipe.model_file else None
        modules = local_modules(find_file(recipe.model_file)) if recipe.model_file else ()
        spec = ModelSpec(recipe.factory, recipe.args, file, modules, WEIGHTS)
        network = build_network(spec, content)
        _fill_from(given, network, recipe, report)
        _save_weights(network, content / WEIGHTS)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    report(f"loaded {recipe.weights}: {millions:.1f} M parameters")
    hashes = sha256(content / spec.weights), sha256(given)
    return network, dataclasses.replace(spec, sha256=hashes[0], source_sha256=hashes[1])


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
