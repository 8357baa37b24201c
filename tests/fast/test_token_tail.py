"""A tail that reads one token computes one token, and gives the same."""

import copy

import pytest
import torch
from torch import fx, nn

from camserve.attribution.methods import METHODS
from camserve.fast.export import example, export_network
from camserve.fast.split import Split, split
from camserve.fast.tail_file import read_tail_file, write_tail_file
from camserve.fast.token_tail import LINEAR, read_one_token
from camserve.network.output import ScoringNetwork
from camserve.values import Layer
from small_networks import CLASSES, SIDE, Small, distance, objectives_for, pictures, settle, watch

pytestmark = pytest.mark.server  # torch's exporter takes seconds

PIXELS = example((3, SIDE, SIDE), torch.float32, torch.device("cpu"))
WIDTH = 8


class Block(nn.Module):
    """A block as timm's are: one projection of queries, keys and values, scaled branches."""

    def __init__(self):
        super().__init__()
        self.norm, self.second_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Dropout(), nn.Linear(16, WIDTH))
        self.scale = nn.Parameter(torch.rand(WIDTH))

    def forward(self, tokens):
        rows, count, _ = tokens.shape
        qkv = self.qkv(self.norm(tokens)).reshape(rows, count, 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2)
        tokens = tokens + self.scale * self.proj(mixed.reshape(rows, count, WIDTH))
        return tokens + self.scale * self.mlp(self.second_norm(tokens))


class Transposed(nn.Module):
    """Attention as ``nn.MultiheadAttention`` computes it: tokens along the first axis."""

    def __init__(self):
        super().__init__()
        self.norm, self.second_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))

    def forward(self, tokens):
        given = self.norm(tokens)
        tokens = tokens + self.attention(given, given, given, need_weights=False)[0]
        return tokens + self.mlp(self.second_norm(tokens))


class Transformer(nn.Module):
    """Patches, a class token, one block, and a head that reads two tokens."""

    def __init__(self, block):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.block, self.norm = block, nn.LayerNorm(WIDTH)
        self.head = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, pixels):
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        tokens = self.norm(self.block(torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], 1)))
        return self.head(torch.cat([tokens[:, 0], tokens[:, -1]], -1))


BLOCKS = {"one projection": Block, "MultiheadAttention": Transposed}
LAYER = Layer("block.norm", "NLC", prefix=1, grid=(4, 4))


def rows_of_products(tail, *values):
    """The axes before the last of what each linear layer reads, in order."""
    shapes = []

    class Watch(fx.Interpreter):
        def run_node(self, n):
            if n.target is LINEAR:
                shapes.append(tuple(self.fetch_args_kwargs_from_env(n)[0][0].shape[:-1]))
            return super().run_node(n)

    Watch(tail).run(*values)
    return shapes


@pytest.fixture(scope="module", params=BLOCKS)
def exported(request):
    network = ScoringNetwork(settle(Transformer(BLOCKS[request.param]()))).eval().requires_grad_(False)
    return request.param, network, export_network(network, PIXELS)


@pytest.fixture
def network(exported, monkeypatch):
    monkeypatch.setattr("camserve.fast.split.export_network", lambda *_: copy.deepcopy(exported[2]))
    return exported[1]


def test_products_behind_attention_are_of_the_tokens_that_are_read(network, exported, tmp_path, subtests):
    trunk, tail = split(network, LAYER, PIXELS)
    write_tail_file(tail, tmp_path / "tail.safetensors")
    whole = Small(network, LAYER)
    halved = Small(Split(network, trunk, read_tail_file(tmp_path / "tail.safetensors"), LAYER), LAYER)
    with torch.no_grad():
        first, *others = rows_of_products(tail, *trunk(pictures(3)))
    assert sorted(first)[-1] == 17  # queries, keys and values of all tokens
    joined = {(51,)} if exported[0] == "MultiheadAttention" else set()  # its output projection reads tokens as rows
    assert set(others) == {(3,)} | joined
    for count in (1, 3):
        objectives = objectives_for(*((row, row) for row in range(count)))
        expected, found = (watch(form, pictures(count), tape=True) for form in (whole, halved))
        with subtests.test(f"{count} pictures"):
            assert distance(found.scores, expected.scores) <= 1e-5
            assert distance(found.gradients(objectives), expected.gradients(objectives)) <= 1e-5
            for method in ("layercam", "attention", "vit_reciprocam"):
                maps = (METHODS[method].run(output, objectives) for output in (found, expected))
                assert distance(*maps) <= 1e-4, method


def test_a_tail_that_reads_all_tokens_stays_as_it_is():
    graph = fx.Graph()
    tokens = graph.placeholder("value_0")
    tokens.meta["val"] = torch.zeros(2, 17, WIDTH)
    weight = graph.placeholder("value_1")
    products = graph.call_function(LINEAR, (tokens, weight))
    graph.output(graph.call_function(torch.ops.aten.mean.dim, (products, [1])))
    assert read_one_token(fx.GraphModule(nn.Module(), graph)) is None


def test_what_has_no_shape_is_selected_as_before():
    graph = fx.Graph()
    tokens = graph.placeholder("value_0")
    products = graph.call_function(torch.ops.aten.gelu.default, (tokens,))
    graph.output(graph.call_function(torch.ops.aten.select.int, (products, 1, 0)))
    tail = fx.GraphModule(nn.Module(), graph)
    assert read_one_token(tail) is None
    products.meta["val"] = torch.zeros(2, 17, WIDTH)
    assert read_one_token(tail) is None


def test_a_product_whose_rows_are_reordered_from_an_unknown_shape_stays_where_it_is():
    graph = fx.Graph()
    tokens, weight = graph.placeholder("value_0"), graph.placeholder("value_1")
    turned = graph.call_function(torch.ops.aten.transpose.int, (tokens, 0, 1))
    products = graph.call_function(LINEAR, (turned, weight))
    products.meta["val"] = torch.zeros(17, 2, WIDTH)
    graph.output(graph.call_function(torch.ops.aten.select.int, (products, 0, 0)))
    shorter = read_one_token(fx.GraphModule(nn.Module(), graph))
    values, matrix = torch.randn(2, 17, WIDTH), torch.randn(WIDTH, WIDTH)
    assert torch.allclose(shorter(values, matrix), values[:, 0] @ matrix.T, atol=1e-5)


@pytest.mark.parametrize("width", [CLASSES, 10**6])
def test_a_shorter_tail_that_fails_or_gives_other_scores_is_not_taken(width, network, monkeypatch):
    def shortened(tail):
        graph = fx.Graph()
        values = [
            graph.placeholder(f"value_{number}") for number in range(len(tail.graph.find_nodes(op="placeholder")))
        ]
        rows = graph.call_function(torch.Tensor.mean, (values[0], 1))
        graph.output(graph.call_function(torch.narrow, (rows, 1, 0, width)))
        return fx.GraphModule(tail, graph)

    monkeypatch.setattr("camserve.fast.split.read_one_token", shortened)
    halves = split(network, LAYER, PIXELS)
    with torch.no_grad():
        assert distance(Split(network, *halves, LAYER)(pictures()), network(pictures())) <= 1e-5
