"""Hostile inputs, made by code from a seed: mutated pictures, bombs, polyglots, and values for options.

Bombs follow the sizes measured in Pillow's decoders; nothing here is stored as a file.
"""

import base64
import random
import struct
import zlib
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image

from camserve.intake.option_parsers import PARSERS

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

# What TorchServe's frontend believes when a worker's log line begins with it.
FORGED = 31337
METRIC = (
    f"[METRICS]cam_batches_total.Count:{FORGED}|#ModelVersion:1.0,ModelName:imagenet,Level:Model"
    "|#type:COUNTER|#hostname:evil,1700000000"
)
PID = "[PID]1"
LINE_BREAKS = ("", "\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")
INJECTIONS = tuple(
    f"x{line}{mark}" if line else mark for line in LINE_BREAKS for mark in (METRIC, PID, f"INFO > {PID}")
)


@lru_cache
def pictures(seed, side=24):
    """Encode one small noisy picture in every format, and JPEG and PNG in a second flavour."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 7, 3), np.uint8)
    image = Image.fromarray(pixels)
    made = [(kind, encode(image, kind)) for kind in KINDS]
    made.append(("JPEG", encode(image, "JPEG", progressive=True, quality=40)))
    made.append(("PNG", encode(image.convert("P"), "PNG", transparency=3)))
    return made


def encode(image, kind, **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def truncated(data, random):
    return data[: random.randrange(1, len(data))]


def flipped(data, random):
    """Flip a few bits anywhere."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 12)):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def overwritten(data, random):
    """Overwrite a run of bytes with noise, or with the extremes that lengths and counts are made of."""
    at = random.randrange(len(data))
    run = random.choice([random.randbytes(random.randint(1, 64)), b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff"])
    return data[:at] + run + data[at + len(run) :]


def removed(data, random):
    at = random.randrange(len(data))
    return data[:at] + data[at + random.randint(1, 40) :]


def repeated(data, random):
    """Repeat a slice of the file."""
    at, end = sorted((random.randrange(len(data)), random.randrange(len(data))))
    return data[:end] + data[at:end] * random.randint(1, 4) + data[end:]


def spliced(data, random):
    """Go on as another file."""
    other = random.choice(pictures(random.randrange(5)))[1]
    return data[: random.randrange(1, len(data))] + other[random.randrange(len(other)) :]


def in_header(data, random):
    """Change bytes of the header alone, where sizes and depths stand."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        changed[random.randrange(min(64, len(data)))] = random.choice([0, 1, 2, 127, 128, 255, random.randrange(256)])
    return bytes(changed)


MUTATORS = (truncated, flipped, overwritten, removed, repeated, spliced, in_header)


def mutated(count, seed):
    """Return ``count`` mutated pictures, the same for the same seed."""
    source = random.Random(seed)
    sound = pictures(seed, side=16)
    return [source.choice(MUTATORS)(source.choice(sound)[1], source) for _ in range(count)]


def chunk(name, body):
    """Wrap a PNG chunk."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(*before, size=(32, 32)):
    """Encode a small PNG with chunks before its pixels."""
    data = encode(Image.new("RGB", size), "PNG")
    return data[:33] + b"".join(before) + data[33:]


def wide_png(width, height):
    """Make a PNG whose header promises so many pixels; there are none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def wide_gif(width, height):
    """Make a GIF of one huge frame on a small screen."""
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x08\x02\x4c\x01\x00;"
    return b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6) + frame


def wide_webp(width, height):
    """Make the WebP of one colour whose few bytes unpack to a gigabyte: a small one with another size written in."""
    data = encode(Image.new("RGB", (16, 16)), "WEBP", lossless=True)
    at = data.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", data, at)
    return data[:at] + struct.pack("<I", bits & 0xF000_0000 | (height - 1) << 14 | (width - 1)) + data[at + 4 :]


def bmp(width, height, compression, payload):
    """Make an 8-bit BMP with any size and compression in its header."""
    start = 54 + 1024
    head = b"BM" + struct.pack("<IHHI", start + len(payload), 0, 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(payload), 1, 1, 256, 0)
    return head + info + bytes(1024) + payload


def webp(chunks):
    """Encode a small WebP with chunks behind its picture."""
    data = encode(Image.new("RGB", (32, 32)), "WEBP") + chunks
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def many_scans(side, scans):
    """Repeat the last scan of a progressive JPEG: each costs a pass over the whole picture."""
    data = encode(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * scans + data[-2:]


def jpeg(*segments):
    """Encode a small JPEG with segments after its first marker."""
    data = encode(Image.new("RGB", (32, 32)), "JPEG")
    return data[:2] + b"".join(segments) + data[2:]


def resized_jpeg(width, height):
    """Write another size into the frame header of a small JPEG."""
    data = encode(Image.new("RGB", (32, 32)), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def shared_tags(count, size, order="<"):
    """Make a block of EXIF: an orientation of 6, and ``count`` tags that all name the same ``size`` bytes."""
    start = 8 + 2 + 12 * (count + 1)
    tags = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, 6, 0)
    tags += b"".join(struct.pack(f"{order}HHII", 0x8000 + number, 7, size, start) for number in range(count))
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}IH", 8, count + 1) + tags + bytes(size)


def segment(marker, body):
    """Wrap a JPEG segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def heavy_scans(width, height):
    """Make a small JPEG of one colour whose decoder holds 6 bytes of coefficients for each of its pixels."""
    image = Image.new("RGB", (width, height), (90, 120, 60))
    return encode(image, "JPEG", progressive=True, quality=30, subsampling=0)


# The header alone must get these refused: 413.
SIZE_BOMBS = {
    "png 1-bit 169 Mpx": lambda: encode(Image.new("1", (13_000, 13_000)), "PNG", compress_level=1),
    "png header 177 Mpx": lambda: wide_png(13_300, 13_300),
    "png header 4 Gpx": lambda: wide_png(65_535, 65_535),
    "png header of a line": lambda: wide_png(1_000_000, 10),
    "webp 34 bytes 80 Mpx": lambda: wide_webp(16_000, 5_000),
    "jpeg 81 Mpx": lambda: resized_jpeg(9_000, 9_000),
    "jpeg 65500 x 10": lambda: resized_jpeg(65_500, 10),
    "gif frame 4 Gpx": lambda: wide_gif(65_535, 65_535),
    "bmp header 1 Gpx": lambda: bmp(32_000, 32_000, 0, b""),
}


def gif_comments(count):
    data = encode(Image.new("P", (32, 32)), "GIF")
    at = data.index(b",")
    return data[:at] + b"!\xfe\x01c\0" * count + data[at:]


@lru_cache
def deflated():
    """Return 60 MB of zeros in 58 kB."""
    return zlib.compress(bytes(60_000_000), 9)


# Small or legal files that would keep a decoder busy for seconds, or whose texts are megabytes.
TIME_BOMBS = {
    "bmp rle padding": lambda: bmp(5_000, 5_000, 1, b"\x01\x00\x00\x00" * 5_000),
    "bmp rle empty runs": lambda: bmp(1_000, 1_000, 1, b"\x01\x00" * 1_000_000),
    "jpeg 2,000 scans": lambda: many_scans(1_000, 2_000),
    "jpeg million segments": lambda: jpeg(b"\xff\xe5\x00\x02" * 1_000_000),
    "jpeg megabytes of fill": lambda: jpeg(b"\xff" * 4_000_000),
    "png 400,000 chunks": lambda: png(chunk(b"teSt", b"") * 400_000),
    "png zTXt 60 MB": lambda: png(chunk(b"zTXt", b"a\0\0" + deflated())),
    "png iTXt 60 MB": lambda: png(chunk(b"iTXt", b"a\0\1\0\0\0" + deflated())),
    "png iCCP 60 MB": lambda: png(chunk(b"iCCP", b"a\0\0" + deflated())),
    "gif million comments": lambda: gif_comments(1_000_000),
    "webp 500,000 chunks": lambda: webp(b"teSt\0\0\0\0" * 500_000),
    "jpeg exif that names itself 2,000 times": lambda: jpeg(segment(0xE1, b"Exif\0\0" + shared_tags(2_000, 40_000))),
    "jpeg mpf that names itself 2,000 times": lambda: jpeg(segment(0xE2, b"MPF\0" + shared_tags(2_000, 40_000))),
}


def animation(count):
    frames = [Image.new("L", (16, 16), number % 256) for number in range(count)]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


def long_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "x" * 50_000
    return exif


# Odd files that must be answered with 200 or 4xx, never more.
ODDITIES = {
    "png 10,000 chunks": lambda: png(chunk(b"teSt", b"") * 10_000),
    "gif 300 frames": lambda: animation(300),
    "jpeg exif": lambda: encode(Image.new("RGB", (40, 20)), "JPEG", exif=long_exif()),
    "jpeg exif loop": lambda: jpeg(b"\xff\xe1\x00\x16Exif\0\0II*\0\x08\0\0\0\x01\0\x08\0\0\0"),
    "jpeg progressive": lambda: encode(Image.new("RGB", (64, 64)), "JPEG", progressive=True),
    "jpeg cut": lambda: encode(Image.new("RGB", (64, 64)), "JPEG")[:-30],
}


def polyglots():
    """Return name -> bytes that are another format, or two at once: refused by their first bytes, 415."""
    photo = encode(Image.new("RGB", (32, 32)), "JPEG")
    return {
        "html": b"<html><script>alert(1)</script></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "pdf + jpeg": b"%PDF-1.4\n" + photo,
        "zip + png": b"PK\x03\x04" + encode(Image.new("RGB", (16, 16)), "PNG"),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "psd": b"8BPS\x00\x01" + bytes(40),
        "tiff": b"II*\x00\x08\x00\x00\x00",
        "tiff big-endian": b"MM\x00*\x00\x00\x00\x08",
        "fits": b"SIMPLE  =                    T",
        "jpeg2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n",
        "heic": b"\x00\x00\x00\x18ftypheic" + bytes(30),
        "avif": b"\x00\x00\x00\x1cftypavif" + bytes(30),
        "ico": b"\x00\x00\x01\x00\x01\x00" + bytes(30),
        "pickle": b"\x80\x04\x95" + bytes(30),
        "elf": b"\x7fELF" + bytes(60),
        "shell": b"#!/bin/sh\nexit 1\n",
        "json": b'{"data": "' + base64.b64encode(photo) + b'"}',
        "nothing but zeros": bytes(1000),
    }


def garbage(count, seed):
    """Return random bytes, half of them behind a valid magic number."""
    source = random.Random(seed)
    magics = [b"", b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBP"]
    return [source.choice(magics) + source.randbytes(source.randrange(400)) for _ in range(count)]


OPTION_NAMES = tuple(PARSERS)

OPTION_VALUES = (
    "",
    " ",
    "-1",
    "0",
    "1e400",
    "-1e-400",
    "nan",
    "inf",
    "-inf",
    "0x10",
    "1_0",
    "\u0663",
    "null",
    "[]",
    "{}",
    "[[]]",
    '["' * 50,
    "top:",
    "top:0",
    "top:99999999",
    "predicted,predicted",
    "next",
    "a" * 100_000,
    ",".join("0123456789" * 20),
    "../../../etc/passwd",
    "__import__('os').system('true')",
    "probability<",
    "probability<" + "9" * 400,
    "probability<0.5 or 1",
    "label=" + "x" * 1000,
    "${jndi:ldap://127.0.0.1/a}",
    "%s%s%s%n",
    "{0.__class__}",
    "\x00",
    "\ud800",
    "\N{ZERO WIDTH SPACE}1",
    "\u202egnp",
    *INJECTIONS,
    None,
    True,
    -1,
    10**30,
    1e308,
    float("nan"),
    [],
    [None],
    [[1]],
    {"a": 1},
    b"",
    b"\xff\xfe",
    bytearray(b"top:2"),
)

OVERLONG = ("+-5", "9" * 5000, "[" * 5000)
