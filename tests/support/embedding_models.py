"""Model folders for embeddings, as sentence-transformers stores them, and the vectors that they give."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

PACKAGE = "sentence_transformers.models."


def add_modules(folder: Path, pooling: object = "lasttoken", *names: str) -> Path:
    """Write what sentence-transformers says of a model; `pooling` is its one mode, or all its settings."""
    names = names or ("Transformer", "Pooling", "Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{name}", "type": PACKAGE + name}
        for i, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    settings = pooling
    if isinstance(pooling, str):
        modes = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
        settings = {"word_embedding_dimension": 64, "include_prompt": True} | {
            f"pooling_mode_{mode}": mode.startswith(pooling) for mode in modes
        }
    place = folder / "1_Pooling"
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(settings))
    return folder


def demo_with_end(folder: Path) -> Path:
    """Copy the demo's model; its tokenizer ends a text as that of Qwen3-Embedding does."""
    shutil.copytree(DEMO_MODEL, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.eos_token
    number = tokenizer.convert_tokens_to_ids(end)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, number)]
    )
    tokenizer.save_pretrained(folder)
    return folder


def expected(
    model: torch.nn.Module,
    ids: list[int],
    pooling: str = "last",
    dimensions: int | None = None,
    *,
    normalised: bool = True,
) -> np.ndarray:
    """Return the embedding of token ids by transformers."""
    with torch.inference_mode():
        states = model.model(torch.tensor([ids])).last_hidden_state[0].float()
    vector = (states[-1] if pooling == "last" else states.mean(0))[:dimensions]
    return (vector / vector.norm() if normalised else vector).numpy()


def demo_reference(folder: Path = DEMO_MODEL) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
