"""Take the pictures of docs/viewer.md, docs/bulk.md and docs/monitoring.md, in a headless Chromium.

Run from a clone: CAMSERVE_DATA=... .venv/bin/python scripts/studies/page_pictures.py [viewer] [gallery] [report]

The report needs imagenet-val-500 in the folder CAMSERVE_DATA; the rest needs photos of scikit-image alone.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from camserve.build.archive import build_archive
from camserve.build.locate import find_file
from camserve.build.mar.unpack import open_archive
from camserve.build.recipe import load_recipe
from camserve.cli import main as camserve
from camserve.cli.terminal import say
from camserve.errors import CamserveError, ConfigError
from camserve.monitor.audit import Audit
from camserve.operate.ports import free_ports
from camserve.operate.server import Server
from camserve.settings import AuditSpec
from camserve.values import RawRequest
from shifts import moved

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RECIPE = ROOT / "config" / "models" / "imagenet.yaml"
CHROMIUM = "/usr/bin/chromium"
PHOTOS = ("coffee.png", "chelsea.png", "rocket.jpg")
IN_GALLERY = (*PHOTOS, "astronaut.png", "camera.png", "hubble_deep_field.jpg", "motorcycle_left.png")
WINDOW = {"width": 1180, "height": 860}  # pixels
CLEAN, DRIFTING = 500, 250  # requests of the report
HOURS = 12.0  # over which their times are spread
ROWS = 10  # of a batch
QUALITY = 85  # of JPEG
SECONDS = 120_000  # milliseconds, in Playwright's own unit


def main() -> int:
    wanted = sys.argv[1:] or list(TAKERS)
    if unknown := set(wanted) - set(TAKERS):
        say(f"camserve: there is no {', '.join(sorted(unknown))}; there are {', '.join(TAKERS)}")
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="camserve-pictures-") as work, sync_playwright() as playwright:
            archive = build_archive(load_recipe(RECIPE), Path(work) / "store", say)
            browser = playwright.chromium.launch(executable_path=CHROMIUM)
            for name in wanted:
                TAKERS[name](browser, archive, Path(work))
            browser.close()
    except CamserveError as error:
        say(f"camserve: {error}")
        return 1
    return 0


def _find(photo: str) -> Path:
    return find_file(f"package://skimage/data/{photo}")


def _keep(shot: bytes, path: Path) -> None:
    """Write a screenshot: JPEG, or PNG of 256 colours."""
    picture = Image.open(BytesIO(shot)).convert("RGB")
    if path.suffix == ".jpg":
        picture.save(path, optimize=True, quality=QUALITY)
    else:
        picture.convert("P", palette=Image.Palette.ADAPTIVE).save(path, optimize=True)
    say(f"wrote {path}, {path.stat().st_size} bytes")


def take_viewer(browser: Browser, archive: Path, work: Path) -> None:
    """Show the page for browsers, before a real TorchServe that asks for no token."""
    with Server([archive], work / "server", free_ports(19_300), disable_token_authorization="true") as server:
        address = f"{server.inference.url}/predictions/imagenet"
        for name, (settings, act) in VIEWS.items():
            with _visit(browser, address, **settings) as page:
                act(page)
                _keep(page.screenshot(full_page=name in WHOLE), DOCS / "viewer" / f"{name}.jpg")


@contextmanager
def _visit(browser: Browser, address: str, **settings: Any) -> Iterator[Page]:
    context = browser.new_context(**{"viewport": WINDOW, **settings})
    context.set_default_timeout(SECONDS)
    page = context.new_page()
    page.goto(address)
    yield page
    context.close()


def _add(page: Page) -> None:
    """Add the photos and wait until all are predicted."""
    page.set_input_files("#choose", [_find(photo) for photo in PHOTOS])
    page.wait_for_function("() => document.querySelectorAll('#strip bdi').length === 3")
    page.wait_for_function(
        "() => ![...document.querySelectorAll('#strip bdi')].some((one) => /\\./.test(one.innerText))"
    )
    page.locator("#working").wait_for(state="hidden")


def _empty(page: Page) -> None:
    page.locator("#samples img").nth(1).wait_for()


def _contrast(page: Page) -> None:
    _add(page)
    page.locator("#rival").select_option(label="coffee mug")
    page.locator("#caption", has_text="red speaks for").wait_for()


def _swipe(page: Page) -> None:
    _add(page)
    page.locator("#compare").select_option(value="method:ablationcam")
    page.locator("#channels-part summary").click()
    page.locator("#show-curl").click()
    page.locator("#swipe-row").wait_for()


def _break(page: Page) -> None:
    broken = _find("coffee.png").read_bytes()[:5_000]
    page.set_input_files("#choose", {"name": "broken.png", "mimeType": "image/png", "buffer": broken})
    page.locator("#refused").wait_for()
    page.locator("#working").wait_for(state="hidden")


# What the browser is set to, and what a reader does, for each picture of docs/viewer.
VIEWS: Mapping[str, tuple[Mapping[str, Any], Callable[[Page], None]]] = {
    "empty": ({"viewport": {**WINDOW, "height": 520}}, _empty),
    "light": ({}, _add),
    "dark": ({"color_scheme": "dark"}, _add),
    "contrast": ({}, _contrast),
    "swipe": ({}, _swipe),
    "error": ({"viewport": {**WINDOW, "height": 260}}, _break),
    "phone": ({"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}, _add),
}
WHOLE = ("swipe", "phone")  # pictures of the whole page, not of a window


def take_gallery(browser: Browser, archive: Path, work: Path) -> None:
    """Show what camserve explain draws of two classes of some photos, weakest evidence first."""
    (work / "photos").mkdir()
    for photo in IN_GALLERY:
        shutil.copy(_find(photo), work / "photos")
    os.chdir(work)  # the gallery shows paths as they were given
    camserve(
        ["explain", "photos", "--archive", str(archive), "--out", "monday", "--save", "gallery", "--target", "top:2"]
    )
    with _visit(browser, (work / "monday" / "gallery.html").as_uri()) as page:
        page.select_option("#sort", "strength-up")
        _keep(page.screenshot(), DOCS / "gallery.jpg")


def take_report(browser: Browser, archive: Path, work: Path) -> None:
    """Show the report of a camera that was moved after a clean time."""
    if not os.environ.get("CAMSERVE_DATA"):
        raise ConfigError("set CAMSERVE_DATA to a folder that holds imagenet-val-500")
    data = Path(os.environ["CAMSERVE_DATA"]) / "imagenet-val-500"
    measured = work / "measured" / archive.name
    measured.parent.mkdir()
    images = ["--images", str(data / "images"), "--labels", str(data / "labels.csv")]
    camserve(["baseline", str(archive), *images, "--out", str(measured)])
    _answer(measured, sorted((data / "images").iterdir())[:CLEAN], work / "audit")
    log = _spread(work / "audit")
    camserve(["report", str(log), "--baseline", str(measured), "--out", str(work / "report.html")])
    with _visit(browser, (work / "report.html").as_uri(), viewport={"width": 1340, "height": 900}) as page:
        page.locator(".chart svg").last.wait_for()
        _keep(page.screenshot(full_page=True), DOCS / "monitoring-report.png")


def _answer(archive: Path, photos: list[Path], folder: Path) -> None:
    """Keep an audit log of the photos, then of the first of them as a moved camera sees them."""
    with open_archive(archive) as pipeline:
        spec = AuditSpec(str(folder), rate=1.0, min_free_bytes=0, pictures=True)
        monitoring = replace(pipeline.settings.monitoring, audit=spec)
        pipeline.settings = replace(pipeline.settings, monitoring=monitoring)  # or it keeps no thumbnails
        recorder = Audit(spec, asdict(pipeline.model), lambda: None)
        pipeline.monitor.report_to(recorder)
        bodies = [path.read_bytes() for path in photos] + [_move(path) for path in photos[:DRIFTING]]
        for start in range(0, len(bodies), ROWS):
            batch = enumerate(bodies[start : start + ROWS], start)
            pipeline.answer([RawRequest(body, request_id=f"photo-{number:04d}") for number, body in batch])
        recorder.close()


def _move(path: Path) -> bytes:
    buffer = BytesIO()
    moved(Image.open(path).convert("RGB")).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _spread(folder: Path) -> Path:
    """Write one log in which the requests of a folder's logs are spread over hours; return its path."""
    lines = [line for path in sorted(folder.iterdir()) for line in path.read_text(encoding="utf-8").splitlines()]
    start = datetime.now(timezone.utc).replace(hour=6, minute=0, second=0, microsecond=0) - timedelta(days=1)
    step = timedelta(hours=HOURS) / len(lines)
    records = [{**json.loads(line), "time": (start + number * step).isoformat()} for number, line in enumerate(lines)]
    log = folder.parent / "requests.jsonl"
    log.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return log


TAKERS: Mapping[str, Callable[[Browser, Path, Path], None]] = {
    "viewer": take_viewer,
    "gallery": take_gallery,
    "report": take_report,
}

if __name__ == "__main__":
    sys.exit(main())
