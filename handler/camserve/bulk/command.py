"""What the command line asks of a run, and the lines that say how it went."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from camserve.bulk.images import save_one
from camserve.bulk.options import check_options, look_of
from camserve.bulk.outputs import OUTPUTS, write_outputs
from camserve.bulk.remote import require_pyarrow
from camserve.bulk.run import RAY, Job, Outcome, ask_all, read_run, run_journal, run_shards
from camserve.bulk.sources import list_photos
from camserve.bulk.words import row_lines
from camserve.drift.run_records import ANSWERS, SHARDS
from camserve.errors import ConfigError, choose
from camserve.values import Progress

SAVES = (*OUTPUTS, "parquet")


def read_saves(text: str) -> list[str]:
    """Return what is to be written, of ``SAVES``. BadOption: a name is none; ConfigError: pyarrow is missing."""
    names = [choose(dict(zip(SAVES, SAVES)), name.strip(), "--save") for name in text.split(",")]
    if "parquet" in names:
        require_pyarrow("--save parquet")
    return names


def make_job(job: Job) -> Job:
    """Return a job whose options are checked, as far as can be before anything is loaded or sent."""
    contents = check_options(job.options, job.archive)
    return replace(job, contents=contents)


def show_answers(job: Job, as_json: bool, out: Path | None, write: Progress, say: Progress) -> Outcome:
    """Ask, and ``write`` every answer as it comes, or all as JSON; draw the one picture into ``out``.

    ConfigError: there are several pictures for one file.
    """
    photos = list_photos(job.sources, {})
    if out is not None and len(photos) > 1:
        raise ConfigError(f"--out {out} is one picture, and {len(photos)} are asked about: name a folder")
    blocks, failed, done = [], 0, 0
    for row in ask_all(job, photos, drawn_here=out is not None):
        done += 1
        if row.answer is None:
            failed += 1
            say("\n".join(row_lines(row)))
        elif not as_json:
            write("\n".join(row_lines(row)))
        if as_json:
            blocks.append(row.answer or {"path": row.photo.path, "error": row.error})
        if out is not None and row.answer is not None:
            for path in save_one(row, out, look_of(job.options, job.contents)):
                (say if as_json else write)(f"  {path}")
    if as_json:
        write(json.dumps(blocks[0] if len(photos) == 1 else blocks))
    return Outcome(done, failed)


def keep_answers(job: Job, out: Path, saves: Sequence[str], grid: str, size: int, say: Progress) -> Outcome:
    """Ask, keep every answer in a folder, and write what people look at; ``say`` gets a line about each."""
    as_shards = "parquet" in saves
    if job.engine == RAY and (job.archive is None or not as_shards):
        raise ConfigError("--engine ray asks an archive and writes shards: give --archive and --save parquet")
    outcome = run_shards(job, out, grid, size, say) if as_shards else run_journal(job, out, say)
    if outcome.kept:
        say(f"{outcome.kept} pictures were answered before")
    wanted = [name for name in saves if name in OUTPUTS and (as_shards or name != "jsonl")]
    say(f"{out / (SHARDS if as_shards else ANSWERS)}: {outcome.asked} answers more")
    for line in write_outputs(wanted, lambda: read_run(out), out, look_of(job.options, job.contents), say):
        say(line)
    return outcome


def failure_lines(outcome: Outcome) -> Iterable[str]:
    """Yield the line that counts the pictures without an answer, if there are any."""
    if outcome.failed:
        yield f"no answer to {outcome.failed} of {outcome.asked} pictures"
