"""Audit records against labels that came later, and as a table."""

import json
from dataclasses import replace

import pytest

from camserve.cli import main
from camserve.drift.records import read_records, read_truth, score, wilson
from camserve.monitor.audit_record import AuditRecord


def test_labels_that_come_later_give_accuracy_and_calibration(tmp_path, capsys):
    folder = tmp_path / "audit"
    folder.mkdir()
    lines = []
    for number in range(100):
        confidence = 0.95 if number < 60 else 0.55
        best = {"index": 1, "label": "dog", "probability": confidence}
        base = {"schema": 1, "time": f"2026-01-01T00:00:{number % 60:02d}", "request_id": str(number)}
        base |= {"reason": "sampled" if number < 90 else "low_margin", "model": {"name": "m", "version": "1"}}
        lines.append(json.dumps({**base, "outcome": "ok", "predictions": [best]}))
    (folder / "audit-1-x.jsonl").write_text("\n".join(lines) + '\n{"cut')
    truth = tmp_path / "truth.csv"
    # Right: 57 of the first 60 and 18 of the 30 that follow; the last ten do not count.
    wrong = {0, 1, 2, *range(60, 72), *range(90, 100)}
    truth.write_text("request_id,class_index\n" + "".join(f"{n},{0 if n in wrong else 1}\n" for n in range(100)))
    found = score(read_records(folder), read_truth(truth))
    assert found.labelled == 90
    assert found.accuracy == pytest.approx(75 / 90)
    assert found.calibration_error == pytest.approx((60 * 0.0 + 30 * 0.05) / 90, abs=1e-9)
    assert found.classes == {0: (15, 0), 1: (75, 75)}
    assert found.interval == wilson(75, 90)
    assert main(["audit", "score", str(folder), "--labels", str(truth)]) == 0
    assert "accuracy 0.833" in capsys.readouterr().out


def test_the_interval_of_a_share_is_wilsons():
    low, high = wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)


def test_records_become_a_table(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    answered = AuditRecord("2027-01-15T12:00:00+00:00", "id-0", "m", "1", "sampled", "ok", batch=2)
    best = {"index": 1, "label": "dog", "probability": 0.75}
    answered = replace(answered, predictions=[best], signals={"energy": 1.5}, flags=["atc"], input={"traits": []})
    refused = replace(answered, request_id="id-1", outcome="unsupported_format", predictions=(), input={})
    (tmp_path / "audit-1.jsonl").write_text("".join(json.dumps(line.to_json()) + "\n" for line in (answered, refused)))
    (tmp_path / "truth.csv").write_text("request_id,class_index\nid-0,1\n")
    out, labels = tmp_path / "x.parquet", tmp_path / "truth.csv"
    assert main(["audit", "to-parquet", str(tmp_path), "--out", str(out), "--labels", str(labels)]) == 0
    table = parquet.read_table(out).to_pydict()
    assert table["outcome"] == ["ok", "unsupported_format"]
    assert table["truth"] == [1, None]
    assert table["signals.energy"] == [1.5, None]
    assert table["best.label"] == ["dog", None]
    assert [table[name][0] for name in ("flags", "input.traits", "predictions")] == [
        '["atc"]',
        "[]",
        json.dumps([best]),
    ]
