"""Serve a real classifier, send it two photos, and print where it looked."""

from __future__ import annotations

import argparse
import base64
import shutil
import sys
import time
from pathlib import Path

import httpx

from camserve.build.archive import build_archive
from camserve.build.locate import find_file
from camserve.build.recipe import load_recipe
from camserve.bulk.words import describe_peak
from camserve.cli.terminal import say
from camserve.errors import CamserveError
from camserve.operate.endpoint import curl_line
from camserve.operate.ports import choose_port
from camserve.operate.server import Server

RECIPE = Path("config/models/imagenet.yaml")
STORE = Path("model_store")
OUT = Path("out")
REPEATS = 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/quickstart", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the server running and print curl lines to try")
    parser.add_argument("--port", type=int, help="first of five ports; default 8080, or the next free ones")
    args = parser.parse_args()
    try:
        show(args.keep, args.port)
    except CamserveError as error:
        say(f"camserve: {error}")
        return 1
    return 0


def show(keep: bool, wanted_port: int | None) -> None:
    recipe = load_recipe(RECIPE)
    archive = STORE / f"{recipe.name}.mar"
    if is_stale(archive):
        build_archive(recipe, STORE, say)
    port = choose_port(wanted_port, say)
    server = Server([archive], OUT / f"server-{port}", port)
    server.start(say)
    try:
        photos = [Path(shutil.copy(find_file(sample), OUT)) for sample in recipe.samples]
        print(f"{'photo':<12} {'class':<14} {'probability':>11}  {'ms':>5}  where the model looked")
        for photo in photos:
            print(row_of(server, recipe.name, photo))
    except BaseException:
        server.stop()
        raise
    if not keep:
        server.stop()
        return
    server.leave()
    print(f"\nThe server is running (logs in {server.folder}). Try:")
    picture, target = "-H 'accept: image/jpeg' -o why.jpg", "-H 'x-camserve-target: Egyptian cat'"
    for photo, options in ((photos[0], ()), (photos[1], (picture,)), (photos[1], (target,))):
        print(f"  {curl_line(server.inference, recipe.name, str(photo), *options)}")
    print(f"Stop it with: kill {server.pid}")


def is_stale(archive: Path) -> bool:
    inputs = [RECIPE, Path("config/constraints.txt"), *Path("handler").rglob("*.py")]
    return not archive.is_file() or archive.stat().st_mtime < max(path.stat().st_mtime for path in inputs)


def row_of(server: Server, model: str, photo: Path) -> str:
    url = f"{server.inference.url}/predictions/{model}/1.0/format/grid,overlay"
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        answer = httpx.post(url, headers=server.inference.headers, content=photo.read_bytes(), timeout=60)
        times.append((time.perf_counter() - start) * 1000)
        answer.raise_for_status()
    body = answer.json()
    best, explanation = body["predictions"][0], body["explanations"][0]
    overlay = OUT / f"{photo.stem}-why.jpg"
    overlay.write_bytes(base64.b64decode(explanation["images"]["overlay"].partition(",")[2]))
    place = describe_peak(explanation, body["input"])
    median = sorted(times)[REPEATS // 2]
    return f"{photo.name:<12} {best['label']:<14} {best['probability']:>11.4f}  {median:>5.0f}  {place}; see {overlay}"


if __name__ == "__main__":
    sys.exit(main())
