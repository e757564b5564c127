"""Which endpoints a model can answer, and what of it names a run."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from engine.backends.facts import NATIVE_FACTS, Capabilities
from engine.models.pooling import Pooling
from tasks.infer.backends.engines import refusal_of
from tasks.night.abilities import abilities_of, unfit_for
from tasks.requests.sampling import SamplingDefaults
from tests.support.embedding_models import add_modules
from tests.support.nights import CONFIG

if TYPE_CHECKING:
    from pathlib import Path

CHAT = {"endpoint": "chat"}
OTHER = replace(NATIVE_FACTS, name="vllm", version="vllm 1", capabilities=Capabilities())


def folder(root: Path, **config: Any) -> Path:
    (root / "config.json").write_text(json.dumps({**CONFIG, **config}))
    return root


def embeddings(**settings: Any) -> dict[str, Any]:
    return {"endpoint": "embeddings", "settings_json": json.dumps(settings) if settings else None}


def codes(
    root: Path, pooling: str | None = None, facts=NATIVE_FACTS, device: str = "cpu"
) -> list[str | None]:
    """Return why a chat and a request for embeddings are refused."""
    unfit = unfit_for(abilities_of(root, pooling), facts, device)
    return [None if error is None else error.code.value for error in map(unfit, (CHAT, embeddings()))]


def test_a_model_for_text_gives_embeddings_where_the_job_says_how(tmp_path: Path) -> None:
    folder(tmp_path)
    assert codes(tmp_path) == [None, "unsupported_by_model"]
    assert codes(tmp_path, "mean") == [None, None]
    assert abilities_of(tmp_path, "mean").pooling == Pooling("mean")
    error = unfit_for(abilities_of(tmp_path, None), NATIVE_FACTS, "cpu")(embeddings())
    assert error is not None
    assert "modules.json" in error.message
    assert "--pooling" in error.message


def test_a_model_of_sentence_transformers_gives_embeddings_alone(tmp_path: Path) -> None:
    add_modules(folder(tmp_path), "mean", "Transformer", "Pooling")
    assert codes(tmp_path) == ["unsupported_by_model", None]
    found = abilities_of(tmp_path, None)
    assert found.pooling == Pooling("mean", normalised=False)
    # The job's word counts for what is pooled, the folder's for the rest.
    assert abilities_of(tmp_path, "last").pooling == Pooling("last", normalised=False)


def test_a_decoder_without_a_head_gives_no_text(tmp_path: Path) -> None:
    folder(tmp_path, architectures=["LlamaModel"])
    assert codes(tmp_path) == ["unsupported_by_model"] * 2
    assert codes(tmp_path, "last") == ["unsupported_by_model", None]


def test_a_way_of_pooling_that_is_not_known_is_named(tmp_path: Path) -> None:
    add_modules(folder(tmp_path), "mean", "Transformer", "Pooling", "Dense", "Normalize")
    assert codes(tmp_path) == ["unsupported_by_model"] * 2
    error = unfit_for(abilities_of(tmp_path, None), NATIVE_FACTS, "cpu")(embeddings())
    assert error is not None
    assert "Dense" in error.message


def test_a_device_that_makes_none_is_refused_and_other_engines_say_it_themselves(tmp_path: Path) -> None:
    add_modules(folder(tmp_path))
    assert codes(tmp_path, facts=OTHER) == [None, None]
    refusal = refusal_of(OTHER, SamplingDefaults())(embeddings())
    assert refusal is not None
    assert (refusal.code.value, "vllm 1" in refusal.message) == ("unsupported_url", True)
    assert refusal_of(NATIVE_FACTS, SamplingDefaults())(embeddings()) is None
    assert codes(tmp_path, device="cuda:0") == ["unsupported_by_model", "unsupported_url"]


def test_dimensions_are_at_most_those_of_the_model(tmp_path: Path) -> None:
    unfit = unfit_for(abilities_of(folder(tmp_path), "last"), NATIVE_FACTS, "cpu")
    assert unfit(embeddings(dimensions=32)) is None
    error = unfit(embeddings(dimensions=33))
    assert error is not None
    assert (error.field, error.message) == (
        "dimensions",
        "must be at most 32, which this model's embeddings have",
    )


@pytest.mark.parametrize(
    ("modules", "pooling", "rules"),
    [
        (None, None, {}),
        (None, "last", {"embeddings": "last, normalised"}),
        (("mean",), None, {"embeddings": "mean, normalised"}),
        (("mean", "Transformer", "Pooling"), None, {"embeddings": "mean"}),
        (("cls",), None, {"embeddings": "none"}),
    ],
)
def test_how_embeddings_are_made_names_a_run(tmp_path: Path, modules, pooling, rules) -> None:
    """And runs of models for text alone are named as before."""
    folder(tmp_path)
    if modules is not None:
        add_modules(tmp_path, *modules)
    assert abilities_of(tmp_path, pooling).rules() == rules
