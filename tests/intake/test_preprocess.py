import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Pad, Resize, ToTensor

from camserve.errors import ConfigError
from camserve.input_spec import InputSpec
from camserve.intake.geometry import enough, place_picture
from camserve.intake.preprocess import normalise, resize_and_crop, shrink
from camserve.values import Picture

CPU = torch.device("cpu")


def photo(width, height):
    generator = np.random.default_rng(width * height)
    small = Image.fromarray(generator.integers(0, 255, (12, 12, 3), np.uint8))
    return Picture(small.resize((width, height), Image.Resampling.BICUBIC), "PNG", width, height)


def pixels_of(pictures, spec):
    return normalise([resize_and_crop(picture, spec)[0] for picture in pictures], spec, CPU)


@pytest.mark.parametrize("size", [(600, 400), (400, 600), (451, 300), (256, 256), (224, 900), (100, 80)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_those_of_torchvision(size, interpolation):
    picture = photo(*size)
    spec = InputSpec(interpolation=interpolation)
    reference = Compose(
        [Resize(256, InterpolationMode(interpolation)), CenterCrop(224), ToTensor(), Normalize(spec.mean, spec.std)]
    )(picture.image)
    (ours,) = pixels_of([picture], spec)
    levels = (ours - reference).abs() * torch.tensor(spec.std).view(3, 1, 1) * 255
    assert levels.max() < 2.01  # one rounding in each of the two passes of a resize
    assert levels.mean() < 0.02


def test_the_region_is_the_part_that_survives():
    assert place_picture(600, 400, InputSpec()).region == pytest.approx((125, 25, 475, 375))
    assert place_picture(400, 600, InputSpec()).region == pytest.approx((25, 125, 375, 475))
    assert place_picture(640, 480, InputSpec(resize=(224, 224), crop=None)).region == (0, 0, 640, 480)


def test_a_marked_pixel_lies_where_the_region_says():
    image = Image.new("RGB", (600, 400))
    image.paste("white", (300, 200, 320, 220))
    pixels, (left, top, right, bottom) = resize_and_crop(Picture(image, "PNG", *image.size), InputSpec())
    row, column = np.argwhere(pixels[:, :, 0] > 127).mean(axis=0) + 0.5
    assert left + column * (right - left) / 224 == pytest.approx(310, abs=1)
    assert top + row * (bottom - top) / 224 == pytest.approx(210, abs=1)


def squared(image):
    """Pad to a square with torchvision; of an odd number of pixels the last side gets one more."""
    wide, high = max(image.size) - image.width, max(image.size) - image.height
    return Pad([wide // 2, high // 2, wide - wide // 2, high - high // 2], (9, 90, 200))(image)


def letterboxed(height, width, mode):
    def fit(image):
        scale = min(width / image.width, height / image.height)
        inner = round(image.height * scale), round(image.width * scale)
        left, top = (width - inner[1]) // 2, (height - inner[0]) // 2
        pad = Pad([left, top, width - inner[1] - left, height - inner[0] - top], (9, 90, 200))
        return pad(Resize(inner, mode)(image))

    return fit


PADDED = {
    "square": ({"pad": "square", "resize": 64, "crop": 56}, lambda mode: [squared, Resize(64, mode), CenterCrop(56)]),
    "square, whole": ({"pad": "square", "resize": 64, "crop": None}, lambda mode: [squared, Resize(64, mode)]),
    "square, enlarged": (
        {"pad": "square", "resize": 700, "crop": 640},
        lambda mode: [squared, Resize(700, mode), CenterCrop(640)],
    ),
    "letterbox": ({"pad": "letterbox", "resize": (60, 81), "crop": None}, lambda mode: [letterboxed(60, 81, mode)]),
    "letterbox, cropped": (
        {"pad": "letterbox", "resize": 64, "crop": (50, 61)},
        lambda mode: [letterboxed(64, 64, mode), CenterCrop((50, 61))],
    ),
    "crop alone": ({"resize": None, "crop": (60, 400)}, lambda mode: [CenterCrop((60, 400))]),
    "larger crop": ({"resize": 40, "crop": (51, 47)}, lambda mode: [Resize(40, mode), CenterCrop((51, 47))]),
    "not square": ({"resize": (40, 90), "crop": None}, lambda mode: [Resize((40, 90), mode)]),
}


@pytest.mark.parametrize("size", [(300, 200), (99, 160), (31, 260), (64, 64)])
@pytest.mark.parametrize("name", PADDED)
def test_padded_pixels_are_those_of_torchvision(name, size):
    settings, steps = PADDED[name]
    picture = photo(*size)
    color = {"pad_color": (9, 90, 200)} if "pad" in settings else {}
    for interpolation in ("bilinear", "bicubic", "lanczos"):
        reference = np.asarray(Compose(steps(InterpolationMode(interpolation)))(picture.image), int)
        ours, _ = resize_and_crop(picture, InputSpec(interpolation=interpolation, **settings, **color))
        apart = np.abs(reference - ours)
        assert apart.max() <= 2, interpolation  # one rounding in each of the two passes of a resize
        assert apart.mean() < 0.2, interpolation


@pytest.mark.parametrize("settings", [PADDED[name][0] for name in PADDED])
@pytest.mark.parametrize("size", [(300, 200), (120, 260)])
def test_a_pixel_of_a_padded_picture_lies_where_the_region_says(settings, size):
    image = Image.new("RGB", size)
    image.paste("white", (50, 115, 70, 125))
    spec = InputSpec(**settings)
    pixels, (left, top, right, bottom) = resize_and_crop(Picture(image, "PNG", *size), spec)
    shares = pixels[:, :, 0] / pixels[:, :, 0].sum()
    row, column = (np.arange(spec.size[axis]) @ shares.sum(axis=1 - axis) + 0.5 for axis in (0, 1))
    assert left + column * (right - left) / spec.size[1] == pytest.approx(60, abs=1)
    assert top + row * (bottom - top) / spec.size[0] == pytest.approx(120, abs=1)


def test_a_very_long_picture_is_padded_no_further_than_is_seen(monkeypatch):
    spec = InputSpec(pad="square", resize=64, crop=None)
    made = []
    monkeypatch.setattr(
        Image, "new", lambda mode, size, fill=0, new=Image.new: made.append(size) or new(mode, size, fill)
    )
    resize_and_crop(Picture(Image.new("RGB", (10_000, 100)), "PNG", 10_000, 100), spec)
    assert max(width * height for width, height in made) < 10_000_000


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_standardised_by_its_own_mean_and_deviation(channels):
    spec = InputSpec(normalise="image", channels=channels, color="gray" if channels == 1 else "bgr")
    rows = [np.random.default_rng(row).integers(0, 99, (20, 30, channels), np.uint8) for row in (0, 1)]
    found = normalise([*rows, np.full((20, 30, channels), 7, np.uint8)], spec, CPU)
    for values, row in zip(found, rows):
        expected = (row - row.mean()) / row.std()
        assert np.allclose(values.numpy(), np.moveaxis(expected[..., ::-1], 2, 0), atol=1e-5)
    assert torch.equal(found[2], torch.zeros(channels, 20, 30))


def test_a_network_may_take_pixels_up_to_255():
    spec = InputSpec(scale=255, mean=(103.9, 116.8, 123.7), std=(1.0, 2.0, 1.0), color="bgr")
    row = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    expected = (row[..., ::-1] - np.array(spec.mean)) / spec.std
    assert np.allclose(normalise([row], spec, CPU)[0].numpy(), np.moveaxis(expected, 2, 0), atol=1e-4)


def test_a_batch_holds_its_pictures_in_order():
    pictures = [photo(300, 200), photo(200, 300)]
    both = pixels_of(pictures, InputSpec())
    for row, picture in enumerate(pictures):
        assert torch.equal(both[row], pixels_of([picture], InputSpec())[0])


def test_a_reduced_picture_is_cut_where_the_whole_one_is():
    whole = photo(1200, 800)
    half = Picture(whole.image.resize((600, 400), Image.Resampling.BOX), "JPEG", 1200, 800)
    assert enough(1200, 800, InputSpec()) == (768, 512)
    (pixels, region), (fewer, same) = resize_and_crop(whole, InputSpec()), resize_and_crop(half, InputSpec())
    assert region == same
    assert np.abs(pixels.astype(int) - fewer).max() <= 2


def test_a_picture_is_shrunk_to_its_longest_side_and_never_enlarged():
    image = Image.new("RGB", (600, 400))
    assert shrink(image, 300).size == (300, 200)
    assert shrink(image, 1).size == (1, 1)
    assert shrink(image, 1000) is image


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"interpolation": "cubic"}, "did you mean 'bicubic'"),
        ({"std": (1.0, 0.0, 1.0)}, "above 0"),
        ({"crop": None}, "height, width"),
        ({"resize": None, "crop": None, "pad": "square"}, "height, width"),
        ({"resize": None, "pad": "letterbox"}, "letterbox needs input.resize"),
        ({"pad": "letter"}, "'letter' is not one of: square, letterbox"),
        ({"pad_color": (0, 0, 300)}, "0 to 255"),
        ({"scale": 2}, "'2' is not one of: 1, 255"),
        ({"scale": 255}, "those of ImageNet are for input.scale 1"),
        ({"normalise": "batch"}, "fixed, image"),
        ({"normalise": "image", "mean": (0.5, 0.5, 0.5)}, "leave them out"),
        ({"mean": (0.5,)}, "one number a channel"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        InputSpec(**wrong)
