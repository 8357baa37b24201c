"""What a network is shown of colours, greys and transparency, and of pictures with more than 8 bits."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from camserve.errors import ConfigError
from camserve.input_spec import InputSpec
from camserve.intake.decode import decode
from camserve.settings import Limits
from input_archives import ask, build_means, encode, ramp, scores

GREY = np.arange(24 * 24, dtype=np.float64).reshape(24, 24) / (24 * 24 - 1)  # 0..1


def deep(bits, brightest=1.0):
    """A grey picture of so many bits in 16, not scaled, as cameras and NumPy write it."""
    return np.round(GREY * brightest * (2**bits - 1)).astype(np.uint16)


def with_significant_bits(png, *bits):
    """Write an sBIT chunk behind a PNG's header."""
    chunk = b"sBIT" + bytes(bits)
    return png[:33] + struct.pack(">I", len(bits)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


@pytest.fixture(scope="module")
def grey(build_once):
    return build_once(
        "grey",
        lambda folder: build_means(folder, channels=1, color="gray", resize=24, crop=24, mean=(0.5,), std=(0.001,)),
    )


def codes(answer):
    return [warning["code"] for warning in answer["warnings"]]


def test_a_network_of_one_channel_sees_pillows_luminance(grey):
    colored, plain = ask(grey, encode(ramp()), encode(Image.fromarray(ramp()).convert("L")))
    luminance = np.asarray(Image.fromarray(ramp()).convert("L")) / 255
    assert scores(colored)[0] == pytest.approx((luminance.mean() - 0.5) * 1000, abs=1e-3)
    assert scores(colored) == scores(plain)


def test_a_network_of_one_channel_keeps_16_bits(grey):
    dim = np.full((24, 24), 20_000 + 128, np.uint16)  # between two of 8 bits
    (answer,) = ask(grey, encode(dim))
    assert scores(answer)[0] == pytest.approx((20_128 / 65_535 - 0.5) * 1000, abs=1e-3)
    mixed = ask(grey, encode(dim), encode(ramp()))
    assert scores(mixed[0]) == scores(answer)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits_in_16_are_scaled_by_their_depth_and_this_is_said(grey, bits):
    answer, usual = ask(grey, encode(deep(bits)), encode(deep(16)))
    assert scores(answer)[0] == pytest.approx(scores(usual)[0], abs=0.1)
    assert codes(answer) == ["DEPTH_GUESSED"]
    assert f"taken for {bits} bits" in answer["warnings"][0]["message"]
    assert codes(usual) == []


@pytest.mark.parametrize(
    ("png", "depth", "bits", "guessed"),
    [
        (with_significant_bits(encode(deep(12)), 12), None, 12, None),  # named, and not scaled
        (with_significant_bits(encode(deep(12, 0.2)), 12), None, 12, None),  # a dark one too
        (with_significant_bits(encode(deep(12) << 4), 12), None, 16, None),  # scaled, as the PNG standard asks
        (with_significant_bits(encode((deep(12, 0.05) >> 4) << 4), 12), None, 16, 16),  # dark, and either way
        (with_significant_bits(encode(deep(16)), 16), None, 16, None),
        (with_significant_bits(encode(deep(16, 0.01)), 16), None, 16, None),  # dark: never brightened
        (encode(deep(16, 0.01)), 16, 16, None),  # the archive says it
        (encode(deep(12, 0.2)), 12, 12, None),
        (encode(deep(12, 0.2)), None, 10, 10),
        (encode(deep(12, 0.0)), None, 16, None),
    ],
)
def test_the_depth_is_what_file_or_archive_say_before_it_is_guessed(png, depth, bits, guessed):
    spec = InputSpec(channels=1, color="gray", mean=(0.0,), std=(1.0,), depth=depth)
    picture = decode(png, Limits(), spec=spec)
    white = np.asarray(picture.seen).max() / 255
    assert picture.guessed_depth == guessed
    assert picture.traits == ["grey", "deep"]
    raw = np.asarray(Image.open(BytesIO(png))).max()
    assert white == pytest.approx(raw / (2**bits - 1), abs=1e-6)


def test_16_bit_colours_that_may_have_fewer_bits_are_said(encoded):
    dim = encode(np.full((16, 16, 3), 15, np.uint8))
    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x0f\xff" * 48) * 16)  # 4095 in each channel

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    png = dim[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert decode(png, Limits()).guessed_depth == 16
    assert decode(dim, Limits()).guessed_depth is None


def test_bgr_is_the_order_of_channels_and_of_mean_and_std(build_once):
    order = {"mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 4.0)}
    archive = build_once("bgr", lambda folder: build_means(folder, color="bgr", resize=24, crop=24, **order))
    (answer,) = ask(archive, encode(ramp()))
    blue, green, red = ramp().mean(axis=(0, 1))[::-1] / 255
    assert scores(answer) == pytest.approx([blue - 0.1, (green - 0.2) / 2, (red - 0.3) / 4], abs=1e-4)


def test_a_network_of_four_channels_sees_transparency(build_once):
    plain = {"mean": (0.0,) * 4, "std": (1.0,) * 4, "resize": 24, "crop": 24}
    archive = build_once("rgba", lambda folder: build_means(folder, channels=4, color="rgba", **plain))
    rgba = np.dstack([ramp(), np.full((24, 24), 51, np.uint8)])
    clear, opaque = ask(archive, encode(rgba), encode(ramp()))
    assert scores(clear)[3] == pytest.approx(0.2, abs=1e-5)
    assert scores(opaque) == pytest.approx([*ramp().mean(axis=(0, 1)) / 255, 1.0], abs=1e-4)
    (drawn,) = ask(archive, encode(rgba), explain="true", format="overlay")
    assert drawn["explanations"][0]["images"]["overlay"].startswith("data:image/jpeg")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"color": "hsv"}, "'hsv' is not one of: rgb, bgr, gray, rgba"),
        ({"color": "gray"}, "gray has 1 channels, and input.channels is 3: name rgb or bgr"),
        ({"channels": 1, "mean": (0.0,), "std": (1.0,)}, "input.channels is 1: name gray"),
        ({"channels": 2}, "others than 1, 3 and 4 need input.transform"),
        ({"mean": (0.5,)}, "one number a channel: 3"),
        ({"depth": 8}, "9 to 16 bits"),
    ],
)
def test_colours_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        InputSpec(**wrong)
