#!/usr/bin/env bash
# prometheus_client 0.26.0 tells Prometheus 2 other names for vLLM's metrics than it tells curl.
#
# Tried: a gauge and a counter with names as vLLM's (`vllm:num_requests_running`), served by `start_http_server`, and
# scraped with the Accept headers of curl, of Prometheus 2.42 (Debian 12) and of Prometheus 3.
# Guessed: the same names for all three; a colon is valid in a metric's name in every format.
# Seen: in OpenMetrics, which Prometheus 2 asks for first, the colon has become an underscore, because the header says
# nothing of escaping: `vllm_num_requests_running`. Dashboards and alerts written for vLLM's names find nothing, while
# whoever looks with curl or a browser sees the names that they ask for.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check prometheus_client==0.26.0
"$work/env/bin/python" - <<'PY'
import urllib.request
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

ACCEPT = {
    "curl": "*/*",
    "Prometheus 2.42": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Prometheus 3": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,*/*;q=0.2",
}
EXPECTED = {
    "curl": {"vllm:num_requests_running", "vllm:generation_tokens_total"},
    "Prometheus 2.42": {"vllm_num_requests_running", "vllm_generation_tokens_total"},
    "Prometheus 3": {"vllm:num_requests_running", "vllm:generation_tokens_total"},
}
registry = CollectorRegistry()
Gauge("vllm:num_requests_running", "Requests that run", registry=registry).set(3)
Counter("vllm:generation_tokens", "Tokens", registry=registry).inc(7)
server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
url = f"http://127.0.0.1:{server.server_port}/metrics"
print("prometheus_client", version("prometheus_client"))
seen = {}
for who, accept in ACCEPT.items():
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    seen[who] = {line.split()[0] for line in lines if line and not line.startswith("#")}
    seen[who] = {name for name in seen[who] if not name.endswith("_created")}
    print(f"{who:16} {sorted(seen[who])}")
server.shutdown()
assert seen == EXPECTED, "the behaviour has changed"
PY
