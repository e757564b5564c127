"""What the steps of one run share: its identity, its store and log, and the settings of the attempt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.backends.facts import NATIVE_FACTS
from engine.choices import ENDPOINT, LOGGED, NATIVE
from engine.cost.devices import nominal_profile
from engine.cost.step import NOMINAL
from tasks.requests.sampling import SamplingDefaults
from tasks.runlog.parts import fetch, read_table

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    import pyarrow as pa

    from engine.backends.facts import EngineFacts
    from engine.cost.profiles import DeviceProfile
    from tasks.night.fence import Reading
    from tasks.night.promises import Promise
    from tasks.runlog.log import RunLog
    from tasks.runlog.records import Attempt, Part
    from tasks.store.contract import Store


@dataclass(frozen=True, slots=True)
class NightSettings:
    """How an attempt runs. What changes answers (defaults, seed, dtype) is part of the run's key.

    Attributes
    ----------
    policy
        Order policy, a key of `engine.choices.ORDERS`.
    lengths
        Estimator of answer lengths, a key of `engine.choices.ESTIMATORS`.
    kv_tokens
        KV memory in tokens; None takes what the longest request and `max_sequences` suggest.
    pooling
        How embeddings are made, a key of `engine.choices.POOLINGS`; None: as the model's folder says.
    page_size, token_budget, max_sequences
        Tokens per KV page; most tokens per step; most requests running at a time.
    defaults, run_seed, dtype, kv_dtype
        Sampling where a request says nothing; seed of requests without one; compute precision, and that of
        the KV cache (one of `engine.choices.KV_DTYPES`).
    device
        `cpu`, or `cuda` with an index; `device` and `dtype` are as `engine.cost.devices` resolved them. Of an
        engine elsewhere it is `endpoint`, and `dtype` only what the plan counts with.
    engine, engine_python, engine_options, max_in_flight, hours
        A key of `engine.choices.ENGINES`, the interpreter that it runs in (None: this one), its options as
        KEY=VALUE, the most requests that it gets at a time (None: as many as it bears), and the hours in
        which it may be used, by the clock of the night's time zone; None: at any time.
    replicas
        How many engines share the requests, on GPUs in a row from `device` on, or all on the CPU.
    ray
        Address of the Ray cluster whose nodes compute, each engine on a GPU or core that the cluster gives
        it; None: this machine computes.
    part_seconds, part_answers
        An outputs part is closed after this many seconds or answers.
    engine_restarts
        How often a dead engine is started again within one attempt.
    max_bad_fraction, abort_quarantined_fraction
        Limits of the accounting, see `tasks.base.accounting`.
    lease_s, heartbeat_s
        Liveness of the run log.
    publish
        False keeps the results in the run directory only.
    force
        Publish although a run that read a newer listing has published or holds the date, or nearly all rows
        are errors.
    gives_way
        Whether another run that wants the device may ask it to stop (`tasks.infer.give_way`).
    device_profile
        What the plan counts with; None is the nominal profile of `device`.
    catalog
        URI of the Iceberg catalog to publish to (`tasks.warehouse.tables`); None publishes files only.
    gpu_hour_price, currency
        What an hour of the device costs; without a price no cost is told.
    report
        Whether publishing writes the report of the night.
    metrics_port
        Where step infer answers Prometheus; None: nowhere.
    promises
        What tenants were promised; theirs is planned first.
    """

    policy: str = "blend"
    lengths: str = LOGGED
    kv_tokens: int | None = None
    pooling: str | None = None
    page_size: int = 16
    token_budget: int = 1024
    max_sequences: int = 128
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    run_seed: int = 0
    dtype: str = "float32"
    kv_dtype: str = "auto"
    device: str = "cpu"
    engine: str = NATIVE
    engine_python: str | None = None
    engine_options: tuple[str, ...] = ()
    max_in_flight: int | None = None
    hours: str | None = None
    replicas: int = 1
    ray: str | None = None
    part_seconds: float = 60.0
    part_answers: int = 2000
    engine_restarts: int = 3
    max_bad_fraction: float = 0.01
    abort_quarantined_fraction: float = 0.2
    lease_s: float = 90.0
    heartbeat_s: float = 20.0
    publish: bool = True
    force: bool = False
    gives_way: bool = False
    device_profile: DeviceProfile | None = None
    catalog: str | None = None
    gpu_hour_price: float | None = None
    currency: str = "USD"
    report: bool = False
    metrics_port: int | None = None
    promises: tuple[Promise, ...] = ()

    @property
    def precision(self) -> str:
        """What the answers depend on of `dtype` and `kv_dtype`, as it enters the keys."""
        if self.device == ENDPOINT:
            return ENDPOINT
        return self.dtype if self.kv_dtype == "auto" else f"{self.dtype}, KV {self.kv_dtype}"

    @property
    def planned_on(self) -> DeviceProfile:
        """What the plan counts with; of an engine elsewhere nothing is known, so it is some GPU."""
        if self.device_profile is not None:
            return self.device_profile
        return NOMINAL["a100"] if self.device == ENDPOINT else nominal_profile(self.device)


@dataclass(slots=True)
class Night:
    """One live attempt of a run; `log` is held by this process.

    Attributes
    ----------
    job, run_date, run_key
        Identity : job, date, and the digest of all that determines the answers.
    store, log, attempt
        The store, the held run log, and the attempt that this process opened in it.
    model_dir
        Local folder of the model.
    scratch
        Local folder for intermediate files; nothing in it is needed after a crash.
    reading
        When its source was listed; None where it is not known, and not published.
    engine
        What answers, as it was found at the start.
    """

    job: str
    run_date: date
    run_key: str
    store: Store
    log: RunLog
    attempt: Attempt
    model_dir: Path
    scratch: Path
    settings: NightSettings
    reading: Reading | None = None
    engine: EngineFacts = NATIVE_FACTS

    def parts(self, kind: str, label: str = "") -> list[Part]:
        """Return the recorded parts of a kind whose file name begins with ``label-``, in log order."""
        found = self.log.state.parts_of(kind)
        return [p for p in found if not label or p.name.rpartition("/")[2].startswith(f"{label}-")]

    def fetch(self, part: Part) -> Path:
        """Bring a part to `scratch`, verified, and return its path; it is fetched only once."""
        return fetch(self.log, part, self.scratch)

    def read_table(self, kind: str, columns: list[str] | None = None) -> pa.Table:
        """Return all rows of the Parquet parts of `kind` (a name of `SCHEMAS`), in log order."""
        return read_table(self.log, kind, self.scratch, columns)
