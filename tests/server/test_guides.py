"""The code blocks of docs/client.md and docs/deploy.md, run as they stand there."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

import model_file
from camserve.build.locate import find_file

pytestmark = pytest.mark.server

DOCS = Path(__file__).parents[2] / "docs"
HANDLER = Path(__file__).parents[2] / "handler"
CLIENT, DEPLOY = (DOCS / "client.md").read_text(), (DOCS / "deploy.md").read_text()
README = (DOCS.parent / "README.md").read_text()
VARIABLE = re.compile(r'^declare -[-x]+ (TOKEN|KEY)="(.*)"$', re.MULTILINE)  # that later blocks use
NAMES = ["rose", "tulip", "daisy"]
HERE = "http://127.0.0.1:8080"
COMMAND = """#!{python}
import sys
sys.path.insert(0, {handler!r})
from camserve.cli import main
sys.exit(main())
"""
ARCHIVES = ("flowers", "net", "test_resnet", "my-vit", "model", "old")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def section(title):
    return DEPLOY.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a person has on disk: checkpoints of every source, names, a photo."""
    import timm
    import transformers

    folder = tmp_path_factory.mktemp("guide")
    torch.manual_seed(4)
    torch.save(squeezenet().state_dict(), folder / "flowers.pt")
    network = timm.create_model("test_resnet", num_classes=3)
    with torch.no_grad():
        network.fc.weight -= network.fc.weight.mean(0)  # so that something speaks for the best class
        network.fc.bias.zero_()
    torch.save(network.state_dict(), folder / "timm.pt")
    model_file.write_pets(folder)
    scope = {}
    exec(model_file.NET, scope)
    any_length = ({0: torch.export.Dim("pictures")},)
    pixels = torch.randn(2, 3, 64, 64)
    program = torch.export.export(scope["Net"]().eval(), (pixels,), dynamic_shapes=any_length)
    torch.export.save(program, folder / "model.pt2")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    config.id2label, config.label2id = dict(enumerate(NAMES)), {name: index for index, name in enumerate(NAMES)}
    transformers.ViTForImageClassification(config).save_pretrained(folder / "my-vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "my-vit")
    (folder / "flowers.txt").write_text("\n".join(NAMES) + "\n")
    (folder / "preprocess.yaml").write_text("{resize: 64, crop: 64}\n")
    Image.open(find_file("package://skimage/data/coffee.png")).save(folder / "rose.jpg")
    write_old(folder)
    return folder


def squeezenet():
    import torchvision

    network = torchvision.models.squeezenet1_1(num_classes=3)
    with torch.no_grad():
        network.classifier[1].weight *= 200  # so that scores are no probabilities
    return network


def write_old(folder):
    """Pack an archive of image_classifier."""
    (folder / "squeeze.py").write_text(
        "from torchvision.models.squeezenet import SqueezeNet\n\n\nclass Squeeze(SqueezeNet):\n"
        "    def __init__(self):\n        super().__init__('1_1', num_classes=3)\n"
    )
    torch.save(squeezenet().state_dict(), folder / "squeeze.pt")
    (folder / "index_to_name.json").write_text(json.dumps(dict(enumerate(NAMES))))
    pack(
        folder,
        "old",
        "--model-file",
        "squeeze.py",
        "--serialized-file",
        "squeeze.pt",
        "--handler",
        "image_classifier",
        "--extra-files",
        "index_to_name.json",
    )


def pack(folder, name, *arguments):
    archiver = Path(sys.executable).parent / "torch-model-archiver"
    command = [archiver, "--model-name", name, "--version", "1.0", "--export-path", ".", *arguments]
    subprocess.run([*map(str, command)], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def bash(folder):
    """Run a block in the folder, with camserve as a command; variables stay from block to block."""
    shim = folder / "bin" / "camserve"
    shim.parent.mkdir()
    shim.write_text(COMMAND.format(python=sys.executable, handler=str(HANDLER)))
    shim.chmod(0o755)
    environment = {**os.environ, "PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}"}

    def bash(block, **variables):
        environment.update(variables)
        script = f"set -eu\ntrap 'declare -p >variables' EXIT\n{block}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
        environment.update(VARIABLE.findall((folder / "variables").read_text()))
        return done.stdout

    return bash


@pytest.fixture(scope="module")
def built(folder, bash):
    (block,) = blocks(section("Build an archive"), "bash")
    bash(block)
    return folder / "model_store"


def test_every_source_becomes_an_archive(built):
    assert {path.stem for path in built.glob("*.mar")} == set(ARCHIVES)


def test_every_source_of_the_page_of_sources_is_tried():
    (block,) = blocks(section("Build an archive"), "bash")
    assert len(re.findall(r"^camserve archive ", block, re.MULTILINE)) == len(ARCHIVES)


def test_the_commands_of_the_guide_lead_to_an_explained_answer(built, folder, bash, serve):
    (block,) = blocks(section("Look before you serve"), "bash")
    assert "target layer" in bash(block) or (folder / "why.jpg").exists()
    (folder / "why.jpg").unlink()
    with serve(built / "flowers.mar", enable_model_api="true") as server:
        bash("", FOLDER=str(server.folder), URL=server.inference.url, MANAGEMENT=server.management.url)
        (ask,) = blocks(section("Start a server"), "bash")
        answer = json.loads(bash(ask))
        assert answer["explanations"][0]["contrast"]["label"] in NAMES
        assert (folder / "why.jpg").read_bytes().startswith(b"\xff\xd8")
        replace, scale = blocks(section("Versions, workers"), "bash")
        assert '"version":"2.0"' in bash(replace)
        bash(scale)
        assert len(server.workers("flowers")) == 2
        (renew,) = blocks(section("Tokens and their renewal"), "bash")
        assert '"version":"2.0"' in bash(renew)


def test_every_block_of_the_guide_is_run():
    titles = ("Build an archive", "Look before you serve", "Start a server", "Versions, workers")
    run = [block for title in (*titles, "Tokens and their renewal") for block in blocks(section(title), "bash")]
    assert run == blocks(DEPLOY, "bash")


def test_the_plain_command_is_the_readmes():
    (line,) = re.findall(r"^\$ (torchserve .*)$", DEPLOY, re.MULTILINE)
    assert line.replace("flowers", "imagenet") in README


def test_an_archive_that_torch_model_archiver_packed_says_what_it_lacks(folder, next_ports):
    from camserve.errors import ConfigError
    from camserve.operate.server import Server

    shutil.copy(HANDLER / "gradcam_handler.py", folder)
    (folder / "plain").mkdir()
    weights = ("--model-file", "squeeze.py", "--serialized-file", "squeeze.pt")
    pack(folder, "bare", *weights, "--handler", "gradcam_handler.py")
    shutil.move(folder / "bare.mar", folder / "plain")
    (bare,) = re.findall(r"^\| `(camserve: model-config.*?)` \|", DEPLOY, re.MULTILINE)
    with zipfile.ZipFile(folder / "plain" / "bare.mar", "a") as archive:
        for path in sorted((HANDLER / "camserve").rglob("*.py")):
            archive.write(path, path.relative_to(HANDLER))
    with pytest.raises(ConfigError, match=re.escape(bare)) as caught:
        Server([folder / "plain" / "bare.mar"], folder / "plain-server", next_ports()).start(lambda _: None)
    assert "camserve archive" in str(caught.value)


def test_a_handler_without_its_package_says_so(tmp_path):
    shutil.copy(HANDLER / "gradcam_handler.py", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-S", "-c", "import gradcam_handler"]  # -S: without what is installed
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    (line,) = re.findall(r"^\| `(camserve: the archive holds.*?)` \|", DEPLOY, re.MULTILINE)
    assert done.stderr.splitlines()[-1].startswith(f"RuntimeError: {line}")


def test_the_blocks_of_the_clients_page_run_in_order(server, coffee, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(coffee)
    names = {"photo": coffee, "token": server.inference.token, "key_file": server.folder / "key_file.json"}
    for block in blocks(CLIENT, "python"):
        exec(compile(block.replace(HERE, server.inference.url), "docs/client.md", "exec"), names)
    assert names["answer"].predictions
    assert Path("why.png").read_bytes().startswith(b"\x89PNG")
