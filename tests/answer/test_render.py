import itertools
import subprocess
import sys
import time
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from camserve.answer.render import DRAWERS, Scene, boxes, draw, encode
from camserve.answer.render.canvas import drawn_size, place
from camserve.answer.render.palette import PALETTE_OF, colours, levels, palette_colours
from camserve.choices import CONTENT_TYPES, EVIDENCE, PALETTES
from camserve.errors import BadOption

LAYOUTS = [  # photo, region, longest drawn side
    ((600, 400), (125.0, 25.0, 475.0, 375.0), None),
    ((451, 300), (75.3, 0.0, 375.9, 299.9), None),
    ((400, 600), (25.2, 125.1, 374.9, 475.3), 333),
    ((90, 60), (15.1, 0.2, 74.7, 59.6), 400),
    ((120, 120), (0.0, 0.0, 120.0, 120.0), None),
    ((90, 60), (-1.2, -2.3, 91.4, 61.1), None),
    ((30, 80), (-0.4, 25.0, 30.3, 55.5), None),
]


def noise(width, height):
    generator = np.random.default_rng(width * height)
    return Image.fromarray(generator.integers(1, 255, (height, width, 3), np.uint8))


def one_hot(rows, columns, row, column):
    grid = np.zeros((rows, columns), np.float32)
    grid[row, column] = 1
    return grid


def centres_in(low, high, pixels, scale):
    """Which drawn pixels have their centre, measured on the photo, between low and high."""
    return np.array([low <= (pixel + 0.5) / scale < high for pixel in range(pixels)])


def lit(layout, grid):
    """Which pixels of a white photo the mask shows."""
    size, region, longest = layout
    scene = Scene(Image.new("RGB", size, "white"), region, grid, size=longest)
    return np.asarray(draw("mask", scene))[..., 0] == 255


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hot_columns_or_rows_from_one_on_light_up_exactly_their_own_pixels(layout):
    (width, height), (left, top, right, bottom), longest = layout
    scale = 1 if longest is None else longest / max(width, height)
    drawn_width, drawn_height = round(width * scale), round(height * scale)

    def inside(low, high, start, stop, drawn, whole):
        step = (high - low) / 7
        return centres_in(low + start * step, low + stop * step, drawn, drawn / whole)

    all_columns = inside(left, right, 0, 7, drawn_width, width)
    all_rows = inside(top, bottom, 0, 7, drawn_height, height)
    for cell in range(1, 7):
        step = (np.arange(7) >= cell).astype(np.float32)
        columns = inside(left, right, cell, 7, drawn_width, width)
        assert np.array_equal(lit(layout, step[None]), np.outer(all_rows, columns)), f"column {cell}"
        rows = inside(top, bottom, cell, 7, drawn_height, height)
        assert np.array_equal(lit(layout, step[:, None]), np.outer(rows, all_columns)), f"row {cell}"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", [(1, 5), (3, 3), (4, 2)])
def test_a_hot_cell_is_centred_where_it_lies_on_the_photo(layout, cell):
    size, (left, top, right, bottom), longest = layout
    scene = Scene(noise(*size), (left, top, right, bottom), one_hot(7, 7, *cell), size=longest)
    placed = place(scene)
    first_column, first_row, end_column, end_row = placed.inside
    assert 0 <= first_column <= end_column <= placed.size[0]
    assert 0 <= first_row <= end_row <= placed.size[1]
    mass = placed.values / placed.values.sum()
    scale = placed.size[0] / size[0], placed.size[1] / size[1]
    column = mass.sum(axis=0) @ (np.arange(mass.shape[1]) + 0.5 + first_column) / scale[0]
    row = mass.sum(axis=1) @ (np.arange(mass.shape[0]) + 0.5 + first_row) / scale[1]
    assert column == pytest.approx(left + (cell[1] + 0.5) * (right - left) / 7, abs=0.1)
    assert row == pytest.approx(top + (cell[0] + 0.5) * (bottom - top) / 7, abs=0.1)


def resized(grid, height, width):
    return place(Scene(Image.new("RGB", (width, height)), (0, 0, width, height), grid)).values


def test_nothing_works_on_once_a_picture_is_drawn():
    """NumPy's threads spin for tens of milliseconds after a large matrix product, beside the next forward pass."""
    scene = Scene(noise(600, 400), (125.0, 25.0, 475.0, 375.0), np.eye(7, dtype=np.float32))
    for _ in range(3):
        draw("overlay", scene)
        before = time.process_time()
        time.sleep(0.1)
        assert time.process_time() - before < 0.01


def cubic_of_pillow(values, height, width):
    """Pillow's bicubic of a map whose outermost cells are repeated, clipped to the map's range."""
    rows, columns = values.shape
    around = 2 * max(1, -(-rows // height), -(-columns // width)) + 1
    padded = Image.fromarray(np.pad(values, around, mode="edge"))
    box = (around, around, around + columns, around + rows)
    return np.clip(
        np.asarray(padded.resize((width, height), Image.Resampling.BICUBIC, box)), values.min(), values.max()
    )


@pytest.mark.parametrize("grid", [(7, 7), (14, 10), (1, 1), (3, 20), (56, 40)])
@pytest.mark.parametrize("size", [(224, 224), (61, 83), (20, 20), (13, 17)])
def test_a_map_is_resized_by_pillows_cubic(grid, size):
    values = np.random.default_rng(1).uniform(-1, 1, grid).astype(np.float32)
    ours = resized(values, *size)
    assert ours.dtype == np.float32
    assert np.abs(ours - cubic_of_pillow(values, *size)).max() < 2e-5


def test_an_enlarged_map_has_no_cross_and_keeps_its_values():
    """Bilinear maps are creased along the lines through the cells' centres: there a peak looks like a star."""
    placed = resized(one_hot(7, 7, 3, 3), 7 * 33, 7 * 33)
    centre = 3 * 33 + 16
    assert placed[centre, centre] == pytest.approx(1, abs=1e-4)
    assert placed.min() == 0
    assert placed.max() <= 1
    diagonal, straight = placed[centre + 14, centre + 14], placed[centre + 20, centre]
    assert diagonal == pytest.approx(straight, abs=0.03)  # nearly as far from the centre; bilinear: 0.33 and 0.39
    slope = np.abs(np.diff(placed[centre], 2)).max()
    assert slope < 0.02  # no crease but that of the clipping; bilinear: 0.06 at the centre


@pytest.mark.parametrize(
    ("size", "longest", "drawn"),
    [
        ((600, 400), None, (600, 400)),
        ((600, 400), 300, (300, 200)),
        ((400, 600), 1024, (683, 1024)),
        ((900, 3), 100, (100, 1)),
    ],
)
def test_the_longest_side_is_as_asked(size, longest, drawn):
    scene = Scene(Image.new("RGB", size), (0, 0, *size), one_hot(2, 2, 0, 0), size=longest)
    assert drawn_size(scene) == drawn


def test_every_format_has_the_drawn_size():
    grids = (one_hot(7, 7, 1, 1), -one_hot(5, 9, 2, 2), np.zeros((7, 7), np.float32))
    for layout, grid, palette in itertools.product(LAYOUTS, grids, PALETTES):
        size, region, longest = layout
        scene = Scene(noise(*size), region, grid, palette, 0.7, longest, "signed" if grid.min() < 0 else "for")
        for name in DRAWERS:
            drawn = draw(name, scene)
            assert (drawn.size, drawn.mode) == (drawn_size(scene), "RGB"), (name, layout, palette)


@pytest.mark.parametrize("name", DRAWERS)
def test_a_region_too_thin_for_a_pixel_still_gives_a_picture(name):
    drawn = draw(name, Scene(noise(50, 30), (10.6, 0, 11.4, 30), one_hot(7, 7, 0, 0)))
    assert drawn.size == (50, 30)


@pytest.mark.parametrize("name", DRAWERS)
def test_drawing_leaves_the_photo_as_it_was(name):
    photo = noise(60, 40)
    before = photo.tobytes()
    draw(name, Scene(photo, (10, 0, 50, 40), one_hot(7, 7, 3, 3)))
    assert photo.tobytes() == before


@pytest.mark.parametrize("sign", [1, -1])
def test_without_opacity_the_inside_is_the_photo_and_the_outside_is_not(sign):
    photo = noise(600, 400)
    scene = Scene(
        photo, (125, 25, 475, 375), sign * one_hot(7, 7, 3, 3), opacity=0.0, evidence="signed" if sign < 0 else "for"
    )
    same = (np.asarray(draw("overlay", scene)) == np.asarray(photo)).all(axis=2)
    inside = np.zeros((400, 600), bool)
    inside[25:375, 125:475] = True
    assert same[inside].all()
    assert same[~inside].mean() < 0.01


def test_outside_is_grey_and_dark_behind_a_line():
    drawn = np.asarray(
        draw("overlay", Scene(Image.new("RGB", (60, 40), (200, 0, 0)), (10, 0, 50, 40), one_hot(7, 7, 3, 3)))
    )
    grey = round(200 * 0.299) * 0.45
    for column in (0, 8, 51, 59):
        assert np.abs(drawn[:, column] - grey).max() <= 1
    assert (drawn[:, [9, 50]] == 240).all()
    assert (drawn[0, 10:50] == (200, 0, 0)).all()  # the photo's own edge gets no line


def test_a_map_of_the_whole_photo_has_no_border():
    photo = noise(40, 40)
    scene = Scene(photo, (0, 0, 40, 40), one_hot(7, 7, 3, 3), opacity=0.0)
    assert draw("overlay", scene).tobytes() == photo.tobytes()


@pytest.mark.parametrize("palette", ["turbo", "viridis", "jet"])
@pytest.mark.parametrize("opacity", [0.3, 1.0])
def test_the_share_of_colour_bends_with_the_value(palette, opacity):
    photo = noise(40, 30)
    grid = np.array([[1.0, 0.4, 0.0]], np.float32)
    drawn = np.asarray(draw("overlay", Scene(photo, (0, 0, 40, 30), grid, palette, opacity))).astype(float)
    before = np.asarray(photo).astype(float)
    for column, value in ((2, 1.0), (39, 0.0)):
        share = opacity * value
        painted = before[:, column] * (1 - share) + palette_colours(palette)[round(255 * value)] * share
        assert np.abs(drawn[:, column] - painted).max() <= 1
    flat = np.asarray(draw("overlay", Scene(photo, (0, 0, 40, 30), grid[:, 1:2], palette, opacity)))
    painted = before * (1 - 0.64 * opacity) + palette_colours(palette)[102] * 0.64 * opacity  # 0.4 * 1.6, 0.4 * 255
    assert np.abs(flat - painted).max() <= 1


def test_a_blank_map_adds_no_colour():
    photo = noise(40, 30)
    scene = Scene(photo, (0, 0, 40, 30), np.zeros((7, 7), np.float32), opacity=1.0)
    assert draw("overlay", scene).tobytes() == photo.tobytes()


def test_a_signed_map_tints_both_ways_and_greys_the_photo_between():
    photo = noise(70, 10)
    grid = np.array([[-1, 0, 0, 0, 0, 0, 1]], np.float32)
    drawn = np.asarray(draw("overlay", Scene(photo, (0, 0, 70, 10), grid, opacity=1.0, evidence="signed")))
    assert np.abs(drawn[:, 2] - palette_colours("diverging")[1].astype(int)).max() <= 1
    assert np.abs(drawn[:, 67] - palette_colours("diverging")[255].astype(int)).max() <= 1
    assert (drawn[:, 26:44] == np.asarray(photo.convert("L"))[:, 26:44, None]).all()


def test_a_heatmap_is_grey_outside_and_the_palette_inside():
    drawn = np.asarray(draw("heatmap", Scene(noise(60, 40), (10, 0, 50, 40), np.ones((1, 1), np.float32), "jet")))
    assert (drawn[:, :10] == 128).all()
    assert (drawn[:, 50:] == 128).all()
    assert (drawn[:, 10:50] == (128, 0, 0)).all()


def test_a_legend_leaves_the_picture_as_it_is_and_a_mask_has_none():
    for (size, region, longest), evidence in itertools.product(LAYOUTS, EVIDENCE):
        scene = Scene(noise(*size), region, one_hot(7, 7, 1, 1), "viridis", 0.7, longest, evidence)
        captioned = replace(scene, legend="1 = 0.0312")
        for name in ("overlay", "heatmap"):
            bare, framed = draw(name, scene), draw(name, captioned)
            assert framed.crop((0, 0, *bare.size)).tobytes() == bare.tobytes(), (size, name)
            assert framed.height > bare.height, (size, name)
        assert draw("mask", captioned).size == draw("mask", scene).size


@pytest.mark.parametrize("evidence", ["for", "against", "signed"])
@pytest.mark.parametrize(("side", "digit"), [(224, 8), (1024, 15)])
def test_a_legend_shows_the_palette_from_end_to_end_and_labels_that_can_be_read(evidence, side, digit):
    photo = Image.new("RGB", (side, side * 2 // 3))
    scene = Scene(photo, (0, 0, *photo.size), one_hot(7, 7, 1, 1), evidence=evidence, legend="1 = 0.0312")
    strip = np.asarray(draw("heatmap", scene), int)[photo.height :]
    colours_shown = palette_colours(scene.drawn_palette)
    signed = evidence == "signed"
    first, last = colours_shown[1 if signed else 0], colours_shown[255]
    bar = next(row for row in strip if (row == first).all(axis=1).any() and (row == last).all(axis=1).any())
    start, stop = np.argmax((bar == first).all(axis=1)), np.flatnonzero((bar == last).all(axis=1))[-1]
    assert 0.5 * side < stop - start < 0.9 * side
    if signed:
        assert np.abs(bar[(start + stop) // 2] - colours_shown[128]).max() <= 2  # white for zero
    (below,) = np.nonzero((strip < 100).all(axis=2)[:, start + 2 : stop - 2].any(axis=1))
    lowest_label = below[below > below.max() - 2 * digit]
    assert len(lowest_label) >= digit


def test_a_legend_is_drawn_where_pillow_has_no_freetype(tmp_path):
    """A stock image may lack it: Pillow then has one bitmap font, which is enlarged."""
    script = """
import sys
sys.modules["PIL._imagingft"] = None
import numpy as np
from PIL import Image, features
from camserve.answer.render import Scene, draw
assert not features.check("freetype2")
for side in (224, 1024):
    photo = Image.new("RGB", (side, 150), "red")
    scene = Scene(photo, (0, 0, side, 150), np.eye(7, dtype=np.float32), legend="1 = 0.0312")
    framed = draw("heatmap", scene)
    assert framed.width == side
    assert (np.asarray(framed.crop((side * 2 // 3, 150, *framed.size))) < 100).all(axis=2).sum() > 50
    framed.save(f"{sys.argv[1]}/{side}.png")
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


def test_a_mask_shows_the_photo_where_the_map_is_at_least_half():
    photo = noise(60, 40)
    drawn = np.asarray(draw("mask", Scene(photo, (10, 0, 50, 40), np.array([[0.5, 0.49, -1]], np.float32)[:, :1])))
    assert (drawn[:, 10:50] == np.asarray(photo)[:, 10:50]).all()
    assert not drawn[:, :10].any()
    assert not drawn[:, 50:].any()
    assert not np.asarray(draw("mask", Scene(photo, (10, 0, 50, 40), np.full((1, 1), 0.49, np.float32)))).any()
    assert not np.asarray(draw("mask", Scene(photo, (10, 0, 50, 40), np.full((1, 1), -1, np.float32)))).any()


@pytest.mark.parametrize("name", ["turbo", "viridis"])
def test_a_palette_is_within_one_level_of_matplotlib(name):
    import matplotlib

    reference = np.rint(np.array(matplotlib.colormaps[name].colors) * 255)
    assert np.abs(palette_colours(name) - reference).max() <= 1


def test_jet_is_its_formula():
    at = np.linspace(0, 1, 256)[:, None]
    formula = np.clip(1.5 - np.abs(4 * at - [3, 2, 1]), 0, 1) * 255
    assert np.abs(palette_colours("jet") - formula).max() <= 1


def test_viridis_only_gets_lighter():
    share = palette_colours("viridis")[::5] / 255  # every fifth, since rounding to 8 bits outweighs one step
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)  # sRGB, IEC 61966-2-1
    assert (np.diff(linear @ [0.2126, 0.7152, 0.0722]) > 0).all()


@pytest.mark.parametrize("name", PALETTE_OF)
def test_colours_are_the_table_read_at_the_value(name):
    assert palette_colours(name).shape == (256, 3)
    lowest = PALETTE_OF[name].lowest
    found = np.asarray(colours(levels(np.linspace(lowest, 1, 256)[None], name), name))
    assert found[0].tolist() == palette_colours(name).tolist()


def test_a_signed_map_is_blue_white_red():
    drawn = colours(levels(np.array([[-1.0, 0.0, 1.0]]), "diverging"), "diverging")
    against, none, support = np.asarray(drawn)[0].astype(int)
    assert against[2] > against[0] + 80
    assert none.min() > 240
    assert support[0] > support[2] + 80
    red, _, blue = palette_colours("diverging").T.astype(int)
    assert (np.diff(blue - red) <= 0).mean() > 0.7  # from blue to red, apart from the darkening ends


def test_boxes_by_hand():
    grid = np.array(
        [
            [0.0, 0.0, 0.0, 0.0, 0.2],
            [0.0, 1.0, 0.0, 0.0, 0.2],
            [0.0, 0.0, 0.5, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0],
            [0.9, 0.9, 0.0, 0.1, 0.0],
        ],
        np.float32,
    )
    # cells are 20 wide and 10 high; 0.9 + 0.9 outweighs 1.0 + 0.5, whose corners touch
    assert boxes(grid, (100, 50, 200, 100), 0.15) == [(100, 90, 140, 100), (120, 60, 160, 80), (180, 50, 200, 70)]
    assert boxes(grid, (100, 50, 200, 100), threshold=0.95) == [(120, 60, 140, 70)]
    assert boxes(grid * 0.01, (100, 50, 200, 100), 0.15) == boxes(grid, (100, 50, 200, 100), 0.15)


@pytest.mark.parametrize("side", range(5, 10))
def test_a_diagonal_is_one_part_either_way(side):
    for grid in (np.eye(side), np.eye(side)[::-1]):
        assert boxes(grid, (0, 0, side, side), 0.15) == [(0, 0, side, side)]
    for grid in (np.eye(side)[:, :1] + np.zeros(side), np.eye(side)[:1] + np.zeros((side, 1))):
        assert len(boxes(grid, (0, 0, side, side), 0.15)) == 1


def test_a_box_never_cuts_a_cell_and_holds_plain_numbers():
    ((left, top, right, bottom),) = boxes(one_hot(7, 7, 2, 6), (125.5, 25.0, 475.5, 375.0), 0.15)
    assert (left, top, right, bottom) == pytest.approx((425.5, 125, 475.5, 175))
    assert {type(side) for side in (left, top, right, bottom)} == {float}


def test_a_map_without_plain_evidence_has_no_boxes():
    assert boxes(np.zeros((7, 7), np.float32), (0, 0, 70, 70), 0.15) == []
    assert boxes(one_hot(7, 7, 1, 1) - one_hot(7, 7, 2, 2), (0, 0, 70, 70), 0.15) == []


def test_single_tokens_are_boxed_with_what_is_round_them():
    grid = np.zeros((11, 11), np.float32)
    grid[4, 4] = grid[6, 6] = 1
    assert boxes(grid, (0, 0, 11, 11), 0.2) == [(4, 4, 5, 5), (6, 6, 7, 7)]
    assert boxes(grid, (0, 0, 11, 11), 0.2, of_tokens=True) == [(2, 2, 9, 9)]
    assert boxes(grid, (0, 0, 11, 11), 0.9, of_tokens=True) == [(4, 4, 7, 7)]
    fine = np.zeros((80, 80), np.float32)
    fine[3, 3] = 1
    assert boxes(fine, (0, 0, 80, 80), 0.2, of_tokens=True) == [(3, 3, 4, 4)]


def test_specks_are_limited_to_the_strongest_in_order():
    grid = np.zeros((9, 9), np.float32)
    grid[::2, ::2] = np.linspace(0.3, 1, 25).reshape(5, 5)
    found = boxes(grid, (0, 0, 9, 9), 0.15)
    assert found[0] == (8, 8, 9, 9)
    assert found[-1] == (0, 6, 1, 7)  # the tenth from the end of 5 x 5
    assert len(found) == 10


def test_equal_parts_come_in_reading_order():
    grid = np.zeros((5, 5), np.float32)
    grid[::2, ::2] = 1
    assert [box[:2] for box in boxes(grid, (0, 0, 5, 5), 0.15)] == [(x, y) for y in (0, 2, 4) for x in (0, 2, 4)]


@pytest.mark.parametrize("kind", CONTENT_TYPES)
def test_encoding_keeps_the_pixels_and_no_metadata(kind):
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a secret place")
    buffer = BytesIO()
    profile, exif = b"a secret profile", Image.Exif()
    exif[0x010E] = "a secret title"
    smooth = noise(6, 4).resize((60, 40), Image.Resampling.BICUBIC)
    smooth.save(buffer, "PNG", pnginfo=text, icc_profile=profile, exif=exif, dpi=(300, 300))
    photo = Image.open(buffer)
    photo.load()
    drawn = draw("overlay", Scene(photo, (0, 0, 60, 40), np.zeros((7, 7), np.float32)))
    written = encode(drawn, kind)
    assert b"secret" not in written
    assert written == encode(smooth, kind)  # the same pixels, the same bytes
    read = Image.open(BytesIO(written))
    assert (read.format, read.size, read.mode) == (kind, (60, 40), "RGB")
    assert not read.getexif()
    error = np.abs(np.asarray(read).astype(int) - np.asarray(smooth)).mean()
    assert error == 0 if kind == "PNG" else error < 6


def test_wrong_names_are_answered_with_the_right_ones():
    scene = Scene(noise(20, 20), (0, 0, 20, 20), one_hot(7, 7, 0, 0))
    with pytest.raises(BadOption, match="did you mean 'overlay'"):
        draw("overlai", scene)
    with pytest.raises(BadOption, match="turbo, viridis, jet"):
        draw("heatmap", Scene(scene.image, scene.region, scene.grid, palette="hot"))
    with pytest.raises(BadOption, match="JPEG, PNG, WEBP"):
        encode(scene.image, "GIF")


def test_evidence_against_is_blue_whatever_palette_is_asked_for():
    scene = Scene(noise(40, 40), (0, 0, 40, 40), np.ones((1, 1), np.float32), "turbo", evidence="against")
    assert (np.asarray(draw("heatmap", scene)) == palette_colours("against")[255]).all()
    red, _, blue = palette_colours("against").T.astype(int)
    assert (blue > red).all()
    against = {tuple(colour) for colour in palette_colours("against").tolist()}
    assert all(against.isdisjoint(map(tuple, palette_colours(name).tolist())) for name in PALETTES)
