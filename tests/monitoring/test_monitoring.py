"""A real Prometheus scrapes a night, evaluates the rules and is asked by the dashboard."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tasks.infer.prometheus import LABELS, PrometheusMetrics
from tests.servers.debian import free_port
from tests.servers.prometheus import Server, missing_programs
from tests.support.paths import ROOT
from tests.tasks.infer.test_prometheus import DEVICE, STEP, fed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RULES = ROOT / "infra" / "prometheus"
DASHBOARD = ROOT / "infra" / "grafana" / "nightblend.json"
WAIT_S = 60.0

pytestmark = pytest.mark.skipif(
    bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())} (Debian's prometheus)"
)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *arguments]
    return subprocess.run(command, cwd=RULES, capture_output=True, text=True, check=False)


def test_configuration_and_rules_are_valid() -> None:
    done = promtool("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_with_a_night_in_order_and_one_that_is_not() -> None:
    done = promtool("test", "rules", "rules_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    alerts = set(re.findall(r"alert: (\w+)", (RULES / "rules.yml").read_text()))
    tried = (RULES / "rules_test.yml").read_text()
    assert len(alerts) >= 5
    for alert in alerts:
        assert len(re.findall(rf"alertname: {alert}\b", tried)) >= 2, alert
        assert re.search(rf"alertname: {alert}\n\s+exp_alerts:", tried), alert


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with our rules, which scrapes a night every second; its engine was started three times."""
    folder: Path = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    configuration = (RULES / "prometheus.yml").read_text()
    for said, instead in (
        ("scrape_interval: 15s", "scrape_interval: 1s"),
        ("evaluation_interval: 30s", "evaluation_interval: 1s"),
        ("localhost:9400", f"127.0.0.1:{port}"),
    ):
        assert said in configuration
        configuration = configuration.replace(said, instead)
    (folder / "prometheus.yml").write_text(configuration)
    rules = (RULES / "rules.yml").read_text()
    assert "for: 2m" in rules
    (folder / "rules.yml").write_text(rules.replace("for: 2m", "for: 2s"))
    ended = threading.Event()
    metrics = fed()
    for _ in range(2):
        metrics.engine_started()
    # Promised ten minutes ago, expected in ten; what was promised to beta is done.
    now = time.time()
    metrics.promise("acme", now - 600, now + 600, 12)
    metrics.promise("beta", now - 600, now - 300, 0)
    metrics.serve(port)
    going_on = threading.Thread(target=_go_on, args=(metrics, ended))
    going_on.start()
    try:
        with Server(folder / "prometheus.yml", folder) as found:
            yield found
    finally:
        ended.set()
        going_on.join()
        metrics.close()


def _go_on(metrics: PrometheusMetrics, ended: threading.Event) -> None:
    """Answer a request about five times a second."""
    waiting = 1000
    while not ended.wait(0.2):
        waiting -= 1
        metrics.step(STEP, waiting, DEVICE)
        metrics.answered("stop", 1)


def test_the_dashboard_has_something_to_show_in_every_panel(server: Server) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    filled = {"$model": ".*", "$nightly": "triage", "$__rate_interval": "20s"}

    def ask(query: str) -> list[Any]:
        for name, value in filled.items():
            query = query.replace(name, value)
        assert "$" not in query, query
        rows = server.ask("query", query=query)["result"]
        return [row for row in rows if row["value"][1] != "NaN"]

    def all_have_values() -> bool:
        return all(ask(query) for query in queries)

    try:
        server.until(all_have_values, WAIT_S)
    except TimeoutError:
        pytest.fail(f"nothing to show for {[query for query in queries if not ask(query)]}")
    assert all(row["metric"] == {"nightly": "triage"} for query in queries for row in ask(query))
    for label in LABELS:
        (value,) = server.ask(f"label/{label}/values")
        assert value in {"tiny", "triage", "0"}


def test_figures_by_nightly_are_recorded(server: Server) -> None:
    names = re.findall(r"record: (\S+)", (RULES / "rules.yml").read_text())
    assert len(names) >= 8
    server.until(lambda: all(server.ask("query", query=name)["result"] for name in names), WAIT_S)
    (left,) = server.ask("query", query="nightly:nightblend_left:requests")["result"]
    assert left["metric"]["nightly"] == "triage"
    (pace,) = server.ask("query", query="nightly:nightblend_done:per_second")["result"]
    (eta,) = server.ask("query", query="nightly:nightblend_eta:seconds")["result"]
    assert 1.0 < float(pace["value"][1]) < 10.0
    assert 10.0 < float(eta["value"][1]) < 1000.0


def test_an_alert_fires_and_says_what_is_the_matter(server: Server) -> None:
    def fires() -> bool:
        alerts = server.ask("alerts")["alerts"]
        return any(one["labels"]["alertname"] == "NightblendEngineRestarts" for one in alerts)

    server.until(fires, WAIT_S)
    found = {one["labels"]["alertname"]: one for one in server.ask("alerts")["alerts"]}
    alert = found["NightblendEngineRestarts"]
    assert alert["state"] == "firing"
    assert alert["labels"]["nightly"] == "triage"
    assert alert["annotations"]["summary"] == "triage: the engine was started 3 times"
    assert "NightblendStalled" not in found


def test_a_promise_that_is_at_risk_fires_for_its_tenant_alone(server: Server) -> None:
    def firing() -> list[dict[str, Any]]:
        alerts = server.ask("alerts")["alerts"]
        mine = [one for one in alerts if one["labels"]["alertname"] == "NightblendPromiseAtRisk"]
        return [one for one in mine if one["state"] == "firing"]

    server.until(lambda: bool(firing()), WAIT_S)
    (alert,) = firing()
    assert alert["labels"]["tenant"] == "acme"
    assert alert["annotations"]["summary"] == "triage: requests of acme ready 20m 0s too late"
