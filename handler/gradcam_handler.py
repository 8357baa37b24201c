"""What TorchServe loads from a .mar: one class, no logic."""

try:
    from camserve.serving.engines.torchserve import TorchServeHandler
except ModuleNotFoundError as error:
    if error.name != "camserve":
        raise
    # TorchServe would take an ImportError for a handler of its own that is missing.
    raise RuntimeError(
        "camserve: the archive holds this handler without the package camserve: `camserve archive` builds one that "
        "holds all (docs/deploy.md)"
    ) from None


class GradCamHandler(TorchServeHandler):
    """TorchServe loads the one class that is defined in this file."""
