"""Measure explained against plain, side by side: as a library, on a GPU, or on a real TorchServe.

Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from camserve.bench import engine, served
from camserve.bench.batching import bench_batching, write_best
from camserve.bench.contenders import Parts, build_archives
from camserve.bench.engine_report import make_engine_report
from camserve.bench.networks import MODELS, choose_models
from camserve.bench.pairs import QUICK_EFFORT, Effort
from camserve.bench.profile import bench_profile
from camserve.bench.repack import check_archives
from camserve.bench.report import BenchReport, Table, describe_machine, write_docs, write_report_json
from camserve.bench.served_report import make_server_report
from camserve.bench.shortcuts import make_gains_report, measure_gains
from camserve.cli.terminal import count, say
from camserve.errors import ConfigError
from camserve.settings import PRECISIONS, RuntimeSpec

EXAMPLE = """examples:
  camserve bench --engine --quick
  camserve bench --engine --models resnet50,vit_b_16 --batches 1,8 --pairs 30 --json out/engine.json
  camserve bench --server --delay 10 --docs
  camserve bench --profile model_store/imagenet.mar
  camserve bench --batching model_store/imagenet.mar --write
"""
NOT_ON_A_GPU = Table("On a GPU", ("explained / plain",), [("not measured: no CUDA device",)])
DOCS = Path("docs/bench")
QUICK_SECONDS = 300.0
TURN, QUICK_TURN = 15.0, 4.0  # seconds of one load with --batching and --profile
ROUNDS, QUICK_ROUNDS = 7, 3  # of --profile
QUICK_MODELS = MODELS[:1]  # of which a quick run measures memory and other libraries
CLASSES, QUICK_CLASSES = (1, 3, 5), (1, 5)
DEFAULTS: dict[str, Any] = {
    "models": "",
    "batches": (1, 8, 32),
    "pairs": 15,
    "threads": None,
    "precision": "fp32",
    "delay": 10,
    "batch_size": 8,
}
AS_A_LIBRARY = ("models", "batches", "pairs", "threads", "precision", "cpu_time")
# The options that say how one benchmark measures; any goes with quick, json and docs.
OPTIONS = {
    "engine": AS_A_LIBRARY,
    "gpu": AS_A_LIBRARY,
    "shortcuts": AS_A_LIBRARY,
    "server": ("models", "threads", "delay", "batch_size"),
    "profile": ("threads",),
    "batching": ("write",),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--engine", action="store_true", help="as a library, beside captum, torch-cam, OpenVINO and others"
    )
    which.add_argument("--gpu", action="store_true", help="the same on a CUDA device")
    which.add_argument("--server", action="store_true", help="beside TorchServe's image_classifier and a naive handler")
    which.add_argument("--shortcuts", action="store_true", help="without each shortcut and with it; on a GPU if any")
    which.add_argument("--profile", action="store_true", help="where the processor's time of a served answer goes")
    which.add_argument(
        "--batching", action="store_true", help="the batchSize, maxBatchDelay, workers and threads that answer most"
    )
    parser.add_argument(
        "archives", nargs="*", type=Path, metavar="N.mar", help="one with --batching, one or more with --profile"
    )
    parser.add_argument("--write", action="store_true", help="with --batching: write the best setting into the archive")
    parser.add_argument("--models", help=f"of torchvision ({','.join(MODELS)}; with --server {MODELS[0]})")
    parser.add_argument("--batches", type=counts, help="photos a batch, as a library (1,8,32)")
    parser.add_argument("--pairs", type=count, help="least runs of each kind, as a library (%(default)s)")
    parser.add_argument("--threads", type=count, help="of torch, in workers too (torch's own choice)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="of camserve's own networks, as a library (%(default)s)"
    )
    parser.add_argument("--delay", type=count, metavar="MS", help="maxBatchDelay with --server (%(default)s)")
    parser.add_argument("--batch-size", type=count, help="batchSize with --server (%(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="5 minutes as a library, 8 with --server, on two cores 10 with --batching"
    )
    parser.add_argument(
        "--cpu-time", action="store_true", help="as a library: seconds of the processor, on a machine that others use"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--docs", action="store_true", help=f"write tables and pictures into {DOCS}")
    parser.set_defaults(**DEFAULTS)


def run(args: argparse.Namespace) -> int:
    """Measure, print the report, and write what was asked for. ConfigError: an option does not go with the others."""
    check_archives(args.archives, _chosen(args))
    _check_options(args)
    _check_places(args)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # for the workers
    report = BENCHMARKS[_chosen(args)](args)
    print(report.text(), flush=True)
    if args.json:
        write_report_json(report, args.json)
    if args.docs:
        say("wrote " + ", ".join(map(str, write_docs(report, DOCS))))
    if args.write:
        write_best(args.archives[0], report.data, say)
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Refuse (ConfigError) an option that the chosen benchmark would pass over."""
    usual = {**DEFAULTS, "write": False, "cpu_time": False}
    for name, value in usual.items():
        if getattr(args, name) != value and name not in OPTIONS[_chosen(args)]:
            fitting = [f"--{benchmark}" for benchmark, names in OPTIONS.items() if name in names]
            raise ConfigError(
                f"--{name.replace('_', '-')} goes with {' or '.join(fitting)}, not with --{_chosen(args)}"
            )


def _check_places(args: argparse.Namespace) -> None:
    """Refuse (ConfigError) files that cannot be written: measuring takes minutes, and would be lost."""
    places = [args.json] * bool(args.json) + args.archives[:1] * args.write + [DOCS / "bench.md"] * args.docs
    for place in places:
        folder = next(parent for parent in place.absolute().parents if parent.exists())
        if place.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ConfigError(f"cannot write {place}: {'it is a folder' if place.is_dir() else f'look at {folder}'}")


def _chosen(args: argparse.Namespace) -> str:
    return next(name for name in BENCHMARKS if getattr(args, name))


def bench_engine(args: argparse.Namespace) -> BenchReport:
    """Measure as a library. ConfigError: a model is unknown."""
    name = "gpu" if args.gpu else "engine"
    if args.gpu and not torch.cuda.is_available():
        return BenchReport(name, command_of(args), describe_machine(torch.device("cpu")), [NOT_ON_A_GPU], [], [])
    device = torch.device("cuda" if args.gpu else "cpu")
    models = choose_models(args.models, MODELS)
    effort = effort_of(args)
    deadline = time.monotonic() + QUICK_SECONDS if args.quick else float("inf")
    where = describe_machine(device)
    classes, in_depth = (QUICK_CLASSES, QUICK_MODELS) if args.quick else (CLASSES, models)
    runtime = RuntimeSpec(precision=args.precision)
    plan = engine.EnginePlan(models, args.batches, effort, classes, in_depth, runtime, device, deadline)
    cells = list(engine.measure_models(plan, say))
    return make_engine_report(name, cells, command_of(args), where)


def bench_shortcuts(args: argparse.Namespace) -> BenchReport:
    """Measure what each shortcut gains. ConfigError: a model is unknown."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    effort = effort_of(args)
    runtime = RuntimeSpec(precision=args.precision)
    models = choose_models(args.models, QUICK_MODELS if args.quick else MODELS)
    gains = list(measure_gains(models, args.batches, effort, runtime, device, say))
    return make_gains_report(gains, command_of(args), describe_machine(device))


def bench_server(args: argparse.Namespace) -> BenchReport:
    """Measure on a real TorchServe. ConfigError: the handlers' predictions differ, or a server does not start."""
    (model,) = choose_models(args.models, MODELS[:1])[:1]
    workers = {"minWorkers": 1, "maxWorkers": 1, "responseTimeout": 120}
    serving = {**workers, "batchSize": args.batch_size, "maxBatchDelay": args.delay}
    where = {**describe_machine(torch.device("cpu")), **{name: str(value) for name, value in serving.items()}}
    plan = served.QUICK_PLAN if args.quick else served.FULL_PLAN
    with tempfile.TemporaryDirectory(prefix="camserve-bench-") as folder:
        say(f"building archives of {model}")
        archives = build_archives(Parts(model, Path(folder) / "store", serving), say)
        with served.run_servers(archives, Path(folder) / "servers", say) as contenders:
            findings = served.measure_servers(contenders, plan, say)
    return make_server_report(findings, model, command_of(args), where)


def bench_archives(args: argparse.Namespace) -> BenchReport:
    """Measure archives of a person's own on real TorchServes. ConfigError: one is missing, or does not start."""
    turn = QUICK_TURN if args.quick else TURN
    where = describe_machine(torch.device("cpu"))
    if args.profile:
        rounds = QUICK_ROUNDS if args.quick else ROUNDS
        return bench_profile(args.archives, rounds, turn, command_of(args), where, say)
    return bench_batching(args.archives[0], turn, command_of(args), where, say)


def effort_of(args: argparse.Namespace) -> Effort:
    """Return how long to measure as a library, and in which seconds."""
    return dataclasses.replace(QUICK_EFFORT if args.quick else Effort(args.pairs), of_processor=args.cpu_time)


def counts(text: str) -> tuple[int, ...]:
    """Read several such numbers, with commas between them."""
    return tuple(count(part) for part in text.split(","))


def command_of(args: argparse.Namespace) -> str:
    """Return the command line that measures the same again."""
    words = ["camserve", "bench"]
    words += [
        f"--{name.replace('_', '-')}" for name in (*BENCHMARKS, "quick", "cpu_time", "write") if getattr(args, name)
    ]
    for name, usual in DEFAULTS.items():
        given = getattr(args, name)
        if given != usual:
            words += [f"--{name.replace('_', '-')}", ",".join(map(str, given)) if name == "batches" else str(given)]
    return shlex.join([*words, *map(str, args.archives)])


BENCHMARKS: dict[str, Callable[[argparse.Namespace], BenchReport]] = {
    "engine": bench_engine,
    "gpu": bench_engine,
    "server": bench_server,
    "profile": bench_archives,
    "batching": bench_archives,
    "shortcuts": bench_shortcuts,
}
