import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from camserve.errors import ConfigError
from camserve.input_spec import InputSpec
from camserve.intake.preprocess import enough, normalise, resize_and_crop, seen_region, shrink
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
    assert seen_region(600, 400, InputSpec()) == pytest.approx((125, 25, 475, 375))
    assert seen_region(400, 600, InputSpec()) == pytest.approx((25, 125, 375, 475))
    assert seen_region(640, 480, InputSpec(resize=(224, 224), crop=None)) == (0, 0, 640, 480)


def test_a_marked_pixel_lies_where_the_region_says():
    image = Image.new("RGB", (600, 400))
    image.paste("white", (300, 200, 320, 220))
    pixels, (left, top, right, bottom) = resize_and_crop(Picture(image, "PNG", *image.size), InputSpec())
    row, column = np.argwhere(pixels[:, :, 0] > 127).mean(axis=0) + 0.5
    assert left + column * (right - left) / 224 == pytest.approx(310, abs=1)
    assert top + row * (bottom - top) / 224 == pytest.approx(210, abs=1)


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
        ({"resize": 200}, "crop must not be larger"),
        ({"std": (1.0, 0.0, 1.0)}, "above 0"),
        ({"crop": None}, "height, width"),
        ({"mean": (0.5,)}, "one number a channel"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        InputSpec(**wrong)
