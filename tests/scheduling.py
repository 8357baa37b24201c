"""How pytest-xdist shares the tests between processes."""

from xdist.scheduler import LoadScopeScheduling

# Files that share what takes long to start: a live server, an exporter or the charts' JavaScript.
SHARING = {
    "imagenet": (
        "test_torchserve.py",
        "test_routes.py",
        "test_clients.py",
        "test_openapi.py",
        "test_hostile_clients.py",
    ),
    "faulty": ("test_faults.py", "test_unsafe.py"),
    "openvino": ("test_compiled.py", "test_quantise.py", "test_engine.py"),
    "exporter": ("test_sources.py", "test_program.py", "test_program_file.py", "test_choose_methods.py"),
    "charts": ("test_report.py", "test_audit.py"),
}
# The longest, which begin first, so that no process waits for another at the end.
FIRST = (
    "test_runtimes.py",
    "imagenet",
    "test_bench.py",
    "faulty",
    "test_supervisor.py",
    "test_guides.py",
    "test_viewer.py",
    "test_prometheus.py",
    "test_monitoring.py",
    "test_integrations.py",
    "test_supervised_front.py",
    "test_envelopes.py",
    "test_changes.py",
    "test_compiled_server.py",
    "openvino",
    "test_front.py",
    "exporter",
    "test_shards.py",
    "test_archive_file.py",
    "test_configure.py",
    "test_archive.py",
    "charts",
    "test_run.py",
    "test_probe.py",
    "test_windows.py",
    "test_card.py",
    "test_agreement.py",
    "test_baseline.py",
    "test_package.py",
    "test_tour.py",
)


class FilesBySharing(LoadScopeScheduling):
    """Gives each process whole files, and all files that share something to one process."""

    def __init__(self, config, log=None):
        config.option.loadscopereorder = False  # the order is that of collection
        super().__init__(config, log)

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        return SHARED.get(file.rpartition("/")[2], file)


SHARED = {file: scope for scope, files in SHARING.items() for file in files}


def by_length(item):
    """Return a key that sorts the tests of the longest files first, and files that share something in their order."""
    file = item.path.name
    scope = SHARED.get(file, file)
    return FIRST.index(scope) if scope in FIRST else len(FIRST), SHARING.get(scope, (file,)).index(file)
