"""The command line: `nightblend run`, `inspect`, `rollback` and `calibrate`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from flows.parameters import NightlyParameters, option
from tasks.accounting import ExitCode
from tasks.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}. See `{self.prog} --help`.\n")


def main(arguments: Sequence[str] | None = None, *, with_flow: bool | None = None) -> int:
    """Run the command line and return its exit code (`tasks.accounting.ExitCode`).

    Parameters
    ----------
    arguments
        Without the program's name; None takes the process's own.
    with_flow
        Whether a night runs as Prefect flow. None: only where `PREFECT_API_URL` names a server, because
        starting Prefect's own API inside the process takes about ten seconds.
    """
    options = vars(_parser().parse_args(arguments))
    command, as_json = options.pop("command"), options.pop("json")
    if command in _COMMANDS:
        try:
            _COMMANDS[command](options, as_json=as_json)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the boundary: every end has its exit code
            return explain(error)
        return int(ExitCode.OK)
    if with_flow is None:
        with_flow = bool(os.environ.get("PREFECT_API_URL"))
    # A stop of the container is a stop of the run: what is answered is written, and the run can be resumed.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        result = _run(options, with_flow=with_flow)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the boundary: every end has its exit code
        return explain(error)
    finally:
        signal.signal(signal.SIGTERM, before)
    if as_json:
        from flows.night import RESULT_KEYS

        print(json.dumps({key: result[key] for key in RESULT_KEYS}, ensure_ascii=False))
    else:
        from flows.console import print_table

        print_table(result)
    return int(result["exit_code"])


def _inspect(options: dict[str, Any], *, as_json: bool) -> None:
    from flows.inspect_view import print_inspection
    from tasks.inspect_run import inspect_run

    result = inspect_run(options["run"], options["top"])
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print_inspection(result)


def _rollback(options: dict[str, Any], *, as_json: bool) -> None:
    from datetime import date

    from tasks.catalogs import choose_catalog
    from tasks.publication import roll_back
    from tasks.storage import open_store

    try:
        day = date.fromisoformat(options["run_date"])
    except ValueError:
        wrong = f"{options['run_date']!r} is no date"
        raise ConfigurationError("--run-date", wrong, "Give it as 2026-11-22") from None
    catalog = choose_catalog(options["catalog"], options["store"])
    store = open_store(options["store"])
    found = roll_back(store, options["job"], day, to=options["to"], catalog=catalog)
    if as_json:
        print(json.dumps({**found.results, "publication_id": found.id}, ensure_ascii=False))
    else:
        print(f"{found.job}, {found.run_date}: publication {found.id} is the current one")
        print(f"answers  {found.results['output_file']}")


def _calibrate(options: dict[str, Any], *, as_json: bool) -> None:
    from dataclasses import asdict

    from engine.profiles import write_profile
    from tasks.calibrate import calibrate_device

    out = Path(options.pop("out"))
    if not out.parent.is_dir():
        raise ConfigurationError("--out", f"there is no folder {out.parent}", "Make it, or name another")
    print(f"measuring for {options['seconds']:g} s", file=sys.stderr)
    found = calibrate_device(**options)
    write_profile(found.profile, out)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    profile = found.profile
    print(f"{profile.name}, measured on {found.steps:,} steps of the engine")
    print(f"  compute     {profile.flops / 1e9:,.0f} GFLOP/s")
    print(f"  memory      {profile.read_bytes / 1e9:,.1f} GB/s read")
    print(f"  each step   {1e3 * profile.step_seconds:.2f} ms beside its work")
    print(
        f"Step times of the cost model are off by {found.error_p50:.1%} in the median and "
        f"{found.error_p95:.1%} at the 95th percentile, on steps that were not fitted."
    )
    print(f"Written to {out}; plan with it by: nightblend run --device-profile {out} ...")


_COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "inspect": _inspect,
    "rollback": _rollback,
    "calibrate": _calibrate,
}
"""All but `run`, whose end has more than one good exit code."""


def _run(options: dict[str, Any], *, with_flow: bool) -> dict[str, Any]:
    parameters = NightlyParameters.parse(options)
    request = parameters.to_request()
    if with_flow:
        from flows.nightly import nightly

        return nightly(parameters)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    from flows.console import ConsoleReporter
    from flows.night import run_night

    reporter = ConsoleReporter()
    try:
        return run_night(request, reporter=reporter)
    finally:
        reporter.close()


def explain(error: BaseException) -> int:
    """Say in one line on stderr why a night did not end well; return the exit code."""
    from engine.errors import EngineError
    from flows.night import AbortedError, exit_code_of
    from tasks.accounting import AccountingError
    from tasks.infer import StoppedError
    from tasks.runlog import RunIsLiveError, StaleWriterError
    from tasks.runrecords import LogFormatError
    from tasks.storage import StoreUnavailableError

    told = (
        ConfigurationError,
        EngineError,
        AbortedError,
        AccountingError,
        StoppedError,
        RunIsLiveError,
        StaleWriterError,
        LogFormatError,
        StoreUnavailableError,
    )
    code = exit_code_of(error)
    if isinstance(error, KeyboardInterrupt):
        text = "stopped."
    elif isinstance(error, told):
        text = " ".join(str(error).split())
    else:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else ""
        # Its own words could quote a prompt; its type and place cannot.
        text = f"failed with {type(error).__name__}{where}; run with NIGHTBLEND_DEBUG=1 for the whole trace"
        if os.environ.get("NIGHTBLEND_DEBUG"):
            logging.getLogger(__name__).error("failed", exc_info=error)
    hint = " Run the same command again to go on." if code is ExitCode.STOPPED else ""
    print(f"nightblend: {text}{hint}", file=sys.stderr)
    return int(code)


def _parser() -> _Parser:
    parser = _Parser(prog="nightblend", description="Scheduled offline batch LLM inference.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    run = commands.add_parser(
        "run",
        help="run one night",
        description="Run one night: extract, profile, plan, infer, publish. A stopped run goes on, a "
        "finished one answers at once.",
        epilog="Exit codes: 0 done, 1 failed or aborted, 2 wrong usage, 3 done with more bad rows than "
        "allowed, 4 stopped and resumable, 5 another live run owns the date.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, field in NightlyParameters.model_fields.items():
        text = (field.description or "").replace("%", "%%")
        if isinstance(field.default, bool):
            run.add_argument(option(name), action=argparse.BooleanOptionalAction, help=text)
        elif name in {"model_filter", "columns"}:
            metavar = "PATTERN" if name == "model_filter" else "FIELD=COLUMN"
            run.add_argument(option(name), action="append", metavar=metavar, help=text)
        else:
            if field.default is not None and not field.is_required():
                text += f" Default: {field.default}."
            run.add_argument(option(name), metavar=name.upper(), help=text)
    run.add_argument("--json", action="store_true", default=False, help="print one JSON object on stdout")
    inspect = commands.add_parser(
        "inspect",
        help="show what a run did",
        description="Show what a run did: shared prefixes, densities, the mix over time, planned and actual "
        "figures. Nothing of a prompt is shown.",
        allow_abbrev=False,
    )
    inspect.add_argument("run", metavar="RUN", help="the run directory, as `run` prints it: a path or an URI")
    inspect.add_argument("--top", type=int, default=10, help="most prefixes to list. Default: 10.")
    inspect.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    rollback = commands.add_parser(
        "rollback",
        help="publish an earlier result of a date again",
        description="Make an earlier publication of a date the current one again, in the tables and in the "
        "date's log. Nothing is computed or deleted.",
        allow_abbrev=False,
    )
    rollback.add_argument("--job", required=True, help="name of the nightly")
    rollback.add_argument("--store", required=True, help="where its results are")
    rollback.add_argument("--run-date", required=True, help="the date, as 2026-11-22")
    rollback.add_argument("--to", metavar="PUBLICATION", help="which one; else the one before the current")
    rollback.add_argument("--catalog", help="as for `run`; none rolls the files back alone")
    rollback.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    calibrate = commands.add_parser(
        "calibrate",
        help="measure this machine",
        description="Measure what this machine achieves with a model, by running the engine on made-up "
        "requests, and write a device profile for the planner.",
        allow_abbrev=False,
    )
    calibrate.add_argument("--model", required=True, help="model folder or hub id")
    calibrate.add_argument("--out", required=True, metavar="FILE", help="where to write the profile (JSON)")
    calibrate.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1. Default: auto.")
    calibrate.add_argument("--dtype", default="auto", help="as for `run`. Default: auto.")
    calibrate.add_argument(
        "--seconds", type=float, default=60.0, help="how long to measure, loading apart. Default: 60."
    )
    calibrate.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
