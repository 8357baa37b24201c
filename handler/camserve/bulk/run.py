"""One run: which pictures are asked about, by whom, and where the answers stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from camserve.build.mar.unpack import Contents, open_archive, unpacked
from camserve.build.progress_line import ProgressLine
from camserve.bulk.folder import RunSpec, open_run
from camserve.bulk.journal import append_rows, read_journal, reopen
from camserve.bulk.options import look_of, wire_options
from camserve.bulk.reading import MOST_BYTES, read_ahead
from camserve.bulk.rows import Ask, Row, RunStopped
from camserve.bulk.sources import Photo, list_photos
from camserve.drift.run_records import ANSWERS, SHARDS
from camserve.errors import ConfigError
from camserve.files import sha256
from camserve.serving.cores import count_cores
from camserve.values import Progress

if TYPE_CHECKING:  # pyarrow is of an extra
    from camserve.bulk.shards import Shard, Tally

JOURNAL = "jsonl"
LOCAL, RAY = ENGINES = ("local", "ray")
SERVER_WORKERS = 4  # requests on their way at once


@dataclass(frozen=True)
class Job:
    """What is asked about which pictures."""

    sources: Sequence[str]
    options: Mapping[str, str]  # checked
    archive: Path | None = None
    contents: Contents | None = None  # of the archive
    url: str = ""
    token: str | None = None
    workers: int | None = None  # None: as many as suit
    engine: str = LOCAL  # what writes shards, of ``ENGINES``

    @property
    def most_bytes(self) -> int:
        """How long a picture may be."""
        return MOST_BYTES if self.contents is None else self.contents.settings.limits.max_bytes

    def spec(self, kept: str = JOURNAL) -> RunSpec:
        """Return what a folder holds a run of whose answers are ``kept`` in such a way."""
        look = look_of(self.options, self.contents)
        asked, model = self.url, None
        if self.archive is not None and self.contents is not None:
            asked = sha256(self.archive)
            weights = f"sha256:{self.contents.settings.model.source_sha256[:12]}"
            model = {"name": self.contents.name, "version": self.contents.version, "weights": weights}
        return RunSpec(asked, wire_options(self.options), kept, dict(look.weak_below), model)


class Outcome(NamedTuple):
    """How a run went."""

    asked: int = 0
    failed: int = 0
    kept: int = 0  # of earlier runs


@contextmanager
def open_asker(job: Job, options: Mapping[str, str]) -> Iterator[Ask]:
    """Yield what asks the archive, loaded in this process, or the server. ConfigError: the archive does not load."""
    if job.archive is None:
        from camserve.bulk.server import ServerAsker

        with closing(ServerAsker(job.url, job.token, options, job.workers or SERVER_WORKERS)) as asker:
            yield asker
        return
    from camserve.bulk.archive import ArchiveAsker

    with open_archive(job.archive) as pipeline:
        yield ArchiveAsker(pipeline, options)


def ask_all(job: Job, photos: Sequence[Photo], drawn_here: bool) -> Iterator[Row]:
    """Yield the row of every picture, as it was asked for or as it is drawn here; nothing is kept."""
    with open_asker(job, wire_options(job.options, drawn_here)) as ask:
        yield from ask(read_ahead(photos, job.most_bytes))


def run_journal(job: Job, out: Path, say: Progress) -> Outcome:
    """Ask about every picture that ``out`` has no answer to, and keep each answer when it comes."""
    spec = job.spec()
    with open_run(out, spec) as see:
        kept = reopen(out / ANSWERS)
        photos = list_photos(job.sources, kept)
        left = [photo for photo in photos if photo.path not in kept]
        progress = ProgressLine(len(left))
        if left:
            files = append_rows(out / ANSWERS)
            with say_what_is_kept(progress, out), open_asker(job, spec.options) as ask, files as append:
                for row in ask(read_ahead(left, job.most_bytes)):
                    see(row)
                    append(row)
                    _count(row, progress, say)
        return Outcome(progress.done, progress.failed, len(photos) - len(left))


@contextmanager
def say_what_is_kept(progress: ProgressLine, out: Path) -> Iterator[None]:
    """Add to the error that ends a run how much of it is kept; take the line of progress off the terminal."""
    try:
        yield
    except RunStopped as error:
        kept = f"; {progress.done} answers are kept in {out}, and the same command goes on" if progress.done else ""
        raise RunStopped(f"{error}{kept}") from None
    finally:  # Ctrl-C too
        progress.clear()


def _count(row: Row, progress: ProgressLine, say: Progress) -> None:
    progress.add(1, row.error is not None)
    if row.error is not None:
        progress.clear()
        say(f"{row.photo.path}: {row.error['message']}")


def run_shards(job: Job, out: Path, grid: str, size: int, say: Progress) -> Outcome:
    """Ask about every picture that no shard in ``out`` has yet, and write each shard when it is whole."""
    from camserve.bulk.shards import divide_into_shards, read_done

    spec, folder = job.spec(f"parquet, {grid}"), out / SHARDS
    with open_run(out, spec) as see:
        photos = list_photos(job.sources, read_done(folder))
        shards = divide_into_shards(photos, folder, spec, grid, size)
        progress = ProgressLine(sum(len(shard.photos) for shard in shards))
        kept = len(photos) - progress.total

        def count(tally: Tally) -> None:
            progress.add(tally.done, tally.failed)
            if tally.failed:
                progress.clear()
                others = f", and {tally.failed - 1} more in its shard" if tally.failed > 1 else ""
                say(f"{tally.first}{others}")

        with say_what_is_kept(progress, out):
            for tally in _write_shards(job, spec, shards, grid, see, say):
                count(tally)
        return Outcome(progress.done, progress.failed, kept)


def _write_shards(
    job: Job, spec: RunSpec, shards: Sequence[Shard], grid: str, see: Callable[[Row], None], say: Progress
) -> Iterator[Tally]:
    from camserve.bulk.shards import write_shard
    from camserve.bulk.workers import Work, count_workers, run_workers

    if not shards:
        return
    if job.archive is None or job.contents is None:
        with open_asker(job, spec.options) as ask:
            for shard in shards:
                yield write_shard(shard, _watched(ask(read_ahead(shard.photos)), see), grid)
        return
    if job.engine == RAY:
        from camserve.bulk.on_ray import run_on_ray

        yield from run_on_ray(shards, job.archive, spec.options, grid, job.workers, say)
        return
    workers = min(job.workers or count_workers(job.contents.settings), len(shards))
    with unpacked(job.archive) as (contents, folder):
        work = Work(folder, contents, spec.options, grid, max(1, count_cores() // workers))
        yield from run_workers(shards, work, workers, say)


def _watched(rows: Iterable[Row], see: Callable[[Row], None]) -> Iterator[Row]:
    for row in rows:
        see(row)
        yield row


def read_run(out: Path) -> Iterator[Row]:
    """Yield the rows that a run's folder holds. ConfigError: it holds none."""
    if (out / SHARDS).is_dir():
        from camserve.bulk.shards import read_shards

        yield from read_shards(out / SHARDS)
    elif (out / ANSWERS).exists():
        yield from read_journal(out / ANSWERS)
    else:
        raise ConfigError(f"{out} holds no answers of camserve explain")
