"""`nightblend shadow`: a published date answered once more with something different, and compared."""

from __future__ import annotations

import json
from typing import Any

from flows.commands import run
from flows.commands.parser import CommandParser, number
from flows.parameters.nightly import NightlyParameters
from tasks.base.accounting import ExitCode
from tasks.base.errors import ConfigurationError
from tasks.base.run_date import parse_date

_SHARED_BY = ("request", *sorted({*NightlyParameters.CHOICES["canary_by"]} - {"request"}))
_DIFFERENCES = (
    ("exact", "equal"),
    ("normalised", "equal but for case, spaces and punctuation"),
    ("json_equal", "equal as JSON, of those that are JSON"),
)


def make_parser() -> CommandParser:
    """Return the options of the command."""
    parser = CommandParser(
        "shadow",
        description="Answer the requests of a published date once more with other settings (a new model, "
        "another engine), and compare with what is published. Nothing is published; what is not given is as "
        "that night was asked for.",
    )
    parser.add_argument("--job", required=True, help="name of the nightly")
    parser.add_argument("--store", required=True, help="where its results are")
    parser.add_argument("--run-date", "--date", required=True, metavar="DATE", help="the date, as 2026-11-22")
    parser.add_argument(
        "--option",
        action="append",
        metavar="FIELD=VALUE",
        help="what is different, as model=DIR or engine=vllm; may be repeated",
    )
    parser.add_argument(
        "--percent", type=number, default=100.0, metavar="NUMBER", help="of the requests. Default: 100."
    )
    parser.add_argument(
        "--by", default=_SHARED_BY[0], metavar="WHAT", help="the share is a hash of. Default: request."
    )
    parser.add_argument("--scorer", metavar="MODULE:FUNCTION", help="function of two answers: a number")
    return parser


def execute(options: dict[str, Any]) -> int:
    """Answer, compare and print."""
    from flows.api.shadow import shadow
    from tasks.operations.retry import published_options
    from tasks.store.open import open_store

    if options["by"] not in _SHARED_BY:
        raise ConfigurationError(
            "--by", f"{options['by']!r} is unknown", f"Choose of {', '.join(_SHARED_BY)}"
        )
    if not 0.0 < options["percent"] <= 100.0:
        raise ConfigurationError("--percent", f"{options['percent']:g} is no share", "Give at most 100")
    day = parse_date(options["run_date"])
    _, typed = published_options(open_store(options["store"]), options["job"], day)
    before = run.make_parser().finish().parse(typed)
    fields = {name: value for name, value in before.items() if name in NightlyParameters.model_fields}
    kept = {name: value for name, value in fields.items() if not name.startswith("canary")}
    found = shadow(
        NightlyParameters.parse({**kept, "run_date": day, "store": options["store"]}),
        options["option"] or (),
        percent=options["percent"],
        by=options["by"],
        scorer=options["scorer"],
    )
    if options["json"]:
        print(json.dumps(found, ensure_ascii=False))
    else:
        _tell(found)
    return int(ExitCode.FAILED if found["failure"] else ExitCode.OK)


def _tell(found: dict[str, Any]) -> None:
    print(f"{found['job']}, {found['run_date']}: {found['shadow']} beside {found['publication_id']}")
    for name in ("published", "shadowed"):
        side = found[name]
        mean, speed = side["mean_output_tokens"], side["tokens_per_second"]
        length = "" if mean is None else f", {mean:,.1f} tokens each"
        fast = "" if speed is None else f", {speed:,.0f} tokens/s"
        print(f"  {name:<10} {side['outputs']:,} answers, {side['errors']:,} errors{length}{fast}")
    if found["compared"]:
        shares = [f"{found[name]:.1%} {words}" for name, words in _DIFFERENCES if found[name] is not None]
        shares += [] if found["score"] is None else [f"mean score {found['score']:.3g}"]
        print(f"Of {found['compared']:,} answers that both gave: {'; '.join(shares)}.")
    if found["failure"]:
        print(f"It ended early: {found['failure']}")
