"""An image has as many tokens as the processor of transformers gives it, at every size."""

from __future__ import annotations

import hashlib
import json
from datetime import date
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine.cost.devices import model_shape
from engine.errors import UnsupportedModelError
from engine.models.config import check_runs, load_config
from engine.plan.tree import build_tree, cached_tokens
from tasks.base.identity import canonical_json
from tasks.base.schema import SCHEMAS
from tasks.profile.image_tokens import FIRST_ID, image_tokens_of
from tasks.profile.tokenize import tokenize_requests
from tasks.profile.tokenizer import load_tokenizer
from tests.support.pictures import QWEN_TOKENS, qwen_folder, write_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tasks.profile.image_tokens import ImageTokens
    from tasks.profile.tokenize import TokenizeResult

SIZES = [
    *((1, 1), (28, 28), (13, 400), (27, 29), (42, 42), (41, 43), (70, 98), (336, 336), (640, 480)),
    *((480, 640), (1000, 9), (1366, 768), (364, 364), (365, 364), (1456, 1455), (1001, 333), (333, 1001)),
    *((2000, 3000), (3000, 2000), (99, 101)),
]
"""(width, height): around the sizes at which something changes, and others."""


def blank(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.zeros((height, width, 3), np.uint8))


def rule(folder: Path) -> ImageTokens:
    found = image_tokens_of(folder)
    assert found is not None
    return found


def saved(folder: Path, model_type: str, **files: Any) -> Path:
    folder.mkdir(parents=True)
    config = {"model_type": model_type, "vision_config": {"patch_size": 14}}
    for name, content in {"config": config, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(
    "settings",
    [
        {"patch_size": 14, "merge_size": 2, "size": {"shortest_edge": 3136, "longest_edge": 1_003_520}},
        {"patch_size": 16, "merge_size": 2, "size": {"shortest_edge": 65_536, "longest_edge": 200_000}},
        {},
    ],
)
def test_qwen(tmp_path: Path, model_type: str, settings: dict[str, Any]) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(**settings)
    tokens = rule(saved(tmp_path / "m", model_type, preprocessor_config=settings))
    for width, height in SIZES:
        patches = processor.get_number_of_image_patches(height, width, {})
        assert tokens.text(width, height).count(tokens.soft) == patches // processor.merge_size**2, (
            width,
            height,
        )
    for width, height in SIZES[:6]:
        (grid,) = processor(images=[blank(width, height)], return_tensors="np")["image_grid_thw"]
        assert tokens.text(width, height).count(tokens.soft) == grid.prod() // processor.merge_size**2
    with pytest.raises(ValueError, match="200 times"):
        tokens.text(1, 201)


def test_older_settings_of_qwen_have_other_names(tmp_path: Path) -> None:
    bounds = {"min_pixels": 4 * 784, "max_pixels": 100 * 784}
    old = rule(saved(tmp_path / "old", "qwen2_vl", preprocessor_config=bounds))
    size = {"shortest_edge": 4 * 784, "longest_edge": 100 * 784}
    nested = {"image_processor": {"size": size}}
    new = rule(saved(tmp_path / "new", "qwen2_vl", processor_config=nested))
    assert [old.text(*size) for size in SIZES[1:9]] == [new.text(*size) for size in SIZES[1:9]]


def special(tokenizer: Any, tokens: Sequence[str]) -> Any:
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    return tokenizer


@pytest.mark.parametrize(
    ("side", "patch", "extra", "strategy"), [(336, 14, 1, "default"), (224, 16, 0, "full")]
)
def test_llava(tmp_path: Path, side: int, patch: int, extra: int, strategy: str) -> None:
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from tests.support.tokenizers import byte_level

    image = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    tokenizer = special(byte_level(), ["<image>"])
    processor = LlavaProcessor(image, tokenizer, patch, strategy, num_additional_image_tokens=extra)
    processor.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "llava"}')
    tokens = rule(tmp_path / "m")
    for width, height in [(300, 200), (40, 70)]:
        ids = processor(images=[blank(width, height)], text="see <image> there", return_tensors="np")[
            "input_ids"
        ]
        text, (count,) = tokens.expand("see <image> there", [{"width": width, "height": height}])
        assert tokenizer(text)["input_ids"] == ids[0].tolist()
        assert count == (side // patch) ** 2


def test_gemma(tmp_path: Path) -> None:
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    from tests.support.tokenizers import byte_level

    names = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokenizer = special(byte_level(), tuple(names.values()))
    for name, token in names.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 32, "width": 32}), tokenizer, image_seq_length=9
    )
    settings = {"image_seq_length": 9}
    tokens = rule(saved(tmp_path / "m", "gemma3", processor_config=settings))
    chat = "one\n<start_of_image> and <start_of_image>"
    ids = processor(images=[blank(50, 20), blank(20, 20)], text=chat, return_tensors="np")["input_ids"]
    text, counts = tokens.expand(chat, [{"width": 50, "height": 20}, {"width": 20, "height": 20}])
    assert tokenizer(text)["input_ids"] == ids[0].tolist()
    assert counts == [9, 9]
    cropped = {"image_processor": {"do_pan_and_scan": True}}
    assert image_tokens_of(saved(tmp_path / "c", "gemma3", processor_config=cropped)) is None


@pytest.mark.parametrize("longest", [2048, 1456, 512, 500, 5000])
@pytest.mark.parametrize("split", [True, False])
def test_smolvlm(tmp_path: Path, longest: int, split: bool) -> None:
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    settings = {
        "size": {"longest_edge": longest},
        "max_image_size": {"longest_edge": 512},
        "do_image_splitting": split,
    }
    processor = SmolVLMImageProcessorPil(**settings, return_row_col_info=True)
    files = {"preprocessor_config": settings, "processor_config": {"image_seq_len": 3}}
    tokens = rule(saved(tmp_path / "m", "smolvlm", **files))
    for width, height in [(30, 20), (20, 30), (512, 512), (700, 500), (100, 997), (640, 480), (513, 511)]:
        made = processor(images=[[blank(width, height)]])
        expected = get_image_prompt_string(
            *(made["rows"][0][0], made["cols"][0][0], 3),
            fake_token_around_image="<fake_token_around_image>",
            image_token="<image>",
            global_image_token="<global-img>",
        )
        assert tokens.text(width, height) == expected, (width, height)


def test_a_model_without_eyes_and_one_of_another_family_have_no_rule(tmp_path: Path) -> None:
    assert image_tokens_of(saved(tmp_path / "a", "qwen2")) is None
    assert image_tokens_of(saved(tmp_path / "b", "florence2")) is None
    assert image_tokens_of(tmp_path / "nothing") is None


def image(width: int, height: int, name: str = "a") -> dict[str, Any]:
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    return {"type": "image", "sha256": sha256, "media_type": "image/png", "width": width, "height": height}


def tokenized(folder: Path, chats: list[list[dict[str, Any]]], out: Path) -> TokenizeResult:
    rows = []
    for number, content in enumerate(chats):
        chat = canonical_json([{"role": "user", "content": content}])
        names = dict.fromkeys(("request_id", "answer_key", "job", "workload", "source_uri"), f"r{number}")
        row = {**names, "run_date": date(2026, 3, 1), "source_line": number, "endpoint": "chat"}
        rows.append({**row, "messages_json": chat})
    path = out / "in.parquet"
    out.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS["requests"]), path)
    return tokenize_requests([path], load_tokenizer(str(folder)), context_length=4096, out=out / "tokens")


def test_prompts_share_what_they_share_of_images(tmp_path: Path) -> None:
    """Two with the same picture, one with another, and one with the same that is asked for in detail."""
    folder = qwen_folder(tmp_path / "model")
    words = {"type": "text", "text": "Which one?"}
    chats = [
        [image(56, 84), words],
        [image(56, 84), {"type": "text", "text": "And now?"}],
        [image(56, 84, "b"), words],
        [{**image(56, 84), "detail": "high"}, words],
        [words, image(28, 28), image(560, 560)],
    ]
    made = tokenized(folder, chats, tmp_path / "out")
    assert (made.requests, made.errors) == (5, 0)
    tokens, offsets = np.load(made.tokens_file), np.load(made.offsets_file)
    prompts = [tokens[a:b] for a, b in pairwise(offsets)]
    counts = [int((prompt >= FIRST_ID).sum()) for prompt in prompts]
    # By hand: 56 x 84 is 2 x 3 cells of 28; 28 x 28 grows to the least, 4; 560 x 560 shrinks to 16 x 16.
    assert counts == [6, 6, 6, 6, 4 + 256]
    tokenizer = load_tokenizer(str(folder))
    rendered = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Which one?<|im_end|>\n"
    rendered += "<|im_start|>assistant\n"
    text = tokenizer.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert len(prompts[0]) == len(text) + 5
    before = text.index(tokenizer.soft_token)
    # The second goes on with all of the first's picture; the others leave them before it.
    common = [int(np.argmin(prompts[0][: before + 9] == other[: before + 9])) for other in prompts[1:4]]
    assert common == [before + 6 + 1, before, before]
    cached = cached_tokens(build_tree(tokens, offsets))
    assert sorted(cached.tolist())[-1] == before + 7


def test_a_prompt_of_an_image_costs_what_as_many_tokens_of_text_cost(tmp_path: Path) -> None:
    """By hand, from the sizes in the configuration: 4 x 5 cells beside the text."""
    folder = qwen_folder(tmp_path / "model")
    config = load_config(folder)
    assert config.vision == "qwen2_5_vl"
    with pytest.raises(UnsupportedModelError, match="--engine endpoint"):
        check_runs(config)
    shape = model_shape(config, "float32")
    # Attention: q, k, v and out of 32 x 32 each; the gated MLP of 48; two layers.
    assert shape.body_parameters == 2 * (4 * 32 * 32 + 3 * 32 * 48)
    made = tokenized(folder, [[image(112, 140), {"type": "text", "text": "?"}]], tmp_path / "out")
    offsets = np.load(made.offsets_file)
    (count,) = np.diff(offsets)
    tokenizer = load_tokenizer(str(folder))
    around = "<|im_start|>user\n<|vision_start|><|vision_end|>?<|im_end|>\n<|im_start|>assistant\n"
    assert count == len(tokenizer.tokenizer(around, add_special_tokens=False)["input_ids"]) + 4 * 5


@pytest.mark.parametrize(
    ("chat", "code"),
    [
        ([image(56, 56), {"type": "text", "text": "and <|image_pad|>"}], "template_error"),
        ([image(1, 300)], "invalid_image"),
        ([image(28, 28, str(i)) for i in range(1200)], "context_length_exceeded"),
    ],
)
def test_what_cannot_be_counted_is_an_error_row(
    tmp_path: Path, chat: list[dict[str, Any]], code: str
) -> None:
    made = tokenized(qwen_folder(tmp_path / "model"), [chat, [image(28, 28)]], tmp_path / "out")
    assert (made.requests, made.errors) == (1, 1)
    (row,) = pq.read_table(made.errors_file).to_pylist()
    assert row["code"] == code


def test_a_template_that_does_not_look_is_an_error_row(tmp_path: Path) -> None:
    config = json.loads((qwen_folder(tmp_path / "seeing") / "config.json").read_text())
    template = "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}"
    blind = write_folder(tmp_path / "blind", config, QWEN_TOKENS, template, {})
    made = tokenized(blind, [[image(56, 56), {"type": "text", "text": "What?"}]], tmp_path / "out")
    (row,) = pq.read_table(made.errors_file).to_pylist()
    assert (row["code"], row["message"]) == (
        "template_error",
        "the chat template has 0 places for 1 images",
    )


def test_texts_go_as_parts_where_the_template_shows_no_others(tmp_path: Path) -> None:
    """As of LLaVA: a loop over the parts, in which a text would come letter by letter."""
    config = {"model_type": "llava", "vision_config": {"patch_size": 14}}
    template = (
        "{% for m in messages %}USER: {% for p in m['content'] %}{% if p['type'] == 'image' %}<image>\n"
        "{% elif p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %} {% endfor %}ASSISTANT:"
    )
    tokenizer = load_tokenizer(str(write_folder(tmp_path / "m", config, ("<image>",), template, {})))
    assert tokenizer.template.render([{"role": "user", "content": "hello"}]) == "USER: hello ASSISTANT:"
    plain = load_tokenizer(str(qwen_folder(tmp_path / "q")))
    assert "hello" in plain.template.render([{"role": "user", "content": "hello"}])
