"""The photos of an archive that its page for browsers offers."""

import base64
from dataclasses import replace
from io import BytesIO

from PIL import Image

from camserve.input_spec import InputSpec
from camserve.serving import sample_photos
from camserve.serving.sample_photos import MOST_SHOWN, SIDE, shrink_samples
from camserve.settings import ModelSpec, Settings
from camserve.values import Layer

SETTINGS = Settings(ModelSpec("any:factory"), InputSpec(), (Layer("any"),), show_samples=True)


def pictures(uris):
    bodies = [base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")) for uri in uris]
    return [Image.open(BytesIO(body)) for body in bodies]


def test_the_first_photos_are_shrunk_and_upright(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (1200, 600), (200, 30, 20)).save(tmp_path / "a.jpg", exif=turned)
    Image.new("L", (40, 20), 90).save(tmp_path / "b.png")
    Image.new("L", (40, 20), 90).save(tmp_path / "c.png")
    shown = pictures(shrink_samples(tmp_path, replace(SETTINGS, samples=("a.jpg", "b.png", "c.png"))))
    assert len(shown) == MOST_SHOWN
    assert [picture.size for picture in shown] == [(SIDE // 2, SIDE), (40, 20)]
    assert not shown[0].getexif()


def test_a_photo_that_a_browser_would_show_otherwise_is_left_out_and_named(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(sample_photos.logger, "warning", lambda text, *values: said.append(text % values))
    Image.new("I;16", (40, 20), 9000).save(tmp_path / "deep.png")
    (tmp_path / "own.npy").write_bytes(b"of a transform")
    assert shrink_samples(tmp_path, replace(SETTINGS, samples=("deep.png", "own.npy"))) == ()
    assert "deep.png is not shown on the page for browsers: its mode I;16" in said[0]
    assert "own.npy is not shown on the page for browsers" in said[1]
