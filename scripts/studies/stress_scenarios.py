"""What the stress runs do to a server, and what must hold."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import psutil

from camserve.operate.server import Server

THREADS = 16
BATCH = 8
KILLS = 5
RECOVERY_GRACE = 5.0  # seconds beyond the time that loading takes
DRAIN_SECONDS = 20
GROWTH_LIMIT = 20_000_000  # bytes
WARM_UP = 1_500  # requests; the allocator takes about a thousand to reach its size
MEMORY_SAMPLES = 20
FLOOD = 200  # requests at once, about three times the queue
LEAKED = 1_000_000  # bytes a forward pass, in the planted leak


@dataclass(frozen=True)
class StressRow:
    """One line of the table."""

    what: str
    required: str
    observed: str
    holds: bool


@dataclass(frozen=True)
class StressLoad:
    """Requests of every kind: explained, plain, drawn, and refused."""

    server: Server
    model: str
    photo: bytes

    def send_one(self, number: int, mixed: bool = True) -> int:
        """Send request ``number``; return its status, or 0 where none came."""
        kinds: Sequence[tuple[bytes, dict[str, str]]] = (
            (self.photo, {"explain": "false"}),
            (self.photo, {}),
            (self.photo, {"target": "top:2", "format": "overlay"}),
            (self.photo[: len(self.photo) // 2], {}),
            (self.photo, {"target": "no such class"}),
        )
        body, options = kinds[number % len(kinds) if mixed else number % 2]
        side = self.server.inference
        url = f"{side.url}/predictions/{self.model}"
        try:
            files = {"data": body}
            return httpx.post(url, headers=side.headers, files=files, data=options, timeout=120).status_code
        except httpx.HTTPError:
            return 0

    def send(self, numbers: Iterable[int], threads: int = THREADS, mixed: bool = True) -> Counter[int]:
        """Send many requests from several threads; count the statuses."""
        with ThreadPoolExecutor(threads) as pool:
            return Counter(pool.map(lambda number: self.send_one(number, mixed), numbers))

    def worker(self) -> psutil.Process | None:
        """Return the first worker that is READY and alive; TorchServe learns of its death late."""
        ready = [worker for worker in self.server.workers(self.model) if worker["status"] == "READY"]
        try:
            return psutil.Process(int(ready[0]["pid"])) if ready else None
        except psutil.NoSuchProcess:
            return None


def kill_workers(traffic: StressLoad, count: int) -> StressRow:
    """SIGKILL the worker under load, again and again."""
    load_time = _load_seconds(traffic.server)
    lost, seconds = [], []
    for _ in range(KILLS):
        worker = traffic.worker()
        assert worker is not None
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(traffic.send, range(count), THREADS, False)
            time.sleep(0.5)
            worker.kill()
            start = time.monotonic()
            while (now := traffic.worker()) is None or now.pid == worker.pid:
                time.sleep(0.1)
            seconds.append(time.monotonic() - start)
            lost.append(count - sending.result()[200])
    holds = max(lost) <= BATCH and max(seconds) <= load_time + RECOVERY_GRACE
    return StressRow(
        f"SIGKILL of the worker under load, {KILLS} times in {KILLS * count} requests",
        f"at most the batch in flight ({BATCH}) lost; back within load time + {RECOVERY_GRACE:.0f} s",
        f"lost {', '.join(map(str, lost))}; back after at most {max(seconds):.1f} s, loading takes {load_time:.1f} s",
        holds,
    )


def _load_seconds(server: Server) -> float:
    """Return how long the first worker took to load its model; later ones are counted from its start."""
    lines = httpx.get(server.metrics_url, timeout=10).text.splitlines()
    return max(float(line.split()[-1]) for line in lines if line.startswith("WorkerLoadTime{")) / 1000


def swap_versions(traffic: StressLoad, count: int, second: str) -> StressRow:
    """Replace version 1 by version 2 and version 2 by version 1 while requests come in."""
    with ThreadPoolExecutor(1) as pool:
        replacing = pool.submit(_there_and_back, traffic, second)
        statuses: Counter[int] = Counter()
        while not (replacing.done() and statuses.total() >= count) and statuses.total() < 20 * count:
            statuses += traffic.send(range(100), THREADS, False)
        replacing.result()
    lost = statuses.total() - statuses[200]
    return StressRow(
        f"version 1 -> 2 -> 1 under load, {statuses.total()} requests", "none lost", f"{lost} lost", lost == 0
    )


def _there_and_back(traffic: StressLoad, second: str) -> None:
    _replace(traffic, second, "1.0", "2.0")
    _replace(traffic, traffic.server.models[traffic.model], "2.0", "1.0")


def _replace(traffic: StressLoad, archive: str, old: str, new: str) -> None:
    """Register, redirect, drain, remove: TorchServe never answers what a removed version still holds."""
    side = traffic.server.management

    def call(method: str, path: str) -> httpx.Response:
        answer = httpx.request(method, f"{side.url}/models{path}", headers=side.headers, timeout=180)
        answer.raise_for_status()
        return answer

    call("POST", f"?url={archive}&initial_workers=1&synchronous=true")
    call("PUT", f"/{traffic.model}/{new}/set-default")
    for _ in range(DRAIN_SECONDS):
        if call("GET", f"/{traffic.model}/{old}").json()[0]["jobQueueStatus"]["pendingRequests"] == 0:
            break
        time.sleep(1)
    time.sleep(DRAIN_SECONDS)  # for the batch that the worker already took
    call("DELETE", f"/{traffic.model}/{old}")


def flood_queue(traffic: StressLoad, count: int) -> StressRow:
    """Send far more requests at once than the queue holds."""
    statuses = traffic.send(range(count), FLOOD, False)
    after = traffic.send(range(20), 1, False)
    counts = ", ".join(f"{number} x {status}" for status, number in sorted(statuses.items()))
    return StressRow(
        f"{count} requests, {FLOOD} at once",
        "every one answered 200 or 503, and all well afterwards",
        counts,
        set(statuses) <= {200, 503} and after[200] == 20,
    )


def measure_growth(traffic: StressLoad, count: int) -> int:
    """Return how many bytes the worker has grown over ``count`` mixed requests, after a warm-up.

    Held memory goes up and down with the size of batches; what leaks raises the lowest of it. So the lowest
    of the last quarter of the samples is compared with that of the first.
    """
    traffic.send(range(WARM_UP))
    worker = traffic.worker()
    assert worker is not None
    held = []
    for _ in range(MEMORY_SAMPLES):
        traffic.send(range(max(1, count // MEMORY_SAMPLES)))
        held.append(worker.memory_info().rss)
    quarter = MEMORY_SAMPLES // 4
    return int(min(held[-quarter:]) - min(held[:quarter]))


def find_no_leak(traffic: StressLoad, count: int) -> StressRow:
    """Search for a leak where there should be none."""
    grown = measure_growth(traffic, count)
    return StressRow(
        f"{count} mixed requests (explained, plain, drawn, refused)",
        f"the worker grows by at most {GROWTH_LIMIT // 1_000_000} MB after the warm-up",
        f"{grown / 1e6:+.1f} MB",
        grown <= GROWTH_LIMIT,
    )


def find_planted_leak(traffic: StressLoad, count: int) -> StressRow:
    """Search for a leak that is there: the check of the check."""
    grown = measure_growth(traffic, count)
    return StressRow(
        f"the same check on a network that keeps {LEAKED // 1000} kB a forward pass, {count} requests",
        "caught",
        f"{grown / 1e6:+.1f} MB: {'caught' if grown > GROWTH_LIMIT else 'missed'}",
        grown > GROWTH_LIMIT,
    )
