"""Choosing batchSize, maxBatchDelay, workers and threads from what was measured."""

import pytest

from camserve.bench.batching import (
    BatchingSetting,
    LoadPoint,
    choose_best,
    list_settings,
    make_batching_report,
    write_best,
)
from camserve.bench.repack import repack
from camserve.build.changes import change_config
from camserve.build.mar.pack import write_config
from camserve.build.mar.unpack import read_contents
from camserve.errors import ConfigError
from camserve.settings import load_settings

ONE, TWO = BatchingSetting(8, 10, 1, 2), BatchingSetting(4, 5, 2, 1)
POINTS = (
    LoadPoint(ONE, 1, 20.0, 50.0),
    LoadPoint(ONE, 8, 60.0, 140.0),
    LoadPoint(ONE, 16, 64.0, 300.0),
    LoadPoint(TWO, 1, 15.0, 60.0),
    LoadPoint(TWO, 8, 62.0, 90.0),
    LoadPoint(TWO, 16, 63.0, 210.0),
)


def stating(archive, latency_ms, folder):
    """Return a copy of an archive that states a p99."""
    config = change_config(read_contents(archive).config, [("runtime.latency_ms", str(latency_ms))])
    return repack(archive, folder, lambda unpacked: write_config(config, unpacked))


def test_every_size_and_delay_is_tried_with_all_cores_in_one_worker_or_in_several():
    tried = list_settings(2)
    assert len(tried) == len(set(tried)) == 14
    assert {(setting.workers, setting.threads) for setting in tried} == {(1, 2), (2, 1)}
    for workers in (1, 2):
        of_workers = [setting for setting in tried if setting.workers == workers]
        assert {setting.batch_size for setting in of_workers} == {1, 4, 8, 16}
        assert {setting.delay for setting in of_workers} == {1, 5, 10, 20}
    assert {(setting.workers, setting.threads) for setting in list_settings(1)} == {(1, 1)}
    assert {(setting.workers, setting.threads) for setting in list_settings(8)} == {(1, 8), (2, 4), (8, 1)}


@pytest.mark.parametrize(
    ("latency_ms", "expected"), [(49, None), (50, 0), (100, 4), (140, 4), (210, 5), (300, 2), (600_000, 2)]
)
def test_the_most_answers_within_a_stated_p99_win(latency_ms, expected):
    assert choose_best(POINTS, latency_ms) == (None if expected is None else POINTS[expected])


def test_without_a_stated_p99_the_knee_is_chosen_and_not_the_lone_connection():
    assert choose_best(POINTS, None) == POINTS[4]
    assert choose_best(POINTS[:3], None) == POINTS[1]
    assert choose_best(POINTS[:1], None) == POINTS[0]


def test_the_report_names_the_choice_and_what_each_setting_gives(pets):
    report = make_batching_report(POINTS, read_contents(pets), "camserve bench --batching", {})
    chosen, measured = report.tables
    assert "the least p99 that still answers 90% of the most a second, since runtime.latency_ms" in chosen.title
    assert chosen.rows == [("4", "5", "2", "1", "62.00", "90", "8", "63.00", "210", "60")]
    assert measured.rows == [("8", "10", "1", "2", "60.00", "140", "8", "64.00", "300", "50"), chosen.rows[0]]


def test_a_limit_that_nothing_keeps_to_is_said_and_nothing_is_written(pets, tmp_path):
    archive = stating(pets, 40, tmp_path)
    before = archive.read_bytes()
    chosen, measured = make_batching_report(POINTS, read_contents(archive), "", {}).tables
    assert "40 ms, which runtime.latency_ms states" in chosen.title
    assert "no setting keeps its p99 within 40 ms; the least is 50 ms" in chosen.rows[0][0]
    assert [row[4:] for row in measured.rows] == [
        ("none within it", "", "", "64.00", "300", "50"),
        ("none within it", "", "", "63.00", "210", "60"),
    ]
    with pytest.raises(ConfigError, match=r"the least is 50 ms.*nothing was written"):
        write_best(archive, POINTS, lambda _: None)
    assert archive.read_bytes() == before


def test_a_setting_is_written_in_the_keys_of_configure(pets):
    config = change_config(read_contents(pets).config, [*TWO.pairs, ("runtime.latency_ms", "120")])
    found = [config[key] for key in ("batchSize", "maxBatchDelay", "minWorkers", "maxWorkers")]
    runtime = load_settings(config["camserve"]).runtime
    assert (found, runtime.threads, runtime.latency_ms) == ([4, 5, 2, 2], 1, 120)
    with pytest.raises(ConfigError, match="latency_ms"):
        load_settings(change_config(config, [("runtime.latency_ms", "0")])["camserve"])
