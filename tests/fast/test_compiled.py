"""A network cut in two is the same network, and so it is with its trunk in OpenVINO, or it runs without it."""

import ast
import json
import logging
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import nn

from architectures import densenet
from camserve.attribution.methods import METHODS
from camserve.build.archive import build_archive
from camserve.build.mar.file import extract_all
from camserve.build.mar.pack import settings_block, write_config, zip_archive
from camserve.build.mar.replay import SCRIPT, replay
from camserve.build.mar.unpack import read_contents
from camserve.build.recipe import load_recipe
from camserve.errors import CompilationUnavailable, ConfigError
from camserve.fast.closed_form import ClosedForm
from camserve.fast.compiled import HINTS, TAIL, TRUNK, WEIGHTS, convert_trunk, import_openvino
from camserve.fast.export import example
from camserve.fast.prepare import check_compiled, find_tails, prepare, write_compiled
from camserve.fast.split import Absent, Split, check_halves, split
from camserve.fast.tail_file import read_tail_file, write_tail_file
from camserve.files import sha256
from camserve.input_spec import InputSpec
from camserve.network.factory import MODEL_FILE
from camserve.network.output import ScoringNetwork
from camserve.serving.description import describe_model
from camserve.serving.load import load_archive, load_classifier, load_pipeline
from camserve.serving.seal import write_seal
from camserve.serving.selftest import SELFTEST_FILE
from camserve.settings import ModelSpec, RuntimeSpec, Settings, load_settings
from camserve.values import Layer, RawRequest
from model_file import quiet, write_pets
from small_networks import (
    NETWORKS,
    SHAPE,
    Small,
    deep,
    distance,
    objectives_for,
    pictures,
    settle,
    three_linear,
    two_linear,
    watch,
)

pytestmark = pytest.mark.server  # OpenVINO's compiler takes as long as a server to start

CPU = torch.device("cpu")


class Twice(nn.Module):
    """One activation module for two layers; the second call is the target. A skip connection passes the layer by."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 4, 1), nn.Conv2d(6, 6, 3, 1, 1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 5)

    def forward(self, pixels):
        low = self.act(self.first(pixels))
        high = self.act(self.second(low))
        return self.head((high + low).mean((2, 3)))


EVERY = {
    **{name: build for name, build in NETWORKS.items() if build not in (two_linear, three_linear)},  # as ``deep`` here
    "second call, skip connection": lambda: Small(settle(Twice()), Layer("act", call=1)),
    "densenet, edited in place": lambda: Small(densenet(), Layer("features")),
}
LARGE = {"class token", "densenet, edited in place"}  # whose export takes seconds
DRAWN = ("gradcam", "reciprocam", "gradient")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.server] * (name in LARGE)) for name in EVERY])
def test_the_two_halves_are_the_network(name, subtests):
    small = EVERY[name]()
    network = ScoringNetwork(small.network).eval().requires_grad_(False)
    halves = split(network, small.layer, example(SHAPE, torch.float32, CPU))
    joined = Split(network, *halves, small.layer)
    assert small.layer.name in dict(joined.named_modules())
    for count in (1, 3):
        objectives = objectives_for(*((row, row) for row in range(count)))
        whole, halved = (watch(Small(form, small.layer), pictures(count), tape=True) for form in (network, joined))
        with subtests.test(f"{count} pictures"):
            assert distance(halved.scores, whole.scores) <= 1e-5
            assert distance(halved.activations, whole.activations) <= 1e-5
            assert distance(halved.gradients(objectives), whole.gradients(objectives)) <= 1e-5
            for method in DRAWN:
                maps = (METHODS[method].run(output, objectives) for output in (halved, whole))
                assert distance(*maps) <= 1e-4, method  # reciprocam subtracts scores


def test_two_linear_layers_keep_their_closed_form_behind_a_trunk_that_is_compiled(tmp_path):
    """What the layer between them makes is watched in a tail that was written and read."""
    small, count = two_linear(), 3
    network = ScoringNetwork(small.network).eval().requires_grad_(False)
    trunk, tail = split(network, small.layer, example(SHAPE, torch.float32, CPU))
    write_tail_file(tail, tmp_path / TAIL)
    halved = Split(Absent(), trunk, read_tail_file(tmp_path / TAIL), small.layer)
    found = find_tails(halved, (small.layer,), SHAPE, {})[small.layer.name]
    assert isinstance(found.backward, ClosedForm)
    short = watch(Small(halved, small.layer), pictures(count), found)
    whole = watch(Small(network, small.layer), pictures(count))
    objectives = objectives_for(*((row, row) for row in range(count)))
    assert not short.scores.requires_grad
    assert distance(short.gradients(objectives), whole.gradients(objectives)) <= 1e-5


def test_only_the_tail_is_in_the_tail():
    network = ScoringNetwork(deep().network).eval().requires_grad_(False)
    trunk, tail = split(network, Layer("features"), example(SHAPE, torch.float32, CPU))
    assert "conv2d" in trunk.code
    assert "conv2d" not in tail.code
    assert len(list(tail.parameters())) == 4


class Ragged(nn.Module):
    def forward(self, pixels):
        return pixels[:2].flatten(1)[:, :5] * len(pixels)


def test_what_cannot_be_exported_is_not_for_here():
    with pytest.raises(CompilationUnavailable, match="cannot be exported by torch"):
        split(ScoringNetwork(Ragged()), Layer(""), example(SHAPE, torch.float32, CPU))


def test_several_layers_are_refused():
    block = {"model": {"factory": "a:b"}, "input": {}, "layers": [{"name": "a"}, {"name": "b"}]}
    with pytest.raises(ConfigError, match="openvino serves one target layer"):
        load_settings({**block, "runtime": {"mode": "openvino"}})
    with pytest.raises(ConfigError, match="did you mean 'openvino'"):
        RuntimeSpec(mode="openvina")


def test_each_mode_has_its_precisions():
    with pytest.raises(ConfigError, match=r"runtime.precision in mode eager 'int8' is not one of: fp32, bf16, fp16"):
        RuntimeSpec(precision="int8")
    with pytest.raises(ConfigError, match=r"runtime.precision in mode openvino 'fp16' is not one of: fp32, bf16, int8"):
        RuntimeSpec(mode="openvino", precision="fp16")
    assert RuntimeSpec(mode="openvino", precision="int8", threads=3).eager == RuntimeSpec(threads=3)
    assert RuntimeSpec(mode="openvino", precision="bf16").eager == RuntimeSpec(precision="bf16")


def settings_of(layer):
    shape = InputSpec(crop=SHAPE[1], resize=SHAPE[1])
    return Settings(ModelSpec("any:factory"), shape, (layer,), runtime=RuntimeSpec(mode="openvino"))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.server] * (name in LARGE)) for name in EVERY])
def test_a_trunk_in_openvino_gives_what_torch_gives(name, tmp_path, subtests):
    small = EVERY[name]()
    settings = settings_of(small.layer)
    write_compiled(ScoringNetwork(EVERY[name]().network).eval().requires_grad_(False), settings, tmp_path)
    network = ScoringNetwork(small.network).eval().requires_grad_(False)
    plain = ScoringNetwork(EVERY[name]().network).eval().requires_grad_(False)
    prepared = prepare(network, settings.layers, SHAPE, settings.runtime, {}, tmp_path)
    assert isinstance(prepared.network, Split)
    for count in (1, 3):
        objectives = objectives_for(*((row, row) for row in range(count)))
        whole = watch(Small(plain, small.layer), pictures(count), tape=True)
        halved = watch(Small(prepared.network, small.layer), pictures(count), tape=True)
        with subtests.test(f"{count} pictures"):
            assert distance(halved.scores, whole.scores) <= 1e-4
            assert distance(halved.activations, whole.activations) <= 1e-4
            for method in DRAWN:
                maps = (METHODS[method].run(output, objectives) for output in (halved, whole))
                assert distance(*maps) <= 1e-3, method  # reciprocam subtracts scores


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A small network's files of mode openvino, and the network in that form."""
    folder, small = tmp_path_factory.mktemp("converted"), deep()
    settings = settings_of(small.layer)
    spec = write_compiled(ScoringNetwork(deep().network).eval().requires_grad_(False), settings, folder)
    network = ScoringNetwork(small.network).eval().requires_grad_(False)
    halved = prepare(network, settings.layers, SHAPE, settings.runtime, {}, folder).network
    return folder, replace(settings, compiled=spec), halved


def test_what_one_pass_made_stays_after_the_next(converted):
    trunk = converted[2].trunk
    first, *_ = trunk(pictures(2))
    kept = first.clone()
    trunk(10 * pictures(2))
    assert torch.equal(first, kept)


def test_the_same_network_gives_the_same_bytes(converted, tmp_path):
    folder, settings, _ = converted
    again = write_compiled(ScoringNetwork(deep().network).eval().requires_grad_(False), settings, tmp_path)
    assert again == settings.compiled
    assert (tmp_path / TRUNK).read_bytes() == (folder / TRUNK).read_bytes()


def test_a_trunk_that_gives_something_else_is_refused(converted):
    halved, layer = converted[2], converted[1].layers[0]
    pixels = example(SHAPE, torch.float32, CPU)
    check_halves(halved.whole, halved, layer, pixels, "fp32")
    wrong = Split(halved.whole, lambda shown: tuple(1.01 * made for made in halved.trunk(shown)), halved.tail, layer)
    with pytest.raises(CompilationUnavailable, match=r"the activation of the converted network is 0.01 off"):
        check_halves(halved.whole, wrong, layer, pixels, "fp32")


def test_the_maker_of_openvino_is_told_nothing():
    import_openvino()
    assert not isinstance(sys.modules["openvino_telemetry"], ModuleType)


def test_a_gpu_another_precision_and_a_changed_file_are_found_before_anything_is_loaded(converted, tmp_path):
    folder, settings, _ = converted
    check_compiled(folder, settings, CPU)
    with pytest.raises(CompilationUnavailable, match="OpenVINO is for CPUs"):
        check_compiled(folder, settings, torch.device("cuda"))
    int8 = replace(settings, runtime=RuntimeSpec(mode="openvino", precision="int8"))
    with pytest.raises(ConfigError, match="int8 needs an archive that was built with it"):
        check_compiled(folder, int8, CPU)
    with pytest.raises(ConfigError, match="needs an archive that was built with it"):
        check_compiled(folder, replace(settings, compiled=None), CPU)
    for name in (TRUNK, WEIGHTS, TAIL):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / WEIGHTS).write_bytes(b"changed since")
    with pytest.raises(ConfigError, match=r"trunk.bin has the SHA-256"):
        check_compiled(tmp_path, settings, CPU)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A small archive of mode openvino, unpacked, with its settings and its file."""
    recipe = load_recipe(write_pets(tmp_path_factory.mktemp("pets")))
    recipe = replace(recipe, runtime=RuntimeSpec(mode="openvino"))
    archive = build_archive(recipe, tmp_path_factory.mktemp("store"), quiet, fresh_process=False)
    folder = tmp_path_factory.mktemp("unpacked") / "pets"
    extract_all(archive, folder)
    return folder, read_contents(archive).settings, archive


def load(pets):
    return load_archive(pets[0], pets[1], "pets", "1.0", CPU)


def describe(pipeline):
    return describe_model(pipeline.model, pipeline.heads, pipeline.settings, slowed=pipeline.slowed)["runtime"]


def test_an_archive_of_mode_openvino_passes_its_self_test_and_says_how_it_runs(pets, caplog):
    pipeline = load(pets)
    assert isinstance(pipeline.network, Split)
    assert pipeline.monitor.selftest_ok
    assert describe(pipeline)["mode"] == "openvino"
    assert "slowed" not in describe(pipeline)
    assert not caplog.records


def test_a_network_in_openvino_needs_the_eager_one_for_gradients_of_pixels_alone(pets, tmp_path):
    folder, settings, archive = pets
    assert isinstance(load(pets).network.whole, Absent)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for method in ("gradient", "cmwp"):
        asking = replace(settings, methods=("gradcam", method))
        sealed = replace(asking, seal=write_seal(copy, asking))
        assert isinstance(load((copy, sealed, archive)).network.whole, ScoringNetwork), method


def test_without_a_self_test_that_refuses_openvino_is_compared_with_the_eager_network(pets):
    folder, settings, archive = pets
    for selftest in ("warn", "off"):
        network = load((folder, replace(settings, selftest=selftest), archive)).network
        assert isinstance(network.whole, ScoringNetwork)


def test_a_worker_in_openvino_refuses_changed_weights_that_it_does_not_read(pets, tmp_path):
    folder, settings, archive = pets
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / settings.model.weights).write_bytes(b"changed since")
    with pytest.raises(ConfigError, match=r"weights.safetensors has the SHA-256"):
        load((tmp_path / "copy", settings, archive))


def test_a_worker_in_openvino_imports_neither_the_network_nor_the_compiler_of_torch(pets, tmp_path):
    zipfile.ZipFile(pets[2]).extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"{SCRIPT}\nprint(sorted(sys.modules))", tmp_path, "1", "openvino"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(ast.literal_eval(done.stdout))
    assert "openvino" in modules
    assert not modules & {MODEL_FILE, "torch._dynamo", "torch._export.serde"}


def test_without_openvino_the_network_runs_eager_and_says_so_once(pets, monkeypatch, caplog, chelsea):
    row = RawRequest(chelsea, {"explain": True})
    (fast,) = load(pets).answer([row])
    monkeypatch.setitem(sys.modules, "openvino", None)
    pipeline = load(pets)
    assert isinstance(pipeline.network, ScoringNetwork)
    assert pipeline.monitor.selftest_ok
    (warning,) = caplog.records
    assert "runs in mode eager, precision fp32: openvino cannot be imported" in warning.getMessage()
    assert describe(pipeline)["mode"] == "eager"
    assert "pip install openvino" in describe(pipeline)["slowed"]
    (slow,) = pipeline.answer([row])
    scores = [json.loads(answer.body)["predictions"][0]["score"] for answer in (fast, slow)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_beside_openvino_torch_takes_one_thread_but_for_slow_methods(pets, chelsea):
    folder, settings, _ = pets
    settings = replace(settings, methods=("gradcam", "gradient", "reciprocam"))
    eager = replace(settings, runtime=settings.runtime.eager)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = {
            (given.runtime.mode, method): threads_of(load_pipeline(folder, given, "pets", "1.0", CPU), chelsea, method)
            for given in (settings, eager)
            for method in settings.methods
        }
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert {key for key, threads in found.items() if threads == {1}} == {("openvino", "gradcam")}
    assert all(threads == {2} for key, threads in found.items() if key != ("openvino", "gradcam"))


def threads_of(pipeline, photo, method):
    """Return how many threads torch has while the network runs."""
    seen = set()
    hook = pipeline.network.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    (answer,) = pipeline.answer([RawRequest(photo, {"method": method, "explain": True})])
    hook.remove()
    assert json.loads(answer.body)["explanations"][0]["status"] == "ok"
    return seen


def test_other_answers_of_openvino_than_at_build_leave_the_network_eager(pets, tmp_path, caplog):
    folder, settings, _ = pets
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    recorded = json.loads((copy / SELFTEST_FILE).read_text())
    raise_scores(recorded["answers"])
    (copy / SELFTEST_FILE).write_text(json.dumps(recorded))
    sealed = replace(settings, seal=write_seal(copy, settings))
    pipeline = load_archive(copy, sealed, "pets", "1.0", CPU)
    assert isinstance(pipeline.network, ScoringNetwork)
    assert pipeline.monitor.selftest_ok
    assert describe(pipeline)["mode"] == "eager"
    assert "as when it was built; OpenVINO computes otherwise on this machine" in describe(pipeline)["slowed"]
    (warning,) = caplog.records
    assert "runs in mode eager, precision fp32: samples/" in warning.getMessage()
    write_config({"camserve": settings_block(sealed)}, copy)
    packed = zip_archive(copy, tmp_path / "pets.mar")
    with pytest.raises(ConfigError, match="it runs in mode eager: samples/"):  # and so it loads there
        replay(packed, 1, mode="openvino")
    raise_scores(recorded["eager"])
    (copy / SELFTEST_FILE).write_text(json.dumps(recorded))
    sealed = replace(settings, seal=write_seal(copy, settings))
    with pytest.raises(ConfigError, match="as when it was built; weights, input or layers were changed"):
        load_archive(copy, sealed, "pets", "1.0", CPU)


def raise_scores(answers):
    for answer in answers.values():
        answer["predictions"][0]["score"] += 1


def test_a_trunk_that_cannot_be_read_leaves_the_network_eager(pets, tmp_path, caplog):
    folder, settings, _ = pets
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / TRUNK).write_text("<net/>")
    spec = replace(settings.compiled, trunk_sha256=sha256(copy / TRUNK))
    assert isinstance(load_classifier(copy, replace(settings, compiled=spec), CPU).network, ScoringNetwork)
    assert "cannot be loaded" in caplog.text


def build_bf16(recipe_folder, store):
    recipe = replace(load_recipe(write_pets(recipe_folder)), runtime=RuntimeSpec(mode="openvino", precision="bf16"))
    return build_archive(recipe, store, quiet, fresh_process=False)


@pytest.fixture(scope="module")
def bf16_pets(tmp_path_factory):
    """An archive of bf16, unpacked, with its settings."""
    archive = build_bf16(tmp_path_factory.mktemp("pets"), tmp_path_factory.mktemp("store"))
    folder = tmp_path_factory.mktemp("unpacked") / "pets"
    extract_all(archive, folder)
    return folder, read_contents(archive).settings


def test_a_builder_without_bf16_builds_for_servers_that_have_it(tmp_path, monkeypatch):
    monkeypatch.setitem(HINTS, "bf16", "f32")  # what OpenVINO makes of bf16 where the processor has none
    assert read_contents(build_bf16(tmp_path, tmp_path)).settings.runtime.precision == "bf16"


def test_bf16_that_openvino_computes_in_float32_is_called_fp32_once_in_the_log(bf16_pets, monkeypatch, caplog):
    monkeypatch.setitem(HINTS, "bf16", "f32")
    pipeline = load(bf16_pets)
    assert isinstance(pipeline.network, Split)
    assert pipeline.monitor.selftest_ok
    runtime = describe(pipeline)
    assert (runtime["mode"], runtime["precision"]) == ("openvino", "fp32")
    assert runtime["slowed"] == "OpenVINO computes in fp32 here: this processor has no bf16"
    (warning,) = caplog.records
    assert warning.getMessage() == "camserve: OpenVINO computes in fp32 here: this processor has no bf16"


def test_bf16_is_named_as_openvino_says_it_computes(bf16_pets):
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert describe(load(bf16_pets))["precision"] == ("bf16" if "BF16" in capabilities else "fp32")


def test_an_archive_is_not_built_in_a_mode_that_it_cannot_be_tried_in(tmp_path, monkeypatch):
    recipe = replace(load_recipe(write_pets(tmp_path)), runtime=RuntimeSpec(mode="openvino"))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"runtime.mode openvino: openvino cannot be imported .* or leave"):
        build_archive(recipe, tmp_path, quiet, fresh_process=False)


class Unknown(nn.Module):
    """Ends in an operator that OpenVINO does not have."""

    def forward(self, pixels):
        return torch.special.bessel_j0(pixels)


def test_a_conversion_that_fails_leaves_the_logs_of_the_process_as_they_were():
    """OpenVINO raises the root logger's level to ERROR and, where it fails, leaves it there."""
    root = logging.getLogger()
    before = root.level, list(root.filters), list(root.handlers)
    pixels = torch.rand(2, 3, 4, 4)
    with pytest.raises(CompilationUnavailable, match="OpenVINO cannot convert the network"):
        convert_trunk(torch.fx.symbolic_trace(Unknown()), pixels)
    assert (root.level, list(root.filters), list(root.handlers)) == before
