"""What an attempt's engines and their device did: rows of tables, sums of the attempt, and Prometheus."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.cost.step import DeviceProfile
from tasks.infer.device_counters import DeviceCounters
from tasks.night.model import model_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tasks.infer.part_writer import PartWriter
    from tasks.infer.prometheus import PrometheusMetrics
    from tasks.infer.promises import Expectation
    from tasks.night.night import Night
    from tasks.plan.work import NightWork


class EngineMetrics:
    """Counts and passes on.

    Attributes
    ----------
    engine
        Name, version and capabilities of the last engine (`engine.backends.facts`); empty before.
    device, kv_tokens
        Profile of a device and KV memory in tokens, as the last engine told them; empty and 0 before. Of an
        engine that does not tell them the device stays empty, and `kv_tokens` is None.
    peak_running
        Most requests that ran at a time, in all replicas.
    held
        Replica -> seconds that its engine processes lived.
    """

    def __init__(self, night: Night, work: NightWork, writer: PartWriter) -> None:
        self._work, self._writer = work, writer
        self.engine: dict[str, Any] = {}
        self.device: dict[str, Any] = {}
        self.kv_tokens: int | None = 0
        self.peak_running = 0
        self.held: dict[int, float] = {}
        self._profile: DeviceProfile | None = None
        # By replica.
        self._counters: dict[int, DeviceCounters] = {}
        self._running: dict[int, int] = {}
        self._prometheus = _served(night, work)

    @contextmanager
    def engine_held(self, replica: int) -> Iterator[None]:
        """Count an engine process of a replica, and the time that it lives: as long as the block."""
        if self._prometheus is not None:
            self._prometheus.engine_started(replica)
        begin = time.monotonic()
        try:
            yield
        finally:
            self.held[replica] = self.held.get(replica, 0.0) + time.monotonic() - begin
            self._running.pop(replica, None)
            if self._prometheus is not None:
                self._prometheus.engine_ended(replica)
            counters = self._counters.pop(replica, None)
            if counters is not None:
                counters.close()

    def take_device(self, message: dict[str, Any], replica: int) -> None:
        """Take in what an engine computes on (message `ready`)."""
        self.engine = {name: message[name] for name in ("engine", "version", "capabilities")}
        self.device, self.kv_tokens = message["device"] or {}, message["kv_tokens"]
        self._profile = DeviceProfile(**self.device) if self.device else None
        counters = DeviceCounters.open(message["device_uuid"])
        if counters is not None:
            self._counters[replica] = counters

    def take_step(self, message: dict[str, Any], replica: int) -> None:
        """Take in an engine step (message `step`), and the device's own counters if they are due."""
        self._writer.add_step(message, replica)
        self._take_running(message["running"], replica)
        counters = self._counters.get(replica)
        row = counters.poll() if counters is not None else None
        if row is not None:
            self._writer.add_device_sample(row)
        if self._prometheus is not None:
            self._prometheus.step(message, self._waiting(), self._profile, replica)
            if row is not None:
                self._prometheus.device(row, replica)

    def take_load(self, message: dict[str, Any], replica: int) -> None:
        """Take in what an engine without steps is doing (message `load`)."""
        self._take_running(message["running"], replica)
        if self._prometheus is not None:
            self._prometheus.load(message, self._waiting(), replica)

    def _take_running(self, running: int, replica: int) -> None:
        self._running[replica] = running
        self.peak_running = max(self.peak_running, sum(self._running.values()))

    def _waiting(self) -> int:
        return max(0, len(self._work.rows) - self._work.done - sum(self._running.values()))

    def take_answered(self, finish_reason: str, requests: int) -> None:
        """Count requests that got an answer."""
        if self._prometheus is not None:
            self._prometheus.answered(finish_reason, requests)

    def take_expectations(self, expectations: Sequence[Expectation]) -> None:
        """Tell when the requests of promised tenants are expected to be answered."""
        if self._prometheus is not None:
            for one in expectations:
                self._prometheus.promise(one.tenant, one.due, one.expected, one.left)

    def close(self) -> None:
        """Serve no metrics any more."""
        if self._prometheus is not None:
            self._prometheus.close()


def _served(night: Night, work: NightWork) -> PrometheusMetrics | None:
    """Return the served metrics of the night, if a port was given for them."""
    if night.settings.metrics_port is None:
        return None
    from tasks.infer.prometheus import PrometheusMetrics

    found = PrometheusMetrics(model_name=model_name(night.model_dir), nightly=night.job)
    plan = night.log.state.steps.get("plan")
    found.begin(len(work.rows), plan.results.get("hit_rate_optimum") if plan is not None else None)
    found.serve(night.settings.metrics_port)
    return found
