"""`nightblend compare`: the same requests through several engines and orders in turn."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flows.commands.parser import CommandParser, number, whole
from flows.parameters.nightly import NightlyParameters
from tasks.base.accounting import ExitCode

JOB = "compare"
INPUT_FIELDS = (
    "format",
    "columns",
    "model_filter",
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "run_seed",
)
DEVICE_FIELDS = (
    "device",
    "dtype",
    "kv_dtype",
    "device_profile",
    "kv_tokens",
    "token_budget",
    "max_sequences",
)
_FIELDS = (*INPUT_FIELDS, *DEVICE_FIELDS, "page_size", "lengths", "timezone")


def make_parser() -> CommandParser:
    """Return the options of the command: its own, and those of `run` that decide what is measured."""
    parser = CommandParser(
        "compare",
        description="Send a sample of a date's requests through several engines and orders in turn, and tell "
        "tokens per second, hits, preemptions, memory and the share of equal answers. Nothing is published.",
    )
    group = parser.add_argument_group("What to compare")
    for name, text in (("--source", "request logs, as for `run`"), ("--model", "model folder or hub id")):
        group.add_argument(name, required=True, help=f"{text}.")
    group.add_argument("--run-date", metavar="DATE", help="As for `run`.")
    group.add_argument("--engines", default="native", help="Names, as native,vllm,endpoint. Default: native.")
    group.add_argument("--policies", default="blend,fcfs", help="Orders. Default: blend,fcfs.")
    group.add_argument(
        "--engine-python",
        action="append",
        metavar="[ENGINE:]PATH",
        help="The interpreter that has vLLM or SGLang; with both of them one for each, as sglang:PATH.",
    )
    group.add_argument(
        "--engine-option", action="append", metavar="ENGINE:KEY=VALUE", help="As for `run`, for one of them."
    )
    group.add_argument(
        "--sample", type=whole, default=200, metavar="N", help="Requests; 0: all. Default: 200."
    )
    group.add_argument("--rounds", type=whole, default=3, metavar="N", help="Runs of each. Default: 3.")
    group.add_argument("--price", type=number, metavar="NUMBER", help="Of an hour of the device.")
    group.add_argument("--currency", default="USD", metavar="CODE", help="Of the price. Default: USD.")
    group.add_argument(
        "--out", default="compare.html", metavar="FILE", help="The page. Default: compare.html."
    )
    parser.add_form(NightlyParameters, without=set(NightlyParameters.model_fields) - set(_FIELDS))
    return parser


def execute(options: dict[str, Any]) -> int:
    """Measure, print the table and write the page."""
    from flows.parameters.to_request import night_request
    from flows.views.compare import print_comparison, tell_run
    from tasks.compare.compare import compare
    from tasks.compare.document import document
    from tasks.compare.variants import variants_of
    from tasks.report.document import to_html

    as_json = options.pop("json")
    own = {name: options.pop(name) for name in ("sample", "rounds", "price", "out", "currency")}
    engines, policies = (options.pop(name).split(",") for name in ("engines", "policies"))
    given, pythons = (options.pop(name) or () for name in ("engine_option", "engine_python"))
    variants = variants_of(engines, policies, given, pythons)
    if options["run_date"] is None:
        del options["run_date"]
    with TemporaryDirectory(prefix="nightblend-compare-") as folder:
        asked = {**options, "job": JOB, "store": f"{folder}/store", "publish": False}
        request = night_request(NightlyParameters.parse(asked))
        found = compare(
            request,
            variants,
            Path(folder) / "scratch",
            rounds=max(1, own["rounds"]),
            sample=max(0, own["sample"]),
            price=own["price"],
            on_run=None if as_json else tell_run,
        )
    title = f"Engines and orders on {options['source']}"
    Path(own["out"]).write_text(to_html(document(found, title, own["currency"])))
    if as_json:
        print(json.dumps({**found, "page": own["out"]}, ensure_ascii=False))
    else:
        print_comparison(found, own["currency"])
        print(f"\nThe page is {own['out']}")
    return int(ExitCode.OK)
