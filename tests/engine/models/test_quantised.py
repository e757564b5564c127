"""8-bit checkpoints and an 8-bit KV cache: loading, refusals, and what they do to the answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import kernels
from engine.cost.devices import DeviceError, check_kv_dtype, model_shape
from engine.cost.step import ModelShape
from engine.errors import EngineError, UnsupportedModelError
from engine.kernels.linear import Fp8Weight, quantise_rows_reference
from engine.models.config import load_config
from engine.models.decoder import Decoder
from engine.models.quantisation import Fp8Scheme, parse_quantisation
from engine.models.weights import load_weights
from engine.runtime.device.runner import DeviceRunner
from engine.runtime.sample.settings import Sampling
from tests.support.engines import assert_idle, run_engine, some_prompts
from tests.support.models import decoder_of, reference_model

E4M3 = torch.float8_e4m3fn
DYNAMIC = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True},
            "input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True},
        }
    },
}
STATIC = {"quant_method": "fp8", "activation_scheme": "static", "kv_cache_scheme": "static"}


def checkpoint(folder, scheme: dict, *, left: str = "-", without: str = "-") -> torch.nn.Module:
    """Write a tiny Llama in 8 bits, except modules with `left` in their name; return the original."""
    model = reference_model("llama")
    tensors = {}
    for name, tensor in model.state_dict().items():
        if not name.endswith("_proj.weight") or left in name:
            tensors[name] = tensor.clone()
            continue
        if scheme is DYNAMIC:
            packed = Fp8Weight(*quantise_rows_reference(tensor))
            tensors[name], scale = packed.data, packed.scale[:, None].to(torch.bfloat16)
        else:
            scale = tensor.abs().max() / 448
            tensors[name] = (tensor / scale).to(E4M3)
            tensors[name.replace(".weight", ".input_scale")] = torch.tensor([0.01 * (1 + len(tensors) % 5)])
        tensors[name + "_scale"] = scale
    if scheme is STATIC:
        for i in range(2):
            for part, value in (("k", 0.5), ("v", 0.25)):
                tensors[f"model.layers.{i}.self_attn.{part}_scale"] = torch.tensor(value + i)
    save_file(
        {k: v.contiguous() for k, v in tensors.items() if without not in k}, folder / "model.safetensors"
    )
    raw = {**model.config.to_dict(), "architectures": ["LlamaForCausalLM"], "quantization_config": scheme}
    (folder / "config.json").write_text(json.dumps(raw))
    return model


def load(folder) -> Decoder:
    config = load_config(folder)
    return Decoder(config, load_weights(folder, config, torch.float32, "cpu"))


def test_a_dynamic_checkpoint_is_loaded_as_it_is(tmp_path) -> None:
    model = checkpoint(tmp_path, DYNAMIC)
    layer = load(tmp_path).weights.layers[1]
    names = {"qkv": ("q", "k", "v"), "out": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}
    for field, parts in names.items():
        held = getattr(layer, field)
        place = "self_attn" if field in {"qkv", "out"} else "mlp"
        full = torch.cat([model.get_submodule(f"model.layers.1.{place}.{p}_proj").weight for p in parts])
        expected = Fp8Weight(*quantise_rows_reference(full.detach()))
        assert isinstance(held, Fp8Weight)
        assert held.data.dtype == E4M3
        assert torch.equal(held.data.float(), expected.data.float())
        # The scales of the file are in bfloat16.
        torch.testing.assert_close(held.scale, expected.scale, rtol=2**-8, atol=0)
        assert held.scale.dtype == torch.float32
        assert held.input_scale is None
    assert torch.equal(layer.kv_scales, torch.ones(2, 2))


def test_a_static_checkpoint_takes_the_largest_input_scale_and_its_kv_scales(tmp_path) -> None:
    model = checkpoint(tmp_path, STATIC)
    layer = load(tmp_path).weights.layers[1]
    assert layer.kv_scales.tolist() == [[1.5, 1.5], [1.25, 1.25]]
    assert isinstance(layer.qkv, Fp8Weight)
    attention = model.get_submodule("model.layers.1.self_attn")
    scales = [float(getattr(attention, f"{p}_proj").weight.detach().abs().max()) / 448 for p in "qkv"]
    # 4 heads of queries, 2 of keys and 2 of values, of 12 dimensions.
    expected = torch.tensor(scales).repeat_interleave(torch.tensor([48, 24, 24]))
    torch.testing.assert_close(layer.qkv.scale, expected)
    from safetensors import safe_open

    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        inputs = [file.get_tensor(f"model.layers.1.self_attn.{p}_proj.input_scale") for p in "qkv"]
    assert layer.qkv.input_scale is not None
    assert layer.qkv.input_scale == max(inputs)
    assert min(inputs) < max(inputs)


@pytest.mark.parametrize("scheme", [DYNAMIC, STATIC])
def test_answers_come_close_to_those_of_the_full_model(tmp_path, scheme) -> None:
    """8 bits everywhere in a random model of width 48: the likelihoods agree to a few percent."""
    full, small = decoder_of(checkpoint(tmp_path, scheme)), load(tmp_path)
    prompts = some_prompts()
    sampling = [Sampling(max_tokens=1, ignore_eos=True, logprobs=5)] * len(prompts)
    error = []
    runs = [run_engine(d, prompts, sampling)[1] for d in (full, small)]
    answers = [[run[i] for i in range(len(prompts))] for run in runs]
    for exact, near in zip(*answers, strict=True):
        others = dict(zip(near.logprobs.top_ids[0].tolist(), near.logprobs.top[0].tolist(), strict=True))
        pairs = zip(exact.logprobs.top_ids[0].tolist(), exact.logprobs.top[0].tolist(), strict=True)
        error += [abs(value - others[token]) for token, value in pairs if token in others]
    assert len(error) > 2 * len(prompts)
    assert 0 < np.median(error) < 0.25


def test_a_module_that_was_left_out_stays_as_it_is(tmp_path) -> None:
    model = checkpoint(tmp_path, DYNAMIC, left="down_proj")
    layer = load(tmp_path).weights.layers[0]
    assert torch.equal(layer.down, model.get_submodule("model.layers.0.mlp.down_proj").weight)
    assert isinstance(layer.gate_up, Fp8Weight)


@pytest.mark.parametrize(
    ("scheme", "options", "message"),
    [
        (
            DYNAMIC,
            {"left": "gate_proj"},
            r"mlp\.gate_proj\.weight is in 8 bits, but others beside it are not",
        ),
        (DYNAMIC, {"without": "o_proj.weight_scale"}, r"o_proj\.weight_scale is missing"),
        (STATIC, {"without": "up_proj.input_scale"}, r"up_proj\.input_scale is missing"),
        (STATIC, {"without": "v_scale"}, r"self_attn\.v_scale is missing"),
    ],
)
def test_a_checkpoint_in_pieces_is_refused(tmp_path, scheme, options, message) -> None:
    checkpoint(tmp_path, scheme, **options)
    with pytest.raises(EngineError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_eight_bits_without_a_word_in_the_configuration(tmp_path) -> None:
    checkpoint(tmp_path, DYNAMIC)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "quantization_config": None}))
    with pytest.raises(EngineError, match=r"q_proj\.weight is in 8 bits, but config\.json has no"):
        load(tmp_path)


def test_an_output_layer_in_eight_bits_is_refused(tmp_path) -> None:
    """Its numbers without their scale would be other numbers."""
    checkpoint(tmp_path, DYNAMIC)
    tensors = load_file(tmp_path / "model.safetensors")
    packed = Fp8Weight(*quantise_rows_reference(tensors["lm_head.weight"]))
    tensors |= {"lm_head.weight": packed.data, "lm_head.weight_scale": packed.scale}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(EngineError, match=r"lm_head\.weight is in 8 bits, which only projections may be"):
        load(tmp_path)


def changed(path: str, value: object) -> dict:
    raw = json.loads(json.dumps(DYNAMIC))
    *folders, last = path.split(".")
    place = raw
    for name in folders:
        place = place[name]
    place[last] = value
    return raw


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"quant_method": "gptq"}, "quant_method"),
        ({**STATIC, "weight_block_size": [128, 128]}, "weight_block_size"),
        ({**STATIC, "activation_scheme": "by block"}, "activation_scheme"),
        ({**STATIC, "kv_cache_scheme": "dynamic"}, "kv_cache_scheme"),
        (changed("format", "pack-quantized"), "format"),
        (changed("config_groups", {}), "config_groups"),
        *(
            (changed(f"config_groups.group_0.{path}", value), f"config_groups.group_0.{path}")
            for path, value in (
                ("weights.num_bits", 4),
                ("weights.type", "int"),
                ("weights.symmetric", False),
                ("weights.strategy", "group"),
                ("input_activations.strategy", "channel"),
                ("input_activations.dynamic", False),
            )
        ),
        (
            changed("config_groups.group_0.input_activations", None),
            "config_groups.group_0.input_activations.type",
        ),
        (changed("kv_cache_scheme", {"type": "int", "num_bits": 8}), "kv_cache_scheme.type"),
    ],
)
def test_other_schemes_are_refused_by_the_field(raw, field: str) -> None:
    with pytest.raises(UnsupportedModelError) as error:
        parse_quantisation(raw)
    assert error.value.field == f"quantization_config.{field}"


def test_schemes() -> None:
    assert parse_quantisation(None) is None
    assert parse_quantisation(DYNAMIC) == Fp8Scheme(fixed_inputs=False, kv_scales=False)
    assert parse_quantisation(STATIC) == Fp8Scheme(fixed_inputs=True, kv_scales=True)


def test_the_cost_model_knows_the_bytes(tmp_path) -> None:
    checkpoint(tmp_path, DYNAMIC)
    config = load_config(tmp_path)
    # Per layer: (48 + 24 + 24) x 48 + 48 x 48 + 3 x 96 x 48 parameters of a byte; LM head 97 x 48 of two.
    body = 2 * (96 * 48 + 48 * 48 + 3 * 96 * 48)
    shape = model_shape(config, "bfloat16", "fp8")
    assert shape.weight_bytes == body + 97 * 48 * 2
    assert shape.kv_bytes_per_token == 2 * 2 * 2 * 12
    assert model_shape(config, "bfloat16").kv_bytes_per_token == 2 * shape.kv_bytes_per_token
    assert ModelShape.of(config, 2).body_parameters == body


def device_runner(kv_dtype: torch.dtype | None):
    def make(decoder, kv_tokens, page_size, lag):
        return DeviceRunner(decoder, kv_tokens, page_size, 64, 8, 512, lag=lag, kv_dtype=kv_dtype)

    return make


def test_answers_with_an_eight_bit_cache_are_those_of_rounded_keys_and_values(tmp_path, monkeypatch) -> None:
    """Prefix hits that end inside a page are copied, as bytes; the scales are the checkpoint's."""
    checkpoint(tmp_path, STATIC)
    decoder = load(tmp_path)
    rng = np.random.default_rng(1)
    base = rng.integers(4, 97, 40).tolist()
    prompts = [base[:37], [*base[:30], 7], [*base[:21], 9, 9], base[:37], *some_prompts()[:4]]
    sampling = [Sampling(max_tokens=8, ignore_eos=True)] * len(prompts)
    sizes = {"token_budget": 64, "max_sequences": 8, "page_size": 8, "lag": 1}
    engine, done = run_engine(decoder, prompts, sampling, runner=device_runner(E4M3), **sizes)
    assert_idle(engine)
    assert sum(c.cached_tokens for c in done.values()) >= 36 + 30 + 21
    store = kernels.qk_rope_store

    def rounded(qkv, rope, cache, pages, offsets, *, scales=None, **options):
        assert scales is None
        layer = 1 if cache.data_ptr() == LAYERS[1] else 0
        scale = decoder.weights.layers[layer].kv_scales
        q = store(qkv, rope, cache, pages, offsets, **options)
        for i in (0, 1):
            wide = cache[pages, i, :, offsets]
            cache[pages, i, :, offsets] = (wide / scale[i][:, None]).to(E4M3).float() * scale[i][:, None]
        return q

    LAYERS = []

    def forward(inputs, cache, out=None):
        LAYERS[:] = [cache[i].data_ptr() for i in range(2)]
        return original(inputs, cache, out)

    original = decoder.forward
    monkeypatch.setattr(kernels, "qk_rope_store", rounded)
    monkeypatch.setattr(decoder, "forward", forward)
    _, expected = run_engine(decoder, prompts, sampling, runner=device_runner(None), **sizes)
    for i in range(len(prompts)):
        assert done[i].token_ids.tolist() == expected[i].token_ids.tolist()


def test_an_eight_bit_cache_needs_a_gpu_that_has_them(monkeypatch) -> None:
    assert check_kv_dtype("auto", "cpu") == "auto"
    with pytest.raises(DeviceError, match="--kv-dtype: fp8 needs a GPU; use auto"):
        check_kv_dtype("fp8", "cpu")
    with pytest.raises(DeviceError, match="--kv-dtype: 'int4' is unknown"):
        check_kv_dtype("int4", "cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    with pytest.raises(DeviceError, match=r"needs compute capability 8\.9, this GPU has 8\.0"):
        check_kv_dtype("fp8", "cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert check_kv_dtype("fp8", "cuda:0") == "fp8"
