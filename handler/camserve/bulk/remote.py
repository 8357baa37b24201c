"""Pictures in object stores and on other file systems, by their addresses: s3://BUCKET/FOLDER, gs://, file://."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from camserve.build.baseline.photos import SUFFIXES
from camserve.errors import ConfigError, first_line

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

OF_PYARROW = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss", "file")  # the others are fsspec's


class Address(NamedTuple):
    """A place on a file system."""

    system: FileSystem
    path: str
    before: str  # what stands before a path of this system in an address
    after: str  # and behind it: the system's own options


def require_pyarrow(what: str) -> None:
    """Raise ConfigError where pyarrow is missing, which ``what`` needs."""
    if find_spec("pyarrow") is None:
        raise ConfigError(f"{what} needs pyarrow: pip install 'camserve[bulk]'")


def is_remote(path: str) -> bool:
    """Return whether a path is an address of another file system."""
    return "://" in path


def find_address(uri: str) -> Address:
    """Return the file system that an address names. ConfigError: there is none of this kind, or it is out of reach."""
    scheme, _, rest = uri.partition("://")
    path, mark, options = rest.partition("?") if scheme in OF_PYARROW else (rest, "", "")
    return Address(_system(scheme, path.partition("/")[0], options), path, f"{scheme}://", mark + options)


@lru_cache(maxsize=64)
def _system(scheme: str, host: str, options: str) -> FileSystem:
    require_pyarrow(f"{scheme}://")
    from pyarrow import ArrowException, fs

    try:
        if scheme in OF_PYARROW:
            system, _ = fs.FileSystem.from_uri(f"{scheme}://{host}/" + (f"?{options}" if options else ""))
            return system
        import fsspec

        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme)))
    except ModuleNotFoundError as error:
        raise ConfigError(f"{scheme}:// needs {error.name}: pip install {error.name}") from None
    except (ImportError, OSError, ValueError, ArrowException) as error:
        raise ConfigError(f"{scheme}:// cannot be read: {first_line(error)}") from None


def list_remote(uri: str) -> list[tuple[str, str]]:
    """Return address and relative path of the pictures of a folder, or of the one picture, by name.

    ConfigError: there are none, or the address cannot be listed.
    """
    address = find_address(uri)
    from pyarrow import ArrowException, fs

    if address.path.lower().endswith(tuple(SUFFIXES)):
        return [(uri, address.path.rpartition("/")[2])]
    root = address.path.rstrip("/")
    try:
        found = address.system.get_file_info(fs.FileSelector(root, recursive=True))
    except (OSError, ValueError, ArrowException) as error:
        raise ConfigError(f"cannot list {uri}: {first_line(error)}") from None
    names = sorted(one.path for one in found if one.is_file and one.path.lower().endswith(tuple(SUFFIXES)))
    if not names:
        raise ConfigError(f"there are no photos in {uri}")
    return [(f"{address.before}{name}{address.after}", name.partition(f"{root}/")[2] or name) for name in names]


def read_remote(uri: str, most_bytes: int) -> bytes:
    """Return at most ``most_bytes`` + 1 bytes of a file. OSError: it cannot be read."""
    address = find_address(uri)
    with address.system.open_input_stream(address.path) as stream:
        content: bytes = stream.read(most_bytes + 1)
    return content
