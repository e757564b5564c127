"""`nightblend serve`: nightly, on-demand, backfill and watch on a laptop, without a work pool."""

from __future__ import annotations

import os
from typing import Any, Final

from flows.commands.common import check_server, parse_ready_by
from flows.commands.parser import CommandParser
from flows.parameters.nightly import NightlyParameters
from tasks.base.accounting import ExitCode
from tasks.base.errors import ConfigurationError

_FIXED: Final = ("run_date", "rerun", "take_over", "force")
"""Fields that belong to one run, not to all that are served."""


def make_parser() -> CommandParser:
    """Return the options of the command, which are those fields of a night that hold for every run."""
    parser = CommandParser(
        "serve",
        description="Serve the nightly on a schedule, on-demand runs, backfills and the watch from this "
        "process: no work pool and no worker are needed, only a Prefect server (PREFECT_API_URL). It ends "
        "with Ctrl-C.",
    )
    parser.add_argument(
        "--cron", default="30 1 * * *", help="when the nightly starts, in --timezone. Default: 30 1 * * *."
    )
    parser.add_argument(
        "--ready-by",
        default="07:00",
        metavar="HH:MM",
        help="when the night has to be published, in --timezone; what is not is told. Default: 07:00.",
    )
    parser.add_form(NightlyParameters, without=_FIXED)
    return parser


def execute(options: dict[str, Any]) -> int:
    """Serve until the process is stopped."""
    check_server("serve")
    options.pop("json")
    cron, ready_by = options.pop("cron"), parse_ready_by(options.pop("ready_by"))
    parameters = NightlyParameters.parse(options)
    from flows.parameters.to_request import night_request

    # A wrong setting is told now, not at night.
    night_request(parameters)
    # Runs are processes of their own, with this environment.
    from flows.deploy.plugin import RUN_ENVIRONMENT

    os.environ.update(RUN_ENVIRONMENT)
    from flows.deploy.serve import deployments, prepare, run_served

    try:
        served = deployments(parameters, cron, ready_by)
    except ValueError as error:
        raise ConfigurationError("--cron", str(error), "Write it as minute hour day month weekday") from None
    for line in prepare(served):
        print(line)
    run_served(served)
    return int(ExitCode.OK)
