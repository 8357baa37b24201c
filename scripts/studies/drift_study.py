"""Measure which faults the monitored signals see, and write the table and the plot into docs/."""

from __future__ import annotations

import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from camserve.build.archive import build_archive
from camserve.build.mar.unpack import read_contents
from camserve.build.recipe import load_recipe
from camserve.cli.terminal import say
from camserve.drift.theme import alt, render_png
from camserve.errors import CamserveError
from drift_measure import Condition, load, measure_all, save
from drift_power import FAMILIES, Design, Estimate, clean_month, estimate_accuracy, power, table
from labelled_photos import data_folder, read_photos

RECIPE = Path("config/models/imagenet.yaml")
KEPT = Path("out/drift_study.npz")
PAGE, PLOT = Path("docs/monitoring.md"), Path("docs/drift-study.png")
MARKS = ("<!-- study -->", "<!-- /study -->")
PLOTTED = ("squashed", "squeezed", "moved", "occluded", "rotated", "jpeg8", "bgr", "dark", "clean")
JUDGED = (100, 200)  # requests
MONTHS = ((500, 100), (2000, 100), (2000, 1000))  # reference, requests an hour

TEXT = """## What the signals see

`scripts/studies/drift_study` sends {photos} ImageNet validation photos through the served pipeline, once for each fault
(EfficientNet-Lite0, Grad-CAM, 7 x 7). It then draws photos at random, {design.repeats} times: under the fault they are
the window, and all other photos, clean, are the baseline. The table gives the share of windows of {judged[0]} / of
{judged[1]} photos in which a family of signals alarms, at {design.false_alarms:.1%} false alarms a family. The tests
are omnibus and location on 10 quantile bins, with nine tenths of the false alarms for location, and Bonferroni over the
family's signals. *Estimated* is the accuracy without labels.

{table}

The estimate is off by {error:.1f} points on average over the rows, and by {worst:.1f} at worst. A single estimate from
{others} photos is off by {single:.1f}. A wrong normalisation costs accuracy and hardly moves any signal; the archive's
self-test at load finds it.

![Detection against the number of requests]({plot})

Thirty clean days were simulated; baseline and traffic are drawn from the same photos. Every quarter of an hour, the
rules test the last hour and the last day:

| baseline | requests an hour | features | tests a feature | highest z | alarms | evidence, of 8,760 | its alarms |
|---|---|---|---|---|---|---|---|"""


def main() -> int:
    try:
        conditions = load(KEPT) if KEPT.is_file() else measured()
    except CamserveError as error:
        say(f"camserve: {error}")
        return 1
    design = Design()
    found = power(conditions, design)
    estimates = estimate_accuracy(conditions, design)
    lines = table(conditions, found, estimates, [design.windows.index(size) for size in JUDGED])
    PLOT.write_bytes(plot(found, design))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    written = "\n".join(text(lines, conditions, estimates, design))
    PAGE.write_text(f"{before}{MARKS[0]}\n{written}\n{MARKS[1]}{after}", encoding="utf-8")
    print(written)
    return 0


def measured() -> dict[str, Condition]:
    photos = read_photos(data_folder() / "imagenet-val-500")
    with tempfile.TemporaryDirectory() as folder:
        archive = build_archive(load_recipe(RECIPE), Path(folder), say)
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(Path(folder) / "unpacked")
        conditions = measure_all(Path(folder) / "unpacked", read_contents(archive).settings, photos, say)
    save(conditions, KEPT)
    return conditions


def text(
    lines: list[str], conditions: Mapping[str, Condition], estimates: Mapping[str, Estimate], design: Design
) -> list[str]:
    errors = [100 * abs(estimate.estimated - estimate.accuracy) for estimate in estimates.values()]
    head = TEXT.format(
        photos=len(conditions["clean"].right),
        design=design,
        judged=JUDGED,
        table="\n".join(lines),
        error=np.mean(errors),
        worst=max(errors),
        others=max(design.windows),
        single=100 * np.mean([estimate.single_error for estimate in estimates.values()]),
        plot=PLOT.name,
    )
    return [head, *(month_row(conditions["clean"], reference, hourly) for reference, hourly in MONTHS)]


def month_row(clean: Condition, reference: int, hourly: int) -> str:
    month = clean_month(clean, reference, hourly)
    cells = [reference, hourly, month.features, month.evaluations, f"{month.highest_z:.1f}", month.alarms]
    return f"| {' | '.join(map(str, [*cells, f'{month.highest_e:.2g}', month.sequential_alarms]))} |"


def plot(found: Mapping[str, np.ndarray], design: Design) -> bytes:
    """Return the PNG of each family's power against the number of requests, a small chart for each shift."""
    rows = [
        {"shift": name, "family": family, "requests": size, "share": float(share)}
        for name in PLOTTED
        for family, shares in zip(FAMILIES, found[name])
        for size, share in zip(design.windows, shares)
    ]
    lines = alt.Chart(alt.Data(values=rows), width=190, height=130).mark_line(point=alt.OverlayMarkDef(size=28))
    axis = alt.Axis(values=list(design.windows), labelOverlap=False, format="d")
    drawn = lines.encode(
        x=alt.X("requests:Q", title="requests in the window", scale=alt.Scale(type="log", nice=False), axis=axis),
        y=alt.Y("share:Q", title="windows with an alarm", axis=alt.Axis(format="~%", tickCount=4)),
        color=alt.Color("family:N", title=None, sort=None, legend=alt.Legend(symbolType="stroke", orient="top")),
        facet=alt.Facet("shift:N", title=None, sort=list(PLOTTED), columns=3),
    )
    return render_png(drawn, scale=1.4)


if __name__ == "__main__":
    sys.exit(main())
