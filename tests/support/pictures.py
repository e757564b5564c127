"""Pictures for tests, and tiny models with a vision tower: their files alone, made on the spot."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from tests.support.tokenizers import byte_level

if TYPE_CHECKING:
    from pathlib import Path

QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
TEXT = {
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_hidden_layers"), 2),
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "vocab_size": 512,
}


def picture(width: int, height: int, *, form: str = "PNG", seed: int = 0) -> bytes:
    """A picture of random colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def plain(width: int, height: int, colour: str, *, form: str = "PNG") -> bytes:
    """A picture of one colour, which models tell from others."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, form)
    return out.getvalue()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def image_part(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def qwen_folder(folder: Path, **processor: Any) -> Path:
    """The files of a Qwen2.5-VL of a few thousand numbers; its weights are there by name alone."""
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "text_config": {**TEXT, "model_type": "qwen2_5_vl_text"},
        "vision_config": {"model_type": "qwen2_5_vl", "patch_size": 14, "spatial_merge_size": 2},
    }
    image = {"patch_size": 14, "merge_size": 2, "min_pixels": 3136, "max_pixels": 200_704, **processor}
    image["image_processor_type"] = "Qwen2VLImageProcessor"
    return write_folder(folder, config, QWEN_TOKENS, QWEN_TEMPLATE, {"preprocessor_config.json": image})


def write_folder(
    folder: Path, config: dict[str, Any], tokens: tuple[str, ...], template: str, files: dict[str, Any]
) -> Path:
    """Write a model folder with a tokenizer that has these special tokens."""
    folder.mkdir(parents=True)
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    for name, content in {"config.json": config, **files}.items():
        (folder / name).write_text(json.dumps(content))
    save_file({"model.embed_tokens.weight": np.zeros((4, 4), np.float32)}, folder / "model.safetensors")
    return folder
