"""Measure which faults the monitored signals see, and write the table and the plot into docs/."""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np

from camserve.build.archive import build_archive
from camserve.build.recipe import load_recipe
from camserve.build.unpack import read_contents
from camserve.cli.terminal import say
from camserve.drift.chart import COLORS
from camserve.errors import CamserveError, ConfigError
from drift_measure import Condition, load, measure_all, save
from drift_power import FAMILIES, Design, Estimate, clean_month, estimate_accuracy, power, table
from labelled_photos import read_photos

RECIPE = Path("config/models/imagenet.yaml")
KEPT = Path("out/drift_study.npz")
PAGE, PLOT = Path("docs/monitoring.md"), Path("docs/drift-study.png")
MARKS = ("<!-- study -->", "<!-- /study -->")
PLOTTED = ("squashed", "squeezed", "moved", "occluded", "rotated", "jpeg8", "bgr", "dark", "clean")
JUDGED = (100, 200)  # requests
MONTHS = ((500, 100), (2000, 100), (2000, 1000))  # reference, requests an hour

TEXT = """## What the signals see

`scripts/studies/drift_study`: {photos} ImageNet validation photos through the served pipeline (EfficientNet-Lite0,
Grad-CAM, 7 x 7), once for each fault. {design.repeats} times, photos drawn at random are the window, under the fault,
and all others, clean, are the baseline. The table gives the share of windows of {judged[0]} / of {judged[1]} photos in
which a family alarms, at {design.false_alarms:.1%} false alarms a family (omnibus and location test on 10 quantile
bins, the latter with nine tenths of the false alarms; Bonferroni over the family's signals). *Estimated* is the
accuracy without labels.

{table}

The estimate is off by {error:.1f} points on average over the rows ({worst:.1f} at worst); a single estimate from
{others} photos by {single:.1f}. A wrong normalisation costs points and hardly moves any signal: the archive's self-test
at load is what catches it.

![Detection against the number of requests]({plot})

Thirty clean days, baseline and traffic drawn from the same photos; the rules look every quarter of an hour at the last
hour and at the last day:

| baseline | requests an hour | features | looks a feature | highest z | alarms | evidence, of 8,760 | alarms of it |
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
    lines = table(conditions, found, estimates, [design.windows.index(each) for each in JUDGED])
    plot(found, design)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    told = "\n".join(text(lines, conditions, estimates, design))
    PAGE.write_text(f"{before}{MARKS[0]}\n{told}\n{MARKS[1]}{after}", encoding="utf-8")
    print(told)
    return 0


def measured() -> dict[str, Condition]:
    if not os.environ.get("CAMSERVE_DATA"):
        raise ConfigError("set CAMSERVE_DATA to a folder that holds imagenet-val-500")
    photos = read_photos(Path(os.environ["CAMSERVE_DATA"]) / "imagenet-val-500")
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
    errors = [100 * abs(each.estimated - each.accuracy) for each in estimates.values()]
    told = TEXT.format(
        photos=len(conditions["clean"].right),
        design=design,
        judged=JUDGED,
        table="\n".join(lines),
        error=np.mean(errors),
        worst=max(errors),
        others=max(design.windows),
        single=100 * np.mean([each.single_error for each in estimates.values()]),
        plot=PLOT.name,
    )
    return [told, *(month_row(conditions["clean"], reference, hourly) for reference, hourly in MONTHS)]


def month_row(clean: Condition, reference: int, hourly: int) -> str:
    month = clean_month(clean, reference, hourly)
    cells = [reference, hourly, month.features, month.evaluations, f"{month.highest_z:.1f}", month.alarms]
    return f"| {' | '.join(map(str, [*cells, f'{month.highest_e:.2g}', month.sequential_alarms]))} |"


def plot(found: Mapping[str, np.ndarray], design: Design) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(3, 3, figsize=(9, 7), sharex=True, sharey=True, layout="constrained")
    for name, axes in zip(PLOTTED, grid.flat):
        for color, family, shares in zip(COLORS, FAMILIES, found[name]):
            axes.plot(design.windows, shares, "o-", color=color, label=family)
        axes.set_title(name)
        axes.set_xscale("log")
        axes.set_xticks(design.windows, [str(each) for each in design.windows], minor=False)
        axes.minorticks_off()
        axes.set_ylim(-0.03, 1.03)
        axes.grid(alpha=0.3)
    figure.supxlabel("requests in the window")
    figure.supylabel("share of windows with an alarm")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.savefig(PLOT, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
