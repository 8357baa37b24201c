"""A card's pictures are what their captions say: the network itself judges each."""

import re
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from camserve.build.archive import build_archive
from camserve.build.recipe import load_recipe
from camserve.card.activation import activation_of, as_picture, pixels_of
from camserve.card.ascent import Ascent, draw_channel, draw_class, dream, invert
from camserve.card.concepts import (
    COLORS,
    PICTURES_EACH,
    TEXTURES,
    ConceptPicture,
    as_tensor,
    draw_concepts,
    find_masks,
    read_concepts,
)
from camserve.card.dissect import DETECTS, dissect
from camserve.card.make import name_channels
from camserve.card.sections import NEAR, describe_fitting, describe_inverted
from camserve.card.subject import Subject
from camserve.cli import main
from camserve.errors import BadOption, ConfigError
from camserve.input_spec import InputSpec
from camserve.intake.preprocess import normalise
from camserve.labels import Labels
from camserve.network.output import ScoringNetwork
from camserve.values import Layer
from colour_pipeline import NAMES
from model_file import quiet, write_pets
from references import stored

SIDE = 112
STEPS = 24
TABBY, KEYBOARD = 281, 508


@pytest.fixture(scope="module")
def subject():
    """SqueezeNet 1.1 with its trained weights, at half its usual size."""
    network = ScoringNetwork(stored("squeezenet1_1")).eval().requires_grad_(False)
    labels = Labels([f"class {number}" for number in range(1000)])
    spec = InputSpec(resize=SIDE, crop=SIDE)
    return Subject(network, spec, labels, Layer("features", grid=(6, 6)), torch.device("cpu"))


@pytest.fixture
def photo(coffee):
    return as_tensor(Image.open(BytesIO(coffee)).convert("RGB").resize((SIDE, SIDE)))


def test_a_card_shows_the_network_what_a_server_does(subject):
    rows = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.uint8)
    pictures = torch.tensor(rows).permute(0, 3, 1, 2) / 255
    for color in ("rgb", "bgr"):
        spec = InputSpec(resize=SIDE, crop=SIDE, color=color, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
        one = Subject(subject.network, spec, subject.labels, subject.layer, subject.device)
        expected = normalise(list(rows), spec, subject.device)
        torch.testing.assert_close(one.pixels(pictures), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("index", [TABBY, KEYBOARD])
def test_the_picture_of_a_class_is_predicted_as_that_class(subject, index):
    made = draw_class(subject, index, 2 * STEPS, 0)
    scores = subject.look(made.picture[None])[0][0]
    assert float(scores[index]) == pytest.approx(made.after, abs=1e-3)
    assert made.after > made.before + 10
    assert int(scores.argmax()) == index


def test_the_same_seed_draws_the_same_picture_and_another_seed_another(subject):
    first, again, other = (draw_class(subject, TABBY, 3, seed).picture for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("place", [0, 20])
def test_filter_pictures_and_dreams_raise_the_channel_that_they_name(subject, photo, place):
    means = subject.look(photo[None])[1][0].mean(dim=(1, 2))
    channel = int(means.argsort(descending=True)[place])
    drawn = draw_channel(subject, channel, STEPS, 0)
    dreamt = dream(subject, photo, channel, STEPS, 0)
    assert dreamt.before == pytest.approx(float(means[channel]), rel=1e-4)
    for made in (drawn, dreamt):
        assert made.after > 2 * made.before + 0.1
        rises = subject.look(made.picture[None])[1][0].mean(dim=(1, 2))
        assert float(rises[channel]) == pytest.approx(made.after, rel=1e-3)
    distance = (dreamt.picture - photo).abs().mean()
    assert 0 < distance < (drawn.picture - photo).abs().mean()


def test_what_cannot_be_raised_is_not_drawn(subject):
    flat = InputSpec(resize=SIDE, crop=SIDE, std=(1e9, 1e9, 1e9))
    blind = Subject(subject.network, flat, subject.labels, subject.layer, subject.device)
    silent = int(blind.look(torch.zeros(1, 3, SIDE, SIDE))[1][0].amax(dim=(1, 2)).argmin())
    with pytest.raises(ConfigError, match="2 steps did not raise the channel's activation above 0"):
        draw_channel(blind, silent, 2, 0)


class Falling(nn.Module):
    """All scores fall with the light, the first one slowest: what raises it above the others lowers it."""

    def __init__(self, slope):
        super().__init__()
        self.see = nn.Conv2d(3, 1, 1)
        self.register_buffer("slopes", slope * torch.tensor([1.0, 3.0, 3.0]))
        self.see.weight.data.fill_(1 / 3)

    def forward(self, pixels):
        return self.slopes * self.see(pixels).mean(dim=(1, 2, 3))[:, None]


@pytest.mark.parametrize("slope", [-1.0, float("nan")])
def test_a_class_whose_score_does_not_rise_is_not_drawn(slope):
    with pytest.raises(ConfigError, match="4 steps did not raise the class's score above"):
        draw_class(watch(Falling(slope), 16), 0, 4, 0)


def test_what_gets_no_nearer_to_the_photo_is_not_shown_as_inverted():
    one = units()
    photo = (0.5 + 0.05 * torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    with pytest.raises(ConfigError, match="1 steps did not bring the feature maps nearer to the photo's than 0"):
        invert(one, photo, 1, 0)  # which begins there


def test_an_inverted_picture_is_called_nearly_the_same_only_where_it_is():
    for after, called in ((NEAR, "nearly the same feature maps"), (1.01 * NEAR, "feature maps nearer to")):
        assert called in describe_inverted(Ascent(torch.zeros(3, 4, 4), 0.9, after))[0]


def test_an_inverted_representation_is_nearer_than_noise_and_than_another_photo(subject, photo):
    made = invert(subject, photo, 2 * STEPS, 0)
    wanted, found, other = (subject.look(one[None])[1] for one in (photo, made.picture, photo.flip(2)))
    size = wanted.square().sum()
    assert float((found - wanted).square().sum() / size) == pytest.approx(made.after, rel=1e-3)
    assert made.after < 0.7 * made.before
    assert made.after < float((other - wanted).square().sum() / size)


def test_an_activation_is_bright_where_the_channel_is_active(subject, photo):
    maps = subject.look(photo[None])[1][0]
    channel = int(maps.mean(dim=(1, 2)).argmax())
    seen = activation_of(subject, photo, channel)
    assert seen.shape == (SIDE, SIDE)
    row, column = divmod(int(seen.argmax()), SIDE)
    strongest = divmod(int(maps[channel].argmax()), maps.shape[2])
    scale = SIDE / maps.shape[1]
    assert (int(row // scale), int(column // scale)) == strongest


def test_pixels_of_a_channel_are_its_gradient_through_active_relus_alone(subject, photo):
    channel = int(subject.look(photo[None])[1][0].mean(dim=(1, 2)).argmax())
    found, guided = pixels_of(subject, photo, channel)
    assert guided
    rectifiers = [module for module in subject.network.modules() if isinstance(module, nn.ReLU)]
    for module in rectifiers:
        module.inplace = False  # which full backward hooks refuse
    handles = [module.register_full_backward_hook(positive) for module in rectifiers]
    watched = photo[None].clone().requires_grad_()
    subject.look(watched)[1][0, channel].mean().backward()
    for handle in handles:
        handle.remove()
    assert float(found.abs().max()) > 0
    torch.testing.assert_close(found, watched.grad[0], atol=1e-5 * float(found.abs().max()), rtol=1e-3)
    assert 0 <= float(as_picture(found).min()) < 0.5 < float(as_picture(found).max()) <= 1


def positive(_module, given, _taken):
    return (given[0].clamp(min=0),)


class Units(nn.Module):
    """Channels that are made to see red, green, blue, horizontal and vertical edges, and nothing."""

    def __init__(self):
        super().__init__()
        self.see = nn.Conv2d(3, 6, 9, padding=4, padding_mode="replicate")
        weight = torch.zeros(6, 3, 9, 9)
        for colour in range(3):
            weight[colour] = -0.5 / 81
            weight[colour, colour] = 1 / 81
        self.see.weight.data, self.see.bias.data = weight, torch.zeros(6)
        self.head = nn.Linear(6, 3)

    def forward(self, pixels):
        return self.head(self.see(pixels).mean(dim=(2, 3)))


def watch(module, side):
    """Return the subject of a network with a layer ``see`` that keeps the size of its pixels."""
    network = ScoringNetwork(module).eval().requires_grad_(False)
    plain = InputSpec(resize=side, crop=side, mean=(0, 0, 0), std=(1, 1, 1))
    return Subject(network, plain, Labels(NAMES), Layer("see", grid=(side, side)), torch.device("cpu"))


def units(side=64):
    return watch(Units(), side)


def test_dissection_names_the_colours_that_channels_are_made_to_see():
    found = dissect(units(), draw_concepts((64, 64)))
    assert found.pictures == PICTURES_EACH * (len(COLORS) + len(TEXTURES))
    for channel, colour in enumerate(["red", "green", "blue"]):
        name, overlap = found.name(channel)
        assert name == colour
        assert overlap > 2 * DETECTS
        assert found.best(colour)[0] == channel
    assert found.name(5) is None


@pytest.mark.parametrize("side", [28, 64])
def test_the_overlap_is_intersection_over_union_by_hand(side):
    generator = np.random.default_rng(0)
    pictures = []
    for number in range(4):
        mask = np.zeros((28, 28), bool)
        mask[:, : 7 * number] = True
        pictures.append(
            ConceptPicture(torch.tensor(generator.random((3, side, side)), dtype=torch.float32), {"left": mask})
        )
    one = units(side)
    found = dissect(one, pictures)
    maps = one.look(torch.stack([picture.picture for picture in pictures]))[1][:, :1]
    values = nn.functional.interpolate(maps, (28, 28), mode="bilinear").numpy()[:, 0]
    active = values >= np.sort(values.ravel())[-round(0.005 * values.size)]
    truth = np.stack([picture.masks["left"] for picture in pictures])
    assert float(found.overlap[0, 0]) == pytest.approx((active & truth).sum() / (active | truth).sum(), abs=1e-6)


def save(path, values):
    Image.fromarray(values).save(path)


def test_masks_of_ones_own_are_read_beside_their_photos(tmp_path):
    picture = np.zeros((40, 20, 3), np.uint8)
    picture[:20] = (255, 0, 0)
    mask = np.zeros((40, 20), np.uint8)
    mask[:20] = 255
    save(tmp_path / "cup.png", picture)
    save(tmp_path / "cup.lid.png", mask)
    save(tmp_path / "plain.png", picture[20:])
    first, second = read_concepts(find_masks(tmp_path), (64, 64))
    assert list(first.masks) == ["lid"]
    np.testing.assert_array_equal(first.masks["lid"], np.arange(64)[:, None].repeat(64, 1) < 32)
    assert second.masks == {}
    found = dissect(units(), [first, second])
    assert found.name(0)[0] == "lid"


def test_photos_change_no_overlap_of_what_is_drawn(tmp_path):
    alone = name_channels(units(), {}, quiet)
    red = np.zeros((64, 64, 3), np.uint8) + np.array([230, 20, 20], np.uint8)
    for number in range(9):
        save(tmp_path / f"{number}.png", red)
    save(tmp_path / "0.red.png", np.eye(64, dtype=np.uint8) * 255)
    both = name_channels(units(), find_masks(tmp_path), quiet)
    assert both.concepts == (*alone.concepts, "red (photos)")
    assert torch.equal(both.overlap[:, :-1], alone.overlap)
    assert both.pictures == alone.pictures + 9
    assert both.name(0)[0] == "red"


def test_a_photo_and_its_masks_are_turned_as_their_exif_says(tmp_path):
    values = np.zeros((40, 20, 3), np.uint8)
    values[:20] = 255
    turned = Image.Exif()
    turned[0x0112] = 3  # by 180 degrees
    Image.fromarray(values).save(tmp_path / "cup.png", exif=turned)
    Image.fromarray(values[::-1]).save(tmp_path / "cup.lid.png")
    (read,) = read_concepts(find_masks(tmp_path), (40, 20))
    np.testing.assert_array_equal(read.masks["lid"], np.arange(40)[:, None].repeat(20, 1) >= 20)
    np.testing.assert_array_equal(read.picture[0].numpy() == 1, read.masks["lid"])


def test_more_masks_than_can_be_held_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("camserve.card.concepts.MOST_MASKS", 5)
    for name in ("a", "a.x", "b", "b.y", "c"):
        (tmp_path / f"{name}.png").touch()
    with pytest.raises(ConfigError, match="3 photos and 2 concepts; the limit is 5 for the one times the other"):
        find_masks(tmp_path)
    (tmp_path / "c.png").unlink()
    assert len(find_masks(tmp_path)) == 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no masks"),
        ({"cup.png": (8, 8)}, "has no masks"),
        ({"cup.red.png": (8, 8)}, "cup.red.png is no mask of a photo"),
        ({"cup.png": (8, 8), "cup.red.jpg": (8, 8)}, "cup.red.jpg is no mask"),
        ({"cup.png": (8, 8), "cup.red.png": (8, 9)}, "has .* pixels, its photo"),
        ({"cup.png": None, "cup.red.png": (8, 9)}, "cannot be read as a picture"),
    ],
)
def test_masks_that_do_not_fit_are_refused_in_one_line(tmp_path, files, message):
    for name, shape in files.items():
        if shape is None:
            (tmp_path / name).write_bytes(b"no picture")
        else:
            save(tmp_path / name, np.zeros(shape, np.uint8))
    with pytest.raises(ConfigError, match=message):
        list(read_concepts(find_masks(tmp_path), (8, 8)))


@pytest.mark.parametrize(
    "change", [{"color": "gray", "channels": 1, "mean": (0,), "std": (1,)}, {"normalise": "image"}]
)
def test_an_input_that_is_no_plain_rgb_is_refused(subject, change):
    with pytest.raises(ConfigError, match="a card needs an input of three colours"):
        Subject(subject.network, InputSpec(**change), subject.labels, subject.layer, subject.device)


def test_a_channel_that_is_not_there_is_refused(subject):
    with pytest.raises(BadOption, match="layer 'features' has channels 0 to 511, not 512"):
        subject.check_channels([0, 512])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"resize": 72, "crop": 64}, "resized, cropped"),
        ({"resize": 60, "crop": 64}, "resized, cropped or padded"),
        ({"resize": None, "crop": 64}, "cropped or padded"),
        ({"resize": (64, 64), "crop": None}, "resized without regard to its proportions"),
        ({"resize": (64, 64), "crop": 64}, "resized without regard to its proportions"),
        ({"resize": 64, "crop": None, "pad": "letterbox"}, "padded, resized"),
        ({"resize": 64, "crop": 64, "pad": "square"}, "padded, resized"),
        ({"resize": 72, "crop": 64, "pad": "square"}, "padded, resized, cropped"),
    ],
)
def test_the_photo_says_what_was_done_to_it(spec, words):
    assert describe_fitting(InputSpec(**spec)) == f"the file as it is: it is {words}."


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """An archive of three classes, the last of which no channel speaks for or against."""
    folder = tmp_path_factory.mktemp("pets")
    recipe = load_recipe(write_pets(folder))
    weights = torch.load(folder / "net.pt")
    weights["head.weight"][2], weights["head.bias"][2] = 0, -5
    torch.save(weights, folder / "net.pt")
    return build_archive(recipe, folder / "store", quiet, fresh_process=False)


def draw_card(archive, out, *options):
    return main(["card", str(archive), "--steps", "8", "--out", str(out), *options])


def test_the_command_writes_one_page_that_loads_nothing(pets, tmp_path, capsys):
    assert draw_card(pets, tmp_path / "card.html", "--classes", "cat,1", "--channels", "5") == 0
    page = (tmp_path / "card.html").read_text()
    assert not re.search(r"(src|href)=['\"](?!data:)", page)
    assert "http" not in re.sub(r"data:image/png;base64,[^']*", "", page)
    figures = re.findall(r"<figure>.*?</figure>", page)
    titles = [re.search("<b>(.*?)</b>", figure)[1] for figure in figures]
    assert titles[:2] == ["class cat (0)", "class dog (1)"]
    assert "activation of channel 5" in titles
    assert "pixels of channel 5" in titles
    assert all("<i>Not: " in figure for figure in figures)
    assert all(f"<td>{concept}</td>" in page for concept in (*COLORS, *TEXTURES))
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("class cat (0): ") for line in lines)
    assert "112 pictures" in " ".join(lines)


def test_what_is_left_out_or_chosen_otherwise_is_on_the_page(pets, tmp_path, capsys):
    assert draw_card(pets, tmp_path / "card.html", "--classes", "bird") == 0
    page, said = (tmp_path / "card.html").read_text(), capsys.readouterr().err
    for words in (
        "No channel is known to carry evidence of bird in this photo: the most active ones are shown.",
        "class bird (2)",
        "left out: 8 steps did not raise the class's score above -5",
    ):
        assert words in said
    assert "the most active ones are shown." in page
    assert "class bird (2) is left out: 8 steps did not raise" in page


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--classes", "catt"], "no class is called 'catt'"),
        (["--channels", "99999"], "has channels 0 to 15, not 99999"),
        (["--layer", "nowhere"], "--layer"),
        (["--photo", "nothing.jpg"], "--photo: cannot read nothing.jpg"),
        (["--concepts", "nowhere"], "--concepts: nowhere is no folder"),
        (["--classes", ",".join(map(str, range(21)))], "--classes names 21; the limit is 20"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(pets, tmp_path, capsys, arguments, line):
    assert draw_card(pets, tmp_path / "card.html", *arguments) == 1
    assert line in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "card.html").exists()


def test_a_layer_and_a_photo_that_are_not_there_are_refused_before_anything_is_loaded(pets, tmp_path, capsys):
    with zipfile.ZipFile(pets) as whole, zipfile.ZipFile(tmp_path / "empty.mar", "w") as changed:
        for entry in whole.infolist():
            changed.writestr(entry, b"" if entry.filename.endswith(".safetensors") else whole.read(entry))
    for option in ("--layer", "--photo"):
        assert draw_card(tmp_path / "empty.mar", tmp_path / "card.html", option, "nothing") == 1
        assert option in capsys.readouterr().err
