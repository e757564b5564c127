"""`nightblend run`: one night."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from flows.commands.parser import add_command, add_fields, interrupt
from flows.parameters.nightly import NightlyParameters
from flows.parameters.to_request import night_request
from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from flows.commands.parser import Commands


def add(commands: Commands) -> None:
    """Add the command; its options are the fields of `NightlyParameters`."""
    parser = add_command(
        commands,
        "run",
        execute,
        help="run one night",
        description="Run one night: extract, profile, plan, infer, publish. A stopped run goes on, a "
        "finished one answers at once.",
        epilog="Exit codes: 0 done, 1 failed or aborted, 2 wrong usage, 3 done with more bad rows than "
        "allowed, 4 stopped and resumable, 5 another live run owns the date.",
        argument_default=argparse.SUPPRESS,
    )
    add_fields(parser, NightlyParameters.model_fields)


def execute(options: dict[str, Any]) -> int:
    """Run the night; as a Prefect flow if `options` has `with_flow`, else where `PREFECT_API_URL` is set."""
    as_json, with_flow = options.pop("json"), options.pop("with_flow", None)
    if with_flow is None:
        # Starting Prefect's own API inside the process takes about ten seconds.
        with_flow = bool(os.environ.get("PREFECT_API_URL"))
    # A stop of the container is a stop of the run: what is answered is written, and the run can be resumed.
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        parameters = NightlyParameters.parse(options)
        if with_flow:
            return _print(_as_flow(parameters), as_json=as_json)
        return _here(parameters, as_json=as_json)
    finally:
        signal.signal(signal.SIGTERM, before)


def _as_flow(parameters: NightlyParameters) -> dict[str, Any]:
    night_request(parameters)
    from flows.nightly import nightly

    return nightly(parameters)


def _here(parameters: NightlyParameters, *, as_json: bool) -> int:
    if parameters.compute_on is not None:
        raise ConfigurationError(
            "--compute-on",
            "needs a Prefect server, which starts that deployment",
            "Set PREFECT_API_URL, or leave it out to compute here",
        )
    request = night_request(parameters)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    from flows.dates.catch_up import catching_up
    from flows.run.sequence import run_night
    from flows.views.console import ConsoleReporter

    reporter = ConsoleReporter()
    with catching_up(parameters, request.run_date):
        try:
            result = run_night(request, reporter=reporter)
        finally:
            reporter.close()
        return _print(result, as_json=as_json)


def _print(result: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        from flows.run.sequence import RESULT_KEYS

        print(json.dumps({key: result[key] for key in RESULT_KEYS}, ensure_ascii=False), flush=True)
    else:
        from flows.views.console import print_table

        print_table(result)
    return int(result["exit_code"])
