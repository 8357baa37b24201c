"""The page for browsers, in a real Chromium before a real TorchServe."""

import base64
import json
import re
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from browser_needed import chromium, needs_chromium, playwright_timeout
from nginx_needed import needs_nginx, started
from PIL import Image

from camserve.build.archive import build_archive
from camserve.build.recipe import load_recipe
from camserve.operate.front import SERVER_PROPERTIES, Front
from camserve.operate.server import Server
from conftest import photo

pytestmark = [pytest.mark.server, needs_chromium]

HERE = Path(__file__).parent
SECONDS = 30_000  # milliseconds, in Playwright's own unit
SCRIPT_LABEL = "<script>document.title = 'owned'</script>"
IMAGE_LABEL = "<img src=x onerror=\"document.title = 'owned'\">"
GERMAN_LABEL = "Äpfel & Öl \u202egnirts"
HOSTILE_NAME = "\"><img src=x onerror=document.title='owned'>'$(id).png"
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def markup(build_once):
    """An archive whose labels are markup."""

    def build(folder):
        import faulty_network
        import torch

        torch.manual_seed(5)
        torch.save(faulty_network.Net().state_dict(), folder / "net.pt")
        (folder / "labels.txt").write_text(f"{SCRIPT_LABEL}\n{IMAGE_LABEL}\n{GERMAN_LABEL}\n")
        (folder / "markup.yaml").write_text(
            f"name: markup\nfactory: Net\nmodel_file: {HERE / 'faulty_network.py'}\nweights: net.pt\n"
            "labels: labels.txt\npreprocess: {resize: 64, crop: 64, mean: [0, 0, 0], std: [1, 1, 1]}\n"
            "layer: features\nmethods: [gradcam, layercam]\n"
        )
        return build_archive(load_recipe(folder / "markup.yaml"), folder / "store", lambda line: None)

    return build_once("markup", build)


@pytest.fixture(scope="module")
def heads(build_once):
    """An archive of two outputs: classes, and quantities with units."""

    def build(folder):
        from output_archives import build_outputs

        (folder / "color.txt").write_text("red\nblue\ngreen\n")
        (folder / "size.txt").write_text("length\nweight\n")
        size = {"select": "size", "task": "regression", "units": ["cm", "g"], "labels": "size.txt"}
        both = {"color": {"select": "a", "labels": "color.txt"}, "size": size}
        end = "{'a': scores[:, :3], 'size': scores[:, 4:] * 10}"
        return build_outputs(folder, end, heads=both, name="heads")

    return build_once("viewer-heads", build)


@pytest.fixture(scope="module")
def open_server(imagenet, markup, heads, serve, tmp_path_factory):
    """A server on loopback that asks for no token."""
    store = tmp_path_factory.mktemp("store")
    archives = [Path(shutil.copy(archive, store)) for archive in (imagenet, markup, heads)]
    with serve(*archives, disable_token_authorization="true") as running:
        yield running


@pytest.fixture(scope="module")
def url(open_server):
    return f"{open_server.inference.url}/predictions/imagenet"


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser):
    """Open pages, and see that nothing fails in them and that they ask nobody but their server."""
    visits = []

    def visit(address, **settings):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **settings})
        context.set_default_timeout(SECONDS)
        page = context.new_page()
        seen = SimpleNamespace(errors=[], requests=[])
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("console", lambda line: seen.errors.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: seen.requests.append(request))
        visits.append((context, seen, address))
        page.goto(address)
        return page, seen

    yield visit
    for context, seen, address in visits:
        context.close()
        origin = re.match("https?://[^/]+/", address)[0]
        assert [asked.url for asked in seen.requests if not asked.url.startswith((origin, "blob:", "data:"))] == []
        # Chromium itself writes a line for each answer that is a refusal.
        assert [error for error in seen.errors if not error.startswith("Failed to load resource")] == []


@pytest.fixture
def expect():
    from playwright.sync_api import expect

    expect.set_options(timeout=SECONDS)
    return expect


@pytest.fixture
def coffee_shown(visit, url, coffee, expect):
    page, seen = visit(url)
    add(page, "coffee.png", coffee)
    expect(page.locator("#caption")).to_contain_text("Why \u2068espresso\u2069 (95.1 %)")
    return page, seen


def add(page, name, body, kind="image/png"):
    page.set_input_files("#choose", [{"name": name, "mimeType": kind, "buffer": body}])


def posts(seen):
    return [asked for asked in seen.requests if asked.method == "POST"]


def ask(url, body, **options):
    return requests.post(url, files={"data": body}, data=options, timeout=60).json()


def stage_uri(page):
    return page.evaluate("() => document.getElementById('stage').toDataURL('image/png')")


def open_uri(uri):
    return Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")


def test_a_browser_gets_the_page_and_others_a_note(url):
    page = requests.get(url, headers=HTML, timeout=60)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'sha256-")
    assert page.headers["Content-Security-Policy"].endswith("frame-ancestors 'none'")
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert len(page.content) < 300_000  # two photos and a thousand labels
    for accept in ("*/*", "application/json", "image/png"):
        note = requests.get(url, headers={"Accept": accept}, timeout=60)
        assert note.status_code == 400
        assert "curl -T photo.jpg URL" in note.json()["error"]["message"]
        assert "browser" in note.json()["error"]["message"]


def test_a_body_or_an_option_is_never_answered_with_the_page(url):
    for settings in ({"data": b"nothing"}, {"files": {"target": (None, "cup")}}, {"json": {"target": "cup"}}):
        answer = requests.post(url, headers=HTML, timeout=60, **settings)
        assert answer.status_code >= 400
        assert answer.headers["Content-Type"] == "application/json"


def test_a_photo_is_predicted_and_explained_by_one_request(coffee_shown, expect):
    page, seen = coffee_shown
    rows = page.locator("#classes label")
    expect(rows).to_have_count(5)
    assert rows.nth(0).inner_text().split("\n")[0] == "espresso"
    expect(page.locator("#spoken")).to_have_text("\u2068espresso\u2069: strongest at the centre")
    expect(page.locator("#strength")).to_contain_text("Strong evidence")
    expect(page.locator("#channels tr")).to_have_count(10)
    assert len(posts(seen)) == 1


def test_the_value_under_the_pointer_is_that_of_the_grid(coffee_shown, url, coffee, expect):
    page, _ = coffee_shown
    answer = ask(url, coffee)
    (explanation,) = answer["explanations"]
    grid = np.array(explanation["grid"])
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    left, top, right, bottom = answer["input"]["region"]
    x = left + (column + 0.5) / grid.shape[1] * (right - left)
    y = top + (row + 0.5) / grid.shape[0] * (bottom - top)
    box = page.locator("#stage").bounding_box()
    across, down = box["width"] / answer["input"]["width"], box["height"] / answer["input"]["height"]
    page.mouse.move(box["x"] + x * across, box["y"] + y * down)
    expect(page.locator("#under-pointer")).to_contain_text("here:")
    shown = float(re.search("here: ([0-9.]+)", page.locator("#under-pointer").inner_text())[1])
    assert shown == pytest.approx(explanation["scale"], rel=0.03)
    page.mouse.move(box["x"] + 3, box["y"] + 3)  # the model never saw this corner
    expect(page.locator("#under-pointer")).to_have_text("in points of score")


def test_what_the_model_never_saw_is_darker_and_the_map_is_coloured(coffee_shown, coffee):
    page, _ = coffee_shown
    shown = np.asarray(open_uri(stage_uri(page)), float)
    given = np.asarray(Image.open(BytesIO(coffee)).convert("RGB").resize(shown.shape[1::-1]), float)
    outside = slice(0, None), slice(0, int(shown.shape[1] * 0.15))
    assert shown[outside].mean() == pytest.approx(given[outside].mean() / 2, abs=3)
    middle = tuple(slice(int(side * 0.45), int(side * 0.55)) for side in shown.shape[:2])
    assert np.abs(shown[middle] - given[middle]).mean() > 20


def test_another_class_is_shown_at_once_by_pointer_and_keyboard(coffee_shown, expect):
    page, seen = coffee_shown
    page.locator("#classes label").nth(2).hover()
    expect(page.locator("#caption")).to_contain_text("Why \u2068consomme\u2069")
    page.mouse.move(1, 1)
    expect(page.locator("#caption")).to_contain_text("Why \u2068espresso\u2069")
    page.locator("#classes input").nth(0).focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#caption")).to_contain_text("Why \u2068cup\u2069")
    expect(page.locator("#spoken")).to_contain_text("\u2068cup\u2069: strongest at")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#caption")).to_contain_text("Why \u2068consomme\u2069")
    assert len(posts(seen)) == 1


def test_any_class_is_found_by_its_label(coffee_shown, expect):
    page, seen = coffee_shown
    page.locator("#find").fill("tabby")
    page.locator("#found button").first.click()
    expect(page.locator("#caption")).to_contain_text("Why \u2068tabby\u2069")
    expect(page.locator("#classes label")).to_have_count(6)
    assert len(posts(seen)) == 2
    page.locator("#find").fill("no such label")
    expect(page.locator("#found")).to_have_text("no class has this in its label")
    page.keyboard.press("Escape")
    expect(page.locator("#found")).to_have_text("")


def test_why_not_and_why_this_rather_than_that(coffee_shown, url, coffee, expect):
    page, _ = coffee_shown
    page.get_by_text("why not", exact=True).click()
    expect(page.locator("#caption")).to_contain_text("What speaks against \u2068espresso\u2069")
    expect(page.locator("#warnings")).to_have_text("Nothing in the photo speaks against this class.Ask “why”.")
    page.locator("#rival").select_option(label="coffee mug")
    expect(page.locator("#caption")).to_contain_text("rather than \u2068coffee mug\u2069: red speaks for")
    (explanation,) = ask(url, coffee, contrast="coffee mug", evidence="signed")["explanations"]
    low, zero, high = page.locator("#ticks span").all_inner_texts()
    assert (low, zero) == (f"\u2212{high}", "0")
    assert float(high) == pytest.approx(explanation["scale"], rel=0.01)
    expect(page.locator("#under-pointer")).to_have_text("in points of score difference")


def test_two_methods_and_two_classes_are_compared_with_a_swipe(coffee_shown, expect):
    page, _ = coffee_shown
    page.locator("#compare").select_option(value="method:ablationcam")
    expect(page.locator("#swipe-row label")).to_have_text(
        re.compile("gradcam, up to [0-9.]+ points of score \\| ablationcam, up to [0-9.]+ in the method's own unit")
    )
    before = page.locator("#stage").screenshot()
    page.locator("#swipe").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#swipe")).to_have_value("70")
    assert page.locator("#stage").screenshot() != before
    page.locator("#compare").select_option(label="cup")
    expect(page.locator("#swipe-row label")).to_have_text(re.compile("espresso.*, up to .*cup.*, up to "))


def test_a_warning_says_what_to_do(coffee_shown, expect):
    page, _ = coffee_shown
    expect(page.locator("#warnings li")).to_have_count(0)
    page.locator("#method").select_option("eigencam")
    expect(page.locator("#warnings")).to_contain_text("hardly depends on the class")
    expect(page.locator("#warnings")).to_contain_text("choose gradcam for a reason")
    expect(page.locator("#strength")).to_contain_text("of what a predicted class has")
    percent = int(re.search("([0-9]+) % of what", page.locator("#strength").inner_text())[1])
    assert page.locator("#strength-bar").evaluate("bar => bar.value") == pytest.approx(percent / 100, abs=0.006)


def ask_for_channels(page, words):
    page.locator("#channels-asked").fill(words)
    page.keyboard.press("Enter")


def contrast_of(page, selector):
    """Return the contrast of an element's text with the page behind it (WCAG 2)."""
    colours = page.locator(selector).evaluate(
        "one => [getComputedStyle(one).color, getComputedStyle(document.body).backgroundColor]"
    )
    shares = [[int(part) / 255 for part in re.findall("[0-9]+", colour)[:3]] for colour in colours]
    linear = [[one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in rgb] for rgb in shares]
    low, high = sorted(0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in linear)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_map_of_some_channels_is_that_of_the_server(visit, url, coffee, expect, scheme):
    page, _ = visit(url, color_scheme=scheme)
    add(page, "coffee.png", coffee)
    expect(page.locator("#caption")).to_contain_text("Why")
    assert contrast_of(page, "#channels-forms") > 4.5
    first, second, *_ = ask(url, coffee, channels="top:5")["explanations"][0]["of_channels"]["channels"]
    numbers = f"{first},{second}"
    for words, written in (
        ("top:5", "top:5"),
        ("weights:0.. inf", "weights:0..inf"),
        (f"{first}, {second}", numbers),
    ):
        ask_for_channels(page, words)
        (explanation,) = ask(url, coffee, channels=written)["explanations"]
        share = f"{explanation['of_channels']['share'] * 100:.1f} % of the evidence"
        expect(page.locator("#caption")).to_contain_text(f"gradcam \u00b7 channels {written} ({share})")
        assert float(page.locator("#ticks span").last.inner_text()) == pytest.approx(explanation["scale"], rel=0.01)
    page.locator("#compare").select_option(label="all channels")
    expect(page.locator("#swipe-row label")).to_contain_text(f"gradcam, channels {numbers} (")
    page.locator("#show-curl").click()
    expect(page.locator("#command")).to_contain_text(f"--form-string 'channels={numbers}'")
    ask_for_channels(page, "all")
    expect(page.locator("#caption")).not_to_contain_text("channels")
    expect(page.locator("#swipe-row")).to_be_hidden()


def test_the_activation_of_a_channel_is_no_reason_for_a_class(coffee_shown, url, coffee, expect):
    page, _ = coffee_shown
    ask_for_channels(page, "activation:17")
    expect(page.locator("#warnings")).to_contain_text("channel 17 is nowhere above zero in this picture")
    expect(page.locator("#warnings")).not_to_contain_text("class")
    (strongest,) = ask(url, coffee, channels="top:1")["explanations"][0]["of_channels"]["channels"]
    ask_for_channels(page, f"activation:{strongest}")
    expect(page.locator("#caption")).to_contain_text(f"Where channel {strongest} is active, whatever the class")
    expect(page.locator("#caption")).not_to_contain_text("gradcam")
    expect(page.locator("#under-pointer")).to_have_text("in units of activation")
    expect(page.locator("#spoken")).to_contain_text(f"activation of channel {strongest}: strongest")
    expect(page.locator("#stage")).to_have_attribute("aria-label", re.compile("^activation of channel"))
    page.locator("#classes input").nth(1).check()
    page.locator("#compare").select_option(label="espresso")
    side = f"activation of channel {strongest}, up to [0-9.]+ units of activation"
    expect(page.locator("#swipe-row label")).to_have_text(re.compile(f"^{side} \\| {side}$"))
    expect(page.locator("#strength")).to_have_text(re.compile(r"^Its largest value is [0-9.]+ units of activation\.$"))
    expect(page.locator("#strength-bar")).to_be_hidden()


def test_a_channel_of_the_table_is_shown_by_a_click(coffee_shown, expect):
    page, _ = coffee_shown
    page.locator("#channels-part summary").click()
    strongest = page.locator("#channels button").first
    channel = strongest.inner_text()
    strongest.click()
    expect(page.locator("#caption")).to_contain_text(f"channels {channel} (")
    expect(page.locator("#channels-asked")).to_have_value(channel)


def test_channels_that_cannot_be_read_are_refused_and_photos_are_still_predicted(coffee_shown, url, coffee, expect):
    page, _ = coffee_shown
    ask_for_channels(page, "topmost")
    expect(page.locator("#refused")).to_contain_text(ask(url, coffee, channels="topmost")["error"]["message"])
    add(page, "chelsea.png", photo("chelsea"))
    expect(page.locator("#classes label").first).to_contain_text("tiger cat")
    ask_for_channels(page, "99999")
    expect(page.locator("#refused")).to_contain_text("has channels 0 to")
    ask_for_channels(page, "0")
    expect(page.locator("#refused")).to_be_hidden()
    page.locator("#method").select_option("eigencam")
    expect(page.locator("#refused")).to_contain_text("eigencam gives channels no weights")
    ask_for_channels(page, "")
    expect(page.locator("#caption")).to_contain_text("eigencam")


def test_a_broken_file_is_refused_beside_the_photo_and_the_rest_goes_on(visit, url, coffee, expect):
    page, _ = visit(url)
    add(page, "broken.png", coffee[:5_000])
    expect(page.locator("#refused")).to_contain_text("broken.png")
    expect(page.locator("#refused")).to_contain_text(ask(url, coffee[:5_000])["error"]["message"])
    add(page, "coffee.png", coffee)
    expect(page.locator("#caption")).to_contain_text("espresso")
    expect(page.locator("#refused")).to_be_hidden()
    page.locator("#strip button").nth(1).click()
    expect(page.locator("#refused")).to_contain_text("picture")


def test_a_photo_that_is_too_large_is_not_sent(visit, url, expect):
    page, seen = visit(url)
    add(page, "large.png", bytes(6_100_000))
    expect(page.locator("#refused")).to_contain_text("6.1 MB, and the server takes 6.0 MB")
    assert posts(seen) == []


def test_labels_and_file_names_are_text(visit, open_server, encoded, expect):
    page, _ = visit(f"{open_server.inference.url}/predictions/markup")
    add(page, HOSTILE_NAME, encoded(80, 64, color=(9, 200, 90)))
    expect(page.locator("#classes label")).to_have_count(3)
    shown = {row.locator("bdi").text_content() for row in page.locator("#classes label").all()}
    assert shown == {SCRIPT_LABEL, IMAGE_LABEL, GERMAN_LABEL}
    for label in shown:
        page.locator("#classes label").filter(has_text=label).click()
        expect(page.locator("#caption")).to_contain_text(label)
        for other in shown - {label}:
            page.locator("#compare").select_option(label=other)
    page.locator("#find").fill("<")
    expect(page.locator("#found button")).to_have_count(2)
    page.locator("#show-curl").click()
    expect(page.locator("#command")).to_contain_text("data=@photo.jpg")
    add(page, HOSTILE_NAME, b"no picture")  # beside another, so that its name stands in the strip
    expect(page.locator("#strip button")).to_have_count(2)
    assert page.title() == "markup · camserve"
    assert page.locator("main img, main script").count() == 0


def test_each_output_has_its_own_classes_and_units(visit, open_server, encoded, expect):
    page, seen = visit(f"{open_server.inference.url}/predictions/heads")
    add(page, "plain.png", encoded(64, 64, color=(90, 200, 9)))
    expect(page.locator("#classes label")).to_have_count(3)
    page.locator("#head").select_option(label="size")
    expect(page.locator("#classes label")).to_have_count(2)
    for label, unit in (("weight", "g"), ("length", "cm")):
        page.locator("#classes label").filter(has_text=label).click()
        expect(page.locator("#caption")).to_contain_text(re.compile(rf"Why \u2068{label}\u2069 \(.* {unit}\)"))
    page.locator("#rival").select_option(label="weight")
    expect(page.locator("#caption")).to_contain_text("rather than \u2068weight\u2069")
    assert len(posts(seen)) == 3


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photo_is_shown_as_the_server_sees_it_or_not_at_all(visit, open_server, expect, kind, orientation):
    address = f"{open_server.inference.url}/predictions/heads"
    picture = Image.new("RGB", (96, 64), (20, 30, 200))
    picture.paste((220, 30, 20), (0, 0, 48, 32))
    page, _ = visit(address)
    turned = turn(picture, kind, orientation)
    add(page, f"turned.{kind}", turned, f"image/{kind.lower()}")
    expect(page.locator("#strength")).not_to_be_empty()
    page.locator("#opacity").fill("0")
    (explanation,) = ask(address, turned, format="overlay", opacity="0")["explanations"]
    seen = np.asarray(open_uri(explanation["images"]["overlay"]), float)
    shown = np.asarray(open_uri(stage_uri(page)).resize(seen.shape[1::-1]), float)
    hidden = page.locator("#warnings").get_by_text("This browser cannot show the photo")
    expect(hidden).to_have_count(int(kind == "WEBP"))
    assert np.abs((128 if kind == "WEBP" else seen) - shown).mean() < 10


def test_a_webp_that_lies_upright_is_shown(visit, open_server, expect):
    page, _ = visit(f"{open_server.inference.url}/predictions/heads")
    add(page, "upright.webp", turn(Image.new("RGB", (96, 64), (20, 30, 200)), "WEBP", 1), "image/webp")
    expect(page.locator("#strength")).not_to_be_empty()
    page.locator("#opacity").fill("0")
    assert np.asarray(open_uri(stage_uri(page)), float).mean((0, 1)) == pytest.approx([20, 30, 200], abs=6)


def turn(picture, kind, orientation):
    """Return the picture in a file whose EXIF names an orientation."""
    body, exif = BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    picture.save(body, kind, exif=exif)
    return body.getvalue()


def test_the_page_fits_a_phone(visit, url, coffee, expect):
    page, _ = visit(url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    expect(page.locator("#photograph")).to_be_visible()
    add(page, "coffee.png", coffee)
    expect(page.locator("#caption")).to_contain_text("espresso")
    page.locator("#classes label").nth(1).tap()
    expect(page.locator("#caption")).to_contain_text("cup")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    assert page.locator("#stage").bounding_box()["y"] < page.locator("#classes").bounding_box()["y"]
    expect(page.locator("#compare")).to_be_hidden()


def lightness(page):
    colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall("[0-9]+", colour)[:3])) / 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_system_until_a_reader_chooses(visit, url, expect, scheme):
    page, _ = visit(url, color_scheme=scheme)
    other = "dark" if scheme == "light" else "light"
    button = page.get_by_role("button", name="dark colours")
    expect(button).to_have_attribute("aria-pressed", str(scheme == "dark").lower())
    assert (lightness(page) < 60) == (scheme == "dark")
    button.click()
    expect(button).to_have_attribute("aria-pressed", str(other == "dark").lower())
    expect(page.locator("#spoken")).to_have_text(f"{other} colours")
    assert (lightness(page) < 60) == (other == "dark")
    page.emulate_media(color_scheme=other)
    page.emulate_media(color_scheme=scheme)
    assert (lightness(page) < 60) == (other == "dark")
    assert page.evaluate("() => [localStorage.length, sessionStorage.length]") == [0, 0]


def press_for_files(page):
    """Press the button that has the focus until the browser asks for files: Playwright misses the first at times."""
    for _ in range(4):
        try:
            with page.expect_file_chooser(timeout=5_000) as chooser:
                page.keyboard.press("Space")
            return chooser.value
        except playwright_timeout():
            pass
    raise AssertionError("no file chooser")


def test_all_is_reached_with_the_keyboard(visit, url, coffee, expect):
    page, _ = visit(url)
    reach(page, "choose")
    press_for_files(page).set_files([{"name": "coffee.png", "mimeType": "image/png", "buffer": coffee}])
    expect(page.locator("#caption")).to_contain_text("espresso")
    for wanted in (
        "find",
        "rival",
        "compare",
        "channels-asked",
        "opacity",
        "palette",
        "grey",
        "save-picture",
        "show-python",
    ):
        reach(page, wanted)
    page.keyboard.press("Enter")
    expect(page.locator("#command")).to_contain_text("import httpx")
    page.keyboard.press("Escape")
    expect(page.locator("#command")).to_be_hidden()


def reach(page, wanted):
    """Press Tab until an element has the focus."""
    for _ in range(40):
        if page.evaluate("() => document.activeElement.id") == wanted:
            return
        page.keyboard.press("Tab")
    pytest.fail(f"no Tab leads to {wanted}")


def test_every_control_has_a_name(coffee_shown):
    page, _ = coffee_shown
    names = re.findall(
        r"- (button|radio|combobox|slider|checkbox|searchbox|img)(.*)", page.locator("body").aria_snapshot()
    )
    assert len(names) > 20
    assert [role for role, rest in names if not rest.strip().startswith('"')] == []


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_photos_are_pasted_and_dropped(visit, url, coffee, expect, way):
    page, _ = visit(url)
    page.evaluate(
        """([way, text]) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const given = new DataTransfer();
            given.items.add(new File([bytes], "photo.png", { type: "image/png" }));
            const event = way === "paste"
                ? new ClipboardEvent("paste", { clipboardData: given, bubbles: true })
                : new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true });
            document.body.dispatchEvent(event);
        }""",
        [way, base64.b64encode(coffee).decode()],
    )
    expect(page.locator("#caption")).to_contain_text("espresso")


def test_a_sample_photo_of_the_archive_is_tried_with_a_click(visit, url, expect):
    page, _ = visit(url)
    expect(page.locator("#samples button")).to_have_count(2)
    page.get_by_role("button", name="sample photo 2").click()
    expect(page.locator("#caption")).to_contain_text("Why \u2068tiger cat\u2069")
    expect(page.locator("#samples")).to_be_hidden()


def test_no_photo_of_an_archive_is_shown_unless_its_recipe_says_so(visit, open_server, expect):
    page, _ = visit(f"{open_server.inference.url}/predictions/markup")
    expect(page.locator("#choices")).to_be_visible()
    expect(page.locator("#samples")).to_be_hidden()
    assert "data:image" not in page.content()


def test_several_photos_stay_in_the_strip(visit, url, coffee, chelsea, expect):
    page, _ = visit(url)
    files = [{"name": f"{name}.png", "mimeType": "image/png", "buffer": photo(name)} for name in ("coffee", "chelsea")]
    page.set_input_files("#choose", files)
    expect(page.locator("#strip button").nth(1)).to_have_text("tiger cat")
    page.locator("#show-curl").click()
    expect(page.locator("#command")).to_contain_text("data=@coffee.png")
    page.locator("#strip button").nth(1).click()
    expect(page.locator("#caption")).to_contain_text("Why \u2068tiger cat\u2069")
    expect(page.locator("#command")).to_contain_text("data=@chelsea.png")


def test_probabilities_are_those_of_the_shown_photo(coffee_shown, url, coffee, expect):
    """Also where another photo takes its place in the strip whose classes come in the same order."""
    page, _ = coffee_shown
    other = BytesIO()
    Image.open(BytesIO(coffee)).point(lambda level: round(level * 0.97)).save(other, "PNG")
    first, second = (ask(url, body)["predictions"] for body in (coffee, other.getvalue()))
    assert [one["index"] for one in first] == [one["index"] for one in second]
    wanted = [f"{one['probability']:.1%}".replace("%", " %") for one in second]
    assert wanted != [f"{one['probability']:.1%}".replace("%", " %") for one in first]
    add(page, "darker.png", other.getvalue())
    expect(page.locator("#strip button").nth(0)).to_have_text("espresso")
    expect(page.locator("#classes span")).to_have_text(wanted)


def test_the_picture_and_the_json_are_saved(coffee_shown, expect):
    page, _ = coffee_shown
    with page.expect_download() as saved:
        page.locator("#save-picture").click()
    assert saved.value.suggested_filename == "espresso.png"
    with Image.open(saved.value.path()) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 600
        assert picture.height > picture.width * 400 / 600 + 30  # caption and legend below the photo
    with page.expect_download() as saved:
        page.locator("#save-json").click()
    answer = json.loads(Path(saved.value.path()).read_text())
    assert answer["explanations"][0]["target"]["label"] == "espresso"


@pytest.mark.parametrize("command", ["curl", "python"])
def test_the_lines_repeat_the_answer(coffee_shown, url, coffee, tmp_path, expect, command):
    page, _ = coffee_shown
    (tmp_path / "coffee.png").write_bytes(coffee)
    page.locator(f"#show-{command}").click()
    lines = page.locator("#command").inner_text()
    program = ["bash", "-c", lines] if command == "curl" else [sys.executable, "-c", lines]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True)
    (wanted,) = ask(url, coffee)["explanations"]
    if command == "curl":
        assert json.loads(done.stdout)["explanations"][0]["grid"] == wanted["grid"]
    else:
        assert str(wanted["grid"]) in done.stdout


def test_a_server_that_does_not_answer_is_asked_again(visit, url, coffee, expect):
    page, _ = visit(url)
    page.context.set_offline(True)
    add(page, "coffee.png", coffee)
    expect(page.locator("#refused")).to_contain_text("The server does not answer. Trying again in")
    page.context.set_offline(False)
    expect(page.locator("#caption")).to_contain_text("espresso")
    expect(page.locator("#refused")).to_be_hidden()


@pytest.fixture(scope="module")
def front(markup, open_folder, next_ports):
    server = Server([markup], open_folder(), next_ports(), **SERVER_PROPERTIES)
    with server, started(Front(server, next_ports())) as running:
        yield running


@needs_nginx
def test_the_page_asks_for_a_token_and_forgets_it(visit, front, encoded, expect):
    page, seen = visit(f"{front.inference.url}/predictions/markup")
    expect(page.locator("#token-form")).to_be_visible()
    expect(page.locator("#main")).to_be_hidden()
    page.locator("#token").fill("not-a-token-of-this-server")
    page.keyboard.press("Enter")
    expect(page.locator("#token-refused")).to_be_visible()
    expect(page.locator("#token-refused")).to_contain_text("does not accept this token")
    page.locator("#token").fill(front.inference.token)
    page.keyboard.press("Enter")
    expect(page.locator("#model")).to_have_text("markup 1.0")
    add(page, "green.png", encoded(80, 64, color=(9, 200, 90)))
    expect(page.locator("#classes label")).to_have_count(3)
    page.locator("#show-curl").click()
    assert "$TOKEN" in page.locator("#command").inner_text()
    assert front.inference.token not in page.content()
    assert page.evaluate("() => [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    assert not any(front.inference.token in asked.url for asked in seen.requests)
    (front.folder / "clients" / front.inference.token).unlink()
    page.get_by_text("why not", exact=True).click()
    expect(page.locator("#token-refused")).to_be_visible()
    (front.folder / "clients" / front.inference.token).touch()
    page.locator("#token").fill(front.inference.token)
    page.keyboard.press("Enter")
    expect(page.locator("#caption")).to_contain_text("What speaks against")
    page.reload()
    expect(page.locator("#token-form")).to_be_visible()


@needs_nginx
def test_the_front_says_nothing_of_a_model_to_those_without_a_token(front):
    address = f"{front.inference.url}/predictions/markup"
    page = requests.get(address, headers=HTML, timeout=60)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["X-Frame-Options"] == "DENY"
    assert 'id="facts">null</script>' in page.text
    assert requests.get(f"{front.inference.url}/predictions/unknown", headers=HTML, timeout=60).text == page.text
    assert requests.get(address, timeout=60).status_code == 405
    assert requests.post(address, headers=HTML, timeout=60).status_code == 401
    token = {**HTML, **front.inference.headers}
    assert "onerror" in requests.get(address, headers=token, timeout=60).text
    assert requests.get(f"{front.inference.url}/viewer.html", headers=HTML, timeout=60).status_code == 404


def test_torchserve_with_tokens_gives_the_page_to_nobody_without_one(front):
    """Which is why a browser needs the front there."""
    server = front._server.inference
    assert requests.get(f"{server.url}/predictions/markup", headers=HTML, timeout=60).status_code == 400
