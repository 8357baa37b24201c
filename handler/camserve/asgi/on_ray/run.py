"""Serving archives by replicas of Ray Serve until a signal comes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from camserve.asgi.listen import listen
from camserve.asgi.metrics import Metrics
from camserve.asgi.on_ray.cluster import own_serve
from camserve.build.mar.unpack import read_contents
from camserve.operate.ray_here import ADDRESS, cluster_address
from camserve.serving.cores import count_cores
from camserve.values import Progress


def serve(archives: Sequence[Path], port: int, folder: Path, report: Progress) -> int:
    """Serve on loopback until a signal comes; return the exit status. ConfigError: an archive does not load.

    At SIGHUP changed archives are taken.
    """
    metrics, has_hung_up = Metrics(), threading.Event()
    # Not SIG_IGN, which Ray's processes would inherit.
    signal.signal(signal.SIGHUP, lambda _number, _frame: has_hung_up.set())
    for path in archives:
        read_contents(path)  # what is no archive is refused before Ray starts
    if cluster_address() is not None:
        report(f"{ADDRESS} is passed over: these workers run on this machine alone (docs/engines.md: A cluster)")
    report("starting Ray")
    with own_serve(count_cores()):
        from camserve.asgi.on_ray.fleet import Fleet  # needs Ray

        with closing(Fleet(archives, metrics, report)) as fleet:
            listen(fleet.models, metrics, port, folder, report, fleet.change, has_hung_up)
    return 0
