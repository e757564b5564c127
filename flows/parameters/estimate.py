"""The parameters of an estimate: behind the flow's form and the options of `nightblend estimate`."""

from __future__ import annotations

from datetime import date  # noqa: TC003 - pydantic reads it
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, Field, field_validator

from engine.choices import KV_DTYPES, POLICIES
from flows.parameters.form import SLUG, Form
from tasks.requests.formats import AUTO, FORMATS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


class EstimateParameters(Form):
    """What an estimate is asked; every field is an option of `nightblend estimate` of the same name."""

    model_config = ConfigDict(title="Estimate")
    COMMAND: ClassVar[str] = "estimate"
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {
        "today": POLICIES,
        "kv_dtype": KV_DTYPES,
        "format": FORMATS,
    }
    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "What to look at": (
            *("source", "model", "run_date", "timezone", "format", "columns", "output_tokens", "max_tokens"),
        ),
        "Machines": ("gpu", "price", "currency", "max_gpus", "device_profile"),
        "How the engine would run": ("today", "kv_dtype", "kv_tokens", "token_budget"),
        "Past runs, which correct the times": ("store", "job"),
        "Results": ("out",),
    }

    source: str = Field(
        title="Source",
        description="Past logs, with prompts or lengths only: a file, a folder, an s3:// prefix, a table or "
        "a query; may hold the date.",
        min_length=1,
        examples=["s3://logs/{run_date:%Y/%m/%d}/", "logs/", "duckdb:///day.duckdb?query=FROM requests"],
    )
    model: str = Field(
        title="Model",
        description="Model folder, a config.json, or a published shape such as llama-3.1-8b.",
        min_length=1,
        examples=["llama-3.1-8b", "models/Qwen3-0.6B"],
    )
    gpu: str = Field(
        default="h100",
        title="GPUs",
        description="Which to compare, by commas: a100, h100, h200, l40s; 4xa100 is a tensor parallel group.",
        min_length=1,
        examples=["a100,h100,h200", "4xa100,2xh200"],
    )
    price: str | None = Field(
        default=None,
        title="Price",
        description="Of one GPU for an hour: 2.5, or a100=1.8,h100=3.2. Empty: figures in GPU hours only.",
        examples=["2.5", "a100=1.8,h100=3.2"],
    )
    currency: str = Field(
        default="", title="Currency", description="Printed beside sums of money.", max_length=8
    )
    today: str = Field(
        default="fcfs",
        title="Today's order",
        description="The order of the engine in use today, which does not overlap: fcfs or dfs.",
        json_schema_extra={"enum": list(POLICIES)},
        examples=["fcfs"],
    )
    max_gpus: int = Field(
        default=8, title="Most GPUs", description="Hours until done are told for up to so many.", ge=1, le=512
    )
    run_date: date | None = Field(
        default=None,
        title="Date",
        description="Which day of the logs; empty takes yesterday if the source holds the date, else all.",
        examples=["2026-11-22"],
    )
    timezone: str = Field(default="UTC", title="Timezone", description="Whose days are meant.")
    format: str = Field(
        default=AUTO,
        title="Format",
        description="Of the logs; auto tells by their content.",
        json_schema_extra={"enum": list(FORMATS)},
        examples=[AUTO],
    )
    columns: list[str] = Field(
        default_factory=list,
        title="Columns",
        description="Of a table, a query, or format generic: FIELD=COLUMN; lengths alone are input_tokens "
        "and output_tokens.",
        examples=["prompt=question", "output_tokens=answer_length"],
    )
    output_tokens: int | None = Field(
        default=None,
        title="Answer length (tokens)",
        description="Mean to assume where the logs have no answers at all.",
        ge=1,
        examples=[256],
    )
    max_tokens: int | None = Field(
        default=None,
        title="Most output tokens",
        description="Where a request sets none; empty: answers are as long as logged.",
        ge=1,
        examples=[256],
    )
    device_profile: str | None = Field(
        default=None,
        title="Device profile",
        description="File of `nightblend calibrate`, in place of GPUs by name.",
        min_length=1,
        examples=["cpu.json"],
    )
    kv_dtype: str = Field(
        default="auto",
        title="KV precision",
        description="auto or fp8.",
        json_schema_extra={"enum": list(KV_DTYPES)},
        examples=["auto"],
    )
    kv_tokens: int | None = Field(
        default=None,
        title="KV memory (tokens)",
        description="At most so many; empty: what the GPU has room for.",
        ge=1,
    )
    token_budget: int | None = Field(
        default=None,
        title="Step budget (tokens)",
        description="Fixed for all orders; empty: each order takes its best.",
        ge=1,
    )
    store: str | None = Field(
        default=None,
        title="Store",
        description="Results of past runs, by which times are corrected; goes with job.",
        min_length=1,
    )
    job: str | None = Field(
        default=None, title="Job", description="The nightly whose past runs count.", pattern=SLUG
    )
    out: str | None = Field(
        default=None,
        title="Page",
        description="Write the estimate as a web page to this file.",
        min_length=1,
        examples=["estimate.html"],
    )

    @field_validator("price", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:  # noqa: ANN401 - whatever was given
        return str(value) if isinstance(value, int | float) else value
