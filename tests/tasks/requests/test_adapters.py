"""Which adapter answers a request: its field `model` says so, where a night has adapters."""

from __future__ import annotations

import dataclasses

from tasks.base.errors import ErrorCode
from tasks.extract.extract import ExtractSettings
from tasks.requests.adapters import ADAPTER, NONE, Adapters
from tasks.requests.bodies import BodyReader
from tasks.requests.sampling import SamplingDefaults, engine_sampling

PROMPT = {"messages": [{"role": "user", "content": "x"}]}
TWO = Adapters({"calm": "calm@1", "loud": "loud@2"}, ("demo", "/models/demo"))


def lines(adapters: Adapters, *models: str | None):
    read = BodyReader(SamplingDefaults(), adapters=adapters).read
    return [read({}, "chat", "c", PROMPT | {"model": model}) for model in models]


def test_the_adapter_is_part_of_whose_answer_it_is() -> None:
    found = lines(TWO, None, "demo", "/models/demo", "calm", "loud")
    assert [line.error for line in found] == [None] * 5
    assert len({line.answer_key for line in found}) == 3
    assert [(line.sampling or {}).get(ADAPTER) for line in found] == [None, None, None, "calm@1", "loud@2"]
    # Other files under the same name answer otherwise.
    (other,) = lines(Adapters({"calm": "calm@9"}, ("demo",)), "calm")
    assert other.answer_key != found[3].answer_key
    # The model itself has the keys that it had without adapters.
    assert lines(NONE, "demo")[0].answer_key == found[1].answer_key


def test_without_adapters_the_name_of_a_model_says_nothing() -> None:
    found = lines(NONE, None, "demo", "gpt-4o")
    assert [line.error for line in found] == [None] * 3
    assert len({line.answer_key for line in found}) == 1


def test_a_name_that_is_not_known_is_told_with_those_that_are() -> None:
    for name in ("gpt-4o", "", "Calm", "m" * 500):
        (line,) = lines(TWO, name)
        assert line.error is not None
        assert (line.error.code, line.error.field) == (ErrorCode.INVALID_PARAMETER, "model")
        assert line.error.message.endswith("known are demo, calm, loud")


def test_the_engine_is_told_the_adapter() -> None:
    row = {
        "request_id": "r",
        "max_tokens": None,
        "sampling": None,
        "settings_json": '{"adapter":"calm@1"}',
    }
    assert engine_sampling(row, SamplingDefaults(), 0)[ADAPTER] == "calm@1"


def test_parsed_rows_are_kept_apart_by_adapters() -> None:
    plain = ExtractSettings()
    names = {
        dataclasses.replace(plain, adapters=adapters).digest()
        for adapters in (NONE, TWO, Adapters({"calm": "calm@9"}, ("demo",)), Adapters({}, ("demo",)))
    }
    assert len(names) == 3
    assert plain.digest() in names
