"""Loads a Hugging Face safetensors folder into the packed weights that the decoder uses.

Query, key and value projections are packed row-wise into one matrix, gate and up projections into
another: one GEMM instead of three and two.

Every matrix is allocated once, on its device and in its final precision, and filled in place from the mapped
file: host memory never holds a second copy of the weights, and of a model on a GPU not even one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from safetensors import safe_open

from engine.errors import EngineError
from engine.kernels.linear import Fp8Weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from torch import Tensor

    from engine.models.config import ModelConfig


EXPERTS: Final = {
    "MixtralForCausalLM": ("block_sparse_moe", ("w1", "w3", "w2")),
    "Qwen3MoeForCausalLM": ("mlp", ("gate_proj", "up_proj", "down_proj")),
}
"""Architecture -> the module of its experts in checkpoints, and the names of their projections."""


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. Matrices are [out, in]; norms are [hidden] or [head_dim].

    Of a mixture of experts `gate_up` and `down` are [experts, out, in], and `router` is [experts, hidden].

    `kv_scales`, float32 [2, kv heads], are those of keys and values in a KV cache in e4m3: of the checkpoint
    where it has them, else 1.
    """

    input_norm: Tensor
    qkv: Tensor | Fp8Weight
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Tensor | Fp8Weight
    out_bias: Tensor | None
    post_norm: Tensor
    gate_up: Tensor | Fp8Weight
    down: Tensor | Fp8Weight
    kv_scales: Tensor
    router: Tensor | None = None


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
            for held in vars(layer).values():
                tensors += [t for t in (held if isinstance(held, Fp8Weight) else (held,)) if t is not None]
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
        # A decoder that was stored by itself, as models for embeddings are, has no name before its own.
        if name not in shard_of and name.removeprefix("model.") in shard_of:
            name = name.removeprefix("model.")
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
    packer = _Packer(config, read, dtype, device)
    pack, take, matrix = packer.pack, packer.take, packer.matrix

    def layer(i: int) -> LayerWeights:
        attn = f"model.layers.{i}.self_attn"
        sizes = {"q": q_size, "k": kv_size, "v": kv_size}
        biases = {f"{attn}.{n}_proj.bias": size for n, size in sizes.items()}
        return LayerWeights(
            input_norm=take(f"model.layers.{i}.input_layernorm.weight", hidden),
            qkv=matrix({f"{attn}.{n}_proj": size for n, size in sizes.items()}, hidden),
            qkv_bias=pack(biases) if config.qkv_bias else None,
            q_norm=take(f"{attn}.q_norm.weight", config.head_dim) if config.qk_norm else None,
            k_norm=take(f"{attn}.k_norm.weight", config.head_dim) if config.qk_norm else None,
            out=matrix({f"{attn}.o_proj": hidden}, q_size),
            out_bias=take(f"{attn}.o_proj.bias", hidden) if config.out_bias else None,
            post_norm=take(f"model.layers.{i}.post_attention_layernorm.weight", hidden),
            kv_scales=packer.kv_scales(attn),
            **(mlp_of(i) if config.experts is None else experts_of(i, config.experts.count)),
        )

    def mlp_of(i: int) -> dict[str, Tensor | Fp8Weight]:
        mlp = f"model.layers.{i}.mlp"
        return {
            "gate_up": matrix({f"{mlp}.{n}_proj": inner for n in ("gate", "up")}, hidden),
            "down": matrix({f"{mlp}.down_proj": hidden}, inner),
        }

    def experts_of(i: int, count: int) -> dict[str, Tensor]:
        block, (gate, up, down) = EXPERTS[config.architecture]
        place = f"model.layers.{i}.{block}"
        names = [f"{place}.experts.{number}" for number in range(count)]
        wide = {f"{name}.{part}.weight": inner for name in names for part in (gate, up)}
        narrow = {f"{name}.{down}.weight": hidden for name in names}
        return {
            "gate_up": pack(wide, hidden).view(count, 2 * inner, hidden),
            "down": pack(narrow, inner).view(count, hidden, inner),
            "router": take(f"{place}.gate.weight", count, hidden),
        }

    embed = take("model.embed_tokens.weight", config.vocab_size, hidden)
    return ModelWeights(
        embed=embed,
        layers=tuple(layer(i) for i in range(config.layers)),
        norm=take("model.norm.weight", hidden),
        # Without an LM head nothing asks for logits.
        head=embed
        if config.tie_embeddings or not config.generates
        else take("lm_head.weight", config.vocab_size, hidden),
    )


class _Packer:
    """Puts tensors of a checkpoint below each other in new ones, on the device and in the final precision."""

    def __init__(
        self,
        config: ModelConfig,
        read: Callable[[str], Tensor],
        dtype: torch.dtype,
        device: str | torch.device,
    ) -> None:
        self._config, self._read, self._dtype, self._device = config, read, dtype, device

    def take(self, name: str, *shape: int) -> Tensor:
        """Return one tensor."""
        return self.pack({name: shape[0]}, *shape[1:])

    def pack(self, parts: dict[str, int], *columns: int) -> Tensor:
        """Return the tensors of `parts` (name -> rows), none of them in 8 bits."""
        tensors = [(name, rows, self._read(name)) for name, rows in parts.items()]
        for name, _, tensor in tensors:
            # Without its scale it would hold other numbers.
            if tensor.dtype == torch.float8_e4m3fn:
                raise EngineError(f"--model: tensor {name} is in 8 bits, which only projections may be")
        return self._pack(tensors, columns, self._dtype)

    def matrix(self, parts: dict[str, int], columns: int) -> Tensor | Fp8Weight:
        """Return the matrices of `parts` (module -> rows) in 8 bits if the checkpoint holds them so.

        A module that the checkpoint leaves unquantised is recognised by the type of its tensor.
        """
        tensors = {module: self._read(f"{module}.weight") for module in parts}
        rows = ((f"{name}.weight", parts[name], tensor) for name, tensor in tensors.items())
        kinds = {tensor.dtype == torch.float8_e4m3fn for tensor in tensors.values()}
        if kinds == {False}:
            return self._pack(rows, (columns,), self._dtype)
        scheme, first = self._config.quantised, next(iter(parts))
        if scheme is None or len(kinds) > 1:
            reason = (
                "config.json has no quantization_config" if scheme is None else "others beside it are not"
            )
            raise EngineError(f"--model: tensor {first}.weight is in 8 bits, but {reason}")
        scales = [self._scale(f"{name}.weight_scale", count) for name, count in parts.items()]
        inputs = None
        if scheme.fixed_inputs:
            # One product takes one scale for its activations: the largest, which clips none of them.
            inputs = torch.stack([self._scale(f"{name}.input_scale", 1) for name in parts]).max()
        return Fp8Weight(self._pack(rows, (columns,), torch.float8_e4m3fn), torch.cat(scales), inputs)

    def kv_scales(self, module: str) -> Tensor:
        """Return float32 [2, kv heads]: the scales of a KV cache in e4m3, 1 where the checkpoint has none."""
        heads = self._config.kv_heads
        if self._config.quantised is None or not self._config.quantised.kv_scales:
            return torch.ones((2, heads), device=self._device)
        return torch.stack([self._scale(f"{module}.{name}_scale", heads) for name in ("k", "v")])

    def _scale(self, name: str, count: int) -> Tensor:
        """Return float32 [count] of a tensor with `count` numbers, or with one for all."""
        found = self._read(name).reshape(-1).to(torch.float32)
        if found.numel() not in {1, count}:
            raise EngineError(f"--model: tensor {name} has {found.numel()} numbers, not 1 or {count}")
        return found.expand(count).to(self._device, copy=True)

    def _pack(
        self, parts: Iterable[tuple[str, int, Tensor]], columns: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        found = list(parts)
        whole = torch.empty((sum(rows for _, rows, _ in found), *columns), dtype=dtype, device=self._device)
        first = 0
        for name, rows, tensor in found:
            shape = (rows, *columns)
            if tuple(tensor.shape) != shape:
                has = tuple(tensor.shape)
                raise EngineError(f"--model: tensor {name} has shape {has}, config.json implies {shape}")
            whole[first : first + rows].copy_(tensor)
            first += rows
        return whole
