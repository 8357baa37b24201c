"""The ledger of a profiled worker, and the report of profiles."""

import time
from types import SimpleNamespace

import pytest

from camserve.bench import profile, profiled_handler
from camserve.bench.profile import STEPS, Turn, make_profile_report

WORK = 0.02  # seconds of the processor


def compute(seconds=WORK):
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass


def test_a_step_is_charged_for_itself_and_not_for_the_steps_in_it():
    ledger = profiled_handler.Ledger()
    place = SimpleNamespace(work=lambda seconds: compute(seconds) or "done")
    ledger.charge_calls(place, "work", "inner")
    with ledger.step("outer"):
        compute()
        assert place.work(2 * WORK) == "done"
    with ledger.step("outer"), pytest.raises(ZeroDivisionError), ledger.step("failing"):
        compute(1 / 0)
    with ledger.step("outer"):
        time.sleep(WORK)
    compute()
    with ledger.step("end"):
        pass
    spent = ledger.seconds
    assert spent["outer"] == pytest.approx(WORK, rel=0.3)
    assert spent["inner"] == pytest.approx(2 * WORK, rel=0.3)
    assert spent[profiled_handler.OUTSIDE] >= WORK
    assert sum(spent.values()) == pytest.approx(4 * WORK, rel=0.3)


def test_the_report_divides_an_answer_into_steps_that_add_up():
    steps = {"network": 6.0, "decode": 3.0, "JSON": 1.0}
    report = make_profile_report({"store/a.mar": [Turn(2.0, steps)]}, "camserve bench --profile store/a.mar", {})
    (table,) = report.tables
    rows = dict(table.rows)
    assert table.head == ("step", "a")
    assert (rows["all"], rows[profile.FRONTEND], rows[profile.WORKER]) == ("12.000", "2.000", "10.000")
    assert [rows[STEPS[step]] for step in ("network", "decode", "explain")] == ["6.000", "3.000", "0.000"]
    assert rows["share of the worker's outside the network"] == "0.400"


def test_archives_of_one_name_are_told_apart():
    turns = {path: [Turn(2.0, {"network": 6.0})] for path in ("old/a.mar", "new/a.mar")}
    (table,) = make_profile_report(turns, "", {}).tables
    assert table.head == ("step", "old/a.mar", "new/a.mar")


def test_the_handler_writes_the_file_that_the_benchmark_reads():
    assert profile.PROFILE == profiled_handler.PROFILE
    assert (profile.HANDLER, profiled_handler.OUTSIDE in STEPS) == ("profiled_handler.py", True)
