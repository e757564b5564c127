"""Reading model folders: shards, and one clear line for what is missing or not supported."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig

from engine.errors import EngineError, UnsupportedModelError
from engine.models.config import load_config, parse_config
from engine.models.weights import ModelWeights, load_weights
from tests.support.models import reference_model


@pytest.fixture
def folder(tmp_path):
    reference_model("llama").save_pretrained(tmp_path)
    return tmp_path


def load(folder) -> ModelWeights:
    return load_weights(folder, load_config(folder), torch.float32, "cpu")


def tensors_of(weights: ModelWeights) -> dict[str, torch.Tensor]:
    out = {"embed": weights.embed, "norm": weights.norm, "head": weights.head}
    for i, layer in enumerate(weights.layers):
        out |= {f"{i}.{f.name}": t for f in fields(layer) if (t := getattr(layer, f.name)) is not None}
    return out


def shard(folder) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = {f"model-{i + 1:05d}-of-00003.safetensors": sorted(tensors)[i::3] for i in range(3)}
    for file, members in names.items():
        save_file({name: tensors[name] for name in members}, folder / file, {"format": "pt"})
    weight_map = {name: file for file, members in names.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()


def rewrite(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def one_line(error: pytest.ExceptionInfo[EngineError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_shards_load_like_a_single_file(folder) -> None:
    whole = tensors_of(load(folder))
    shard(folder)
    parts = tensors_of(load(folder))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_projections_are_packed_in_order(folder) -> None:
    source = load_file(folder / "model.safetensors")
    layer = load(folder).layers[1]
    attention = [source[f"model.layers.1.self_attn.{n}_proj.weight"] for n in "qkv"]
    assert torch.equal(layer.qkv, torch.cat(attention))
    mlp = [source[f"model.layers.1.mlp.{n}_proj.weight"] for n in ("gate", "up")]
    assert torch.equal(layer.gate_up, torch.cat(mlp))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_rounded_to_the_precision_asked_for(folder, dtype: torch.dtype) -> None:
    wide = tensors_of(load(folder))
    narrow = tensors_of(load_weights(folder, load_config(folder), dtype, "cpu"))
    for name, tensor in narrow.items():
        # The scales of an 8-bit KV cache are in full precision always.
        expected = torch.float32 if name.endswith("kv_scales") else dtype
        assert tensor.dtype == expected
        assert torch.equal(tensor, wide[name].to(expected))
    assert narrow.keys() == wide.keys()


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made by operations that are still alive; views and in-place results not."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        taken = {t.untyped_storage()._cdata for t in args if isinstance(t, torch.Tensor)}
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in taken | self._seen:
                continue
            self._seen.add(storage._cdata)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(tensor, self._freed, storage._cdata, storage.nbytes())
        return out

    def _freed(self, key: int, count: int) -> None:
        self._seen.discard(key)
        self.live -= count


def private_bytes() -> int:
    """Memory of this process that no file backs."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("asked", [torch.float32, torch.bfloat16])
def test_loading_makes_no_second_copy(tmp_path, stored: torch.dtype, asked: torch.dtype, monkeypatch) -> None:
    """Bytes allocated by torch, and private memory of the process seen between any two tensors."""
    config = LlamaConfig(
        vocab_size=4096, hidden_size=512, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=8
    )
    AutoModelForCausalLM.from_config(config).to(stored).save_pretrained(tmp_path, max_shard_size="20MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    gc.collect()
    before, peak = private_bytes(), 0

    def watched(*args, **kwargs):
        nonlocal peak
        peak = max(peak, private_bytes() - before)
        return copy(*args, **kwargs)

    copy = torch.Tensor.copy_
    monkeypatch.setattr(torch.Tensor, "copy_", watched)
    with LiveBytes() as counted:
        weights = load_weights(tmp_path, load_config(tmp_path), asked, "cpu")
    total, largest = weights.nbytes(), 4096 * 512 * asked.itemsize
    assert counted.live == total
    assert counted.peak <= total + largest
    assert peak <= total + largest + (8 << 20)


def test_bytes_count_tied_embeddings_once(tmp_path) -> None:
    model = reference_model("llama-tied-bias")
    model.save_pretrained(tmp_path)
    weights = load(tmp_path)
    assert weights.head is weights.embed
    kv_scales = 2 * 2 * 2
    assert weights.nbytes() == 4 * (sum(p.numel() for p in model.parameters()) + kv_scales)


def test_missing_tensor(folder) -> None:
    rewrite(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(
        EngineError, match=r"tensor model\.layers\.1\.mlp\.up_proj\.weight is missing"
    ) as error:
        load(folder)
    assert one_line(error).startswith("--model: ")


def test_wrong_shape(folder) -> None:
    def change(tensors) -> None:
        tensors["model.norm.weight"] = torch.zeros(47)

    rewrite(folder, change)
    with pytest.raises(EngineError, match="has shape") as error:
        load(folder)
    expected = "--model: tensor model.norm.weight has shape (47,), config.json implies (48,)"
    assert one_line(error) == expected


def test_no_weights_and_a_missing_shard(folder) -> None:
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        EngineError, match=r"model-00002-of-00003\.safetensors is named by the index"
    ) as error:
        load(folder)
    one_line(error)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(EngineError, match=r"no model\.safetensors in") as error:
        load(folder)
    one_line(error)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architectures", ["GPT2LMHeadModel"]),
        ("architectures", []),
        ("hidden_act", "gelu"),
        ("mlp_bias", True),
        ("quantization_config", {"quant_method": "gptq"}),
        ("pretraining_tp", 2),
        ("use_sliding_window", True),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("rope_parameters", {"rope_type": "longrope", "factor": 4.0}),
        ("rope_scaling", {"type": "dynamic", "factor": 2.0}),
        ("partial_rotary_factor", 0.5),
    ],
)
def test_unsupported_fields_are_refused_by_name(folder, field: str, value: object) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw.pop("rope_parameters", None)
    parse_config(raw)
    named = {
        "layer_types": "use_sliding_window",
        "rope_scaling": "rope_parameters.rope_type",
        "quantization_config": "quantization_config.quant_method",
    }
    with pytest.raises(UnsupportedModelError) as error:
        parse_config({**raw, field: value})
    expected = "rope_parameters.rope_type" if field == "rope_parameters" else named.get(field, field)
    assert error.value.field == expected
    assert one_line(error).startswith(f"--model: config.json: {expected} = ")


def test_both_ways_to_write_rope_and_stop_tokens(folder) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw.pop("rope_parameters", None)
    llama3 = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    new = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **llama3}}
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **llama3}}
    assert parse_config({**raw, **new}) == parse_config({**raw, **old})
    assert parse_config({**raw, **old}).rope.theta == 5e5
    assert parse_config(raw, {"eos_token_id": [9, 2]}).stop_token_ids == (2, 9)
    assert parse_config({**raw, "eos_token_id": None}).stop_token_ids == ()


def windows(architecture: str, **fields: object) -> tuple[int | None, ...]:
    raw = reference_model("llama").config.to_dict() | {
        "architectures": [architecture],
        "num_hidden_layers": 4,
    }
    raw.pop("layer_types", None)
    return parse_config(raw | fields).windows


def test_windows_are_those_of_transformers() -> None:
    assert windows("LlamaForCausalLM", sliding_window=8) == (None,) * 4
    assert windows("MistralForCausalLM") == (4096,) * 4
    assert windows("MistralForCausalLM", sliding_window=None) == (None,) * 4
    assert windows("MistralForCausalLM", sliding_window=8) == (8,) * 4
    assert windows("Qwen2ForCausalLM", sliding_window=8, max_window_layers=1) == (None,) * 4
    on = {"use_sliding_window": True, "sliding_window": 8}
    assert windows("Qwen2ForCausalLM", **on, max_window_layers=1) == (None, 8, 8, 8)
    assert windows("Qwen2ForCausalLM", **on) == (None,) * 4
    types = ["sliding_attention", "full_attention"] * 2
    assert windows("Qwen3ForCausalLM", **on, layer_types=types) == (8, None, 8, None)
    assert windows("Qwen3ForCausalLM", layer_types=types, sliding_window=8) == (None,) * 4


@pytest.mark.parametrize(
    ("architecture", "types"),
    [
        ("LlamaForCausalLM", ["sliding_attention"] * 4),
        ("MistralForCausalLM", ["sliding_attention", "full_attention"] * 2),
        ("Qwen2ForCausalLM", ["full_attention"] * 3),
        ("Qwen3ForCausalLM", ["chunked_attention"] * 4),
    ],
)
def test_layer_types_that_are_not_implemented_are_refused(architecture: str, types: list[str]) -> None:
    with pytest.raises(UnsupportedModelError):
        windows(architecture, layer_types=types)


def test_yarn_stretches_the_context() -> None:
    raw = reference_model("llama").config.to_dict() | {"architectures": ["Qwen2ForCausalLM"]}
    raw.pop("rope_parameters")
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = parse_config(raw | {"max_position_embeddings": 32768, "rope_scaling": yarn})
    assert config.max_positions == 131072
