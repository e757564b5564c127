"""The figures of a running night for Prometheus, on a port of the process that runs step infer.

Names are vLLM's where the meaning is the same (`vllm:`), else our own (`nightblend_`). Labels are the model
and the nightly, and of what an engine does its replica; no request or prompt is in them, and no tenant but
those of `--promise`.
"""

from __future__ import annotations

import logging
from threading import Thread
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from engine.cost.metrics import METRICS, mbu, mfu, overlap_fraction

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIEnvironment

    from engine.cost.profiles import DeviceProfile

log = logging.getLogger(__name__)

OF_NIGHT: Final = ("model_name", "nightly")
LABELS: Final = (*OF_NIGHT, "replica")
WINDOW_S: Final = 10.0
"""MFU, MBU, overlap and density are those of the engine time since the window before ended."""
_BUCKETS: Final = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)

_GAUGES: Final = {
    "vllm:num_requests_running": "Requests that the engine runs",
    "vllm:kv_cache_usage_perc": "Part of the KV pages that running requests hold; 1 is all",
}
_GAUGES_OF_NIGHT: Final = {
    "vllm:num_requests_waiting": "Requests that no engine runs yet",
    "nightblend_requests": "Requests of the night, answered ones included",
    "nightblend_hit_rate_optimum": METRICS["hit_rate_optimum"].meaning,
}
_READY_BY, _EXPECTED, _LEFT = (
    f"nightblend_promise_{name}"
    for name in ("ready_by_timestamp_seconds", "expected_timestamp_seconds", "left")
)
_PROMISES: Final = {
    _READY_BY: "By when the tenant's requests were promised to be answered, Unix time",
    _EXPECTED: "When they are expected to be, Unix time",
    _LEFT: "Requests of the tenant without an answer",
}
_COUNTERS: Final = {
    "vllm:generation_tokens": "Answer tokens computed",
    "vllm:prompt_tokens": "Prompt tokens of the answers, of an engine that does not tell what it computed",
    "vllm:prefix_cache_hits": "Prompt tokens taken from the prefix cache",
    "vllm:num_preemptions": "Requests put back for lack of memory",
    "nightblend_prefill_tokens": "Prompt tokens computed",
    "nightblend_recomputed_tokens": METRICS["recomputed_tokens"].meaning,
    "nightblend_evicted_pages": "Cached KV pages given up",
    "nightblend_steps": "Engine steps",
    "nightblend_engine_starts": "Engine processes started",
    "nightblend_gpu_busy_seconds": METRICS["gpu_seconds_busy"].meaning,
    "nightblend_modelled_compute_seconds": METRICS["modelled_compute_seconds"].meaning,
    "nightblend_modelled_memory_seconds": METRICS["modelled_memory_seconds"].meaning,
    "nightblend_modelled_seconds": METRICS["modelled_seconds"].meaning,
    "nightblend_model_flops": METRICS["model_flops"].meaning,
    "nightblend_model_bytes": METRICS["model_bytes"].meaning,
}
_WINDOWED: Final = ("mfu", "mbu", "overlap_fraction", "density")
_MEASURED: Final = tuple(
    name for name in METRICS if name.startswith("measured_") and name != "measured_energy_joules"
)
_OF_A_LOAD: Final = {
    "vllm:generation_tokens": "output_tokens",
    "vllm:prompt_tokens": "prompt_tokens",
    "vllm:prefix_cache_hits": "hit_tokens",
}
"""Counter -> the field of a message `load` that is added to it."""
_OF_A_STEP: Final = {
    "vllm:generation_tokens": "decode_tokens",
    "vllm:prefix_cache_hits": "hit_tokens",
    "vllm:num_preemptions": "preemptions",
    "nightblend_prefill_tokens": "prefill_tokens",
    "nightblend_recomputed_tokens": "recomputed_tokens",
    "nightblend_evicted_pages": "evicted_pages",
    "nightblend_gpu_busy_seconds": "seconds",
    "nightblend_modelled_compute_seconds": "modelled_compute_seconds",
    "nightblend_modelled_memory_seconds": "modelled_memory_seconds",
    "nightblend_modelled_seconds": "modelled_seconds",
    "nightblend_model_flops": "model_flops",
    "nightblend_model_bytes": "model_bytes",
}
"""Counter -> the field of a step message that is added to it."""


class _Silent(WSGIRequestHandler):
    """Writes no line about each scrape."""

    def log_message(self, *_: object) -> None:
        """Write nothing."""


class PrometheusMetrics:
    """The metrics of one night; `serve` puts them on a port."""

    def __init__(self, *, model_name: str, nightly: str) -> None:
        self.registry = CollectorRegistry()
        labels = {"model_name": model_name, "nightly": nightly}
        registry = self.registry
        # A figure that nobody has is not exposed, so all get their labels with their first value.
        self._gauges = {name: Gauge(name, text, LABELS, registry=registry) for name, text in _GAUGES.items()}
        self._of_night = {
            name: Gauge(name, text, OF_NIGHT, registry=registry) for name, text in _GAUGES_OF_NIGHT.items()
        }
        self._counters = {
            name: Counter(name, text, LABELS, registry=registry) for name, text in _COUNTERS.items()
        }
        self._later = {
            name: Gauge(f"nightblend_{name}", METRICS[name].meaning, LABELS, registry=registry)
            for name in (*_WINDOWED, *_MEASURED)
        }
        self._promises = {
            name: Gauge(name, text, (*OF_NIGHT, "tenant"), registry=registry)
            for name, text in _PROMISES.items()
        }
        self._energy = Counter(
            "nightblend_measured_energy_joules",
            METRICS["measured_energy_joules"].meaning,
            LABELS,
            registry=registry,
        )
        self._labels = labels
        self._tokens = Histogram(
            "vllm:iteration_tokens_total",
            "Tokens of an engine step",
            LABELS,
            registry=registry,
            buckets=_BUCKETS,
        )
        self._answered = Counter(
            "vllm:request_success", "Answered requests", (*OF_NIGHT, "finished_reason"), registry=registry
        )
        self._server: tuple[WSGIServer, Thread] | None = None
        # By replica.
        self._windows: dict[int, dict[str, float]] = {}

    def serve(self, port: int) -> None:
        """Answer scrapes on a port; a port that is taken costs the metrics, not the night."""
        told = make_wsgi_app(self.registry)

        def answer(asked: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            # Of the formats that a scraper takes, prometheus_client chooses OpenMetrics if it may, and in it
            # renames `vllm:...` to `vllm_...` for who does not speak of escaping (all before Prometheus 3).
            asked.pop("HTTP_ACCEPT", None)
            found: Iterable[bytes] = told(asked, start)
            return found

        try:
            server = make_server("", port, answer, ThreadingWSGIServer, handler_class=_Silent)
        except OSError as error:
            log.warning("--metrics-port %d: no metrics are served: %s", port, error.strerror)
            return
        thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        self._server = (server, thread)

    def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
            self._server = None

    def begin(self, requests: int, hit_rate_optimum: float | None) -> None:
        """Tell what the night is about to do."""
        self._night("nightblend_requests", requests)
        if hit_rate_optimum is not None:
            self._night("nightblend_hit_rate_optimum", hit_rate_optimum)

    def engine_started(self, replica: int = 0) -> None:
        """Count an engine process."""
        self._count("nightblend_engine_starts", 1, replica)

    def step(
        self, message: Mapping[str, Any], waiting: int, device: DeviceProfile | None, replica: int = 0
    ) -> None:
        """Take in the figures of an engine step, and how many requests wait after it."""
        self._night("vllm:num_requests_waiting", waiting)
        self._gauge("vllm:num_requests_running", message["running"], replica)
        self._gauge("vllm:kv_cache_usage_perc", message["kv_occupancy"], replica)
        for name, key in _OF_A_STEP.items():
            self._count(name, message[key], replica)
        self._count("nightblend_steps", 1, replica)
        self._tokens.labels(**self._labels, replica=replica).observe(message["tokens"])
        window = self._windows.setdefault(
            replica, dict.fromkeys(("seconds", "compute", "memory", "flops", "bytes"), 0.0)
        )
        for name, key in (
            ("seconds", "seconds"),
            ("compute", "modelled_compute_seconds"),
            ("memory", "modelled_memory_seconds"),
            ("flops", "model_flops"),
            ("bytes", "model_bytes"),
        ):
            window[name] += message[key]
        if window["seconds"] >= WINDOW_S:
            del self._windows[replica]
            self._tell(window, device, replica)

    def load(self, message: Mapping[str, Any], waiting: int, replica: int = 0) -> None:
        """Take in what an engine without steps is doing, and how many requests wait for it."""
        self._night("vllm:num_requests_waiting", waiting)
        self._gauge("vllm:num_requests_running", message["running"], replica)
        for name, key in _OF_A_LOAD.items():
            if message[key] is not None:
                self._count(name, message[key], replica)

    def engine_ended(self, replica: int) -> None:
        """Take note that a replica runs nothing now."""
        self._gauge("vllm:num_requests_running", 0, replica)

    def promise(self, tenant: str, ready_by: float, expected: float | None, left: int) -> None:
        """Tell how a promise stands; Unix times. What is not expected at any time is not told."""
        labels = {**self._labels, "tenant": tenant}
        self._promises[_READY_BY].labels(**labels).set(ready_by)
        self._promises[_LEFT].labels(**labels).set(left)
        if expected is not None:
            self._promises[_EXPECTED].labels(**labels).set(expected)

    def _night(self, name: str, value: float) -> None:
        self._of_night[name].labels(**self._labels).set(value)

    def _gauge(self, name: str, value: float, replica: int) -> None:
        self._gauges[name].labels(**self._labels, replica=replica).set(value)

    def _count(self, name: str, amount: float, replica: int) -> None:
        self._counters[name].labels(**self._labels, replica=replica).inc(amount)

    def _tell(self, sums: Mapping[str, float], device: DeviceProfile | None, replica: int) -> None:
        """Tell the figures of a window."""
        compute, memory, seconds = sums["compute"], sums["memory"], sums["seconds"]
        found = {
            "mfu": mfu(device, sums["flops"], seconds) if device else None,
            "mbu": mbu(device, sums["bytes"], seconds) if device else None,
            "overlap_fraction": overlap_fraction(compute, memory, seconds),
            "density": compute / memory if memory > 0.0 else None,
        }
        self._set(found, replica)

    def answered(self, finish_reason: str, requests: int) -> None:
        """Count answered requests."""
        self._answered.labels(**self._labels, finished_reason=finish_reason).inc(requests)

    def device(self, row: Mapping[str, Any], replica: int = 0) -> None:
        """Take in the counters of a replica's device (a row of the table `device_samples`)."""
        self._set({name: row[name] for name in _MEASURED}, replica)
        if row["measured_energy_joules"] is not None:
            self._energy.labels(**self._labels, replica=replica).inc(row["measured_energy_joules"])

    def _set(self, values: Mapping[str, float | None], replica: int) -> None:
        for name, value in values.items():
            if value is not None:
                self._later[name].labels(**self._labels, replica=replica).set(value)
