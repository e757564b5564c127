"""What the forms ask for, as the steps take it: a night, the options that ask for it again, an estimate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.choices import ENDPOINT, NATIVE
from engine.cost.devices import (
    DeviceError,
    check_kv_dtype,
    default_step,
    device_elsewhere,
    devices_from,
    find_device,
    find_dtype,
)
from engine.cost.profiles import DeviceProfile, ProfileError, read_profile
from flows.parameters.candidate import check_candidate, differences, rules_of, side_parameters
from flows.parameters.form import option
from flows.parameters.presets import STANDARD
from tasks.base.errors import ConfigurationError
from tasks.canary.answers import load_scorer
from tasks.extract.readers.generic import parse_columns
from tasks.extract.readers.registry import find_reader
from tasks.infer.backends.engines import check_engine
from tasks.infer.backends.ray_cluster import check_ray
from tasks.night.night import NightSettings
from tasks.night.promises import parse_promises
from tasks.night.request import Canary, NightRequest, Side
from tasks.requests.formats import AUTO
from tasks.requests.sampling import SamplingDefaults
from tasks.warehouse.catalogs import choose_catalog

if TYPE_CHECKING:
    from datetime import date, datetime

    from flows.parameters.estimate import EstimateParameters
    from flows.parameters.nightly import NightlyParameters
    from tasks.estimate.estimate import EstimateRequest

_ONCE: Final = frozenset(
    {"run_date", "rerun", "take_over", "force", "give_way", "catch_up_days", "failed_only"}
)
"""Fields that are about how one run came to be, not about what it computes."""


def night_request(parameters: NightlyParameters, now: datetime | None = None) -> NightRequest:
    """Return the night that is asked for, its preset spelled out and its date resolved.

    Parameters
    ----------
    now
        Aware; a scheduled run passes its scheduled time, which a retry does not change. None is the present.

    Raises
    ------
    ConfigurationError
        If a date must be given and is not, a setting is out of range, or the device is not there.
    """
    if parameters.preset != STANDARD:
        parameters = parameters.with_preset()
    run_date = parameters.resolve_date(now)
    settings = _settings(parameters)
    columns = parse_columns(parameters.columns)
    find_reader(parameters.format, columns)
    asked = NightRequest(
        job=parameters.job,
        source=parameters.source,
        store_uri=parameters.store,
        model=parameters.model,
        run_date=run_date,
        settings=settings,
        rerun=parameters.rerun,
        take_over=parameters.take_over,
        failed_only=parameters.failed_only,
        model_filter=tuple(parameters.model_filter),
        log_format=parameters.format,
        columns=tuple(columns.items()),
        image_sources=tuple(parameters.image_source),
        timezone=parameters.timezone,
        options=night_options(parameters, run_date),
    )
    check_candidate(parameters)
    if parameters.canary is None and parameters.canary_steps is None:
        return asked
    return replace(asked, canary=_canary(parameters, now))


def _canary(parameters: NightlyParameters, now: datetime | None) -> Canary:
    if parameters.canary_scorer is not None:
        load_scorer(parameters.canary_scorer)
    by, percent = parameters.canary_by, parameters.canary or 0.0
    changed = differences(parameters.canary_option)
    candidate = side_request(parameters, changed, Side("candidate", by, percent), now)
    reference = None
    if parameters.canary_answers:
        reference = side_request(
            parameters, {}, Side("reference", by, percent, parameters.canary_answers), now
        )
    return Canary(candidate, reference, parameters.canary_scorer, rules_of(parameters, changed))


def side_request(
    parameters: NightlyParameters, changed: dict[str, Any], side: Side, now: datetime | None = None
) -> NightRequest:
    """Return the night as a side of it is run: some of its requests, with some settings changed.

    Raises
    ------
    ConfigurationError
        As `night_request`.
    """
    return replace(night_request(side_parameters(parameters, changed), now), side=side)


def _settings(parameters: NightlyParameters) -> NightSettings:
    check_engine(
        parameters.engine,
        parameters.engine_option,
        parameters.max_in_flight,
        parameters.engine_python,
        parameters.hours,
    )
    if parameters.pooling != AUTO and parameters.engine != NATIVE:
        raise ConfigurationError(
            option("pooling"), f"has no meaning with --engine {parameters.engine}", "Leave it out"
        )
    device = _device_elsewhere(parameters) if parameters.engine == ENDPOINT else _device(parameters)
    _check_ray(parameters, device)
    _check_replicas(parameters, device)
    token_budget, max_sequences = default_step(device)
    return NightSettings(
        policy=parameters.policy,
        lengths=parameters.lengths,
        device=device,
        engine=parameters.engine,
        engine_python=parameters.engine_python,
        engine_options=tuple(parameters.engine_option),
        max_in_flight=parameters.max_in_flight,
        hours=parameters.hours,
        replicas=parameters.replicas,
        ray=parameters.ray,
        dtype=find_dtype(parameters.dtype, device),
        kv_dtype=parameters.kv_dtype,
        kv_tokens=parameters.kv_tokens,
        pooling=None if parameters.pooling == AUTO else parameters.pooling,
        page_size=parameters.page_size,
        token_budget=parameters.token_budget or token_budget,
        max_sequences=parameters.max_sequences or max_sequences,
        defaults=SamplingDefaults(
            parameters.max_tokens, parameters.temperature, parameters.top_k, parameters.top_p
        ),
        run_seed=parameters.run_seed,
        part_seconds=parameters.part_seconds,
        part_answers=parameters.part_answers,
        engine_restarts=parameters.engine_restarts,
        max_bad_fraction=parameters.max_bad_fraction,
        abort_quarantined_fraction=parameters.abort_quarantined_fraction,
        lease_s=parameters.lease_s,
        heartbeat_s=parameters.heartbeat_s,
        publish=parameters.publish,
        force=parameters.force,
        gives_way=parameters.give_way,
        device_profile=_profile(parameters),
        gpu_hour_price=parameters.gpu_hour_price,
        currency=parameters.currency,
        report=parameters.report,
        metrics_port=parameters.metrics_port,
        promises=parse_promises(parameters.promise, parameters.timezone),
        catalog=choose_catalog(parameters.catalog, parameters.store) if parameters.publish else None,
    )


def _device(parameters: NightlyParameters) -> str:
    here = parameters.compute_on is None and parameters.ray is None
    if parameters.compute_on is not None and parameters.engine != NATIVE:
        raise ConfigurationError(
            option("compute_on"), f"does not go with --engine {parameters.engine} yet", "Leave it out"
        )
    try:
        device = find_device(parameters.device) if here else device_elsewhere(parameters.device)
        # Another machine's GPU is looked at there.
        if here or device == "cpu":
            check_kv_dtype(parameters.kv_dtype, device)
    except DeviceError as error:
        raise ConfigurationError(error.option, error.message, error.remedy) from None
    return device


def _check_ray(parameters: NightlyParameters, device: str) -> None:
    if parameters.ray is None:
        return
    name = option("ray")
    if device == ENDPOINT:
        raise ConfigurationError(name, f"has no meaning with --engine {ENDPOINT}", "Leave it out")
    if parameters.compute_on is not None:
        raise ConfigurationError(name, f"does not go with {option('compute_on')}", "Leave one out")
    if device not in {"cpu", device_elsewhere()}:
        raise ConfigurationError(
            option("device"),
            f"{parameters.device} has no meaning on a cluster, which deals its GPUs out",
            "Use cuda or cpu",
        )
    check_ray(parameters.ray)


def _check_replicas(parameters: NightlyParameters, device: str) -> None:
    if parameters.replicas == 1:
        return
    name = option("replicas")
    if device == ENDPOINT:
        remedy = "Leave it out, and name each server by --engine-option url=ADDRESS"
        raise ConfigurationError(name, f"has no meaning with --engine {ENDPOINT}", remedy)
    if parameters.compute_on is not None:
        raise ConfigurationError(name, f"does not go with {option('compute_on')} yet", "Leave one out")
    if parameters.ray is not None:
        # Its nodes are looked at by the cluster.
        return
    try:
        for one in devices_from(device, parameters.replicas):
            find_device(one)
    except DeviceError as error:
        raise ConfigurationError(
            name, f"{parameters.replicas} from {device} on: {error.message}", "Ask for fewer"
        ) from None


def _device_elsewhere(parameters: NightlyParameters) -> str:
    """Return what stands for the device of an engine elsewhere; settings of a device here are refused."""
    for name, value in (("device", "auto"), ("kv_dtype", "auto"), ("compute_on", None)):
        if getattr(parameters, name) != value:
            raise ConfigurationError(
                option(name),
                f"has no meaning with --engine {parameters.engine}, which computes elsewhere",
                "Leave it out",
            )
    return ENDPOINT


def _profile(parameters: NightlyParameters) -> DeviceProfile | None:
    if parameters.device_profile is None:
        return None
    try:
        return read_profile(Path(parameters.device_profile))
    except ProfileError as error:
        raise ConfigurationError(
            option("device_profile"), str(error), "Write one with `nightblend calibrate`"
        ) from None


def night_options(parameters: NightlyParameters, run_date: date) -> tuple[str, ...]:
    """Return the options of `nightblend run` that ask for a night again, defaults left out.

    Parameters
    ----------
    run_date
        Its date, which is given then.
    """
    given = parameters.model_dump(mode="json", exclude_defaults=True, exclude=set(_ONCE))
    typed: list[str] = []
    for name, value in {**given, "run_date": run_date.isoformat()}.items():
        if isinstance(value, bool):
            typed.append(option(name) if value else option(f"no_{name}"))
        else:
            for one in value if isinstance(value, list) else [value]:
                typed += [option(name), str(one)]
    return tuple(typed)


def estimate_request(parameters: EstimateParameters) -> EstimateRequest:
    """Return the estimate that is asked for.

    Raises
    ------
    ConfigurationError
        If a setting is wrong or two of them do not go together.
    """
    # A night does without the estimate and its simulator.
    from tasks.estimate.estimate import EstimateRequest
    from tasks.estimate.read import Source
    from tasks.estimate.report import Question

    if (parameters.store is None) != (parameters.job is None):
        raise ConfigurationError(
            "--job" if parameters.job is None else "--store",
            "is missing",
            "Past runs are told by both --store and --job",
        )
    return EstimateRequest(
        source=Source(
            parameters.source,
            run_date=parameters.run_date,
            timezone=parameters.timezone,
            log_format=parameters.format,
            columns=parse_columns(parameters.columns),
            output_tokens=parameters.output_tokens,
            max_tokens=parameters.max_tokens,
        ),
        model=parameters.model,
        gpus=parameters.gpu,
        prices=parameters.price,
        currency=parameters.currency,
        device_profile=parameters.device_profile,
        kv_tokens=parameters.kv_tokens,
        kv_dtype=parameters.kv_dtype,
        token_budget=parameters.token_budget,
        question=Question(today=parameters.today, most_gpus=parameters.max_gpus),
        past=None
        if parameters.store is None or parameters.job is None
        else (parameters.store, parameters.job),
    )
