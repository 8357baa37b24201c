"""The benchmark's arithmetic, its tables, its load generator, and one run of it on a small network."""

import json
import math
import threading
import time
import xml.etree.ElementTree as Tree
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from camserve.bench import batching, engine, memory, plots
from camserve.bench.contenders import NAIVE_HANDLER, Parts, pack
from camserve.bench.engine import TOO_DEAR, Cell, Plan, measure
from camserve.bench.engine_report import engine_report
from camserve.bench.load import Client, Load, Reply, arrivals, ask, closed_loop, fixed_rate
from camserve.bench.networks import Subject, load, settle
from camserve.bench.pairs import Effort, Spread, interleave, paired, spread
from camserve.bench.photos import SIZE, jpegs, pictures, pixels
from camserve.bench.report import Report, Table, grid, plain, setting, told, write_docs, write_json
from camserve.bench.served import (
    EXPLAINED,
    NAIVE_EXPLAINED,
    PLAIN,
    STOCK_PLAIN,
    Findings,
    Loaded,
    Turn,
    best_class,
)
from camserve.bench.served_report import served_report
from camserve.cli import bench, main
from camserve.errors import ConfigError
from camserve.network.output import ScoringNetwork
from camserve.settings import RuntimeSpec
from small_networks import deep, pooled
from zoo_models import best

SIDE = 32
CPU = torch.device("cpu")
ONCE = Effort(rounds=1, seconds=0.0)


# ratios


def test_a_ratio_is_taken_within_each_round():
    times = {"explained": [2.0, 30.0, 3.0], "plain": [1.0, 20.0, 4.0]}
    # 2, 1.5, 0.75: the ratio of the medians would be 3 / 4.
    assert paired(times, "explained", "plain") == Spread(1.5, 1.125, 1.75, 3)


def test_a_spread_is_the_median_and_the_quartiles():
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0, 1)


def test_works_take_turns_in_both_orders():
    seen = []
    works = {name: lambda name=name: seen.append(name) for name in "ab"}
    times = interleave(works, Effort(rounds=4, seconds=0.0))
    assert {name: len(each) for name, each in times.items()} == {"a": 4, "b": 4}
    assert "".join(seen[-8:]) == "abbaabba"
    assert len(seen) > 8  # it was warmed up before


def test_a_cell_ends_after_its_rounds_and_its_seconds():
    assert len(interleave({"a": lambda: None}, Effort(rounds=50, seconds=0.0))["a"]) == 50
    assert len(interleave({"a": lambda: time.sleep(0.01)}, Effort(rounds=1, seconds=0.1))["a"]) in range(2, 11)


@pytest.mark.parametrize(("seconds", "allowed"), [(2.4, True), (2.6, False)])
def test_a_cell_that_is_too_dear_for_three_rounds_and_a_warm_up_is_left_out(seconds, allowed):
    assert Effort(rounds=3, longest=10.0).allows(seconds) is allowed


# photos and networks


def test_photos_differ_and_have_one_size():
    photos = pictures(8)
    assert {photo.size for photo in photos} == {SIZE}
    assert len({photo.tobytes() for photo in photos}) == 8
    assert len(set(jpegs(8))) == 8
    assert pixels(3, SIDE, CPU).shape == (3, 3, SIDE, SIDE)


def test_settling_makes_activations_behave_and_leaves_the_network_in_eval_mode():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    network[0].weight.data *= 100
    settle(network)
    assert not any(module.training for module in network.modules())
    assert network[1].momentum == 0.1
    with torch.no_grad():
        after = network(pixels(8, 224, CPU))
    assert torch.allclose(after.mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.02)
    assert torch.allclose(after.std(dim=(0, 2, 3)), torch.ones(4), atol=0.02)


def test_the_best_classes_of_every_row_are_asked_about():
    targets = best(torch.tensor([[0.0, 2.0, 1.0], [5.0, 3.0, 4.0]]), 2)
    assert targets.rows.tolist() == [0, 0, 1, 1]
    assert targets.weights.argmax(dim=1).tolist() == [1, 2, 0, 2]
    assert targets.weights.sum(dim=1).tolist() == [1, 1, 1, 1]


def subject(make):
    small = make()
    return load("small", ScoringNetwork(small.network), small.layer, RuntimeSpec(), CPU, SIDE)


@pytest.mark.parametrize(("make", "closed"), [(pooled, True), (deep, False)])
def test_explained_gives_the_scores_of_plain_and_a_map_for_each_class(make, closed):
    ready: Subject = subject(make)
    assert (ready.head is not None) is closed
    photos = pixels(2, SIDE, CPU)
    scores, maps = ready.explained(photos, 3)
    assert np.allclose(scores, ready.plain(photos), atol=1e-5)
    assert len(maps) == 2 * 3
    assert any(each.scale > 0 for each in maps)


# one run


@pytest.fixture(scope="module")
def cells():
    plan = Plan(("small",), (1, 2), ONCE, (1, 2), ("small",), RuntimeSpec(), CPU)
    lines = []
    measured = list(measure(subject(deep), plan, lines.append, SIDE))
    assert len(lines) == 4
    return measured


def test_every_cell_is_measured(cells):
    found = [(cell.table, cell.batch, cell.what) for cell in cells]
    assert found[:3] == [
        ("overhead", 1, "explained / plain"),
        ("overhead", 2, "explained / plain"),
        ("targets", 8, "2 / 1"),
    ]
    assert {what for table, _, what in found if table == "peers"} == {
        "camserve",
        "camserve, with its measures",
        "captum",
        "pytorch-grad-cam",
        "torch-cam",
    }
    for cell in cells:
        assert cell.reason == ""
        assert cell.ratio.median > 0
        assert cell.base.median > 0


def test_there_is_no_time_after_the_deadline():
    plan = Plan(("small",), (1, 2), ONCE, (1, 2), (), RuntimeSpec(), CPU, deadline=0.0)
    measured = list(measure(subject(deep), plan, lambda _: None, SIDE))
    assert [cell.reason for cell in measured] == [TOO_DEAR] * 3


def test_memory_that_cannot_be_measured_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "missing")
    cell = engine.memory(subject(deep), CPU)
    assert (cell.ratio, cell.base) == (None, None)
    assert cell.reason == "not measured: only Linux tells the peak memory of one process"


# reports


def report_of(cells):
    return engine_report("engine", cells, "camserve bench --engine", {"threads": "1"})


def test_a_table_has_one_row_a_model_and_one_column_a_batch():
    half = Spread(0.002, 0.002, 0.002, 1)
    written = report_of(
        [
            Cell("overhead", "big", 1, "explained / plain", Spread(1.02, 1.01, 1.04, 5), half),
            Cell("overhead", "big", 8, "explained / plain", reason=TOO_DEAR),
        ]
    ).text()
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in written.splitlines() if line.startswith("|")]
    assert lines[0] == ["model", "batch 1", "batch 8", "plain ms, batch 1", "plain ms, batch 8"]
    assert lines[2] == ["big", "1.020 (1.010 to 1.040)", TOO_DEAR, "2.0", ""]
    assert written.count("Made by `camserve bench --engine`.") == 2


def test_columns_are_aligned():
    assert grid(Table("t", ("a", "bb"), [("ccc", "d")])) == "| a   | bb |\n|-----|----|\n| ccc | d  |\n"


def test_a_spread_of_one_measurement_has_no_quartiles():
    assert told(Spread(1.0, 1.0, 1.0, 1)) == "1.000"
    assert told(Spread(2.0, 1.5, 2.5, 4), 1) == "2.0 (1.5 to 2.5)"
    assert told(None) == "not measured"


def test_json_holds_everything_and_only_numbers_that_are_numbers(tmp_path):
    report = Report("x", "c", {"a": "b"}, [], [], [Cell("peers", "m", 8, "w", Spread(math.nan, 1.0, math.inf, 2))])
    write_json(report, tmp_path / "new" / "x.json")
    written = json.loads((tmp_path / "new" / "x.json").read_text())
    assert written["setting"] == {"a": "b"}
    assert written["data"][0]["ratio"] == {"median": None, "low": 1.0, "high": None, "count": 2}
    assert plain((1, {2: (3.0,)})) == [1, {"2": [3.0]}]


def test_docs_show_every_picture(cells, tmp_path):
    paths = write_docs(report_of(cells), tmp_path)
    page = (tmp_path / "engine.md").read_text()
    assert {path.name for path in paths} == {
        "engine.md",
        "engine-overhead.svg",
        "engine-targets.svg",
        "engine-peers-small.svg",
    }
    for path in paths[1:]:
        assert f"]({path.name})" in page
        Tree.parse(path)


def test_the_setting_names_machine_and_versions():
    found = setting(CPU)
    assert found["torch"] == torch.__version__.split("+")[0]
    assert found["threads"] == str(torch.get_num_threads())
    assert "cores" in found["processor"]
    assert "gpu" not in found


def test_the_server_report_has_all_tables_and_pictures(tmp_path):
    one = Spread(10.0, 9.0, 11.0, 3)
    names = (EXPLAINED.name, PLAIN.name, STOCK_PLAIN.name)
    findings = Findings(
        1.0,
        {name: Turn(one, one, one, 1200.0, 0) for name in names},
        {"a / b": one},
        {PLAIN.name: one},
        one,
        [Loaded(EXPLAINED.name, 5.0, 80.0, 160.0, 0), Loaded(NAIVE_EXPLAINED.name, 1.0, math.nan, math.nan, 2)],
        {"camserve": {"ready_seconds": 8.0, "resident_bytes": 7e8, "archive_bytes": 1e8}},
        {"decode": 2.0, "forward": 30.0},
        {"seconds": 6.0, "bytes": 4.5e6, "status": 200},
    )
    report = served_report(findings, "resnet50", "camserve bench --server", {})
    assert len(report.tables) == 7
    assert ("pytorch-grad-cam, explained", "1.00", "not measured", "not measured", "2") in report.tables[3].rows
    for path in write_docs(report, tmp_path)[1:]:
        Tree.parse(path)


def test_ticks_of_a_log_axis_enclose_the_values():
    assert plots.find_log_ticks(85.0, 2524.0) == [50, 100, 200, 500, 1000, 2000, 5000]
    assert plots.find_log_ticks(100.0, 100.0) == [100]


def test_every_chart_of_the_benchmarks_shows_its_names_and_numbers():
    spread = Spread(2.0, 1.5, 2.5, 3)
    charts = {
        "bars": (plots.plot_bars({"a name": spread, "other": spread}, "a unit", 1.0), ["a name", "a unit", "2"]),
        "curves": (
            plots.plot_curves({"a name": [(1, 2.0), (8, 3.0)]}, ("x words", "y words"), marks=(1, 8), level=1.0),
            ["a name", "x words", "y words", "8"],
        ),
        "log": (
            plots.plot_curves({"a": [(1, 20.0)]}, ("x", "y"), {"a": [(1, 90.0)]}, names=("p50", "p99"), log=True),
            ["p50", "p99", "100"],
        ),
        "stages": (plots.plot_stages({"decode": 2.0, "forward": 30.0}, "ms"), ["decode", "30 ms"]),
    }
    for name, (svg, words) in charts.items():
        drawn = [text.text for text in Tree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
        assert not set(words) - set(drawn), name


# load


@pytest.fixture
def server():
    """A web server that answers the length of what it was sent, and refuses what is called bad."""
    seen = SimpleNamespace(bodies=[], headers=[], connections=set())

    class Page(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.bodies.append(body)
            seen.headers.append(dict(self.headers))
            seen.connections.add(self.client_address)
            status = 503 if body == b"bad" else 200
            told = b"x" * len(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)
            self.close_connection = status != 200

        def log_message(self, *_):
            """Say nothing."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    seen.client = Client(f"http://127.0.0.1:{running.server_port}/predictions/m", {"X-Camserve-Explain": "false"})
    yield seen
    running.shutdown()
    running.server_close()


def test_a_closed_loop_keeps_its_connections_and_asks_for_every_photo(server):
    load = closed_loop(server.client, [b"a", b"bb", b"ccc"], connections=2, seconds=0.2)
    assert len(load.latencies) == len(server.bodies) >= 2
    assert len(server.connections) == 2
    assert load.failed == 0
    assert set(server.bodies) <= {b"a", b"bb", b"ccc"}
    assert server.headers[0]["X-Camserve-Explain"] == "false"
    assert load.throughput == len(load.latencies) / load.seconds
    assert load.seconds >= 0.2


def test_a_fixed_rate_sends_at_every_instant(server):
    load = fixed_rate(server.client, [b"a", b"bad"], rate=40.0, seconds=0.5)
    count = len(arrivals(40.0, 0.5))
    assert len(server.bodies) == count
    assert (len(load.latencies), load.failed) == ((count + 1) // 2, count // 2)
    assert load.size == 1


def test_arrivals_are_always_the_same_and_as_many_as_asked():
    instants = arrivals(50.0, 100.0)
    assert instants == arrivals(50.0, 100.0)
    assert instants == sorted(instants)
    assert instants[-1] < 100.0
    assert len(instants) == pytest.approx(5000, rel=0.05)  # more than three standard deviations


def test_a_latency_is_told_in_milliseconds():
    load = Load((0.1, 0.2, 0.3), 1.5, 0, 10.0)
    assert load.percentile(50) == pytest.approx(200)
    assert load.throughput == 2
    assert math.isnan(Load((), 1.0, 3, 0.0).percentile(50))


def test_one_question_gets_its_answer(server):
    assert ask(server.client, b"1234") == Reply(200, b"xxxx")
    assert ask(server.client, b"bad") == Reply(503, b"xxx")


@pytest.mark.parametrize(
    "body",
    [
        {"predictions": [{"index": 7}, {"index": 1}], "explanations": []},
        {"1": 0.2, "7": 0.5, "3": 0.1},
        {"classes": {"7": 0.9, "2": 0.1}, "map": "..."},
    ],
)
def test_the_best_class_is_read_from_each_handlers_answer(body):
    assert best_class(Reply(200, json.dumps(body).encode())) == 7


def test_a_refusal_has_no_best_class():
    with pytest.raises(ConfigError, match="answers 503: busy"):
        best_class(Reply(503, b"busy"))


def test_the_naive_handler_is_python():
    compile(NAIVE_HANDLER.format(layer="network.layer4"), "naive_handler.py", "exec")


def test_an_archive_that_cannot_be_packed_says_why(tmp_path):
    with pytest.raises(ConfigError, match=r"torch-model-archiver failed: FileNotFoundError.*network\.py"):
        pack("stock", "image_classifier", Parts("none", tmp_path, {}))


# the command


def test_without_a_gpu_nothing_is_measured(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "--gpu"]) == 0
    assert "not measured: no CUDA device" in capsys.readouterr().out


def test_an_unknown_model_is_answered_with_the_nearest(capsys):
    assert main(["bench", "--engine", "--models", "resnet5"]) == 1
    assert "'resnet5'; did you mean 'resnet50'?" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--pairs", "0"], ["--batches", "1,x"], ["--server"], []])
def test_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["bench", *(["--engine"] if words else []), *words])
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_the_command_that_made_a_figure_is_told_without_where_it_was_written(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(bench, "bench_engine", lambda asked: seen.append(bench.command_of(asked)) or report_of([]))
    main(["bench", "--engine", "--quick", "--models", "vgg16", "--batches", "1,4", "--pairs", "15"])
    assert seen == ["camserve bench --engine --quick --models vgg16 --batches 1,4"]
    assert "camserve bench: engine" in capsys.readouterr().out


def test_batching_tries_every_size_and_every_delay_once_and_tells_all():
    tried = batching.choices()
    assert len(tried) == len(set(tried)) == 7
    assert {size for size, _ in tried} == {1, 4, 8, 16}
    assert {delay for _, delay in tried} == {1, 5, 10, 20}
    found = [batching.Choice(size, delay, 20.5, 400.4, 800.0, 99.9, 61.2) for size, delay in tried]
    text = batching.batching_report(found, "resnet50", "camserve bench --batching", {}).text()
    assert "| 8         | 10               | 20.50            | 400    | 800    | 100" in text
