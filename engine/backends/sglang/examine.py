"""What is found out about SGLang in another interpreter before any work: its version, and what it can do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from engine.backends.facts import Capabilities, EngineFacts
from engine.backends.foreign.examine import Wanted, look_at, version_with
from engine.backends.sglang.options import ARGUMENTS
from engine.choices import SGLANG
from engine.runtime.sample.settings import CHANGING

if TYPE_CHECKING:
    from pathlib import Path

    from engine.backends.sglang.options import SglangOptions

NOT_YET: Final = (*CHANGING, "logit_bias", "include_stop_str_in_output", "constraint", "tools")
"""Tools, and fields of `Sampling`: SGLang has them under these names or others, nobody has held them against
ours."""
APART: Final = (("ignore_eos", "stop_token_ids"),)
"""With the first, SGLang ignores the second as well."""
WANTED: Final = Wanted("SGLang", "engine.backends.sglang.look", (0, 5, 23), ARGUMENTS)
UNTESTED: Final = "has not been tested on a GPU by us"
"""What is said of it wherever it would compute on one."""


def examine(options: SglangOptions, python: str | None, model: Path, *, on_cpu: bool) -> EngineFacts:
    """Look at SGLang in an interpreter.

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
        One line, see `engine.backends.foreign.examine.look_at`.
    """
    name, _ = look_at(WANTED, python, model, options.arguments)
    return facts_of(replace(options, version=version_with(name, options.arguments), on_cpu=on_cpu))


def facts_of(options: SglangOptions) -> EngineFacts:
    """Return what is known of an SGLang that was looked at."""
    return EngineFacts(
        SGLANG,
        options.version,
        Capabilities(exact_hits=True, seeded=options.seeded, logprobs=True),
        unsupported=(*NOT_YET, *(() if options.seeded else ("seed",))),
        apart=APART,
        warning="" if options.on_cpu else UNTESTED,
        options={
            "scheduling": options.scheduling,
            "pacing": options.pacing,
            "arguments": options.arguments,
            "version": options.version,
            "on_cpu": options.on_cpu,
        },
    )
