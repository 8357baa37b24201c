import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from camserve.errors import ConfigError
from camserve.preprocess import preprocess, seen_region
from camserve.settings import InputSpec
from camserve.values import Picture

CPU = torch.device("cpu")


def photo(width, height):
    generator = np.random.default_rng(width * height)
    small = Image.fromarray(generator.integers(0, 255, (12, 12, 3), np.uint8))
    return Picture(small.resize((width, height), Image.Resampling.BICUBIC), "PNG")


@pytest.mark.parametrize("size", [(600, 400), (400, 600), (451, 300), (256, 256), (224, 900), (100, 80)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_those_of_torchvision(size, interpolation):
    picture = photo(*size)
    spec = InputSpec(interpolation=interpolation)
    reference = Compose(
        [Resize(256, InterpolationMode(interpolation)), CenterCrop(224), ToTensor(), Normalize(spec.mean, spec.std)]
    )(picture.image)
    ours = preprocess([picture], spec, CPU).pixels[0]
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
    batch = preprocess([Picture(image, "PNG")], InputSpec(mean=(0.0,) * 3, std=(1.0,) * 3), CPU)
    left, top, right, bottom = batch.regions[0]
    row, column = np.argwhere(batch.pixels[0, 0].numpy() > 0.5).mean(axis=0) + 0.5
    assert left + column * (right - left) / 224 == pytest.approx(310, abs=1)
    assert top + row * (bottom - top) / 224 == pytest.approx(210, abs=1)


def test_a_batch_holds_its_pictures_in_order():
    pictures = [photo(300, 200), photo(200, 300)]
    both = preprocess(pictures, InputSpec(), CPU).pixels
    for row, picture in enumerate(pictures):
        assert torch.equal(both[row], preprocess([picture], InputSpec(), CPU).pixels[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"interpolation": "cubic"}, "did you mean 'bicubic'"),
        ({"resize": 200}, "crop must not be larger"),
        ({"std": (1.0, 0.0, 1.0)}, "above 0"),
        ({"crop": None}, "height, width"),
        ({"mean": (0.5,)}, "three numbers"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        InputSpec(**wrong)
