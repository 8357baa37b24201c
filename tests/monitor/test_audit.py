"""The audit log: what is recorded, how, and that it costs records rather than requests."""

import base64
import hashlib
import json
import re
import stat
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from camserve.cli import main
from camserve.errors import BadImage, ConfigError
from camserve.monitor.audit import Audit, is_sampled
from camserve.monitor.audit_record import AuditRecord, read_record
from camserve.monitor.signals import SIGNALS
from camserve.settings import AuditSpec, Monitoring
from camserve.strict import read
from camserve.values import RawRequest
from synthetic_photos import photo


@pytest.fixture
def audit(tmp_path):
    """Start an audit log with some settings; the caller closes it."""
    started = []

    def start(**changes):
        spec = AuditSpec(**{"directory": str(tmp_path / "audit"), "rate": 1.0, "min_free_bytes": 0, **changes})
        dropped = []
        model = {"name": "pets", "version": "1.0", "weights": "sha256:0"}
        started.append(Audit(spec, model, lambda: dropped.append(1)))
        return started[-1], Path(spec.directory), dropped

    start.folder = tmp_path
    yield start
    for recorder in started:
        recorder.close()


def send(pipeline, recorder, bodies, size=1):
    """Answer pictures in batches of ``size`` while ``recorder`` records, and close it."""
    pipeline.monitor.report_to(recorder)
    for start in range(0, len(bodies), size):
        batch = enumerate(bodies[start : start + size], start)
        headers = {"authorization": "secret"}
        pipeline.answer([RawRequest(body, {}, headers, request_id=f"id-{number}") for number, body in batch])
    recorder.close()


def written(folder):
    return [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]


def test_the_report_names_what_changed_after_a_clean_period(with_baseline, pipeline, audit, tmp_path, capsys):
    recorder, folder, dropped = audit()
    send(pipeline, recorder, [photo(5000 + number, 1.0 if number < 104 else 0.5) for number in range(208)], size=8)
    assert not dropped
    files = [str(path) for path in folder.iterdir()]
    options = ["--baseline", str(with_baseline), "--out", str(tmp_path / "report.html")]
    command = ["report", *files, *options, "--clean-until"]
    assert main([*command, written(folder)[104]["time"]]) == 0
    section = (tmp_path / "report.html").read_text().partition("After the clean period")[2].partition("<h2>")[0]
    changed = re.findall(r"<tr class='alarm'><td class='text'>(\w+)<", section)
    assert "brightness" in changed
    assert not {"aspect", "log_pixels"} & set(changed)
    assert "A classifier tells the periods apart" in section
    (tmp_path / "report.html").unlink()
    assert main([*command, "2020-01-01"]) == 1
    assert "each period needs 100 sampled requests" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_a_record_says_what_was_asked_and_never_shows_it(pipeline, audit):
    recorder, folder, dropped = audit()
    body = photo(1)
    send(pipeline, recorder, [body, b"no picture"])
    good, bad = written(folder)
    assert good["request_id"] == "id-0"
    assert (good["outcome"], good["reason"], good["model"]["name"]) == ("ok", "sampled", "pets")
    assert good["input"]["format"] == "PNG"
    assert good["input"]["sha256"] == hashlib.sha256(body).hexdigest()
    assert {"confidence", "energy", "brightness", "log_pixels"} <= set(good["signals"]) <= set(SIGNALS)
    assert good["predictions"][0]["label"] in ("cat", "dog", "bird")
    assert {"decode", "forward", "all"} <= set(good["timing_ms"])
    assert bad["outcome"] == "unsupported_format"
    text = "".join(path.read_text() for path in folder.iterdir())
    assert "secret" not in text
    assert "thumbnail" not in text
    assert not dropped
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_pictures_are_recorded_only_on_request(pipeline, clear_photo, audit):
    recorder, folder, _ = audit(pictures=True, envelope="cloudevents")
    send(pipeline, recorder, [clear_photo])
    (path,) = folder.iterdir()
    event = json.loads(path.read_text())
    assert (event["specversion"], event["source"]) == ("1.0", "/camserve/pets/1.0")
    assert base64.b64decode(event["data"]["thumbnail"]).startswith(b"\xff\xd8")
    levels = base64.b64decode(event["data"]["map"]["levels"])
    assert len(levels) == np.prod(event["data"]["map"]["shape"])
    assert max(levels) == 15


def test_the_sample_is_a_share_and_the_same_everywhere():
    ids = [f"request-{number}" for number in range(20_000)]
    drawn = {name for name in ids if is_sampled(name, 0.1)}
    assert len(drawn) == pytest.approx(2000, abs=200)
    assert drawn >= {name for name in ids if is_sampled(name, 0.01)}
    assert not any(is_sampled(name, 0.0) for name in ids)
    assert all(is_sampled(name, 1.0) for name in ids)


def test_unusual_requests_are_kept_beside_the_sample_up_to_a_rate(pipeline, audit):
    recorder, folder, dropped = audit(rate=0.0, per_minute=3)
    send(pipeline, recorder, [b"no picture"] * 10 + [photo(number) for number in range(20)])
    reasons = [record["reason"] for record in written(folder)]
    # A minute may end while this runs, and each kind then gets its rate again.
    assert 3 <= reasons.count("error") <= 6
    assert set(reasons) <= {"error", "blank", "ood", "low_margin"}
    assert len(reasons) <= 24
    assert not dropped


def test_files_rotate_below_their_cap(pipeline, audit):
    recorder, folder, dropped = audit(max_bytes=40_000)
    send(pipeline, recorder, [photo(1)] * 60)
    files = list(folder.iterdir())
    assert len(files) >= 2
    assert sum(path.stat().st_size for path in files) <= 40_000
    assert not dropped
    assert written(folder)[-1]["request_id"] == "id-59"


def test_what_cannot_be_written_is_dropped_and_counted(pipeline, audit):
    for changes in ({"min_free_bytes": 10**18}, {"directory": "/proc/nowhere"}, {"max_bytes": 8}):
        recorder, _, dropped = audit(**changes)
        send(pipeline, recorder, [photo(1)] * 3)
        assert len(dropped) == 3, changes


def test_the_records_of_a_file_that_somebody_deletes_are_counted(audit):
    recorder, folder, dropped = audit()
    recorder.refused(BadImage("cut"))
    deadline = time.monotonic() + 30
    while not (folder.exists() and written(folder)) and time.monotonic() < deadline:
        time.sleep(0.01)
    (path,) = folder.iterdir()
    path.unlink()
    recorder.close()
    assert len(dropped) == 1


def test_a_slow_disk_drops_records_rather_than_time(audit, monkeypatch):
    recorder, _, dropped = audit()
    monkeypatch.setattr("camserve.monitor.audit.AuditFiles.write", lambda self, line: time.sleep(0.01))
    for _ in range(400):
        recorder.refused(BadImage("cut"))
        recorder._spent.clear()  # this is about the queue, not about the rate
    assert len(dropped) >= 100
    while not recorder._queue.empty():
        recorder._queue.get_nowait()


def test_a_wrong_audit_setting_is_named():
    wrong = {
        "directory must be absolute": {"directory": "logs"},
        "rate must be 0 to 1": {"directory": "/x", "rate": 2.0},
        "envelope 'xml' is not one of": {"directory": "/x", "envelope": "xml"},
        "unknown key 'ratio'": {"directory": "/x", "ratio": 1},
    }
    for message, block in wrong.items():
        with pytest.raises(ConfigError, match=message):
            read(Monitoring, {"audit": block}, "monitoring")


def test_every_record_has_the_signals_of_its_own_row(pipeline, audit):
    """Rows that are refused or have no map stand among the others; one picture comes twice, as the same object."""
    body = photo(1)
    bodies = [b"no picture", body, photo(2), body, None, photo(3)]
    alone, together = [], []
    for size, records in ((1, alone), (len(bodies), together)):
        recorder, folder, _ = audit(directory=str(audit.folder / str(size)))
        send(pipeline, recorder, bodies, size)
        records += written(folder)
    assert [record["request_id"] for record in together] == [f"id-{number}" for number in range(len(bodies))]
    assert [record["outcome"] for record in together] == [record["outcome"] for record in alone]
    for one, other in zip(alone, together):
        assert one.get("signals", {}) == pytest.approx(other.get("signals", {}), rel=1e-3, abs=1e-4)
        assert one.get("flags") == other.get("flags")
    assert together[1]["signals"] == together[3]["signals"] != together[2]["signals"]


REFUSED = AuditRecord("2027-01-15T12:00:00.000+00:00", "", "pets", "1.0", "error", "bad_image", "sha256:0")
IN_A_BATCH = replace(REFUSED, request_id="id-7", batch=2, timing_ms={"decode": 0.1, "all": 0.2}, input={"bytes": 3})
ANSWERED = replace(
    IN_A_BATCH,
    outcome="ok",
    reason="sampled",
    input={"sha256": "0", "bytes": 3, "format": "PNG", "traits": ["grey"], "width": 4, "height": 5},
    predictions=[{"index": 1, "label": "dog", "probability": 0.75}],
    explanations=[{"status": "blank", "method": "gradcam", "layer": "head", "target": 1}],
    signals={"energy": 1.5},
    flags=["blank"],
    thumbnail=b"jpeg",
    grid=np.array([[0.0, 0.2], [1.0, -0.5]], np.float32),
)


def test_a_record_is_read_as_it_was_written():
    for record in (REFUSED, IN_A_BATCH, ANSWERED):
        block = json.loads(json.dumps(record.to_json()))
        again = read_record(block)
        assert again.to_json() == block
        assert read_record(json.loads(json.dumps(record.to_event()))) == again
        assert (again.instant, again.outcome, again.signals) == (1_800_014_400.0, record.outcome, record.signals)
    np.testing.assert_allclose(again.grid, [[0, 0.2], [1, 0]])
    assert (again.statuses, again.format, again.traits, again.thumbnail) == (["blank"], "PNG", ("grey",), b"jpeg")


def test_a_record_holds_the_fields_of_its_kind_in_this_order():
    always = ["schema", "time", "request_id", "model", "reason", "outcome"]
    in_a_batch = [*always, "input", "timing_ms", "batch"]
    answered = [*in_a_batch, "predictions", "explanations", "signals", "flags"]
    assert list(REFUSED.to_json()) == always
    assert list(IN_A_BATCH.to_json()) == in_a_batch
    assert list(ANSWERED.to_json()) == [*answered, "thumbnail", "map"]
    assert list(replace(ANSWERED, thumbnail=b"", grid=None, signals={}, flags=()).to_json()) == answered


def test_what_is_no_record_is_refused():
    good = ANSWERED.to_json()
    wrong = [{}, {**good, "schema": 2}, {**good, "time": "noon"}, {**good, "model": "pets"}, {"specversion": "1.0"}]
    for block in [*wrong, {name: value for name, value in good.items() if name != "reason"}]:
        with pytest.raises((LookupError, TypeError, ValueError, AttributeError)):
            read_record(block)
