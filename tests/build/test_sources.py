"""Each kind of source gives the archive that its owner would have described by hand."""

import io
import json
import shutil
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from camserve.build.check import check_recipe
from camserve.build.locate import find_file
from camserve.build.mar.unpack import open_archive, read_contents
from camserve.build.preprocess.agreement import check_agreement
from camserve.build.recipe import load_recipe
from camserve.build.sources import SOURCES, describe_source
from camserve.build.weights.convert import export_program
from camserve.build.weights.pretrained import read_pretrained
from camserve.cli import main
from camserve.errors import ConfigError
from camserve.fast.compiled import import_openvino
from camserve.values import RawRequest
from model_file import NET, quiet, write_pets

pytestmark = pytest.mark.usefixtures("one_process")

LABELS = {0: "cat", 1: "dog", 2: "bird"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def answers(archive, *photos, **options):
    with open_archive(archive) as pipeline:
        rows = [RawRequest(photo, options) for photo in photos]
        return [json.loads(response.body) for response in pipeline.answer(rows)]


def probabilities(answer):
    return np.array([entry["probability"] for entry in sorted(answer["predictions"], key=lambda entry: entry["index"])])


def expected(network, pixels):
    with torch.no_grad():
        output = network.eval()(pixels[None])
    return getattr(output, "logits", output).softmax(1)[0].numpy()


def opened(photo):
    return Image.open(io.BytesIO(photo))


# transformers


def save_pretrained(folder, kind="vit"):
    import transformers

    torch.manual_seed(0)
    if kind == "vit":
        config = transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=32,
            patch_size=8,
        )
        config.id2label, config.label2id = LABELS, {name: index for index, name in LABELS.items()}
        network = transformers.ViTForImageClassification(config)
        processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    else:
        config = transformers.BitConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_groups=4, num_labels=3
        )
        network = transformers.BitForImageClassification(config)
        processor = transformers.BitImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 40, "width": 40})
    network.save_pretrained(folder, max_shard_size="2KB" if kind == "bit" else "1GB")
    processor.save_pretrained(folder)
    return network, processor


@pytest.mark.parametrize("kind", ["vit", "bit"])
def test_a_folder_of_transformers_is_served_as_transformers_runs_it(here, chelsea, capsys, kind):
    network, processor = save_pretrained(here / "pets", kind)
    assert main(["archive", "hf:pets", "--save-recipe", "recipes/pets.yaml"]) == 0
    printed = capsys.readouterr().err
    assert "from preprocessor_config.json" in printed
    (answer,) = answers(here / "model_store/pets.mar", chelsea)
    pixels = processor(opened(chelsea), return_tensors="pt")["pixel_values"][0]
    assert probabilities(answer) == pytest.approx(expected(network, pixels), abs=5e-3)
    assert answer["explanations"][0]["status"] == "ok"
    if kind == "bit":
        assert len(list((here / "pets").glob("model-*.safetensors"))) > 1, "shards are read too"
    else:
        assert {entry["label"] for entry in answer["predictions"]} == set(LABELS.values())
        assert main(["archive", "recipes/pets.yaml", "--out", "again"]) == 0
        assert (here / "again/pets.mar").read_bytes() == (here / "model_store/pets.mar").read_bytes()


@pytest.mark.server
def test_an_exported_network_is_served_without_its_packages(here, chelsea, capsys, monkeypatch):
    network, processor = save_pretrained(here / "pets")
    assert main(["archive", "hf:pets", "--export"]) == 0
    assert f"a server needs no model code, and torch {torch.__version__} or later" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "transformers", None)  # importing it fails
    (answer,) = answers(here / "model_store/pets.mar", chelsea)
    pixels = processor(opened(chelsea), return_tensors="pt")["pixel_values"][0]
    assert probabilities(answer) == pytest.approx(expected(network, pixels), abs=5e-3)
    assert answer["explanations"][0]["status"] == "ok"


def test_a_network_that_cannot_be_exported_is_refused_in_one_line(here):
    class Asking(nn.Module):
        def forward(self, pixels):
            return pixels if pixels.sum() > 0 else -pixels

    with pytest.raises(ConfigError, match=r"^export: torch .* cannot export the network .* --bundle") as refusal:
        export_program(Asking(), (8, 8), here / "p.pt2")
    assert "\n" not in str(refusal.value)


def test_legacy_weights_of_a_folder_are_read_by_todays_names(here, chelsea):
    network, processor = save_pretrained(here / "old", "bit")
    state = {
        name.replace("norm.weight", "norm.gamma").replace("norm.bias", "norm.beta"): tensor.clone()
        for name, tensor in network.state_dict().items()
    }
    assert "bit.norm.gamma" in state
    for file in (here / "old").glob("model*"):
        file.unlink()
    torch.save(state, here / "old/pytorch_model.bin")
    assert main(["archive", "hf:old"]) == 0
    pixels = processor(opened(chelsea), return_tensors="pt")["pixel_values"][0]
    (answer,) = answers(here / "model_store/old.mar", chelsea)
    assert probabilities(answer) == pytest.approx(expected(network, pixels), abs=5e-3)


def test_a_folder_without_a_classifier_or_preprocessing_is_refused(here):
    network, _ = save_pretrained(here / "bare")
    network.vit.save_pretrained(here / "bare")
    block = describe_source("hf:bare", {}, quiet)

    with pytest.raises(
        ConfigError, match=r"no weights for classifier\.bias, classifier\.weight: was the network saved"
    ):
        read_pretrained(here / "bare")
    assert block["labels"] == "bare/config.json"
    (here / "bare/preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"has no preprocessor_config\.json: give --preprocess"):
        describe_source("hf:bare", {}, quiet)
    with pytest.raises(ConfigError, match=r"there is no config\.json in nowhere"):
        describe_source("hf:nowhere", {}, quiet)


PROCESSORS = {
    "ConvNextImageProcessor": {"size": {"shortest_edge": 64}},
    "LevitImageProcessor": {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}},
    "PoolFormerImageProcessor": {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}},
    "EfficientNetImageProcessor": {
        "size": {"height": 64, "width": 64},
        "include_top": True,
        "rescale_factor": 1 / 127.5,
        "rescale_offset": True,
    },
    "DeiTImageProcessor": {"size": {"height": 72, "width": 72}, "crop_size": {"height": 64, "width": 64}},
    "ViTImageProcessor": {"size": {"height": 64, "width": 64}, "do_normalize": False},
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_every_kind_of_processor_is_understood_or_refused(here, name):
    import transformers

    save_pretrained(here / "pets")
    getattr(transformers, name)(**PROCESSORS[name]).save_pretrained(here / "pets")
    assert describe_source("hf:pets", {}, quiet)["preprocess"]["interpolation"]  # held against the processor itself


def test_another_preprocessing_than_the_block_says_is_refused():
    block = {"resize": [64, 64], "crop": None}
    theirs = torchvision.models.ResNet18_Weights.DEFAULT.transforms(crop_size=64, resize_size=72)
    with pytest.raises(ConfigError, match=r"theirs cannot be written as an input block: pixels differ by 0\.\d+ of"):
        check_agreement(block, theirs, "theirs")
    with pytest.raises(ConfigError, match="it gives 3 x 64 x 64, not 3 x 72 x 72"):
        check_agreement({"resize": [72, 72], "crop": None}, theirs, "theirs")


# timm and torchvision


def test_a_network_of_timm_takes_timms_preprocessing_and_the_checkpoints_classes(here, chelsea, capsys):
    import timm

    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3)
    torch.save({"state_dict": network.state_dict()}, "w.pth")
    assert main(["archive", "timm:test_resnet", "--weights", "w.pth"]) == 0
    printed = capsys.readouterr().err
    assert "num_classes 3: from the last layer of w.pth" in printed
    assert "assumed, timm's for test_resnet" in printed
    (answer,) = answers(here / "model_store/test_resnet.mar", chelsea)
    config = timm.data.resolve_data_config(pretrained_cfg=network.pretrained_cfg)
    pixels = timm.data.create_transform(**config)(opened(chelsea))
    assert probabilities(answer) == pytest.approx(expected(network, pixels), abs=5e-3)


@pytest.mark.parametrize("nested", [True, False])
def test_a_folder_of_timm_is_served_as_timm_runs_it(here, chelsea, capsys, nested):
    import timm

    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=3, img_size=96)
    names = list(LABELS.values())
    timm.models.save_for_hf(network, "pets", model_config={"label_names": names}, safe_serialization=True)
    file = here / "pets/config.json"
    saved = json.loads(file.read_text())
    if not nested:  # as older versions of timm wrote it
        saved = {**{key: saved[key] for key in ("architecture", "label_names")}, **saved["pretrained_cfg"]}
        saved["model_args"] = {"img_size": 96}
        file.write_text(json.dumps(saved))
    assert main(["archive", "hf:pets"]) == 0
    assert "from config.json" in capsys.readouterr().err
    (answer,) = answers(here / "model_store/pets.mar", chelsea)
    config = timm.data.resolve_data_config({"img_size": 96}, pretrained_cfg=network.pretrained_cfg)
    pixels = timm.data.create_transform(**config)(opened(chelsea))
    assert pixels.shape == (3, 96, 96)
    assert probabilities(answer) == pytest.approx(expected(network, pixels), abs=5e-3)
    assert {entry["label"] for entry in answer["predictions"]} == set(names)


def test_a_folder_of_timm_without_its_weights_or_of_an_unknown_network_is_refused(here):
    import timm

    timm.models.save_for_hf(timm.create_model("test_vit", num_classes=3), "pets", safe_serialization=True)
    (here / "pets/model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"there is no file 'pets/model\.safetensors'"):
        describe_source("hf:pets", {}, quiet)
    file = here / "pets/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "architecture": "test_vitt"}))
    with pytest.raises(ConfigError, match=r"timm has no network 'test_vitt'; .*test_vit"):
        describe_source("hf:pets", {}, quiet)


def test_a_network_of_torchvision_takes_its_own_preprocessing(here, chelsea, capsys):
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1(num_classes=3)
    torch.save(network.state_dict(), "w.pth")
    assert main(["archive", "torchvision:squeezenet1_1", "--weights", "w.pth", "--name", "pets"]) == 0
    assert "preprocess SqueezeNet1_1_Weights.IMAGENET1K_V1: assumed" in capsys.readouterr().err
    (answer,) = answers(here / "model_store/pets.mar", chelsea)
    pixels = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()(opened(chelsea))
    assert probabilities(answer) == pytest.approx(expected(network, pixels), abs=5e-3)


def test_the_librarys_labels_are_taken_for_its_own_number_of_classes_alone(here):
    for classes, labels in ((1000, "imagenet"), (999, None)):
        torch.save(torchvision.models.squeezenet1_1(num_classes=classes).state_dict(), "w.pth")
        block = describe_source("torchvision:squeezenet1_1", {"weights": "w.pth"}, quiet)
        assert block.get("labels") == labels
        assert block["args"] == ({} if labels else {"num_classes": 999})


def test_a_file_that_keeps_torchvisions_name_gets_the_preprocessing_of_these_weights(here):
    for file, weights in (("mobilenet_v2-b0353104.pth", "V1"), ("mobilenet_v2-7ebf99e0.pth", "V2"), ("my.pth", "V2")):
        torch.save({}, file)
        block = describe_source("torchvision:mobilenet_v2", {"weights": file, "args": {}}, quiet)
        assert block["preprocess"] == f"MobileNet_V2_Weights.IMAGENET1K_{weights}"


# an archive of image_classifier


def old_archive(folder, manifest=None, **files):
    """What torch-model-archiver --model-file net.py --serialized-file net.pt --handler image_classifier packs."""
    write_pets(folder)
    model = {"modelName": "pets", "modelVersion": "2.5", "handler": "image_classifier", "modelFile": "net.py"}
    model |= {"serializedFile": "net.pt", "configFile": "workers.yaml", **(manifest or {})}
    texts = {
        "net.py": NET,
        "index_to_name.json": json.dumps({"0": ["n1", "cat"], "1": ["n2", "dog"], "2": ["n3", "bird"]}),
        "workers.yaml": "minWorkers: 2\nbatchSize: 4\n",
        "MAR-INF/MANIFEST.json": json.dumps({"createdOn": "now", "model": {k: v for k, v in model.items() if v}}),
        **files,
    }
    with zipfile.ZipFile(folder / "old.mar", "w") as archive:
        archive.write(folder / "net.pt", "net.pt")
        for name, text in texts.items():
            if text is not None:
                archive.writestr(name, text)
    for name in ("net.pt", "net.py", "labels.txt"):
        (folder / name).unlink()
    return folder / "old.mar"


def torchserve_answers(archive, folder, photos):
    """What TorchServe's own handler class answers."""
    import_openvino()  # which this handler imports too, with what sends to its maker: a process for every conversion
    from ts.torch_handler.image_classifier import ImageClassifier

    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    manifest = json.loads((folder / "MAR-INF/MANIFEST.json").read_text())
    context = SimpleNamespace(
        system_properties={"model_dir": str(folder), "gpu_id": None, "limit_max_image_pixels": True},
        manifest=manifest,
        model_yaml_config={},
        metrics=None,
    )
    handler = ImageClassifier()
    handler.initialize(context)
    handler.topk = 3  # the handler asks for five of three classes, and fails
    with torch.inference_mode():
        output = handler.model(handler.preprocess([{"body": bytearray(photo)} for photo in photos]))
    return handler.postprocess(output)


def test_an_archive_of_image_classifier_explains_and_answers_its_old_clients_the_same(
    here, chelsea, coffee, capsys, monkeypatch
):
    archive = old_archive(here)
    assert main(["archive", "old.mar", "--keep-answers", "--out", "new"]) == 0
    printed = capsys.readouterr().err
    assert "factory Net of net.py" in printed
    assert "workers as before: {'minWorkers': 2, 'batchSize': 4}" in printed
    contents = read_contents(here / "new/pets.mar")
    assert (contents.name, contents.version, contents.config["minWorkers"]) == ("pets", "2.5", 2)
    assert contents.config["maxWorkers"] == 2  # which TorchServe would drop both without
    block = describe_source("old.mar", {"serving": {"batchSize": 16}}, quiet)
    assert block["serving"] == {"minWorkers": 2, "batchSize": 16}
    (here / "unpacked").mkdir()
    monkeypatch.syspath_prepend(str(here / "unpacked"))
    theirs = torchserve_answers(archive, here / "unpacked", [chelsea, coffee])
    del sys.modules["net"]
    ours = answers(here / "new/pets.mar", chelsea, coffee)
    for old, new in zip(theirs, ours):
        assert list(new) == list(old)
        assert new == pytest.approx(old, abs=1e-4)
    (asked,) = answers(here / "new/pets.mar", chelsea, target="dog")
    assert asked["explanations"][0]["target"]["label"] == "dog"


def test_an_adopted_archive_answers_as_others_do_unless_it_is_asked_to_keep_answers(here, chelsea):
    old_archive(here, **{"index_to_name.json": None, "workers.yaml": None})
    assert main(["archive", "old.mar", "--out", "new", "--save-recipe", "pets.yaml"]) == 0
    (answer,) = answers(here / "new/pets.mar", chelsea)
    assert {entry["label"] for entry in answer["predictions"]} == {"0", "1", "2"}
    (plain,) = answers(here / "new/pets.mar", chelsea, compat="torchserve")
    assert plain == {entry["label"]: pytest.approx(entry["probability"], abs=1e-6) for entry in answer["predictions"]}
    recipe = load_recipe(here / "pets.yaml")
    check_recipe(recipe)
    assert find_file(recipe.weights).name == "net.pt"
    assert (recipe.name, recipe.version, recipe.labels) == ("pets", "2.5", "index")


@pytest.mark.parametrize(
    ("manifest", "files", "message"),
    [
        ({"handler": "my_handler.py"}, {}, r"is served by the handler 'my_handler\.py"),
        ({"serializedFile": None}, {}, "has no serializedFile"),
        ({}, {"net.py": NET + "\nclass Other:\n    pass\n"}, r"net\.py must define one class, not Net, Other"),
        ({}, {"MAR-INF/MANIFEST.json": "{"}, "is not JSON"),
    ],
)
def test_another_archive_is_refused_in_one_line(here, manifest, files, message):
    old_archive(here, manifest, **files)
    with pytest.raises(ConfigError, match=message):
        describe_source("old.mar", {}, quiet)


# files


def test_a_model_file_and_a_checkpoint_are_sources(here):
    write_pets(here)
    assert describe_source("net.py", {"weights": "net.pt"}, quiet) == {
        "name": "net",
        "model_file": "net.py",
        "factory": "Net",
        "weights": "net.pt",
    }
    assert describe_source("net.py:Net", {"weights": "net.pt", "name": "pets"}, quiet)["name"] == "pets"
    assert describe_source("net.pt", {"factory": "torchvision.models:resnet18"}, quiet)["weights"] == "net.pt"
    with pytest.raises(ConfigError, match=r"net\.pt holds weights alone: say whose they are, with --factory"):
        describe_source("net.pt", {}, quiet)
    with pytest.raises(ConfigError, match=r"net\.py is code alone: --weights FILE"):
        describe_source("net.py", {}, quiet)


def plain_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()


def test_a_program_is_a_source(here, chelsea, capsys):
    network = plain_network()
    shapes = ({0: torch.export.Dim("n", min=1, max=64)},)
    program = torch.export.export(network, (torch.randn(2, 3, 224, 224),), dynamic_shapes=shapes)
    torch.export.save(program, "my net.pt2")
    assert main(["archive", "my net.pt2"]) == 1
    assert "preprocess is missing" in capsys.readouterr().err
    assert main(["archive", "my net.pt2", "--preprocess", "imagenet"]) == 0
    (answer,) = answers(here / "model_store/my-net.mar", chelsea)
    assert answer["explanations"][0]["status"] == "ok"


def test_a_whole_network_in_a_trusted_pickle_is_exported(here, chelsea, capsys):
    network = plain_network()
    torch.save({"model": network, "epoch": 3}, "whole.pt")
    assert main(["archive", "whole.pt", "--preprocess", "imagenet"]) == 1
    assert "holds weights alone: say whose they are" in capsys.readouterr().err
    flags = ["--preprocess", "imagenet"]
    assert main(["archive", "whole.pt", *flags, "--trust-pickle", "--save-recipe", "w.yaml"]) == 0
    assert "the network in its pickle is exported" in capsys.readouterr().err
    (answer,) = answers(here / "model_store/whole.mar", chelsea)
    pixels = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()(opened(chelsea))
    assert probabilities(answer) == pytest.approx(expected(network, pixels), abs=5e-3)
    (here / "w.yaml").write_text((here / "w.yaml").read_text().replace("export: true\n", ""))
    assert main(["archive", "w.yaml"]) == 1
    assert "whole.pt is a whole network: --export carries it without its code; or give --factory" in (
        capsys.readouterr().err
    )


REFUSED = {
    "old.tar.gz": "old.tar.gz is not read: an archive must be a .mar, which is a zip file (mkdir old; tar -xzf old",
    "nonsense": "'nonsense' is no source: it must be RECIPE.yaml, hf:FOLDER",
    "timm:resnet99": "timm has no network 'resnet99'",
    "timm:resnet18": "timm:resnet18 needs --weights FILE: nothing is downloaded",
    "torchvision:resnet19": "torchvision has no classifier 'resnet19'; did you mean 'resnet1",
    "torchvision:fcn_resnet50": "torchvision has no classifier",
    "torchvision:resnet18": "needs --weights FILE",
    "none.mar": "cannot read none.mar: No such file",
    "none.py:Net": "is code alone",
    "none.pt2": "there is no file 'none.pt2'",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_source_that_cannot_be_read_is_refused_in_one_line(here, text):
    with pytest.raises(ConfigError) as refusal:
        describe_source(text, {}, quiet)
    assert REFUSED[text] in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_help_names_every_kind_of_source(capsys):
    with pytest.raises(SystemExit):
        main(["archive", "--help"])
    shown = capsys.readouterr().out
    assert len(SOURCES) == 6
    for form in ("hf:FOLDER", "timm:NAME", "torchvision:NAME", "net.py:NAME", "model.pt2", "old.mar", "checkpoint.pth"):
        assert form in shown


# the recipe's cheap checks, and what a person sees


def test_what_can_be_wrong_is_found_before_anything_is_loaded(here, capsys, monkeypatch):
    write_pets(here)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    shutil.copy("labels.txt", "sample.png")
    (here / "d").mkdir()
    shutil.copy("labels.txt", "d/sample.png")
    base = ["archive", "net.py:Net", "--weights", "net.pt", "--preprocess", "imagenet"]
    for flags, message in {
        ("--labels", "none.txt"): "there is no file 'none.txt'",
        ("--sample", "none.jpg"): "there is no file 'none.jpg'",
        ("--sample", "sample.png", "d/sample.png"): "samples: two are called sample.png",
        ("--name", "a b"): "name 'a b' may hold letters",
        ("--bundle", "none_such"): "there is no installed module 'none_such'",
        ("--preprocess", "none.yaml"): "cannot read none.yaml",
    }.items():
        assert main([*base, *flags]) == 1
        assert message in capsys.readouterr().err
    (here / "m.yaml").write_text((here / "pets.yaml").read_text() + "defaults: {target: cow}\n")
    assert main(["archive", "m.yaml"]) == 1
    assert "defaults: no class is called 'cow'" in capsys.readouterr().err


def test_a_recipe_and_options_together_are_a_mistake_that_is_named(here, capsys):
    write_pets(here)
    with pytest.raises(SystemExit):
        main(["archive", "pets.yaml", "--name", "dogs"])
    assert "write name into pets.yaml" in capsys.readouterr().err


def test_preprocessing_that_nobody_names_is_asked_for(here, capsys):
    write_pets(here)
    assert main(["archive", "net.py:Net", "--weights", "net.pt"]) == 1
    assert "camserve: preprocess is missing: name that of the weights" in capsys.readouterr().err


def test_what_the_output_means_can_be_said_on_the_command_line(here, capsys):
    write_pets(here)
    command = ["archive", "net.py:Net", "--weights", "net.pt", "--preprocess", "imagenet"]
    assert main([*command, "--task", "binary"]) == 1
    assert "task binary is for one output; the classifier gives 3" in capsys.readouterr().err
    assert main([*command, "--select", "logits"]) == 1
    assert "there is no 'logits' in what the classifier returns" in capsys.readouterr().err
    assert main([*command, "--activation", "softmax"]) == 1
    assert "output.activation is 'softmax', and what stands at the network's end is: none" in capsys.readouterr().err


def test_a_fault_of_camserves_own_is_one_line_and_debug_shows_the_traceback(here, capsys, monkeypatch):
    write_pets(here)
    monkeypatch.setattr("camserve.cli.archive.build_archive", lambda *args: 1 / 0)
    assert main(["archive", "pets.yaml"]) == 1
    assert (
        capsys.readouterr().err
        == "camserve: ZeroDivisionError: division by zero (camserve archive --debug shows where)\n"
    )
    assert main(["archive", "pets.yaml", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
