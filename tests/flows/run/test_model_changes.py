"""A model that is replaced while a run is under way does not answer under the name of the run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from flows.parameters.to_request import night_request
from flows.run.failures import exit_code_of
from flows.run.sequence import Steps, run_night
from tasks.base.errors import ConfigurationError
from tests.support.dated_nights import FIRST, instead, night_of, write_day
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("step", "file"), [("tokenize", "tokenizer_config.json"), ("plan", "model.safetensors")]
)
def test_another_file_ends_the_run_before_it_counts(tmp_path: Path, step: str, file: str) -> None:
    shutil.copytree(DEMO_MODEL, tmp_path / "model")
    write_day(tmp_path, FIRST, 2)
    path = tmp_path / "model" / file
    before = path.read_bytes()
    real: Callable[..., Any] = getattr(Steps(), step)

    def replaced(*given: Any) -> Any:
        path.write_bytes(before + b" ")
        return real(*given)

    request = night_request(night_of(tmp_path, run_date=FIRST, model=str(tmp_path / "model")))
    with pytest.raises(ConfigurationError, match=r"^--model: .* changed since the run began") as error:
        run_night(request, steps=replace(instead(), **{step: replaced}))
    assert exit_code_of(error.value) == 2
    # With the file of before it is the same run, and goes on.
    path.write_bytes(before)
    assert run_night(request, steps=instead())["outputs"] == 2
