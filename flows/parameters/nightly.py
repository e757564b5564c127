"""The parameters of a night: one flat, ordered model behind the flow's form and the command's options."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import ConfigDict, Field, field_validator

from engine.choices import (
    AUTO_ORDER,
    DTYPES,
    ENGINES,
    ESTIMATORS,
    KV_DTYPES,
    LOGGED,
    NATIVE,
    ORDERS,
    POOLINGS,
)
from flows.parameters.form import SLUG, Form
from flows.parameters.presets import PRESETS, STANDARD
from tasks.base.run_date import resolve_run_date
from tasks.night.request import REQUEST, SHARED_BY
from tasks.requests.formats import AUTO, FORMATS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


class NightlyParameters(Form):
    """What a night is asked to do; every field is an option of `nightblend run` of the same name."""

    model_config = ConfigDict(title="Nightly")
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {
        "preset": PRESETS,
        "engine": ENGINES,
        "policy": ORDERS,
        "lengths": ESTIMATORS,
        "dtype": DTYPES,
        "kv_dtype": KV_DTYPES,
        "pooling": (AUTO, *POOLINGS),
        "canary_by": SHARED_BY,
    }
    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "What to run": ("job", "source", "store", "model", "run_date", "timezone", "lag_days", "preset"),
        "Reading the logs": (
            *("format", "columns", "model_filter", "image_source", "max_bad_fraction"),
            "abort_quarantined_fraction",
        ),
        "Order": ("policy", "lengths", "promise"),
        "Sampling, where a request says nothing": (
            *("max_tokens", "temperature", "top_k", "top_p", "run_seed"),
        ),
        "Embeddings": ("pooling",),
        "Engine": ("engine", "engine_python", "engine_option", "max_in_flight", "hours"),
        "Device and memory": (
            *("device", "replicas", "ray", "dtype", "kv_dtype", "device_profile", "kv_tokens"),
            *("token_budget", "max_sequences", "page_size"),
        ),
        "Stops and restarts": (
            "part_seconds",
            "part_answers",
            "engine_restarts",
            "lease_s",
            "heartbeat_s",
        ),
        "This run": ("rerun", "failed_only", "take_over", "force", "give_way", "catch_up_days"),
        "A candidate": (
            *("canary", "canary_by", "canary_option", "canary_answers", "canary_scorer", "canary_steps"),
            *("canary_nights", "canary_slower", "canary_errors", "canary_lengths", "canary_differing"),
        ),
        "Results": ("publish", "catalog", "report", "gpu_hour_price", "currency", "metrics_port"),
        "Prefect": ("compute_on",),
    }

    job: str = Field(
        title="Job",
        description="Name of the nightly; two jobs never touch each other's data.",
        pattern=SLUG,
        max_length=63,
        examples=["support-triage"],
    )
    source: str = Field(
        title="Source",
        description="Request logs: a file, a folder or an s3:// prefix; or a table: "
        "iceberg://NAMESPACE.TABLE, postgresql://HOST/DB?query=..., duckdb:///FILE?query=...; "
        "may hold the date.",
        min_length=1,
        examples=["s3://logs/{run_date:%Y/%m/%d}/", "logs/"],
    )
    store: str = Field(
        title="Store",
        description="Where runs and results are kept: a folder or s3://bucket/prefix.",
        min_length=1,
        examples=["s3://results/nightblend", "store/"],
    )
    catalog: str | None = Field(
        default=None,
        title="Catalog",
        description="Iceberg catalog of the result tables: sqlite:///FILE, "
        "postgresql+psycopg://HOST/DATABASE, https:// (REST), or none for files only. Empty takes a SQLite "
        "file in a folder store.",
        min_length=1,
        examples=["postgresql+psycopg://catalog/nightblend", "none"],
    )
    model: str = Field(
        title="Model",
        description="Hugging Face model folder or hub id (Llama, Mistral, Qwen2 or Qwen3 architecture).",
        min_length=1,
        examples=["models/Qwen3-0.6B", "Qwen/Qwen3-0.6B"],
    )
    run_date: date | None = Field(
        default=None,
        title="Run date",
        description="Day to run for; empty takes the day `lag_days` ago, if the source holds the date.",
        examples=["2026-11-22"],
    )
    timezone: str = Field(
        default="UTC", title="Timezone", description="Whose days are meant.", examples=["Europe/Berlin"]
    )
    lag_days: int = Field(
        default=1,
        title="Lag",
        description="Calendar days before today, where no date is given.",
        ge=0,
        le=366,
    )
    preset: str = Field(
        default=STANDARD,
        title="Preset",
        description="Values for fields that are not given; "
        + "; ".join(f"{name}: {preset.what}" for name, preset in PRESETS.items())
        + ".",
        json_schema_extra={"enum": list(PRESETS)},
        examples=[STANDARD],
    )
    model_filter: list[str] = Field(
        default_factory=list,
        title="Model filter",
        description="Only requests for models that match one of these patterns; others count as filtered.",
        examples=["small-*"],
    )
    image_source: list[str] = Field(
        default_factory=list,
        title="Image sources",
        description="Where images that requests name by an address may be read, beside the folder of the "
        "logs: folders, s3://BUCKET/PREFIX/, https://HOST/PATH/.",
        examples=["s3://pictures/tickets/"],
    )
    format: str = Field(
        default=AUTO,
        title="Format",
        description="Of the logs; auto tells by their content.",
        json_schema_extra={"enum": list(FORMATS)},
        examples=["litellm"],
    )
    columns: list[str] = Field(
        default_factory=list,
        title="Columns",
        description="For format generic: FIELD=COLUMN of a request, such as prompt=question.",
        examples=["prompt=question"],
    )
    policy: str = Field(
        default=AUTO_ORDER,
        title="Order policy",
        description="; ".join(f"{name}: {what}" for name, what in ORDERS.items()) + ".",
        json_schema_extra={"enum": list(ORDERS)},
        examples=[AUTO_ORDER],
    )
    lengths: str = Field(
        default=LOGGED,
        title="Answer lengths",
        description="; ".join(f"{name}: {what}" for name, what in ESTIMATORS.items()) + ".",
        json_schema_extra={"enum": list(ESTIMATORS)},
        examples=[LOGGED],
    )
    promise: list[str] = Field(
        default_factory=list,
        title="Promises",
        description="TENANT=HH:MM: all requests of the tenant are answered by that time, of the time zone; "
        "TENANT=SHARE%: so much of the device is theirs until they are; TENANT=HH:MM,SHARE%: both. They are "
        "planned first.",
        examples=["acme=06:00,30%"],
    )
    max_tokens: int = Field(
        default=256,
        title="Most output tokens",
        description="Where a request sets none.",
        ge=1,
        examples=[256],
    )
    temperature: float = Field(
        default=0.0, title="Temperature", description="Where a request sets none; 0 is greedy.", ge=0, le=2
    )
    top_k: int = Field(default=0, title="Top k", description="Where a request sets none; 0 is off.", ge=0)
    top_p: float = Field(
        default=1.0, title="Top p", description="Where a request sets none; 1 is off.", gt=0, le=1
    )
    run_seed: int = Field(
        default=0, title="Seed", description="Of sampled requests that bring none.", ge=0, lt=2**63
    )
    pooling: str = Field(
        default=AUTO,
        title="Pooling of embeddings",
        description=f"{AUTO}: as the model's folder says it, in the form of sentence-transformers; "
        + "; ".join(f"{name}: {what}" for name, what in POOLINGS.items())
        + ". Of requests for embeddings; part of what a run is known by.",
        json_schema_extra={"enum": [AUTO, *POOLINGS]},
        examples=[AUTO, "last"],
    )
    engine: str = Field(
        default=NATIVE,
        title="Engine",
        description="; ".join(f"{name}: {what}" for name, what in ENGINES.items()) + ".",
        json_schema_extra={"enum": list(ENGINES)},
        examples=[NATIVE],
    )
    engine_python: str | None = Field(
        default=None,
        title="Python of the engine",
        description="Path of the interpreter that has vLLM or SGLang, which have environments of their own. "
        "Empty is the one that runs this.",
        examples=["/opt/vllm/bin/python"],
    )
    engine_option: list[str] = Field(
        default_factory=list,
        title="Engine options",
        description="KEY=VALUE. Of servers: url (once for each server), model, key_env (the environment "
        "variable that holds the key), prompts, timeout_s, give_up_s, retries. Of vLLM: adapter "
        "(NAME=FOLDER, once for each). Of vLLM and SGLang: scheduling, pacing, and fields of EngineArgs or "
        "ServerArgs, as tensor_parallel_size=2.",
        examples=["url=http://localhost:8000/v1"],
    )
    max_in_flight: int | None = Field(
        default=None,
        title="Most requests in flight",
        description="That servers elsewhere get at a time, all of them together; empty: as many as they turn "
        "out to bear, at most 512 each.",
        ge=1,
        le=100_000,
        examples=[64],
    )
    hours: str | None = Field(
        default=None,
        title="Hours of the servers",
        description="In which servers elsewhere may be used, by the clock of the time zone: HH:MM-HH:MM, "
        "several with commas between them. The night waits for them; empty: at any time.",
        examples=["22:00-06:00"],
    )
    device: str = Field(
        default="auto",
        title="Device",
        description="auto (a GPU where one is usable, else the CPU), cpu, cuda, or cuda:1 for the second.",
        pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$",
        examples=["auto", "cuda"],
    )
    compute_on: str | None = Field(
        default=None,
        title="Compute on",
        description="Deployment of flow compute that runs step infer alone, in a pool with GPUs; `device` is "
        "one there then, and auto its GPU. Store and model are found there under the same names. Empty "
        "computes here.",
        pattern=r"^compute/[^/]+$",
        examples=["compute/compute"],
    )
    replicas: int = Field(
        default=1,
        title="Replicas",
        description="Engines that share the requests, on GPUs in a row from the device on, or on the CPU.",
        ge=1,
        le=64,
        examples=[1],
    )
    ray: str | None = Field(
        default=None,
        title="Ray cluster",
        description="Address of a Ray cluster that computes, auto or HOST:PORT; this machine is one of its "
        "nodes. Each replica waits for a GPU of its own there, or for a core with device cpu. Empty: here.",
        min_length=1,
        examples=["auto", "10.0.0.5:6379"],
    )
    dtype: str = Field(
        default="auto",
        title="Precision",
        description="auto (bfloat16 on a GPU, float32 on the CPU), float32, bfloat16 or float16; part of "
        "what a run is known by.",
        json_schema_extra={"enum": list(DTYPES)},
        examples=["auto", "float32"],
    )
    kv_dtype: str = Field(
        default="auto",
        title="KV precision",
        description="auto (as computed) or fp8: half the KV memory, answers a little less exact; GPUs of "
        "compute capability 8.9 on; part of what a run is known by.",
        json_schema_extra={"enum": list(KV_DTYPES)},
        examples=["auto", "fp8"],
    )
    device_profile: str | None = Field(
        default=None,
        title="Device profile",
        description="File of `nightblend calibrate`: what the plan counts with; empty takes nominal figures.",
        min_length=1,
        examples=["cpu.json"],
    )
    kv_tokens: int | None = Field(
        default=None,
        title="KV memory (tokens)",
        description="Tokens of prompts and answers held at a time; empty lets the engine choose.",
        ge=1,
        examples=[65536],
    )
    token_budget: int | None = Field(
        default=None,
        title="Step budget (tokens)",
        description="Most tokens computed in one step; empty: 2048 on a GPU, 1024 on the CPU.",
        ge=1,
        examples=[1024],
    )
    max_sequences: int | None = Field(
        default=None,
        title="Most running requests",
        description="Requests computed at a time; empty: 512 on a GPU, 128 on the CPU.",
        ge=1,
        examples=[128],
    )
    page_size: int = Field(default=16, title="Page size (tokens)", description="Of KV memory.", ge=1, le=256)
    part_seconds: float = Field(
        default=60.0, title="Part interval (s)", description="Answers are made durable this often.", gt=0
    )
    part_answers: int = Field(
        default=2000, title="Part size (answers)", description="Or after this many of them.", ge=1
    )
    engine_restarts: int = Field(
        default=3, title="Engine restarts", description="How often a dead engine is started again.", ge=0
    )
    max_bad_fraction: float = Field(
        default=0.01,
        title="Bad rows allowed",
        description="Share of errors and quarantined lines above which a night completes with errors.",
        ge=0,
        le=1,
    )
    abort_quarantined_fraction: float = Field(
        default=0.2,
        title="Quarantine limit",
        description="Share of quarantined lines above which nothing is computed.",
        ge=0,
        le=1,
    )
    lease_s: float = Field(
        default=90.0, title="Lease (s)", description="A silent run is taken over after this long.", gt=0
    )
    heartbeat_s: float = Field(
        default=20.0, title="Heartbeat (s)", description="Time between signs of life.", gt=0
    )
    gpu_hour_price: float | None = Field(
        default=None,
        title="Price of a GPU hour",
        description="What an hour of the device costs; empty tells no cost.",
        ge=0,
        examples=[2.5],
    )
    currency: str = Field(
        default="USD", title="Currency", description="Of that price.", pattern=r"^[A-Z]{3}$", examples=["EUR"]
    )
    metrics_port: int | None = Field(
        default=None,
        title="Metrics port",
        description="Serve Prometheus metrics on this port while requests are answered; empty serves none.",
        ge=1,
        le=65535,
        examples=[9400],
    )
    report: bool = Field(
        default=True, title="Report", description="Write a page about the night beside its results."
    )
    publish: bool = Field(
        default=True, title="Publish", description="Off keeps the results in the run directory only."
    )
    canary: float | None = Field(
        default=None,
        title="Candidate's share (%)",
        description="So many of a hundred parts of the requests are answered by a candidate, the others as "
        "before, in one publication; both sides are compared.",
        gt=0,
        le=100,
        examples=[5],
    )
    canary_by: str = Field(
        default=REQUEST,
        title="Share by",
        description="What decides who belongs to the share: tenant, workload (the same ones every night) or "
        "request.",
        json_schema_extra={"enum": list(SHARED_BY)},
        examples=[REQUEST],
    )
    canary_option: list[str] = Field(
        default_factory=list,
        title="Candidate",
        description="What is different with the candidate, as FIELD=VALUE: policy, engine, model, dtype and "
        "other fields of order, engine, device and memory.",
        examples=["policy=dfs"],
    )
    canary_answers: int = Field(
        default=0,
        title="Answers to compare",
        description="Of the candidate's requests so many at most are answered as before, too, and compared.",
        ge=0,
        examples=[200],
    )
    canary_scorer: str | None = Field(
        default=None,
        title="Scorer",
        description="Function package.module:function of two answers, before and candidate; the mean of its "
        "numbers is told.",
        min_length=3,
        examples=["our_metrics:similarity"],
    )
    canary_steps: str | None = Field(
        default=None,
        title="Shares by rules (%)",
        description="Instead of one share: those to go through, by commas. After good nights the candidate "
        "gets the next one; a broken limit takes it back, and its answers of that date.",
        pattern=r"^[0-9]+(\.[0-9]+)?(,[0-9]+(\.[0-9]+)?)*$",
        examples=["5,25,100"],
    )
    canary_nights: int = Field(
        default=2, title="Good nights", description="In a row, before the next share.", ge=1
    )
    canary_slower: float = Field(
        default=10.0,
        title="Limit: slower (%)",
        description="In tokens per second, than the others.",
        ge=0,
    )
    canary_errors: float = Field(
        default=1.0,
        title="Limit: more errors (%)",
        description="More of its requests without an answer than of the others; two at least.",
        ge=0,
        le=100,
    )
    canary_lengths: float = Field(
        default=10.0,
        title="Limit: other lengths (%)",
        description="Its mean answer is longer or shorter than that of the others, by more than chance.",
        ge=0,
    )
    canary_differing: float = Field(
        default=5.0,
        title="Limit: other answers (%)",
        description="Of the answers compared (canary_answers) that differ in more than case, spaces, signs.",
        ge=0,
        le=100,
    )
    rerun: bool = Field(
        default=False, title="Run again", description="Compute everything again, also where it is finished."
    )
    failed_only: bool = Field(
        default=False,
        title="Failed only",
        description="Answer only what has no answer in the date's current publication, and publish both "
        "together.",
    )
    take_over: bool = Field(
        default=False, title="Take over", description="Take the date from another run that seems alive."
    )
    force: bool = Field(
        default=False,
        title="Force",
        description="Publish although a run that read the source later has published the date or is at it, "
        "or nearly all rows are errors.",
    )
    catch_up_days: int = Field(
        default=3,
        title="Catch up (days)",
        description="Where no date is given: missing and failed dates of so many days before are run too.",
        ge=0,
        le=31,
    )
    give_way: bool = Field(
        default=False,
        title="Give way",
        description="Stop, to go on later, when another run wants the device; dates of a backfill do.",
    )

    @field_validator("heartbeat_s")
    @classmethod
    def _below_lease(cls, value: float, info: Any) -> float:  # noqa: ANN401 - pydantic's own type
        if value >= info.data.get("lease_s", float("inf")):
            raise ValueError(f"must be below lease_s ({info.data['lease_s']:g})")
        return value

    def resolve_date(self, now: datetime | None = None) -> date:
        """Return the date to run for.

        Parameters
        ----------
        now
            As for `flows.parameters.to_request.night_request`.

        Raises
        ------
        ConfigurationError
            If a date must be given and is not, or the timezone is not known.
        """
        return resolve_run_date(
            self.run_date,
            source=self.source,
            has_event_time=False,
            now=now or datetime.now(UTC),
            timezone=self.timezone,
            lag_days=self.lag_days,
        ).run_date

    def with_preset(self) -> Self:
        """Return these parameters with the values of their preset in the fields that were not given.

        The preset is spelled out then: that of the result is `standard`.
        """
        given = self.model_fields_set
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        # A page that sends every field that has a value was filled in before anybody typed.
        if given >= {name for name, field in type(self).model_fields.items() if field.default is not None}:
            given = {name for name in given if getattr(self, name) != defaults[name]}
        left = {name: value for name, value in PRESETS[self.preset].values.items() if name not in given}
        return self.model_copy(update={**left, "preset": STANDARD})
