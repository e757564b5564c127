"""`nightblend pilot`: a sample of a real date in today's order and in the blend, and the night from it."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from flows.commands.compare import DEVICE_FIELDS, INPUT_FIELDS
from flows.commands.parser import CommandParser, number, whole
from flows.parameters.nightly import NightlyParameters
from tasks.base.accounting import ExitCode
from tasks.base.errors import ConfigurationError

JOB: Final = "pilot"
_ENGINE: Final = ("page_size", "lengths", "timezone", "engine", "engine_option", "engine_python")
_FIELDS: Final = (*INPUT_FIELDS, *DEVICE_FIELDS, *_ENGINE, "max_in_flight")
_OWN: Final = ("today", "sample", "rounds", "price", "currency", "store", "job", "out")


def make_parser() -> CommandParser:
    """Return the options of the command: its own, and those of `run` that decide what is measured."""
    parser = CommandParser(
        "pilot",
        description="Answer a sample of a real date (workloads and tenants in proportion) on this device in "
        "today's order and in the blend, in alternating rounds; tell what the whole night would take in "
        "each, with bounds, beside what the estimate says. Nothing is published.",
    )
    group = parser.add_argument_group("What to try")
    for name, text in (("--source", "request logs, as for `run`"), ("--model", "model folder or hub id")):
        group.add_argument(name, required=True, help=f"{text}.")
    group.add_argument("--run-date", metavar="DATE", help="As for `run`.")
    group.add_argument("--today", default="fcfs", metavar="ORDER", help="Order in use now. Default: fcfs.")
    group.add_argument(
        "--sample", type=whole, default=500, metavar="N", help="Requests, about; 0: all. Default: 500."
    )
    group.add_argument("--rounds", type=whole, default=3, metavar="N", help="Runs of each. Default: 3.")
    group.add_argument("--price", type=number, metavar="NUMBER", help="Of an hour of the device.")
    group.add_argument("--currency", default="USD", metavar="CODE", help="Of the price. Default: USD.")
    group.add_argument("--store", help="Past runs that correct the estimate; goes with --job.")
    group.add_argument("--job", help="The nightly whose past runs count.")
    group.add_argument("--out", default="pilot.html", metavar="FILE", help="The page. Default: pilot.html.")
    parser.add_form(NightlyParameters, without=set(NightlyParameters.model_fields) - set(_FIELDS))
    return parser


def execute(options: dict[str, Any]) -> int:
    """Measure, print the decision and write the page."""
    from engine.choices import POLICIES
    from flows.parameters.to_request import night_request
    from flows.views.pilot import print_pilot, tell_order
    from tasks.pilot.document import document
    from tasks.pilot.pilot import PilotSettings, pilot
    from tasks.report.document import to_html

    as_json = options.pop("json")
    own = {name: options.pop(name) for name in _OWN}
    if own["today"] not in POLICIES:
        known = ", ".join(POLICIES)
        raise ConfigurationError("--today", f"{own['today']!r} is unknown", f"Choose of {known}")
    if (own["store"] is None) != (own["job"] is None):
        missing = "--job" if own["job"] is None else "--store"
        raise ConfigurationError(missing, "is missing", "Past runs are told by both --store and --job")
    page = Path(own["out"])
    if not page.parent.is_dir():
        raise ConfigurationError("--out", f"there is no folder {page.parent}", "Make it, or name another")
    if options["run_date"] is None:
        del options["run_date"]
    with TemporaryDirectory(prefix="nightblend-pilot-") as folder:
        asked = {**options, "job": JOB, "store": f"{folder}/store", "publish": False}
        request = night_request(NightlyParameters.parse(asked))
        found = pilot(
            request,
            PilotSettings(
                today=own["today"],
                sample=max(0, own["sample"]),
                rounds=max(1, own["rounds"]),
                price=own["price"],
                currency=own["currency"],
                past=None if own["store"] is None else (own["store"], own["job"]),
            ),
            Path(folder) / "scratch",
            on_run=None if as_json else tell_order,
        )
    page.write_text(to_html(document(found, options["source"], options["model"])), encoding="utf-8")
    if as_json:
        print(json.dumps({**found, "page": own["out"]}, ensure_ascii=False))
    else:
        print_pilot(found)
        print(f"\nThe page is {own['out']}")
    return int(ExitCode.OK)
