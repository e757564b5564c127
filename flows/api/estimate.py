"""An estimate from Python: what a night of past logs would take and save."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.api.fields import filled
from flows.parameters.estimate import EstimateParameters
from tasks.base.errors import ConfigurationError
from tasks.estimate.words import headline

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Span:
    """A figure, and the bounds that it is expected within."""

    low: float
    central: float
    high: float

    @classmethod
    def of(cls, found: Mapping[str, float]) -> Span:
        """Return it with a type."""
        return cls(found["low"], found["central"], found["high"])


@dataclass(frozen=True, slots=True)
class Order:
    """What an order of the requests would take on a machine.

    Attributes
    ----------
    order, overlap
        Its name; whether loads of computing and memory overlap in it.
    tokens_per_second, hit_rate
        Tokens answered in a second; share of prompt tokens that are not computed again.
    hours, gpu_hours, money
        Until done on this machine; times its GPUs; times the price, None if none is known.
    optimum_share
        Of the fastest that the machine could be.
    label
        Where the figures are from: `simulated`, or `sampled` for a part of the night.
    """

    order: str
    overlap: bool
    tokens_per_second: float
    hit_rate: float
    hours: float
    gpu_hours: float
    money: float | None
    optimum_share: float
    label: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What a night would take on one kind of machine.

    Attributes
    ----------
    name, gpus, price_per_gpu_hour
        Such as 4xa100 and 4; the price is None if none was given.
    answer, reasons
        Whether it is worth it, in words, and why.
    headline
        The answer for this machine in a sentence or two.
    today_gpu_hours, gpu_hours
        GPU hours of a night by the engine in use today, and by ours.
    today_money, money
        The same in money; None without a price.
    saving
        Share of GPU hours that is saved.
    best_order, orders
        The order that takes the least; all of them.
    """

    name: str
    gpus: int
    price_per_gpu_hour: float | None
    answer: str
    reasons: tuple[str, ...]
    headline: str
    today_gpu_hours: Span
    gpu_hours: Span
    today_money: Span | None
    money: Span | None
    saving: Span
    best_order: str
    orders: tuple[Order, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a night of past logs would take and save; simulated, on machines that are not rented yet.

    Attributes
    ----------
    model, currency, requests
        What was asked for; how many requests were read.
    machines
        One for each of the GPUs that were asked for and that the night fits on.
    refused
        Name of each of the others -> why.
    assumptions
        What the figures rest on.
    """

    model: str
    currency: str
    requests: int
    machines: tuple[Machine, ...]
    refused: Mapping[str, str]
    assumptions: tuple[str, ...]
    _made: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, made: dict[str, Any]) -> Estimate:
        """Return the result of `tasks.estimate.estimate.estimate` with types."""
        return cls(
            model=made["model"],
            currency=made["currency"],
            requests=made["requests"]["count"],
            machines=tuple(_machine(made, found) for found in made["machines"]),
            refused=made["refused"],
            assumptions=tuple(made["assumptions"]),
            _made=made,
        )

    @property
    def verdict(self) -> str:
        """The answer for each machine, a line each."""
        return "\n".join(machine.headline for machine in self.machines)

    def as_dict(self) -> dict[str, Any]:
        """Return what `nightblend estimate --json` prints."""
        return self._made

    def html(self) -> str:
        """Return the estimate as a web page without links, to send around."""
        from tasks.estimate.page import document
        from tasks.report.document import to_html

        return to_html(document(self._made))


def estimate(
    parameters: EstimateParameters | None = None,
    /,
    *,
    as_flow: bool = False,
    quiet: bool = False,
    **given: Any,  # noqa: ANN401 - fields of the form
) -> Estimate:
    """Tell from past logs what a night would take on GPUs that are not rented yet, and what it would save.

        found = estimate(source="logs/", model="llama-3.1-8b", gpu="a100,h100", price="2.5")
        print(found.verdict)
        Path("estimate.html").write_text(found.html())

    Parameters
    ----------
    parameters
        The form of an estimate; `given` replaces single values of it.
    as_flow
        Run as flow `estimate` of Prefect, with artifacts there.
    quiet
        Say nothing on stderr of what is being done.
    given
        Fields of `flows.parameters.estimate.EstimateParameters`, which are the options of
        `nightblend estimate`. `source` and `model` have no default.

    Raises
    ------
    ConfigurationError
        If a setting is wrong, the logs say too little, or nothing fits on any of the GPUs.
    """
    asked = filled(EstimateParameters, parameters, given)
    out = None if asked.out is None else Path(asked.out)
    if out is not None and not out.parent.is_dir():
        raise ConfigurationError("--out", f"there is no folder {out.parent}", "Make it, or name another")
    from flows.parameters.to_request import estimate_request

    request = estimate_request(asked)
    if as_flow:
        from flows.estimate import estimate as flow

        # It writes the page itself.
        return Estimate.of(flow(asked))
    from tasks.estimate.estimate import estimate as make_estimate

    made = Estimate.of(make_estimate(request, told=_silent if quiet else _say))
    if out is not None:
        out.write_text(made.html(), encoding="utf-8")
    return made


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _silent(_: str) -> None:
    """Say nothing."""


def _machine(made: dict[str, Any], found: dict[str, Any]) -> Machine:
    hours, money = found["gpu_hours"], found["money"]
    return Machine(
        name=found["machine"],
        gpus=found["gpus"],
        price_per_gpu_hour=found["price_per_gpu_hour"],
        answer=found["verdict"]["answer"],
        reasons=tuple(found["verdict"]["reasons"]),
        headline=headline(made, found),
        today_gpu_hours=Span.of(hours["today"]),
        gpu_hours=Span.of(hours["ours"]),
        today_money=None if money is None else Span.of(money["today"]),
        money=None if money is None else Span.of(money["ours"]),
        saving=Span.of(found["saving"]),
        best_order=found["best_order"],
        orders=tuple(_order(row) for row in found["orders"]),
    )


def _order(row: Mapping[str, Any]) -> Order:
    return Order(**{one.name: row[one.name] for one in fields(Order)})
