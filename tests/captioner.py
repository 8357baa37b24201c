"""A small captioner: a network that names the shapes of a picture word by word, and its training."""

from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageDraw

SIDE = 32  # pixels of a picture; each shape lies in one of its quadrants
SHAPES = ("circle", "square", "triangle", "cross")
SCENES, STEPS, BATCH = 600, 250, 48

MODEL = '''
import torch
from torch import nn

WORDS = ("circle", "square", "triangle", "cross", "end")


class Captioner(nn.Module):
    """A convolutional network for the picture, and a GRU that reads the caption so far."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU()),
            *(nn.Conv2d(24, 40, 3, 1, 1), nn.ReLU()),
        )
        self.embedding = nn.Embedding(len(WORDS) + 1, 8)  # the last is the start
        self.reader = nn.GRU(8, 24, batch_first=True)
        self.next_word = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, len(WORDS)))

    def read(self, words):
        """Word indices (N, L) -> states after the start and after each word, (N, L + 1, 24)."""
        start = words.new_full((len(words), 1), len(WORDS))
        return self.reader(self.embedding(torch.cat([start, words], dim=1)))[0]

    def speak(self, features, states):
        """Features (N, 24, h, w) and states (N, L, 24) -> scores of the next words (N, L, K)."""
        seen = features.amax((2, 3))[:, None].expand(-1, states.shape[1], -1)
        return self.next_word(torch.cat([seen, states], dim=2))


def next_word(network, pixels, contexts):
    """Return the scores (N, K) of the word that follows each caption so far."""
    captions = [torch.tensor([WORDS.index(word) for word in context.split()], dtype=torch.long) for context in contexts]
    states = torch.cat([network.read(words[None])[:, -1:] for words in captions])
    return network.speak(network.features(pixels), states)[:, 0]
'''


def draw_scene(random):
    """Return a picture of two shapes of random colours, and the name and quadrant (row, column) of each."""
    image = Image.fromarray(random.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    names, quadrants = random.permutation(len(SHAPES))[:2], random.permutation(4)[:2]
    things = [(SHAPES[name], divmod(int(quadrant), 2)) for name, quadrant in zip(names, quadrants)]
    for name, (row, column) in things:
        left, top = (int(place) * SIDE // 2 + int(random.integers(2, 5)) for place in (column, row))
        _draw_shape(pen, name, left, top, 10, tuple(random.integers(120, 255, 3).tolist()))
    return image, things


def _draw_shape(pen, name, left, top, size, color):
    right, bottom, middle = left + size, top + size, size // 2
    if name == "circle":
        pen.ellipse((left, top, right, bottom), fill=color)
    elif name == "square":
        pen.rectangle((left, top, right, bottom), fill=color)
    elif name == "triangle":
        pen.polygon([(left, bottom), (right, bottom), (left + middle, top)], fill=color)
    else:
        pen.rectangle((left + middle - 1, top, left + middle + 1, bottom), fill=color)
        pen.rectangle((left, top + middle - 1, right, top + middle + 1), fill=color)


def encode(image):
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def train():
    """Return a captioner that names both shapes of such pictures, in either order."""
    scope = {}
    exec(MODEL, scope)
    torch.manual_seed(0)
    network, random = scope["Captioner"](), np.random.default_rng(0)
    scenes = [draw_scene(random) for _ in range(SCENES)]
    pictures = torch.from_numpy(
        np.stack([np.asarray(image) for image, _ in scenes]).transpose(0, 3, 1, 2) / 255
    ).float()
    captions = torch.tensor([[SHAPES.index(name) for name, _ in things] for _, things in scenes])
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    for step in range(STEPS):
        batch = torch.from_numpy(random.integers(0, SCENES, BATCH))
        words = captions[batch].flip(1) if step % 2 else captions[batch]
        scores = network.speak(network.features(pictures[batch]), network.read(words))
        wanted = torch.cat([words, torch.full((BATCH, 1), len(SHAPES))], dim=1)
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), wanted.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()
