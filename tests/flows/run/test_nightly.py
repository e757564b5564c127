"""A night from the command line to the published files, plain and as a flow."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from flows import cli
from flows.parameters.nightly import NightlyParameters
from flows.parameters.to_request import night_request
from flows.run.sequence import RESULT_KEYS, Steps, run_night
from tasks.attempt.prepare import prepare
from tasks.infer.progress import StoppedError
from tasks.runlog.log import RunLog, run_prefix
from tasks.store.folder import FolderStore
from tasks.warehouse.replace import open_warehouse
from tests.support.demo_nights import DAY, batch_line, write_lines
from tests.support.paths import DEMO_MODEL

REQUESTS = 12


def count_line(i: int) -> str:
    return batch_line(f"c{i}", f"Count from {i} to {i + 4}.", max_tokens=32)


def day_of_logs(root: Path) -> Path:
    lines = [count_line(i) for i in range(1, REQUESTS + 1)]
    lines += [count_line(1), "", '{"broken', batch_line("tools", "x", tools=[{"type": "function"}])]
    write_lines(root / "logs", "day.jsonl", lines)
    return root


def options(root: Path, **changed: str) -> list[str]:
    given = {
        "job": "triage",
        "source": str(root / "logs"),
        "store": str(root / "store"),
        "model": str(DEMO_MODEL),
        "run-date": DAY.isoformat(),
    } | {name.replace("_", "-"): value for name, value in changed.items()}
    return [text for name, value in given.items() for text in (f"--{name}", value)]


def request_of(root: Path, **changed):
    parameters = {name.removeprefix("--").replace("-", "_"): value for name, value in _pairs(options(root))}
    return night_request(NightlyParameters.parse({"report": False} | parameters | changed))


def _pairs(flat: list[str]):
    return zip(flat[::2], flat[1::2], strict=True)


def run_json(capsys, arguments: list[str]) -> tuple[int, dict]:
    code = cli.main(["run", "--no-as-flow", *arguments, "--no-report", "--json"])
    out = capsys.readouterr().out
    assert out.count("\n") == 1, "one JSON object and nothing else"
    return code, json.loads(out)


def read_lines(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture(autouse=True)
def without_a_server(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def test_a_night_answers_everything_once_and_again_at_once(tmp_path, capsys):
    root = day_of_logs(tmp_path)
    code, result = run_json(capsys, options(root))
    # Two of 15 lines are bad, which is above the default limit of 1 %.
    assert code == 3
    assert set(result) == set(RESULT_KEYS)
    assert (result["requests"], result["outputs"], result["errors"]) == (REQUESTS + 2, REQUESTS + 1, 1)
    assert (result["quarantined"], result["filtered"], result["reused"]) == (1, 0, False)
    assert result["output_tokens"] > 0
    assert 0 <= result["hit_rate"] <= result["hit_rate_optimum"] <= 1

    outputs, errors = read_lines(result["output_file"]), read_lines(result["error_file"])
    names = sorted(row["custom_id"] for row in outputs)
    assert names == sorted([*(f"c{i}" for i in range(1, REQUESTS + 1)), "c1"])
    assert [row["custom_id"] for row in errors] == ["tools"]
    answers = {row["custom_id"]: row["response"]["body"]["choices"][0]["message"] for row in outputs}
    assert answers["c3"]["content"].strip() == "3 4 5 6 7"

    code, again = run_json(capsys, options(root))
    assert code == 3
    assert again == result | {"reused": True}

    log = RunLog(FolderStore(root / "store"), run_prefix("triage", DAY.isoformat(), result["run_key"]))
    state = log.refresh()
    assert [ended.exit_code for ended in state.endings.values()] == [3]
    assert state.holder is None
    assert (Path(result["run_dir"]) / "manifest.json").exists()


@pytest.mark.usefixtures("prefect_api")
def test_the_flow_does_the_same(tmp_path):
    from prefect.client.orchestration import get_client

    from flows.nightly import nightly

    root = day_of_logs(tmp_path)
    # The API of the tests is kept between runs of one session: other jobs may be there.
    job = f"j{uuid4().hex[:8]}"
    typed = {
        name.removeprefix("--").replace("-", "_"): value for name, value in _pairs(options(root, job=job))
    }
    result = nightly(NightlyParameters.parse(typed | {"max_bad_fraction": 0.2, "report": False}))
    assert (result["status"], result["outputs"], result["errors"]) == ("Completed", REQUESTS + 1, 1)

    with get_client(sync_client=True) as client:
        runs = [run for run in client.read_flow_runs() if run.name == f"{job}-{DAY}"]
        artifacts = [found for found in client.read_artifacts() if found.key == f"night-{job}"]
        tasks = {run.name: run.state_name for run in client.read_task_runs() if run.flow_run_id == runs[0].id}
    assert [run.state_name for run in runs] == ["Completed"]
    assert tasks == dict.fromkeys(("extract", "tokenize", "profile", "plan", "infer", "publish"), "Completed")
    assert "| requests | 14 = 13 outputs + 1 errors |" in artifacts[0].data


def test_a_stopped_night_can_be_resumed_and_then_needs_no_second_extract(tmp_path):
    root = day_of_logs(tmp_path)

    def stops(*_: object):
        raise StoppedError("asked to")

    with pytest.raises(StoppedError):
        run_night(request_of(root), steps=replace(Steps(), infer=stops))
    log = only_log(root)
    assert [(ended.status, ended.exit_code) for ended in log.refresh().endings.values()] == [("stopped", 4)]

    seen = []
    steps = replace(Steps(), infer=lambda night, _: seen.append(dict(night.log.state.steps)) or stops())
    with pytest.raises(StoppedError):
        run_night(request_of(root), steps=steps)
    assert {"extract", "profile", "plan"} <= set(seen[0])
    assert len(log.refresh().attempts) == 2
    assert recorded(root) == ["Stopped", "Stopped"]
    assert len([part for part in log.state.parts_of("requests") if part.name.endswith(".parquet")]) == 1


def test_mostly_broken_logs_stop_before_any_computing(tmp_path, capsys):
    write_lines(tmp_path / "logs", "day.jsonl", [count_line(1), '{"a', '{"b'])
    assert cli.main(["run", "--no-as-flow", *options(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "2 of 3 lines are no requests, more than 20%" in said
    state = only_log(tmp_path).refresh()
    assert [(ended.status, ended.exit_code) for ended in state.endings.values()] == [("failed", 1)]
    assert state.holder is None
    assert "plan" not in state.steps
    assert recorded(tmp_path) == ["Aborted"]


def test_a_live_run_keeps_its_date(tmp_path, capsys):
    root = day_of_logs(tmp_path)
    request = request_of(root)
    prepared = prepare(request, tmp_path / "scratch")
    prefix = run_prefix("triage", DAY.isoformat(), prepared.run_key)
    with RunLog(prepared.store, prefix, lease_s=5, heartbeat_s=0.2).hold():
        code = cli.main(["run", "--no-as-flow", *options(root, lease_s="5", heartbeat_s="0.2")])
    assert code == 5
    said = capsys.readouterr().err.splitlines()[-1]
    assert "is held by a live run" in said
    assert "--take-over" in said


@pytest.mark.parametrize(
    ("changed", "field", "remedy"),
    [
        ({"policy": "fastest"}, "--policy", "fcfs, random, dfs, blend"),
        ({"source": "{root}/nowhere"}, "--source", "Name a file, a folder"),
        ({"source": "{root}/logs/{{run_date:%Y}}/"}, "--source", "--run-date"),
        ({"model": "{root}/bare"}, "--model", "tokenizer"),
        ({"model": "{root}/logs"}, "--model", "hub id"),
        ({"kv-tokens": "16"}, "--kv-tokens", "Raise it"),
        ({"store": "s3://bucket/x"}, "--catalog", "none for files only"),
        ({"store": "s3://", "catalog": "none"}, "--store", "s3://bucket/prefix"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, capsys, changed, field, remedy):
    root = day_of_logs(tmp_path)
    bare = root / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(DEMO_MODEL / name, bare / name)
    changed = {name: value.format(root=root) for name, value in changed.items()}
    assert cli.main(["run", "--no-as-flow", *options(root, **changed)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nightblend: ")]
    assert len(said) == 1
    assert said[0].startswith(f"nightblend: {field}: ")
    assert remedy in said[0]


def test_a_missing_bucket_is_one_line(tmp_path, capsys, s3_server):
    del s3_server
    root = day_of_logs(tmp_path)
    assert (
        cli.main(["run", "--no-as-flow", *options(root, store="s3://no-such-bucket/x", catalog="none")]) == 2
    )
    assert capsys.readouterr().err.splitlines()[-1].startswith("nightblend: --store: ")


def test_a_wrong_endpoint_is_one_line(tmp_path, capsys, s3_server, monkeypatch):
    del s3_server
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    root = day_of_logs(tmp_path)
    assert cli.main(["run", "--no-as-flow", *options(root, store="s3://bucket/x", catalog="none")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("nightblend: --store: ")


def test_an_unknown_option_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "--polcy", "dfs"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def recorded(root: Path) -> list[str]:
    """The status of every attempt by the table, in order."""
    table = open_warehouse(f"sqlite:///{root}/store/_warehouse/catalog.db", str(root / "store"))
    attempts = table.load_table("nightblend.batch_runs").scan().to_arrow().to_pylist()
    return [row["status"] for row in sorted(attempts, key=lambda row: row["ended_at"])]


def only_log(root: Path) -> RunLog:
    (run,) = (root / "store" / "triage" / "runs").glob("run_date=*/*")
    return RunLog(FolderStore(root / "store"), str(run.relative_to(root / "store")))
