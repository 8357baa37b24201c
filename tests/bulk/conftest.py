"""A small archive, and folders of photos to ask it about."""

import pytest

from many_photos import write_photo
from model_file import quiet, write_pets


@pytest.fixture(scope="session")
def pets(build_once):
    """An archive of three classes."""
    from camserve.build.archive import build_archive
    from camserve.build.recipe import load_recipe

    def build(folder):
        recipe = write_pets(folder)
        recipe.write_text(recipe.read_text() + "methods: [gradcam, layercam]\n")
        return build_archive(load_recipe(recipe), folder / "store", quiet, fresh_process=False)

    return build_once("pets", build)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Work beside a folder ``photos`` of six pictures, two of them called a, and a broken one."""
    monkeypatch.chdir(tmp_path)
    names = ("a.png", "a.jpg", "sub/a.jpg", "sub/b.png", "c.png")
    for seed, name in enumerate(names):
        write_photo(tmp_path / "photos" / name, seed)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    return tmp_path / "photos"
