"""camserve bench, and the archives that it builds."""

from pathlib import Path

import pytest
import torch

from camserve.bench.contenders import NAIVE_HANDLER, Parts, pack_stock
from camserve.bench.report import BenchReport
from camserve.cli import bench, main
from camserve.errors import ConfigError


def test_the_naive_handler_is_python():
    compile(NAIVE_HANDLER.format(layer="network.layer4"), "naive_handler.py", "exec")


def test_an_archive_that_cannot_be_packed_says_why(tmp_path):
    with pytest.raises(ConfigError, match=r"torch-model-archiver failed: FileNotFoundError.*network\.py"):
        pack_stock("stock", "image_classifier", Parts("none", tmp_path, {}))


def test_without_a_gpu_nothing_is_measured(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "--gpu"]) == 0
    assert "not measured: no CUDA device" in capsys.readouterr().out


def test_an_unknown_model_is_answered_with_the_nearest(capsys):
    assert main(["bench", "--engine", "--models", "resnet5"]) == 1
    assert "'resnet5'; did you mean 'resnet50'?" in capsys.readouterr().err


def test_an_archive_to_measure_must_be_named_and_be_there(capsys):
    for words, said in (
        (["--profile"], "--profile measures an archive of yours: name one"),
        (["--batching"], "--batching measures an archive of yours: name one"),
        (["--batching", "a.mar", "b.mar"], "--batching measures 1 archive of yours, not 2"),
        (["--profile", *["a.mar"] * 9], "--profile measures 8 archives of yours, not 9"),
        (["--engine", "a.mar"], "--engine measures no archives of yours, not 1"),
        (["--profile", "a.mar", "--write"], "--write goes with --batching, not with --profile"),
        (["--batching", "a.mar", "--threads", "1"], "--threads goes with --engine or --gpu or --shortcuts or"),
        (["--batching", "a.mar", "--batch-size", "4"], "--batch-size goes with --server, not with --batching"),
        (["--server", "--precision", "bf16"], "--precision goes with --engine or --gpu or --shortcuts, not"),
        (["--profile", "a.mar", "--cpu-time"], "--cpu-time goes with"),
        (["--batching", "a.mar"], "cannot read a.mar: No such file"),
        (["--profile", "a.mar"], "cannot read a.mar: No such file"),
    ):
        assert main(["bench", *words]) == 1, words
        assert said in capsys.readouterr().err, words


def test_what_cannot_be_written_is_said_before_anything_is_measured(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(bench.BENCHMARKS, "engine", lambda _: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    for place, said in ((tmp_path, "it is a folder"), (tmp_path / "file" / "x.json", f"look at {tmp_path / 'file'}")):
        assert main(["bench", "--engine", "--json", str(place)]) == 1
        assert f"cannot write {place}: {said}" in capsys.readouterr().err


def test_wrong_usage(capsys):
    for words in (["--engine", "--pairs", "0"], ["--engine", "--batches", "1,x"], ["--engine", "--server"], []):
        with pytest.raises(SystemExit) as caught:
            main(["bench", *words])
        assert (caught.value.code, "usage" in capsys.readouterr().err) == (2, True), words


def test_the_report_names_the_command_without_the_files_that_it_wrote(capsys, monkeypatch):
    commands = []
    report = BenchReport("engine", "", {}, [], [], [])
    monkeypatch.setitem(bench.BENCHMARKS, "engine", lambda args: commands.append(bench.command_of(args)) or report)
    monkeypatch.setitem(bench.BENCHMARKS, "batching", bench.BENCHMARKS["engine"])
    main(["bench", "--engine", "--quick", "--models", "vgg16", "--batches", "1,4", "--pairs", "15"])
    monkeypatch.setattr(bench, "write_best", lambda *written: commands.append(written[:2]))
    main(["bench", "--batching", "a b.mar", "--write"])
    assert commands == [
        "camserve bench --engine --quick --models vgg16 --batches 1,4",
        "camserve bench --batching --write 'a b.mar'",
        (Path("a b.mar"), []),
    ]
    assert "camserve bench: engine" in capsys.readouterr().out
