"""Building a .mar: everything that predicting and explaining needs, tried before it is written.

The archive is self-contained: it carries the served part of this package, the weights as
safetensors, labels, settings and sample photos. The same inputs give the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn

import camserve
from camserve.network.load import build_network, fill, load_network
from camserve.fast.prepare import write_compiled
from camserve.fast.compiled import TAIL, TRUNK
from camserve.errors import ConfigError, CompilationUnavailable
from camserve.serving.selftest import GOLDEN, record
from camserve.monitor.baseline import BASELINE
from camserve.serving.load import load_pipeline
from camserve.build.probe import check_layer, find_layer
from camserve.network.program import load_program
from camserve.build.recipe import (
    Recipe,
    find_file,
    input_spec,
    label_names,
    module_path,
    read_state_dict,
    stage_program,
)
from camserve.network.output import ScoringNetwork
from camserve.settings import CompiledSpec, InputSpec, ModelSpec, Settings, load_settings
from camserve.values import Layer, RawRequest
from camserve.files import sha256

Report = Callable[[str], None]

NOT_SERVED = {"bench", "build", "cli", "drift", "operate"}  # rooms that stay at home
ENTRY = "gradcam_handler.py"
WEIGHTS = "weights.safetensors"
PROGRAM = "program.pt2"
STORED = (WEIGHTS, PROGRAM, TRUNK, TAIL)
LABELS = "labels.txt"
PATTERN = "samples/pattern.png"
EXPECTED_TOLERANCE = 0.02  # of a probability
CONFIG = "model-config.yaml"
MANIFEST = "MAR-INF/MANIFEST.json"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold
CREATED_ON = "01/01/1980 00:00:00"
SERVING = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 8, "maxBatchDelay": 10, "responseTimeout": 30}


def build_archive(recipe: Recipe, out: Path, report: Report) -> Path:
    """Write ``out``/NAME.mar and return its path; ``report`` is told of every step.

    ConfigError: something in the recipe does not work; nothing is written then.
    """
    with tempfile.TemporaryDirectory(prefix="camserve-archive-") as name:
        content = Path(name) / "content"
        _stage_code(recipe, content)
        network, settings = _stage_model(recipe, content, report)
        del network
        _try_samples(content, settings, recipe, report)
        packed = _pack(recipe, content, Path(name))
        target = out / f"{recipe.name}.mar"
        out.mkdir(parents=True, exist_ok=True)
        shutil.move(str(packed), target)
    report(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB, sha256 {sha256(target)[:12]})")
    return target


def _stage_code(recipe: Recipe, content: Path) -> None:
    """Lay out the code that the archive carries: the served rooms, the entry file, the bundled modules."""
    package = Path(camserve.__file__).parent
    shutil.copytree(package, content / package.name, ignore=_stays_at_home)
    for module in recipe.bundle:
        source = module_path(module)
        if source.is_file():
            shutil.copy(source, content / source.name)
            continue
        if compiled := [path.name for path in source.rglob("*.so")]:
            raise ConfigError(f"bundle: {module} holds compiled code ({compiled[0]}); install it on the server instead")
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(source, content / source.name, ignore=ignore)
    if recipe.model_file:
        shutil.copy(find_file(recipe.model_file), content / Path(recipe.model_file).name)


def _stays_at_home(_folder: str, names: list[str]) -> set[str]:
    return {name for name in names if Path(name).stem in NOT_SERVED or name == "__pycache__"}


def _stage_model(recipe: Recipe, content: Path, report: Report) -> tuple[nn.Module, Settings]:
    geometry = input_spec(recipe.preprocess)
    network, spec = _stage_network(recipe, content, geometry)
    report(f"loaded {recipe.weights}: {sum(each.numel() for each in network.parameters()) / 1e6:.1f} M parameters")
    network = ScoringNetwork(network, recipe.task == "binary").eval()
    names = (recipe.layer,) if isinstance(recipe.layer, str) else recipe.layer
    layers = tuple(_target_layer(network, name, geometry) for name in names)
    for layer in layers:
        report(f"target layer {layer.name}: {layer.layout}, grid {layer.grid[0]} x {layer.grid[1]}")
    with torch.inference_mode():
        classes = network(torch.zeros(2, 3, *geometry.size)).shape[1]
    (content / LABELS).write_text("".join(f"{label}\n" for label in label_names(recipe, classes)), encoding="utf-8")
    settings = Settings(
        model=spec,
        input=geometry,
        layers=layers,
        labels=LABELS,
        runtime=recipe.runtime,
        methods=recipe.methods,
        defaults=recipe.defaults,
        limits=recipe.limits,
        samples=_stage_samples(content, recipe),
    )
    if settings.runtime.mode == "aot":
        settings = dataclasses.replace(settings, compiled=_stage_compiled(content, settings, report))
    block = json.loads(json.dumps(dataclasses.asdict(settings)))  # tuples become lists
    config = {**SERVING, **recipe.serving, "camserve": block}
    (content / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return network, load_settings(block)


def _stage_compiled(content: Path, settings: Settings, report: Report) -> CompiledSpec:
    """Compile the trunk for this machine, on its GPU if it has one."""
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    network = load_network(content, settings, device)
    try:
        spec = write_compiled(network, settings, device, content)
    except CompilationUnavailable as error:
        raise ConfigError(f"runtime.mode aot: {error}") from None
    report(f"compiled the trunk for {spec.machine}")
    return spec


def _stage_network(recipe: Recipe, content: Path, geometry: InputSpec) -> tuple[nn.Module, ModelSpec]:
    given = find_file(recipe.weights)
    traits: dict[str, Any] = {"task": recipe.task, "threshold": recipe.threshold}
    if recipe.factory is None and stage_program(given, geometry.size, content / PROGRAM):
        spec = ModelSpec(weights=PROGRAM, **traits)
        network = load_program(content / PROGRAM, None, geometry.size)
    else:
        file = Path(recipe.model_file).name if recipe.model_file else None
        spec = ModelSpec(recipe.factory, recipe.args, file, WEIGHTS, **traits)
        network = build_network(spec, content)
        fill(network, read_state_dict(given))
        _save_weights(network, content / WEIGHTS)
    hashes = sha256(content / spec.weights), sha256(given)
    return network, dataclasses.replace(spec, sha256=hashes[0], source_sha256=hashes[1])


def _save_weights(network: nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    # Clones: safetensors refuses tensors that share memory, and tied weights do.
    save_file({name: each.detach().clone().contiguous() for name, each in network.state_dict().items()}, path)


def _target_layer(network: nn.Module, name: str, geometry: InputSpec) -> Layer:
    return find_layer(network, geometry.size) if name == "auto" else check_layer(network, name, geometry.size)


def _stage_samples(content: Path, recipe: Recipe) -> tuple[str, ...]:
    (content / "samples").mkdir()
    for sample in recipe.samples:
        source = find_file(sample)
        shutil.copy(source, content / "samples" / source.name)
    if not recipe.samples:
        _pattern().save(content / PATTERN)
        return (PATTERN,)
    return tuple(f"samples/{find_file(sample).name}" for sample in recipe.samples)


def _pattern() -> Image.Image:
    """Return a picture with edges and colours for archives without a photo: something for the self-test to look at."""
    rows, columns = np.mgrid[0:256, 0:256]
    waves = [np.sin(rows / 9) + np.cos(columns / 7), np.sin((rows + columns) / 13), np.cos(np.hypot(rows, columns) / 5)]
    return Image.fromarray(np.stack([wave * 60 + 128 for wave in waves], axis=2).astype(np.uint8))


def _try_samples(content: Path, settings: Settings, recipe: Recipe, report: Report) -> None:
    """Send every sample through prediction and every method. ConfigError: one of them does not work."""
    pipeline = load_pipeline(content, settings, recipe.name, recipe.version, torch.device("cpu"))
    golden = record(pipeline, content)
    for sample in settings.samples:
        best = golden[sample]["predictions"][0]
        _check_expected(recipe, sample, best)
        for method in settings.methods:
            row = RawRequest((content / sample).read_bytes(), {"method": method, "explain": True})
            (explained,) = json.loads(pipeline.answer([row])[0].body)["explanations"]
            blank_is_fine = sample == PATTERN or method != settings.defaults.method
            if explained["status"] == "failed" or (explained["status"] == "blank" and not blank_is_fine):
                raise ConfigError(f"{sample}: method {method} gives a map that is {explained['status']}")
        report(f"{sample}: {best['label']} {best['probability']:.3f}, explained by {', '.join(settings.methods)}")
    (content / GOLDEN).write_text(json.dumps(golden, indent=1), encoding="utf-8")


def _check_expected(recipe: Recipe, sample: str, best: dict[str, Any]) -> None:
    expected = recipe.expect.get(Path(sample).name)
    if expected is None:
        return
    if best["label"] != expected.label or abs(best["probability"] - expected.probability) > EXPECTED_TOLERANCE:
        raise ConfigError(
            f"{sample}: {best['label']} {best['probability']:.3f}, not {expected.label} {expected.probability:.3f} as "
            "expected; are preprocess and labels those of the weights?"
        )


def _pack(recipe: Recipe, content: Path, work: Path) -> Path:
    """Run torch-model-archiver, then zip what it laid out with sorted names and fixed dates."""
    temporary = work / "tmp"
    temporary.mkdir()
    config = shutil.move(str(content / CONFIG), work / CONFIG)
    command = [sys.executable, "-m", "model_archiver.model_packaging"]
    command += ["--model-name", recipe.name, "--version", recipe.version, "--archive-format", "no-archive"]
    command += ["--handler", str(Path(camserve.__file__).parent.parent / ENTRY), "--config-file", str(config)]
    command += ["--extra-files", str(content), "--export-path", str(work), "--force"]
    # The archiver empties TMPDIR/NAME, which two builds at once would share.
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    laid_out = work / recipe.name
    if done.returncode or not laid_out.is_dir():
        raise ConfigError(f"torch-model-archiver failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return _zip(laid_out, work / f"{recipe.name}.mar")


def add_baseline(source: Path, out: Path, baseline: bytes) -> None:
    """Write the archive ``source`` with this baseline to ``out``, which may be ``source`` itself; all else stays."""
    with tempfile.TemporaryDirectory(prefix="camserve-archive-") as name:
        folder = Path(name) / "content"
        with zipfile.ZipFile(source) as archive:
            archive.extractall(folder)
        (folder / BASELINE).write_bytes(baseline)
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        watched = {"baseline": BASELINE, "baseline_sha256": sha256(folder / BASELINE)}
        config["camserve"].setdefault("monitoring", {}).update(watched)
        load_settings(config["camserve"])
        (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(str(_zip(folder, Path(name) / out.name)), out)


def _zip(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.external_attr = 0o644 << 16
                # Weights hardly shrink, and stored ones load faster.
                entry.compress_type = zipfile.ZIP_STORED if name in STORED else zipfile.ZIP_DEFLATED
                archive.writestr(entry, _dated(path.read_bytes()) if name == MANIFEST else path.read_bytes())
    return target


def _dated(manifest: bytes) -> bytes:
    content = {**json.loads(manifest), "createdOn": CREATED_ON}
    return json.dumps(content, indent=2, sort_keys=True).encode()
