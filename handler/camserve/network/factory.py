"""Calling what makes a network: a callable of an installed package, of a bundled one, or of a model file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from torch import nn

from camserve.errors import ConfigError, first_line
from camserve.files import inside
from camserve.input_spec import InputSpec
from camserve.network.output import Score
from camserve.settings import ModelSpec

MODEL_FILE = "camserve_model"  # name of an archive's model file as a module: its own may be an installed one's


def build_network(spec: ModelSpec, folder: Path) -> nn.Module:
    """Return the factory's network in float32, without what torch.compile put around it.

    ConfigError: the factory cannot be imported, fails, or makes no network.
    """
    factory = _find_factory(spec, folder)
    try:
        network = factory if isinstance(factory, nn.Module) else factory(**spec.args)
    except Exception as error:
        raise ConfigError(
            f"model.factory {spec.factory} failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model.factory {spec.factory} made a {type(network).__name__}, not a torch.nn.Module")
    return plain_network(network)


def plain_network(network: nn.Module) -> nn.Module:
    """Return a network in float32, without what torch.compile or data parallelism put around it or its modules."""
    # A half network would refuse float32 pixels; runtime.precision is what shortens numbers.
    return _without_wrappers(network).float()


def _without_wrappers(network: nn.Module) -> nn.Module:
    """Take torch.compile and data parallelism off a network: compiled code cannot be watched at a layer."""
    wrapped = getattr(network, "_orig_mod", None)
    if wrapped is None and isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        wrapped = network.module
    if isinstance(wrapped, nn.Module):
        return _without_wrappers(wrapped)
    if network._compiled_call_impl is not None:  # of network.compile()
        network._compiled_call_impl = None
    for name, child in network._modules.items():
        if child is not None and (plain := _without_wrappers(child)) is not child:
            setattr(network, name, plain)
    return network


def _find_factory(spec: ModelSpec, folder: Path) -> Callable[..., object]:
    assert spec.factory is not None
    if spec.file is None:
        return _find_callable(spec.factory, "model.factory", lambda name: _import(name, folder))
    path = inside(folder, spec.file)
    return _find_callable(f"{path.stem}:{spec.factory}", "model.factory", lambda _name: _load_file(path, spec.modules))


def load_transform(folder: Path, spec: InputSpec) -> Callable[..., object] | None:
    """Return the archive's own transform of pictures. None: it has none. ConfigError: it cannot be imported."""
    if spec.transform is None:
        return None
    return _find_callable(spec.transform, "input.transform", lambda name: _import(name, folder))


def load_score(folder: Path, name: str | None, usual: str) -> Score | None:
    """Return the archive's own way of asking its network, with the context of a request that names none.

    None: it has none. ConfigError: it cannot be imported.
    """
    if name is None:
        return None
    function = _find_callable(name, "score", lambda module: _loaded_file(module, folder) or _import(module, folder))
    return Score(function, usual)


def _loaded_file(name: str, folder: Path) -> ModuleType | None:
    """Return the model file that the network was made from: run again, its classes would be others."""
    loaded = sys.modules.get(MODEL_FILE)
    return loaded if loaded is not None and loaded.__file__ == str(folder / f"{name}.py") else None


def _find_callable(name: str, key: str, load: Callable[[str], ModuleType]) -> Callable[..., object]:
    """Return the callable that the setting ``key`` names, as module:callable."""
    module, _, attribute = name.rpartition(":")
    if not module:
        raise ConfigError(f"{key} must be 'module:callable', not '{name}'")
    try:
        found: object = load(module)
    except ConfigError:
        raise
    except Exception as error:  # whatever the person's own code raises
        reason = first_line(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(f"{key} {name} cannot be imported: {reason}") from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ConfigError(f"{key} {name}: there is no callable '{attribute}'")
    return found


def _import(name: str, folder: Path) -> ModuleType:
    """Import a file of the archive, else from what is installed, else from what the archive bundles."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    path = folder / f"{name}.py"
    # Not by its name: another archive of the same process may have a file of that name.
    return _load_file(path) if path.is_file() else importlib.import_module(name)


def _load_file(path: Path, modules: Sequence[str] = ()) -> ModuleType:
    """Run a model file. The ``modules`` that travel with it lie beside it, where TorchServe looks for them too."""
    for name in [name for name in sys.modules if name.partition(".")[0] in modules]:
        del sys.modules[name]  # of the same name in another archive that this process loaded
    sys.path.insert(0, str(path.parent))
    importlib.invalidate_caches()
    found = importlib.util.spec_from_file_location(MODEL_FILE, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[MODEL_FILE] = module  # where a dataclass in it looks for the names of its fields' types
    found.loader.exec_module(module)
    return module
