"""What is found out about SGLang in another interpreter before any work: its version, and what it can do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from engine.backends.facts import Capabilities, EngineFacts
from engine.backends.foreign.examine import CONSTRAINED, Wanted, has_grammars, look_at, version_with
from engine.backends.sglang.options import ARGUMENTS
from engine.choices import SGLANG

if TYPE_CHECKING:
    from pathlib import Path

    from engine.backends.sglang.options import SglangOptions

NOT_YET: Final = ("tools",)
"""What SGLang has, and nobody has held against ours."""
DIFFERENT: Final = ("presence_penalty", "frequency_penalty", "repetition_penalty", "min_tokens")
"""Fields of `Sampling` that do something else there: what was counted for them is forgotten where a request
is put back, the third does not look at the prompt, and stop strings do not wait for the last."""
APART: Final = (("ignore_eos", "stop_token_ids"), ("top_p", "min_p"), CONSTRAINED)
"""With the first, SGLang ignores the second as well, or applies it after the first, not before."""
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
    name, found = look_at(WANTED, python, model, options.arguments)
    version, grammars = version_with(name, options.arguments), has_grammars(found)
    return facts_of(replace(options, version=version, on_cpu=on_cpu, grammars=grammars))


def facts_of(options: SglangOptions) -> EngineFacts:
    """Return what is known of an SGLang that was looked at."""
    return EngineFacts(
        SGLANG,
        options.version,
        Capabilities(exact_hits=True, seeded=options.seeded, logprobs=True, structured=options.grammars),
        unsupported=(
            *NOT_YET,
            *DIFFERENT,
            *(() if options.grammars else ("constraint",)),
            *(() if options.seeded else ("seed",)),
        ),
        apart=APART,
        warning="" if options.on_cpu else UNTESTED,
        options=options.told(),
    )
