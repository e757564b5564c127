"""Every command of the walk-through `docs/adopting.md` runs, in its order, in one store."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from flows.cli import main
from tests.support import scripted_backend
from tests.support.demo_nights import batch_line, write_lines
from tests.support.paths import DEMO_MODEL, ROOT

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

INDENTED = re.compile(r"^(?: {4}.*\n)+", re.MULTILINE)
DAYS = ("2026-11-20", "2026-11-21", "2026-11-22", "2026-11-23", "2026-11-24")
EXPECTED = {
    "estimate": "GPU",
    "pilot": "The whole night would take",
    "shadow": "answers that both gave: 100.0% equal",
    "promote": "policy=blend gets 25 % of the next night",
    "hold": "(held)",
    "fall-back": "gets nothing any more (fallen back)",
}


def asked_by(i: int) -> dict[str, str]:
    return {"tenant": ("acme", "beta", "crowd")[i % 3]}


def commands() -> list[list[str]]:
    text = (ROOT / "docs" / "adopting.md").read_text()
    blocks = (re.sub(r"\\\n\s*", " ", block) for block in INDENTED.findall(text))
    return [shlex.split(line.strip()) for block in blocks for line in block.splitlines()]


def test_every_command_of_the_walk_through_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted_backend.use(monkeypatch, tmp_path / "script")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Qwen3-0.6B").symlink_to(DEMO_MODEL)
    for day in DAYS:
        lines = [
            batch_line(f"{day}-{i}", f"Topic {i // 10}. Count from {i}.", max_tokens=8, metadata=asked_by(i))
            for i in range(120)
        ]
        write_lines(tmp_path / "logs" / day, "day.jsonl", lines)
    typed = commands()
    assert len(typed) >= 12
    assert {command[1] for command in typed} >= {"run", "status", "rollback", *EXPECTED}
    for program, name, *options in typed:
        assert program == "nightblend"
        assert main([name, *options]) == 0, (name, capsys.readouterr())
        said = capsys.readouterr()
        assert EXPECTED.get(name, "") in said.out, (name, said.out)
        if "--promise" in options:
            assert all(f"{tenant}: kept" in said.out for tenant in ("acme", "beta")), said.out
    assert (tmp_path / "pilot.html").read_text().startswith("<!")
