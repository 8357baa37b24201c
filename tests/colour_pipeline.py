"""A pipeline whose maps can be checked by hand: scores are the mean red, green and blue."""

import torch
from torch import nn

from camserve.answer.respond import ModelName
from camserve.labels import Labels
from camserve.monitor import Monitor
from camserve.output_spec import line_up
from camserve.serving.load import Classifier
from camserve.serving.pipeline import Pipeline
from camserve.settings import load_settings

NAMES = ["red", "green", "blue"]


class ColourNet(nn.Module):
    """Scores are the mean red, green and blue: the map of a class is its colour channel, by hand."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(4)
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight.data = torch.eye(3)

    def forward(self, pixels):
        brightest = pixels.amax(dim=(1, 2, 3))
        if (brightest > 0.99).any():
            raise RuntimeError("a white pixel")
        scores = self.head(self.pool(pixels).mean(dim=(2, 3)))
        return torch.where((brightest < 0.01)[:, None], torch.nan, scores)


def build(names=NAMES, **changes):
    settings = load_settings(
        {
            "model": {"factory": "tests:ColourNet", "source_sha256": "0123456789abcdef"},
            "input": {"resize": [16, 16], "crop": None, "mean": [0, 0, 0], "std": [1, 1, 1]},
            "layers": [{"name": "pool", "grid": [4, 4]}],
            **changes,
        }
    )
    classifier = Classifier(ColourNet().eval(), line_up(settings.outputs, [Labels(names)]), torch.device("cpu"), {})
    return Pipeline(classifier, settings, ModelName("colours", "1.0", "sha256:0123"), Monitor())
