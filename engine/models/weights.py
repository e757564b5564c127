"""Loads a Hugging Face safetensors folder into the packed weights that the decoder uses.

Query, key and value projections are packed row-wise into one matrix, gate and up projections into
another: one GEMM instead of three and two.

Every matrix is allocated once, on its device and in its final precision, and filled in place from the mapped
file: host memory never holds a second copy of the weights, and of a model on a GPU not even one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from engine.models.config import ModelConfig


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. Matrices are [out, in]; norms are [hidden] or [head_dim]."""

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True)
class ModelWeights:
    """All weights: `embed` and `head` are [vocab, hidden] (the same tensor if tied)."""

    embed: Tensor
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Tensor

    def nbytes(self) -> int:
        """Bytes of all distinct tensors."""
        tensors = [self.embed, self.norm] + ([] if self.head is self.embed else [self.head])
        for layer in self.layers:
            tensors += [t for t in vars(layer).values() if t is not None]
        return sum(t.numel() * t.element_size() for t in tensors)


def load_weights(folder: Path, config: ModelConfig, dtype: torch.dtype, device: str) -> ModelWeights:
    """Read every tensor of `model.safetensors` or of the shards named by its index.

    Raises
    ------
    EngineError
        If a file or tensor is missing, or a tensor has another shape than config.json implies.
    """
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.exists():
        shard_of: dict[str, str] = json.loads(index.read_text())["weight_map"]
    elif single.exists():
        with safe_open(single, framework="pt") as file:
            shard_of = dict.fromkeys(file.keys(), single.name)
    else:
        raise EngineError(f"--model: no model.safetensors in {folder}; export the model as safetensors")
    shards = set(shard_of.values())
    for name in sorted(shards):
        if not (folder / name).exists():
            raise EngineError(f"--model: {name} is named by the index but missing in {folder}; copy it there")
    # On the CPU a handle maps its file: a tensor read from it is a view of the page cache, not a copy.
    handles = {name: safe_open(folder / name, framework="pt") for name in shards}

    def read(name: str) -> Tensor:
        if name not in shard_of:
            raise EngineError(f"--model: tensor {name} is missing from the checkpoint in {folder}")
        tensor: Tensor = handles[shard_of[name]].get_tensor(name)
        return tensor

    return assemble(config, read, dtype, device)


def assemble(
    config: ModelConfig,
    read: Callable[[str], Tensor],
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> ModelWeights:
    """Pack tensors, fetched by their Hugging Face name through `read`, and check their shapes.

    `read` is called once per tensor and its result is copied at once, so it may be a view of a mapped file.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    q_size, kv_size = config.heads * config.head_dim, config.kv_heads * config.head_dim

    def pack(parts: dict[str, int], *columns: int) -> Tensor:
        """Return the tensors of `parts` (name -> rows), one below the other."""
        whole = torch.empty((sum(parts.values()), *columns), dtype=dtype, device=device)
        first = 0
        for name, rows in parts.items():
            tensor, shape = read(name), (rows, *columns)
            if tuple(tensor.shape) != shape:
                found = tuple(tensor.shape)
                raise EngineError(f"--model: tensor {name} has shape {found}, config.json implies {shape}")
            whole[first : first + rows].copy_(tensor)
            first += rows
        return whole

    def take(name: str, *shape: int) -> Tensor:
        return pack({name: shape[0]}, *shape[1:])

    def layer(i: int) -> LayerWeights:
        attn, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        sizes = {"q": q_size, "k": kv_size, "v": kv_size}
        biases = {f"{attn}.{n}_proj.bias": size for n, size in sizes.items()}
        return LayerWeights(
            input_norm=take(f"model.layers.{i}.input_layernorm.weight", hidden),
            qkv=pack({f"{attn}.{n}_proj.weight": size for n, size in sizes.items()}, hidden),
            qkv_bias=pack(biases) if config.qkv_bias else None,
            q_norm=take(f"{attn}.q_norm.weight", config.head_dim) if config.qk_norm else None,
            k_norm=take(f"{attn}.k_norm.weight", config.head_dim) if config.qk_norm else None,
            out=take(f"{attn}.o_proj.weight", hidden, q_size),
            out_bias=take(f"{attn}.o_proj.bias", hidden) if config.out_bias else None,
            post_norm=take(f"model.layers.{i}.post_attention_layernorm.weight", hidden),
            gate_up=pack({f"{mlp}.{n}_proj.weight": inner for n in ("gate", "up")}, hidden),
            down=take(f"{mlp}.down_proj.weight", hidden, inner),
        )

    embed = take("model.embed_tokens.weight", config.vocab_size, hidden)
    return ModelWeights(
        embed=embed,
        layers=tuple(layer(i) for i in range(config.layers)),
        norm=take("model.norm.weight", hidden),
        head=embed if config.tie_embeddings else take("lm_head.weight", config.vocab_size, hidden),
    )
