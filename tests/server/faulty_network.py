"""A network that fails on pictures of certain colours: the model file of the archive ``faulty``."""

import os
import sys
import time

import torch
from torch import nn

# The red of a picture of one colour, and what it does.
(FINE, RAISES, NOT_A_NUMBER, CUDA_MEMORY, HOST_MEMORY, SLEEPS, BACKWARD_MEMORY, BACKWARD_NAN, PRINTS, SLOW) = range(
    200, 210
)
SLEEP_SECONDS = 8  # longer than the response timeout of the archive
SLOW_SECONDS = 0.5  # for each backward pass
PLANTED = (
    b"cam_batches_total.Count:31337|#ModelVersion:1.0,ModelName:faulty,Level:Model|#type:COUNTER|#hostname:h,1700000000"
)


class Trap(torch.autograd.Function):
    """Hands on its input; the backward pass fails for the rows of certain colours."""

    @staticmethod
    def forward(ctx, features, reds):
        ctx.save_for_backward(reds)
        return features.clone()

    @staticmethod
    def backward(ctx, gradient):
        (reds,) = ctx.saved_tensors
        explained = gradient.flatten(1).abs().sum(1) > 0
        if (explained & (reds == BACKWARD_MEMORY)).any():
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        if (explained & (reds == SLOW)).any():
            time.sleep(SLOW_SECONDS)
        gradient = gradient.clone()
        gradient[explained & (reds == BACKWARD_NAN)] = torch.nan
        return gradient, None


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.Softplus())
        # Normalised, so that it has no closed form: without a backward pass there would be no trap.
        self.head = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, pixels):
        reds = (pixels[:, 0, 0, 0] * 255).round()
        features = self.features(pixels)
        self.misbehave(set(reds.tolist()))
        scores = self.head(Trap.apply(features, reds).mean((2, 3)))
        return torch.where((reds == NOT_A_NUMBER)[:, None], torch.nan, scores)

    def misbehave(self, reds):
        if RAISES in reds:
            raise RuntimeError("[PID]1 a red picture")
        if CUDA_MEMORY in reds:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if HOST_MEMORY in reds:
            raise MemoryError
        if SLEEPS in reds:
            time.sleep(SLEEP_SECONDS)
        if PRINTS in reds:
            # Past every guard, as only code of the archive can: shows that the forged line would be believed.
            sys.stdout.flush()
            os.write(1, b"[METRICS]" + PLANTED + b"\n")
