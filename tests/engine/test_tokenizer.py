"""A folder's tokenizer is the one `AutoTokenizer` gives, the first time and from then on without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from transformers import AutoTokenizer

from engine import tokenizer as loading
from engine.tokenizer import load_folder
from tests.support.paths import DEMO_MODEL
from tests.support.tokenizers import KINDS, TEXTS

if TYPE_CHECKING:
    from pathlib import Path

CONFIGURED = [
    (None, None),
    ("llama", None),
    ("llama", "LlamaTokenizerFast"),
    ("llama", "PreTrainedTokenizerFast"),
    ("mistral", "LlamaTokenizer"),
    ("qwen2", "Qwen2Tokenizer"),
    ("qwen3", "PreTrainedTokenizerFast"),
]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, ...]:
    """Two folders to remember in: a read-only one, and one that can be written."""
    (tmp_path / "image").write_text("a file where a folder is wanted")
    found = (tmp_path / "image", tmp_path / "own")
    monkeypatch.setattr(loading, "cache_places", lambda: found)
    return found


def remembered(places: tuple[Path, ...]) -> list[dict[str, str]]:
    return [json.loads(path.read_bytes()) for path in sorted(places[1].glob("tokenizers/*"))]


def configured(folder: Path, kind: str, model_type: str | None, name: str | None) -> Path:
    KINDS[kind]().save_pretrained(folder)
    if model_type is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_bytes())
    if name is None:
        settings.pop("tokenizer_class", None)
    else:
        settings["tokenizer_class"] = name
    path.write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("model_type", "name"), CONFIGURED)
def test_it_is_that_of_transformers_each_time(
    kind: str, model_type: str | None, name: str | None, tmp_path: Path, places: tuple[Path, ...]
) -> None:
    folder = configured(tmp_path / "model", kind, model_type, name)
    try:
        expected = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        for _ in range(2):
            with pytest.raises(type(error)):
                load_folder(folder)
        assert not remembered(places)
        return
    for _ in range(2):
        found = load_folder(folder)
        assert type(found) is type(expected)
        assert found.special_tokens_map == expected.special_tokens_map
        for text in TEXTS:
            ids = expected(text)["input_ids"]
            assert found(text)["input_ids"] == ids
            assert found.decode(ids) == expected.decode(ids)
    (known,) = remembered(places)
    assert known == {"module": type(expected).__module__, "class": type(expected).__qualname__}


def test_other_files_are_looked_at_anew(tmp_path: Path, places: tuple[Path, ...]) -> None:
    folder = configured(tmp_path / "model", "byte-level", "llama", "PreTrainedTokenizerFast")
    before = load_folder(folder)
    configured(folder, "byte-level", "qwen2", "Qwen2Tokenizer")
    after = load_folder(folder)
    assert type(before) is not type(after)
    assert type(after) is type(AutoTokenizer.from_pretrained(folder))
    assert len(remembered(places)) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"module": "os", "class": "system"}'])
def test_a_damaged_note_is_as_good_as_none(content: str, tmp_path: Path, places: tuple[Path, ...]) -> None:
    folder = configured(tmp_path / "model", "byte-level", "llama", "PreTrainedTokenizerFast")
    expected = type(load_folder(folder))
    (path,) = places[1].glob("tokenizers/*")
    path.write_text(content)
    assert type(load_folder(folder)) is expected
    assert remembered(places) == [{"module": expected.__module__, "class": expected.__qualname__}]


def test_a_class_of_somebody_else_is_not_remembered(
    tmp_path: Path, places: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = configured(tmp_path / "model", "byte-level", None, None)

    class Own(type(AutoTokenizer.from_pretrained(folder))):  # type: ignore[misc]
        pass

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", Own.from_pretrained)
    assert type(load_folder(folder)) is Own
    assert not remembered(places)


def test_nothing_of_torch_is_imported_the_second_time(tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO_MODEL, tmp_path / "model")
    # A folder that differs from the demo's, so that it is remembered by nobody.
    (folder / "of-this-test.txt").write_text(tmp_path.name)
    program = """
import sys
from pathlib import Path
from engine import tokenizer
tokenizer.cache_places = lambda: (Path(sys.argv[2]),)
found = tokenizer.load_folder(Path(sys.argv[1]))
found.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True)
print("torch" in sys.modules)
"""
    command = [sys.executable, "-c", program, str(folder), str(tmp_path / "own")]
    printed = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
    assert printed == ["True\n", "False\n"]
