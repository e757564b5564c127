"""Base job templates of the work pools: how a worker starts a run."""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from typing import Any, Final

KINDS: Final = ("process", "docker", "kubernetes")

_GPU_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "process": {},
    "docker": {"shm_size": "8g"},
    "kubernetes": {
        "node_selector": {"nvidia.com/gpu.present": "true"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}],
    },
}


def base_job_template(
    kind: str, gpus: int = 0, image: str | None = None, python: str | None = None
) -> dict[str, Any]:
    """Return the template of a pool.

    Parameters
    ----------
    kind
        One of `KINDS`.
    gpus
        GPUs of a run; 0 for a pool that only prepares and publishes.
    image
        Default of the runs' image; None leaves that of the template.
    python
        The interpreter that has Nightblend where the workers of a process pool are; None is this one.
    """
    text = files("flows.deploy").joinpath("pools", f"{kind}.json").read_text(encoding="utf-8")
    template: dict[str, Any] = json.loads(text)
    variables = template["variables"]["properties"]
    if kind == "process":
        # Prefect's own launcher puts the working directory first on the path of a run, so that a file
        # `tasks.py` there would be imported instead of ours; this one does not.
        variables["command"]["default"] = f"{python or sys.executable} -m prefect.engine"
    elif image is not None:
        variables["image"]["default"] = image
    if gpus:
        defaults = _GPU_DEFAULTS[kind]
        if kind == "docker":
            devices = {"Driver": "nvidia", "Count": gpus, "Capabilities": [["gpu"]]}
            defaults = {"container_create_kwargs": {**defaults, "device_requests": [devices]}}
        elif kind == "kubernetes":
            defaults = {**defaults, "gpus": gpus}
        for name, value in defaults.items():
            variables[name]["default"] = value
    return template
