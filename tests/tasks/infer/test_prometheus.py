"""Prometheus metrics: scraped over HTTP as Prometheus does, and the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
import socket
import threading
import urllib.request

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from engine.cost.metrics import MEASURED
from engine.cost.profiles import DeviceProfile
from tasks.infer.prometheus import LABELS, WINDOW_S, PrometheusMetrics
from tests.servers.debian import free_port
from tests.support.paths import ROOT

DASHBOARD = ROOT / "infra" / "grafana" / "nightblend.json"
DEVICE = DeviceProfile("unit", "nominal", 50.0, 10.0, 100.0, 20.0, overlaps=False)
STEP = {
    "running": 3,
    "tokens": 40,
    "kv_occupancy": 0.25,
    "decode_tokens": 2,
    "hit_tokens": 8,
    "preemptions": 1,
    "prefill_tokens": 38,
    "recomputed_tokens": 5,
    "evicted_pages": 4,
    "seconds": WINDOW_S / 2,
    "modelled_compute_seconds": 0.4 * WINDOW_S,
    "modelled_memory_seconds": 0.2 * WINDOW_S,
    "modelled_seconds": 0.6 * WINDOW_S,
    "model_flops": 20.0 * WINDOW_S,
    "model_bytes": 4.0 * WINDOW_S,
}


def told(text: str) -> dict[str, float]:
    """Sample name -> its value; every sample has the labels of the night and no others but the expected."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            extra = set(sample.labels) - set(LABELS)
            assert extra <= {"le", "finished_reason"}, sample
            assert sample.labels["model_name"] == "tiny"
            assert sample.labels["nightly"] == "triage"
            if "le" not in sample.labels:
                found[sample.name] = sample.value
    return found


def fed() -> PrometheusMetrics:
    metrics = PrometheusMetrics(model_name="tiny", nightly="triage")
    metrics.begin(10, 0.5)
    metrics.engine_started()
    for _ in range(2):
        metrics.step(STEP, 6, DEVICE)
    metrics.answered("stop", 2)
    metrics.device(dict.fromkeys(MEASURED, 0.5))
    return metrics


SCRAPERS = {
    "curl": "*/*",
    "Prometheus 2.42": (
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
        "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    ),
    "Prometheus 3.5": (
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
        "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
        "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
    ),
}


@pytest.mark.parametrize("accept", SCRAPERS.values(), ids=SCRAPERS)
def test_a_scrape_over_http(accept: str) -> None:
    metrics, port = fed(), free_port()
    metrics.serve(port)
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = told(answer.read().decode())
    finally:
        metrics.close()
    assert found["vllm:num_requests_running"] == 3
    assert found["vllm:num_requests_waiting"] == 6
    assert found["vllm:kv_cache_usage_perc"] == 0.25
    assert found["vllm:generation_tokens_total"] == 4
    assert found["vllm:prefix_cache_hits_total"] == 16
    assert found["vllm:num_preemptions_total"] == 2
    assert found["vllm:request_success_total"] == 2
    assert (found["vllm:iteration_tokens_total_count"], found["vllm:iteration_tokens_total_sum"]) == (2, 80)
    assert found["nightblend_prefill_tokens_total"] == 76
    assert found["nightblend_requests"] == 10
    assert found["nightblend_mfu"] == pytest.approx(0.4)
    assert found["nightblend_mbu"] == pytest.approx(0.4)
    assert found["nightblend_overlap_fraction"] == pytest.approx(0.5)
    assert found["nightblend_density"] == pytest.approx(2.0)
    assert found["nightblend_measured_dram_active"] == 0.5
    assert found["nightblend_measured_energy_joules_total"] == 0.5
    # The port is free again.
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))


def test_what_nobody_knows_is_not_exposed() -> None:
    metrics = PrometheusMetrics(model_name="tiny", nightly="triage")
    metrics.begin(1, None)
    metrics.step(STEP, 0, None)
    metrics.device(dict.fromkeys(MEASURED))
    found = told(generate_latest(metrics.registry).decode())
    for name in found:
        assert "measured" not in name, name
    assert "nightblend_mfu" not in found
    # The window is not over, so nothing is said of it.
    assert "nightblend_overlap_fraction" not in found


def test_a_promise_is_told_with_its_tenant_once_something_is_expected() -> None:
    metrics = PrometheusMetrics(model_name="tiny", nightly="triage")
    metrics.promise("acme", 1e9, None, 30)

    def asked() -> dict[str, float]:
        families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
        samples = [sample for family in families for sample in family.samples if "promise" in sample.name]
        assert all(sample.labels["tenant"] == "acme" for sample in samples)
        return {sample.name.removeprefix("nightblend_promise_"): sample.value for sample in samples}

    assert asked() == {"ready_by_timestamp_seconds": 1e9, "left": 30}
    metrics.promise("acme", 1e9, 1e9 + 60, 20)
    assert asked() == {
        "ready_by_timestamp_seconds": 1e9,
        "expected_timestamp_seconds": 1e9 + 60,
        "left": 20,
    }


def test_of_an_engine_without_steps_there_are_no_figures_of_steps() -> None:
    metrics = PrometheusMetrics(model_name="tiny", nightly="triage")
    metrics.begin(9, 0.5)
    metrics.engine_started()
    for _ in range(2):
        metrics.load({"running": 4, "prompt_tokens": 30, "output_tokens": 5, "hit_tokens": None}, 3)
    metrics.answered("stop", 2)
    found = told(generate_latest(metrics.registry).decode())
    known = {name: value for name, value in found.items() if not name.endswith("_created")}
    assert known == {
        "vllm:num_requests_running": 4,
        "vllm:num_requests_waiting": 3,
        "vllm:generation_tokens_total": 10,
        "vllm:prompt_tokens_total": 60,
        "vllm:request_success_total": 2,
        "nightblend_requests": 9,
        "nightblend_hit_rate_optimum": 0.5,
        "nightblend_engine_starts_total": 1,
    }


def test_a_port_that_is_taken_costs_the_metrics_and_not_the_night(caplog) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        metrics = PrometheusMetrics(model_name="tiny", nightly="triage")
        metrics.serve(taken.getsockname()[1])
        metrics.close()
    assert "--metrics-port" in caplog.text


def test_the_dashboard_asks_only_for_what_is_exposed() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    families = text_string_to_metric_families(generate_latest(fed().registry).decode())
    names = {sample.name for family in families for sample in family.samples}
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    assert len(queries) > 20
    asked = set()
    for query in queries:
        found = re.findall(r"\b(?:vllm:|nightblend_)\w+", query)
        assert found, query
        assert set(found) <= names, (query, set(found) - names)
        asked |= set(found)
        labels = set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', query))
        labels |= {name.strip() for part in re.findall(r"by \(([^)]*)\)", query) for name in part.split(",")}
        assert labels <= {*LABELS, "le"}, query
        assert query.count("(") == query.count(")")
    legends = [t["legendFormat"] for panel in dashboard["panels"] for t in panel["targets"]]
    assert all("{{nightly}}" in legend for legend in legends)
    # Whatever is exposed of the device and the work is shown somewhere.
    assert {name for name in names if name.startswith("vllm:") and name.endswith("_total")} <= asked
    boxes = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [
        (x, y) for b in boxes for x in range(b["x"], b["x"] + b["w"]) for y in range(b["y"], b["y"] + b["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_a_scrape_that_never_ends_holds_nothing():
    metrics, port = fed(), free_port()
    metrics.serve(port)

    def go_on() -> None:
        metrics.step(STEP, 6, DEVICE)
        metrics.close()

    with socket.create_connection(("127.0.0.1", port)) as halted:
        halted.sendall(b"GET /metrics HTTP/1.1\r\n")
        going_on = threading.Thread(target=go_on, daemon=True)
        going_on.start()
        going_on.join(60)
        assert not going_on.is_alive()


def test_figures_of_an_engine_are_told_by_replica():
    metrics = PrometheusMetrics(model_name="tiny", nightly="triage")
    for replica, steps in ((0, 1), (1, 3)):
        metrics.engine_started(replica)
        for _ in range(steps):
            metrics.step(STEP, 6, DEVICE, replica)
    metrics.engine_ended(0)
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[sample.labels.get("replica", "")] = sample.value
    assert found["nightblend_steps_total"] == {"0": 1.0, "1": 3.0}
    assert found["nightblend_engine_starts_total"] == {"0": 1.0, "1": 1.0}
    assert found["vllm:num_requests_running"] == {"0": 0.0, "1": 3.0}
    assert found["vllm:num_requests_waiting"] == {"": 6.0}
    # The first one has not been through a window yet.
    assert found["nightblend_mfu"].keys() == {"1"}
