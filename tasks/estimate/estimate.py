"""Logs, a model, GPUs and prices in; what a night would take and save on each of them out."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tasks.base.errors import ConfigurationError
from tasks.estimate.machine import PAGE_SIZE, choose_devices, choose_model, make_machine, parse_prices
from tasks.estimate.read import read_requests
from tasks.estimate.report import Question, estimate_machine
from tasks.estimate.trust import corrections_of, past_errors, past_lengths
from tasks.estimate.verdict import assumptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.cost.profiles import DeviceProfile
    from tasks.estimate.machine import Machine, Model
    from tasks.estimate.read import Source
    from tasks.estimate.requests import Requests

log = logging.getLogger(__name__)

FORMAT: Final = 1
"""Of the JSON; raise it when a key changes its meaning."""


@dataclass(frozen=True)
class EstimateRequest:
    """What is asked for; see `flows.parameters.estimate` for each of them.

    Attributes
    ----------
    gpus, prices
        As they are typed (`tasks.estimate.machine`).
    question
        Everything else.
    past
        Store and job whose runs correct the times, and give lengths where the logs have none.
    """

    source: Source
    model: str
    gpus: str = "h100"
    prices: str | None = None
    currency: str = ""
    device_profile: str | None = None
    kv_tokens: int | None = None
    kv_dtype: str = "auto"
    token_budget: int | None = None
    question: Question = field(default_factory=Question)
    past: tuple[str, str] | None = None


def estimate(request: EstimateRequest, told: Callable[[str], None] = log.info) -> dict[str, Any]:
    """Return the estimate: `requests` (what was read), `machines` (`tasks.estimate.report`), `refused`.

    Parameters
    ----------
    told
        Hears what is being done.

    Raises
    ------
    ConfigurationError
        If a setting is wrong, the logs say too little, or nothing fits on any of the GPUs.
    """
    model = choose_model(request.model)
    devices = choose_devices(request.gpus, request.device_profile)
    prices = parse_prices(request.prices, devices)
    source = request.source
    if request.past is not None:
        source = replace(source, past_lengths=past_lengths(*request.past))
    with TemporaryDirectory(prefix="nightblend-") as folder:
        told(f"reading {source.place}")
        requests = read_requests(source, model, Path(folder))
    told(f"requests: {len(requests):,}, tokens: {requests.total_tokens:,}")
    return estimate_requests(requests, model, devices, prices, request, told)


def estimate_requests(
    requests: Requests,
    model: Model,
    devices: list[DeviceProfile],
    prices: dict[str, float],
    request: EstimateRequest,
    told: Callable[[str], None] = log.info,
) -> dict[str, Any]:
    """Return the estimate of requests that are read already; see `estimate`."""
    machines, refused = _machines(requests, model, devices, prices, request)
    question = request.question
    found = []
    past = [] if request.past is None else past_errors(*request.past)["runs"]
    corrections = {machine.name: corrections_of(past, machine.device) for machine in machines}
    for machine in machines:
        told(f"simulating {machine.name}")
        asked = replace(question, corrections=corrections[machine.name])
        found.append(estimate_machine(requests, machine, asked))
    return {
        "format": FORMAT,
        "label": "simulated: the scheduler is the real one, the device is modelled",
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": model.name,
        "currency": request.currency,
        "requests": {
            "name": requests.name,
            "count": len(requests),
            "distinct": len(requests.distinct),
            "prompt_tokens": requests.prompt_tokens,
            "output_tokens": requests.output_tokens,
            **requests.about,
        },
        "machines": found,
        "refused": refused,
        "corrections": {name: asdict(found) for name, found in corrections.items()},
        "past_runs": len(past),
        "assumptions": assumptions(requests, machines, corrections, asked_for_past=request.past is not None),
    }


def _machines(
    requests: Requests,
    model: Model,
    devices: list[DeviceProfile],
    prices: dict[str, float],
    request: EstimateRequest,
) -> tuple[list[Machine], dict[str, str]]:
    lengths = np.diff(requests.start) + requests.output
    longest = int(lengths.max())
    pages = -(-lengths // PAGE_SIZE) + 1
    found, refused = [], {}
    errors = []
    for device in devices:
        try:
            machine = make_machine(
                model,
                device,
                longest=longest,
                most=int(pages.sum()) * PAGE_SIZE,
                kv_tokens=request.kv_tokens,
                kv_dtype=request.kv_dtype,
                token_budget=request.token_budget,
                price=prices.get(device.name),
            )
        except ConfigurationError as error:
            errors.append(error)
            refused[device.name] = str(error)
        else:
            found.append(machine)
    if not found:
        raise errors[0]
    return found, refused
