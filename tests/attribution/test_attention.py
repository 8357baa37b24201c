"""Gradient-weighted attention is the paper's, however a network computes its attention."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from camserve.attribution.methods import METHODS
from camserve.errors import ConfigError
from camserve.values import Layer
from small_networks import CLASSES, Small, deep, distance, objectives_for, pictures, settle, tokens, watch

WIDTH, HEADS, SIDE = 16, 2, 4


class Attention(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.kind, self.weights = kind, None

    def forward(self, values):
        parts = self.qkv(values).reshape(*values.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        if self.kind == "fused":
            mixed = functional.scaled_dot_product_attention(query, key, value)
        else:
            attention = (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(-1)
            if self.kind == "kept":
                attention.retain_grad()
            self.weights = attention
            mixed = attention @ value
        return self.out(mixed.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Two blocks of attention behind the layer, read by a class token or by the mean of all tokens."""

    def __init__(self, kind, class_token):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH)) if class_token else None
        self.start = nn.Identity()
        self.blocks = nn.ModuleList(Attention(kind) for _ in range(2))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, pixels):
        values = self.patches(pixels).flatten(2).transpose(1, 2)
        if self.token is not None:
            values = torch.cat([self.token.expand(len(values), -1, -1), values], dim=1)
        values = self.start(values)
        for block in self.blocks:
            values = values + block(values)
        return self.head(values.mean(dim=1) if self.token is None else values[:, 0])


def small(kind, class_token=True):
    return Small(settle(Transformer(kind, class_token)), Layer("start", "NLC", int(class_token), (SIDE, SIDE)))


def by_the_paper(class_token, row, index):
    """Equations 5 and 6 with whole matrices, from a network that keeps its attention."""
    network = small("kept", class_token).network
    network(pictures()[row : row + 1])[0, index].backward()
    relevance = torch.eye(SIDE * SIDE + int(class_token))
    for block in network.blocks:
        weighted = (block.weights.grad * block.weights)[0].clamp(min=0).mean(0)
        relevance = relevance + weighted @ relevance
    read = relevance[0] if class_token else (relevance - torch.eye(len(relevance))).mean(0)
    return read[int(class_token) :].detach().reshape(SIDE, SIDE)


@pytest.mark.parametrize("kind", ["fused", "plain"])
@pytest.mark.parametrize("class_token", [True, False])
def test_it_is_the_papers_however_attention_is_computed(kind, class_token):
    pairs = ((0, 2), (1, 0), (0, 4), (2, 2))
    output = watch(small(kind, class_token), pictures())
    found = METHODS["attention"].run(output, objectives_for(*pairs))
    expected = torch.stack([by_the_paper(class_token, *pair) for pair in pairs])
    assert expected.abs().max() > 0
    assert distance(found, expected) < 1e-4


def test_a_network_of_torchvisions_own_attention_has_a_map():
    found = METHODS["attention"].run(watch(tokens(), pictures()), objectives_for((0, 1), (0, 2)))
    assert (found >= 0).all()
    assert (found[0] != found[1]).any()


def test_a_network_without_attention_is_refused():
    with pytest.raises(ConfigError, match="needs attention over all 49 tokens after 'features'"):
        METHODS["attention"].run(watch(deep(), pictures()), objectives_for((0, 1)))
