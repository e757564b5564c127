"""What a run's keys know of prompts and texts: a clock in the template, and how answers are decoded."""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig, PreTrainedTokenizerFast

from tasks.attempt.extract_inputs import answers_identity
from tasks.base.identity import reuse_key, run_key
from tasks.night.night import NightSettings
from tasks.night.request import NightRequest
from tasks.profile.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

DAY = date(2026, 11, 22)
REQUEST = NightRequest("j", "logs", "store", "model", DAY, NightSettings())


def keys(folder: Path, template: str, day: date, decoder: Any) -> tuple[str, str, dict[str, str]]:
    inner = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    inner.decoder = decoder
    fast = PreTrainedTokenizerFast(tokenizer_object=inner)
    fast.chat_template = template
    fast.save_pretrained(folder)
    config = {**LlamaConfig().to_dict(), "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    identity = answers_identity(REQUEST, day, "digest", load_tokenizer(str(folder), run_date=day))
    return run_key(inputs="i", **identity), reuse_key(**identity), identity["rules"]


@pytest.mark.parametrize("clock", [False, True])
@pytest.mark.parametrize("sentencepiece", [False, True])
def test_what_makes_prompts_and_texts_is_part_of_the_keys(
    tmp_path: Path, clock: bool, sentencepiece: bool
) -> None:
    text = "{{ messages[0].content }}" + ("{{ strftime_now('%d') }}" if clock else "")
    decoder = decoders.Metaspace() if sentencepiece else decoders.ByteLevel()
    run, reuse, rules = keys(tmp_path / "m", text, DAY, decoder)
    plain = {
        "job": "j",
        "run_date": DAY,
        "model": "digest",
        "defaults": REQUEST.settings.defaults.as_dict(),
        "run_seed": 0,
        "dtype": "float32",
    }
    assert (run != run_key(inputs="i", **plain)) == (clock or sentencepiece)
    assert (reuse != reuse_key(**plain)) == (clock or sentencepiece)
    assert rules.get("template_clock") == ("2026-11-22T00:00:00" if clock else None)
    assert ("answer_text" in rules) == sentencepiece
