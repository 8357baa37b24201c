"""How pytest-xdist shares the tests between processes."""

from xdist.scheduler import LoadScopeScheduling

# Files that talk to one live server: the process that starts it runs them all.
SERVERS = {
    "imagenet": (
        "test_torchserve.py",
        "test_routes.py",
        "test_clients.py",
        "test_openapi.py",
        "test_hostile_clients.py",
    ),
    "faulty": ("test_faults.py", "test_unsafe.py"),
}
# The longest, which begin first, so that no process waits for another at the end.
FIRST = (
    "imagenet",
    "test_runtimes.py",
    "test_supervisor.py",
    "test_front.py",
    "test_viewer.py",
    "test_monitoring.py",
    "test_prometheus.py",
    "faulty",
    "test_changes.py",
    "test_supervised_front.py",
    "test_frontend.py",
    "test_compiled_server.py",
    "test_shards.py",
    "test_configure.py",
    "test_explainer.py",
    "test_archive_file.py",
    "test_sources.py",
    "test_runtime.py",
    "test_compiled.py",
    "test_archive.py",
    "test_selftest.py",
    "test_report.py",
    "test_probe.py",
    "test_baseline.py",
    "test_tour.py",
    "test_package.py",
    "test_agreement.py",
)


class FilesByServer(LoadScopeScheduling):
    """Gives each process whole files, and all files of one server to one process."""

    def __init__(self, config, log=None):
        config.option.loadscopereorder = False  # the order is that of collection
        super().__init__(config, log)

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        return SHARED.get(file.rpartition("/")[2], file)


SHARED = {file: server for server, files in SERVERS.items() for file in files}


def by_length(item):
    """Return a key that sorts the tests of the longest files first."""
    file = item.path.name
    scope = SHARED.get(file, file)
    return FIRST.index(scope) if scope in FIRST else len(FIRST)
