"""What a training loop leaves on disk: weights, checkpoints, programs."""
