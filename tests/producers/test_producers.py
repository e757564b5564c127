"""Logs that real tools wrote are read as what was sent. `make test-producers` installs the tools.

Each tool runs once, in a process and an environment of its own, and makes the calls of one table.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.producers.compare import BY_NAME, differences, expected, expected_of, left_out, paired
from tests.producers.logs import LOGS, Log
from tests.producers.reading import accounted, read_folder
from tests.producers.table import DOCUMENT, Compared, parts, render
from tests.support.parsing import Outcome
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = ROOT / ".venv-producers" / "bin" / "python"
MINUTES = 4
LEAST_TOOLS = 12
LEAST_CALLS = 150

CACHED = re.compile(r"""cache[a-z_.]*[\\"]+[^}]{0,90}?[" ]4\b""")
"""How the tokens are told that the server says to have taken from its cache: 4 of each call."""

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="the tools are not installed (make test-producers installs them)"
)
by_log = pytest.mark.parametrize("log", LOGS, ids=lambda log: log.id)


class Made:
    """Logs of the tools, each of which runs when it is first asked for."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._ended: dict[str, subprocess.CompletedProcess[str]] = {}

    def folder(self, log: Log) -> Path:
        """Return where a log lies."""
        if log.script not in self._ended:
            self._ended[log.script] = run_tool(log.script, self._out)
        ended = self._ended[log.script]
        assert ended.returncode == 0, f"{log.script}:\n{ended.stderr[-4000:]}"
        return self._out / log.script / log.folder

    def record(self, log: Log, name: str) -> Any:
        """Return what a script's run tells of itself; some scripts run several times."""
        places = [place / f"{name}.json" for place in self.folder(log).parents]
        return json.loads(next(path for path in places if path.exists()).read_text())

    def sent(self, log: Log) -> list[dict[str, Any]]:
        """Return the calls that are in a log, or should be."""
        return [one for one in self.record(log, "sent") if one["log"] == log.sent]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("producers"))


def run_tool(script: str, out: Path) -> subprocess.CompletedProcess[str]:
    folder = out / script
    folder.mkdir()
    home = out / f"{script}-home"
    home.mkdir()
    # Nothing of the user's settings, and no proxy for the loopback address.
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    kept = {
        name: value for name, value in kept.items() if not name.startswith(("OTEL_", "AWS_", "LANGFUSE_"))
    }
    settings = {"HOME": str(home), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    return subprocess.run(
        [PYTHON, "-m", f"tests.producers.tools.{script}", folder],
        cwd=folder,
        env={**kept, **settings},
        capture_output=True,
        text=True,
        timeout=60 * MINUTES,
        check=False,
    )


@by_log
def test_what_was_sent_is_read(log: Log, made: Made, tmp_path: Path) -> None:
    sent, folder = made.sent(log), made.folder(log)
    found = read_folder(folder, log.columns)
    assert {row["format"] for row in found} == {log.format}
    here = [one for one in sent if one["call"] not in log.missing]
    calls = [one for one in here if BY_NAME[one["call"]].kind != "embedding"]
    assert calls
    wrong, used = [], 0
    for one, own in paired(calls, found):
        if not 1 <= len(own) <= (2 if one["call"] in log.twice else 1):
            wrong.append(f"{one['call']}: {len(own)} records")
        used += len(own)
        wrong += [text for row in own for text in differences(log, one, row)]
    assert not wrong, "\n".join(wrong)
    outcomes = Counter(row["outcome"] for row in found)
    beside = sum(row.get("reason") in log.beside for row in found)
    # The rest is no call of a text model, and there is no more than was sent.
    assert outcomes[Outcome.FILTERED] - beside == len(here) - len(calls) == len(found) - beside - used
    counts = accounted(folder, tmp_path / "rows", log.columns)
    assert counts["requests"] == outcomes[Outcome.REQUEST] + outcomes[Outcome.ERROR]
    assert (counts["errors"], counts["filtered"], counts["quarantined"]) == (
        outcomes[Outcome.ERROR],
        outcomes[Outcome.FILTERED],
        0,
    )


@by_log
def test_what_is_said_to_be_left_out_would_be_seen(log: Log, made: Made) -> None:
    """Each field that a tool is said to leave out was sent, and would make another row if it were kept."""
    sent = [BY_NAME[one["call"]] for one in made.sent(log)]
    for name in log.leaves_out:
        rows = [
            (expected_of(log, call), expected(call, left_out(log, call) - {name}))
            for call in sent
            if name in left_out(log, call)
        ]
        # What asks for nothing by itself (`tool_choice` beside `tools`) goes with another field.
        assert rows, name
        assert any(kept != without for without, kept in rows) or name in WITH_ANOTHER, name
    if log.cached is not None:
        text = "".join(path.read_text() for path in made.folder(log).rglob("*") if path.is_file())
        assert (CACHED.search(text) is not None) is log.cached
    for names in (log.missing, log.lengths, log.no_output, frozenset(log.refused_as)):
        assert names <= {call.name for call in sent}


WITH_ANOTHER = {"tool_choice", "top_logprobs"}


def test_enough_was_compared_and_the_table_is_of_now(made: Made) -> None:
    compared = []
    for log in LOGS:
        sent = made.sent(log)
        calls = [one for one in sent if one["call"] not in log.missing]
        compared.append(Compared(log, made.record(log, "versions"), len(calls)))
    tools = {log.tool for log in LOGS}
    total = sum(one.calls for one in compared)
    assert len(tools) >= LEAST_TOOLS
    assert total >= LEAST_CALLS
    print(f"{total} calls compared in {len(LOGS)} logs of {len(tools)} tools")
    text = DOCUMENT.read_text()
    before, table, after = parts(text)
    if os.environ.get("NIGHTBLEND_PRODUCERS") == "write":
        DOCUMENT.write_text(before + render(compared) + after)
    else:
        assert table == render(compared), "the table is of another time: make test-producers WRITE=1"
