"""A clock in a chat template makes the date's beginning a part of a run's keys; other models have none."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tasks.attempt.extract_inputs import answers_identity
from tasks.base.identity import reuse_key, run_key
from tasks.night.night import NightSettings
from tasks.night.request import NightRequest

if TYPE_CHECKING:
    from pathlib import Path

DAY = date(2026, 11, 22)
REQUEST = NightRequest("j", "logs", "store", "model", DAY, NightSettings())


def keys(folder: Path, template: str, day: date) -> tuple[str, str, dict[str, str]]:
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    fast.chat_template = template
    fast.save_pretrained(folder)
    identity = answers_identity(REQUEST, day, "digest", folder)
    return run_key(inputs="i", **identity), reuse_key(**identity), identity["rules"]


@pytest.mark.parametrize("clock", [False, True])
def test_the_clock_is_part_of_the_keys_where_there_is_one(tmp_path: Path, clock: bool) -> None:
    text = "{{ messages[0].content }}" + ("{{ strftime_now('%d') }}" if clock else "")
    run, reuse, rules = keys(tmp_path / "m", text, DAY)
    plain = {
        "job": "j",
        "run_date": DAY,
        "model": "digest",
        "defaults": REQUEST.settings.defaults.as_dict(),
        "run_seed": 0,
        "dtype": "float32",
    }
    assert (run != run_key(inputs="i", **plain)) == clock
    assert (reuse != reuse_key(**plain)) == clock
    assert rules.get("template_clock") == ("2026-11-22T00:00:00" if clock else None)
