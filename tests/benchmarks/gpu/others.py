"""Parts of the GPU benchmark: other engines on the same device and the same requests."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import tempfile
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.cost.step import DeviceProfile
from engine.runtime.calibrate import mixed_lengths
from tests.benchmarks.gpu.bench import Bench, Row, Unmeasured
from tests.benchmarks.gpu.engine import LONGEST, MODELS, TINY, EngineBench, mixed_requests, random_tokens

if TYPE_CHECKING:
    from engine.models.config import ModelConfig


def shape(config: ModelConfig) -> dict[str, int]:
    """Return the sizes of a model as the configurations of transformers name them."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
    }


def against_transformers(bench: Bench, figures: dict[str, Any]) -> tuple[dict[str, Any], list[Row]]:
    """The same mixed requests through `generate_batch` on the same device, with the 0.6B shape."""
    from transformers import (
        AutoModelForCausalLM,
        ContinuousBatchingConfig,
        GenerationConfig,
        Qwen3Config,
    )

    del figures
    name = "Qwen3-0.6B shape"
    config = MODELS[name] if not bench.dry else replace(MODELS[name], **TINY, head_dim=16)
    longest, count = bench.size(5120, 64), bench.size(256, 3)
    prompts, outputs = mixed_lengths(count, longest)
    # Random numbers of this size take long on the host.
    with torch.device(bench.device):
        model = AutoModelForCausalLM.from_config(
            Qwen3Config(
                **shape(config),
                tie_word_embeddings=True,
            ),
            dtype=bench.dtype,
        )
    rng = np.random.default_rng(1)
    inputs = [rng.integers(0, config.vocab_size, n).tolist() for n in prompts]
    # One length of answer for all: the interface takes no other. Ours gets the same.
    answer = max(2, int(np.mean(outputs)))
    settings = GenerationConfig(
        max_new_tokens=answer, do_sample=False, eos_token_id=-1, pad_token_id=0, use_cache=True
    )
    # On a GPU it fits itself to the memory; on the CPU that would be most of the machine's.
    sizes = ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=64) if bench.dry else None

    generate = partial(
        model.generate_batch,
        generation_config=settings,
        continuous_batching_config=sizes,
        progress_bar=False,
    )
    generate(inputs=inputs[:2])
    begin = time.perf_counter()
    done = generate(inputs=inputs)
    theirs = time.perf_counter() - begin
    produced = sum(len(output.generated_tokens) for output in done.values())
    if produced != answer * count:
        raise RuntimeError(f"transformers generated {produced} tokens, not {answer * count}")
    # What it holds on to must be gone before the memory for KV is measured.
    del model, generate, done
    gc.collect()
    if not bench.dry:
        torch.cuda.empty_cache()
    made = EngineBench(bench, MODELS[name])
    profile = DeviceProfile("here", "measured", 1e12, 1e11, None, None, overlaps=False)
    made.run(prompts[:2], [2, 2], profile)
    ours = made.run(prompts, [answer] * count, profile)
    ratio = theirs / ours.seconds
    rows = [
        Row("transformers generate_batch, 0.6B", ours.tokens / theirs, "tokens/s"),
        Row("ours on the same requests", ours.tokens / ours.seconds, "tokens/s"),
        Row("ratio", ratio, "x"),
    ]
    return {"speedup_vs_transformers": ratio}, rows


def against_vllm(bench: Bench, figures: dict[str, Any]) -> tuple[dict[str, Any], list[Row]]:
    """The mixed requests of the 8B shape through vLLM, random weights of the same shape, best settings.

    Prefix caching is on, as many sequences as its own default on such devices may run at once, and it
    captures its graphs. Loading and a warm-up on other prompts are outside the measured time, as with ours.

    Raises
    ------
    Unmeasured
        If vLLM is not installed, or our own run on these requests is not among `figures`.
    """
    if importlib.util.find_spec("vllm") is None:
        raise Unmeasured("vLLM is not installed")
    name = "Llama-3.1-8B shape"
    ours = figures.get("models", {}).get(name, {}).get("mixed_seconds")
    if ours is None:
        raise Unmeasured(f"the run of {name} that it is compared with is missing")
    from transformers import LlamaConfig
    from vllm import LLM, SamplingParams

    config = MODELS[name] if not bench.dry else replace(MODELS[name], **TINY, head_dim=16)
    prompts, outputs = mixed_requests(bench)
    tokens, start = random_tokens(prompts, config.vocab_size)
    asked = [{"prompt_token_ids": tokens[a:b].tolist()} for a, b in itertools.pairwise(start)]
    settings = [
        SamplingParams(max_tokens=n, temperature=0.0, ignore_eos=True, detokenize=False) for n in outputs
    ]
    warm = [{"prompt_token_ids": [i + 1] * min(64, LONGEST // 2)} for i in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        LlamaConfig(
            architectures=["LlamaForCausalLM"],
            **shape(config),
            rms_norm_eps=config.rms_eps,
            tie_word_embeddings=config.tie_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope.theta},
        ).save_pretrained(folder)
        engine = LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype=str(bench.dtype).removeprefix("torch."),
            max_model_len=bench.size(LONGEST, 64) + 8,
            max_num_seqs=1024,
            max_num_batched_tokens=8192,
            gpu_memory_utilization=0.92,
            enable_prefix_caching=True,
        )
        engine.generate(warm, SamplingParams(max_tokens=8, ignore_eos=True, detokenize=False), use_tqdm=False)
        begin = time.perf_counter()
        done = engine.generate(asked, settings, use_tqdm=False)
        theirs = time.perf_counter() - begin
    produced = sum(len(result.outputs[0].token_ids) for result in done)
    if produced != sum(outputs):
        raise RuntimeError(f"vLLM generated {produced} tokens, not {sum(outputs)}")
    total = int(start[-1]) + produced
    rows = [
        Row("vLLM, 8B, mixed", total / theirs, "tokens/s"),
        Row("ours on the same requests", total / ours, "tokens/s"),
        Row("ratio", theirs / ours, "x"),
    ]
    return {"speedup_vs_vllm": theirs / ours, "vllm_seconds": theirs}, rows
