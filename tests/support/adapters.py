"""LoRA adapters of random numbers, in the files that peft writes, and models that they are merged into."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

TARGETS = ("q_proj", "v_proj", "o_proj", "down_proj")
RANK, ALPHA = 4, 8


def write_adapter(folder: Path, model: Path, seed: int, **config) -> Path:
    """Write an adapter of a model with `TARGETS`; `config` are further fields of its configuration."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    said = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    said |= {"target_modules": list(TARGETS), "base_model_name_or_path": str(model), "lora_dropout": 0.0}
    (folder / "adapter_config.json").write_text(json.dumps({**said, **config}))
    tensors = {}
    for name, weight in load_file(model / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] in TARGETS:
            wide, deep = weight.shape
            for side, shape in (("A", (RANK, deep)), ("B", (wide, RANK))):
                values = draw.normal(0.0, 0.2, shape).astype(np.float32)
                tensors[f"base_model.model.{module}.lora_{side}.weight"] = values
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def write_merged(folder: Path, model: Path, adapter: Path) -> Path:
    """Write the model that an adapter makes of its model, in float32."""
    shutil.copytree(model, folder)
    config = json.loads((adapter / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    parts = load_file(adapter / "adapter_model.safetensors")
    weights = {name: w.astype(np.float32) for name, w in load_file(model / "model.safetensors").items()}
    for name in weights:
        begin = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        if f"{begin}A.weight" in parts:
            weights[name] += scale * parts[f"{begin}B.weight"] @ parts[f"{begin}A.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
