"""`nightblend deploy`: makes a Prefect server ready for nights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.parser import add_command
from tasks.base.accounting import ExitCode
from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from flows.commands.parser import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "deploy",
        execute,
        help="make a Prefect server ready",
        description="Create what a Prefect server (PREFECT_API_URL) needs to run nights: a work pool with "
        "its queues and its limit, the deployments of a file, the automations. It can be run again at any "
        "time.",
    )
    parser.add_argument("--pool", default="nightblend", help="work pool. Default: nightblend.")
    parser.add_argument(
        "--type",
        default="process",
        choices=("process", "docker", "kubernetes"),
        help="how the pool starts runs. Default: process.",
    )
    parser.add_argument(
        "--gpus",
        type=int,
        default=1,
        help="GPUs of a run (Docker, Kubernetes); 0 for a pool that does not compute. Default: 1.",
    )
    parser.add_argument("--slots", type=int, default=1, help="runs that may compute at a time. Default: 1.")
    parser.add_argument("--image", help="image of the runs (Docker, Kubernetes). Default: nightblend:latest.")
    parser.add_argument(
        "--python", metavar="PATH", help="Python of the workers (process). Default: that of this command."
    )
    parser.add_argument(
        "--prefect-file",
        metavar="FILE",
        help="deployments to create, see infra/prefect.yaml; without it the pool alone is made",
    )
    parser.add_argument("--notify", metavar="TYPE/NAME", help="notification block, such as slack-webhook/ops")


def execute(options: dict[str, Any]) -> int:
    """Do it and say what was done."""
    check_server("deploy")
    if options["gpus"] < 0 or options["slots"] < 1:
        raise ConfigurationError("--gpus/--slots", "must be 0 or more, and 1 or more", "Correct them")
    from prefect.client.orchestration import get_client

    from flows.deploy.automations import install
    from flows.deploy.prepare import PoolPlan, deploy_from, prepare_pool

    plan = PoolPlan(options["pool"], options["type"], options["gpus"], options["image"], options["python"])
    done: list[str] = []
    with get_client(sync_client=True) as client:
        done += prepare_pool(client, plan, options["slots"])
        if options["prefect_file"] is not None:
            deploy_from(Path(options["prefect_file"]))
            done.append(f"deployments of {options['prefect_file']}")
            done += install(client, options["notify"])
    if options["json"]:
        print(json.dumps({"done": done}))
        return int(ExitCode.OK)
    for line in done:
        print(line)
    print(f"Start a worker where the runs are to run: prefect worker start --pool {plan.name}")
    return int(ExitCode.OK)


def check_server(command: str) -> None:
    """Raise `ConfigurationError` unless a Prefect server is named."""
    if not os.environ.get("PREFECT_API_URL"):
        raise ConfigurationError(
            "PREFECT_API_URL",
            f"is not set, and `nightblend {command}` needs a Prefect server",
            "Start one by `prefect server start` and set it to http://127.0.0.1:4200/api",
        )
