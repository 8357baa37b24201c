"""One watched forward pass, and the maps that are computed from it by plain autograd."""
