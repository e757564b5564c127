"""LoRA adapters as they are named and looked at, before vLLM is loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from engine.backends.vllm.adapters import read_adapter, room_for
from engine.backends.vllm.options import VllmOptions, parse_options
from engine.errors import OptionError
from tests.support.adapters import write_adapter
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from pathlib import Path


def test_an_adapter_is_known_by_its_files(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", DEMO_MODEL, 1)
    found = read_adapter("calm", str(folder))
    assert (found.name, found.rank, found.folder) == ("calm", 4, str(folder))
    assert found.identity == f"calm@{found.digest}"
    same = read_adapter("calm", str(write_adapter(tmp_path / "b", DEMO_MODEL, 1)))
    other = read_adapter("calm", str(write_adapter(tmp_path / "c", DEMO_MODEL, 2)))
    scaled = read_adapter("calm", str(write_adapter(tmp_path / "d", DEMO_MODEL, 1, lora_alpha=16)))
    assert found.digest == same.digest
    assert len({found.digest, other.digest, scaled.digest}) == 3


def test_there_is_room_for_all_adapters_at_a_time(tmp_path: Path) -> None:
    assert room_for([]) == {}
    found = [
        read_adapter(str(rank), str(write_adapter(tmp_path / str(rank), DEMO_MODEL, 1, r=rank)))
        for rank in (4, 20)
    ]
    assert room_for(found) == {"enable_lora": True, "max_loras": 3, "max_lora_rank": 32}


def test_adapters_are_options_beside_others(tmp_path: Path) -> None:
    options = parse_options(["adapter=a=/x", "enforce_eager=true", "adapter=b=/y=z"])
    assert options.folders == {"a": "/x", "b": "/y=z"}
    assert options.arguments == {"enforce_eager": True}
    adapter = read_adapter("a", str(write_adapter(tmp_path / "a", DEMO_MODEL, 1)))
    looked_at = VllmOptions(adapters=(adapter,), version="vllm 0.32.0")
    assert VllmOptions.of_job(json.loads(json.dumps(looked_at.told()))) == looked_at


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["adapter=a"], "adapter: is not of the form NAME=FOLDER"),
        (["adapter==/x"], "adapter: is not of the form NAME=FOLDER"),
        (["adapter=a=/x", "adapter=a=/y"], "adapter: a is there twice"),
        (["max_loras=4"], "max_loras: is set by the night itself; leave it out"),
    ],
)
def test_options_that_are_wrong(given: list[str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        parse_options(given)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, "a is not a LoRA adapter of rank 1 to 512"),
        ({"r": 1000}, "a is not a LoRA adapter of rank 1 to 512"),
        ({"r": "4"}, "a is not a LoRA adapter of rank 1 to 512"),
        ({"use_dora": True}, "a has use_dora, which vLLM does not take; merge it"),
        ({"modules_to_save": ["lm_head"]}, "a has modules_to_save, which vLLM does not take"),
    ],
)
def test_what_is_no_adapter_for_vllm_is_one_line(tmp_path: Path, config: dict, said: str) -> None:
    folder = write_adapter(tmp_path / "a", DEMO_MODEL, 1, **config)
    with pytest.raises(OptionError, match=said) as found:
        read_adapter("a", str(folder))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_files_that_are_missing_or_no_json(tmp_path: Path, file: str) -> None:
    folder = write_adapter(tmp_path / "a", DEMO_MODEL, 1)
    (folder / file).unlink()
    with pytest.raises(OptionError, match=f"holds no {file}"):
        read_adapter("a", str(folder))
    for text in ("[1]", "{"):
        (folder / "adapter_config.json").write_text(text)
        (folder / "adapter_model.safetensors").touch()
        with pytest.raises(OptionError, match="is no JSON object"):
            read_adapter("a", str(folder))
