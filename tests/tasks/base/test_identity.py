from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.base.errors import ConfigurationError
from tasks.base.identity import (
    answer_key,
    canonical_json,
    default_seed,
    digest,
    model_digest,
    request_id,
    reuse_key,
    run_key,
)

if TYPE_CHECKING:
    from pathlib import Path

DAY = date(2026, 3, 1)
KEYS = st.binary(min_size=32, max_size=32).map(bytes.hex)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON, JSON)
def test_digests_are_equal_only_for_equal_values(left: object, right: object) -> None:
    assert (digest("x", left) == digest("x", right)) == (canonical_json(left) == canonical_json(right))
    assert digest("x", left) != digest("y", left)
    assert digest("x", [left, right]) != digest("x", left, right)


@given(st.dictionaries(st.text("abc"), JSON, max_size=4))
def test_digests_do_not_know_the_order_of_names(value: dict[str, object]) -> None:
    assert digest("x", value) == digest("x", dict(reversed(value.items())))


def test_canonical_json_refuses_what_json_does_not_have() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            canonical_json(value)


def test_request_id_knows_each_part() -> None:
    base = ("job", DAY, "s3://a/b", "name", "answer", 0)
    other = ("job2", date(2026, 3, 2), "s3://a/c", "name2", None, 1)
    ids = {request_id(*base)}
    for index, value in enumerate(other):
        if index != 4:
            ids.add(request_id(*base[:index], value, *base[index + 1 :]))
    assert len(ids) == 6
    # With a custom_id, what is asked does not rename the request; without one, it is its name.
    assert request_id(*base) == request_id(*base[:4], "else", 0)
    unnamed = request_id(*base[:3], None, "answer", 0)
    assert unnamed != request_id(*base[:3], None, "else", 0)
    assert unnamed != request_id(*base[:3], None, "answer", 1)
    assert unnamed != request_id(*base[:3], "answer", "answer", 0)


def sampling(**changes: object) -> dict[str, object]:
    return {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "max_tokens": 9, "stop": ["b", "a"]} | changes


def test_answer_key_knows_prompt_and_settings() -> None:
    keys = [
        answer_key("chat", "c", sampling()),
        answer_key("completions", "c", sampling()),
        answer_key("chat", "d", sampling()),
        answer_key("chat", "c", sampling(seed=1)),
        answer_key("chat", "c", sampling(top_p=1.0)),
        answer_key("chat", "c", sampling(max_tokens=8)),
        answer_key("chat", "c", sampling(stop=["a"])),
        answer_key("chat", "c", sampling(temperature=0.0)),
        answer_key("chat", "c", sampling(temperature=0.0, n=2)),
        answer_key("chat", "c", sampling(n=2)),
        answer_key("chat", "c", sampling(n=3)),
        answer_key("chat", "c", sampling(logprobs=0)),
        answer_key("chat", "c", sampling(logprobs=1)),
    ]
    assert len(set(keys)) == len(keys)
    assert answer_key("chat", "c", sampling(stop=["a", "b"])) == keys[0]


def test_greedy_answers_do_not_depend_on_what_greedy_ignores() -> None:
    greedy = answer_key("chat", "c", sampling(temperature=0.0))
    assert answer_key("chat", "c", sampling(temperature=0.0, seed=3, top_p=1.0, top_k=0)) == greedy


RUN = {
    "job": "a",
    "run_date": DAY,
    "model": "m",
    "defaults": {"temperature": 0.0},
    "run_seed": 0,
    "dtype": "float32",
    "answer_version": 1,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("job", "b"),
        ("run_date", date(2026, 3, 2)),
        ("model", "n"),
        ("defaults", {"temperature": 1.0}),
        ("run_seed", 1),
        ("dtype", "bfloat16"),
        ("answer_version", 2),
        ("rules", {"template_clock": "2026-03-01T00:00:00"}),
    ],
)
def test_run_and_reuse_keys_know_each_part(name: str, value: object) -> None:
    changed = RUN | {name: value}
    assert run_key(inputs="i", **RUN) != run_key(inputs="i", **changed)
    assert reuse_key(**RUN) != reuse_key(**changed)


def test_runs_without_rules_of_their_own_have_the_keys_of_before_there_were_any() -> None:
    for rules in (None, {}):
        assert run_key(inputs="i", **RUN, rules=rules) == "163770e1e1ecc12a"
        assert reuse_key(**RUN, rules=rules) == "38b7054cf94cf1de"


def test_only_the_run_key_knows_the_input() -> None:
    assert run_key(inputs="i", **RUN) != run_key(inputs="j", **RUN)
    assert len(run_key(inputs="i", **RUN)) == len(reuse_key(**RUN)) == 16
    assert run_key(inputs="i", **RUN) != reuse_key(**RUN)


def model(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    contents = {"config.json": "{}", "model.safetensors": "w", "tokenizer.json": "t"}
    for name, text in (contents | files).items():
        (folder / name).write_text(text)
    return folder


def test_model_digest_knows_contents_and_not_the_place(tmp_path: Path) -> None:
    base = model_digest(model(tmp_path / "a"))
    assert model_digest(model(tmp_path / "b", **{"README.md": "hello"})) == base
    changes = {
        "config.json": "{ }",
        "model.safetensors": "v",
        "tokenizer.json": "u",
        "chat_template.jinja": "x",
        "generation_config.json": "{}",
    }
    changed = {model_digest(model(tmp_path / f"c{i}", **{k: v})) for i, (k, v) in enumerate(changes.items())}
    assert len(changed | {base}) == len(changes) + 1


def test_model_digest_refuses_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--model"):
        model_digest(tmp_path)


def test_default_seed_is_a_uint64_that_knows_both_parts() -> None:
    seeds = {default_seed(request, seed) for request in ("a", "b") for seed in (0, 1)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert max(default_seed(str(i), 0) for i in range(64)) >= 2**63
