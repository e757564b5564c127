"""A real Prometheus, for `make test-monitoring` (NIGHTBLEND_MONITORING=1); else nothing here is collected."""

from __future__ import annotations

import os

if os.environ.get("NIGHTBLEND_MONITORING") != "1":
    collect_ignore_glob = ["test_*.py"]
