"""`nightblend deploy`: makes a Prefect server ready for nights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows.commands.common import check_server
from flows.commands.parser import CommandParser, whole
from tasks.base.accounting import ExitCode
from tasks.base.errors import ConfigurationError


def make_parser() -> CommandParser:
    """Return the options of the command."""
    parser = CommandParser(
        "deploy",
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
        type=whole,
        default=1,
        help="GPUs of a run (Docker, Kubernetes); 0 for a pool that does not compute. Default: 1.",
    )
    parser.add_argument("--slots", type=whole, default=1, help="runs that may compute at a time. Default: 1.")
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
    return parser


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
