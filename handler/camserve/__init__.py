"""camserve: predictions and Grad-CAM explanations in one forward pass, served by TorchServe."""

__version__ = "0.1.0"
