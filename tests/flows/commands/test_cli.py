"""The command line: what is wrong in one line, help that can be read, and no waiting for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flows import cli
from flows.parameters.backfill import BackfillParameters
from flows.parameters.estimate import EstimateParameters
from flows.parameters.nightly import NightlyParameters
from tests.support.paths import ROOT

HEAVY = {"numpy", "numba", "polars", "pyarrow", "torch", "prefect", "boto3"}


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("run --polcy dfs", "nightblend run: --polcy is not known; did you mean --policy?"),
        ("run --polcy=dfs", "nightblend run: --polcy is not known; did you mean --policy?"),
        # Nothing may be shortened: what it could have been is told.
        ("run --temp 1", "nightblend run: --temp is not known; did you mean --temperature?"),
        ("run --token 1", "nightblend run: --token is not known; did you mean --token-budget?"),
        ("run --kv-t 1", "nightblend run: --kv-t is not known; did you mean --kv-tokens?"),
        (
            "run --part 1",
            "nightblend run: --part is not known; did you mean --part-seconds or --part-answers?",
        ),
        # The typing error is told before what is missing because of it.
        ("status --jb triage --store s", "nightblend status: --jb is not known; did you mean --job?"),
        ("status --run-date 2026-01-02", "nightblend status: --job, --store are missing."),
        ("rollback --job j", "nightblend rollback: --store is missing."),
        ("status --job j --store s --lag-days x", "nightblend status: --lag-days: 'x' is no whole number."),
        ("trust --job", "nightblend trust: --job needs a value."),
        ("report one two", "nightblend report: 'two' belongs to no option."),
        ("deploy --type dokcer", "nightblend deploy: --type: invalid choice: 'dokcer'"),
        ("run --zzz", "nightblend run: --zzz is not known."),
    ],
)
def test_a_wrong_option_is_one_line_with_a_remedy(capsys, typed, line):
    with pytest.raises(SystemExit) as ended:
        cli.main(typed.split())
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(line)
    assert said.err.endswith(f" See `nightblend {typed.split()[0]} --help`.\n")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ([], "nightblend: a command is missing."),
        (["rnu"], "nightblend: rnu is no command; did you mean run?"),
        (["back"], "nightblend: back is no command; did you mean backfill?"),
        (["xyzzy"], "nightblend: xyzzy is no command."),
        (["--verison"], "nightblend: --verison is not known before a command; did you mean --version?"),
    ],
)
def test_a_wrong_command_is_one_line_with_a_remedy(capsys, typed, line):
    with pytest.raises(SystemExit) as ended:
        cli.main(typed)
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", f"{line} See `nightblend --help`.\n")


def test_all_missing_fields_are_named(capsys):
    assert cli.main(["run", "--job", "triage", "--store", "s"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("nightblend: --source: is missing. ")
    assert "--model is missing, too" in said
    assert said.count("\n") == 1


def test_help_and_version(capsys):
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in cli.NAMES:
        assert f"\n  {name:<11}" in listed
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("nightblend 0.")


@pytest.mark.parametrize("name", cli.NAMES)
def test_every_command_has_help_and_json(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: nightblend {name} ")
    assert "\n  --json " in shown


@pytest.mark.parametrize("form", [NightlyParameters, EstimateParameters, BackfillParameters])
def test_every_field_is_under_one_heading(form):
    grouped = [name for names in form.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(form.model_fields)


def test_an_option_of_a_form_is_what_its_field_is():
    typed = ["--columns", "a=b", "--columns", "c=d", "--no-publish", "--rerun", "--top-k=-1", "--job", "x y"]
    parser = cli.load("run").make_parser().finish()
    given = parser.parse([*typed, "--job", "last"])
    assert given == {
        "columns": ["a=b", "c=d"],
        "publish": False,
        "rerun": True,
        "top_k": "-1",
        "job": "last",
        "as_flow": None,
        "json": False,
    }


@pytest.mark.parametrize(
    "typed", ["--help", "--version", "run --help", "estimate --help", "backfill --help", "run --job x"]
)
def test_nothing_heavy_is_loaded_before_there_is_work(typed):
    code = (
        "import sys\nfrom flows.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *typed.split()], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("module", "command"),
    [("flows", ""), ("flows.cli", ""), ("flows.nightly", "run"), ("flows.estimate", "estimate")],
)
def test_modules_that_are_the_command_line(module, command):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    done = subprocess.run(
        [sys.executable, "-m", module, *(["--unheard-of"] if command else ["nothing"])],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    expected = f"nightblend {command}: --unheard-of is not known." if command else "nightblend: nothing is no"
    assert done.returncode == 2
    assert done.stderr.startswith(expected)
