"""What TorchServe loads from a .mar: one class, no logic."""

from camserve.serving.engines.torchserve import TorchServeHandler


class GradCamHandler(TorchServeHandler):
    """TorchServe loads the one class that is defined in this file."""
