"""What is found out about an engine in another interpreter before any work.

The engine is not loaded for that, which takes longer than many a night has patience for.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.backends.foreign.options import OPTION
from engine.backends.interpreter import LEAST, at_least, command_for, environment_for
from engine.errors import OptionError
from engine.models.checkpoint import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable

PYTHON: Final = "--engine-python"
LOOK_S: Final = 60.0
OLDEST_GRAMMARS: Final = (1, 7)
"""The oldest version of llguidance that reads our grammars."""
CONSTRAINED: Final = ("constraint", "logprobs")
"""For `EngineFacts.apart`: log probabilities of others come after the constraint has taken tokens away."""


@dataclass(frozen=True)
class Wanted:
    """What an interpreter has to have.

    Attributes
    ----------
    engine
        Name of the engine, for people.
    module
        Of ours, that prints what is there (`engine.backends.foreign.look`).
    oldest
        The oldest version of the engine whose calls are those that we use.
    arguments
        What the engine calls its arguments, as ``vLLM's EngineArgs``.
    """

    engine: str
    module: str
    oldest: tuple[int, ...]
    arguments: str


def look_at(
    wanted: Wanted, python: str | None, model: Path, arguments: Iterable[str]
) -> tuple[str, dict[str, Any]]:
    """Return name and version of an engine in an interpreter, and all that was found.

    Parameters
    ----------
    python
        Path of the interpreter; None is this one.
    model
        Folder of the model.
    arguments
        Names of the engine's arguments that are to be set.

    Raises
    ------
    OptionError
        One line, if the interpreter is none, does not have the engine or one that is too old, or if that does
        not have an argument or does not know the model's architecture.
    """
    found = _ask(python, wanted.module)
    where = python or "this interpreter"
    if not at_least(found["python"], LEAST):
        least = ".".join(map(str, LEAST))
        raise OptionError(PYTHON, f"{where} is Python {found['python']}", f"name one of {least} or later")
    package = wanted.engine.lower()
    if found["version"] is None or package in found["missing"]:
        raise OptionError(
            PYTHON, f"{where} has no {wanted.engine}", "name the interpreter of an environment that has it"
        )
    name = f"{found['distribution']} {found['version']}"
    if not at_least(found["version"], wanted.oldest):
        least = ".".join(map(str, wanted.oldest))
        raise OptionError(
            PYTHON, f"{where} has {name}, which is too old", f"install {wanted.engine} {least} or later"
        )
    if found["missing"]:
        raise OptionError(
            PYTHON, f"{where} has no {' and no '.join(found['missing'])}", "install what is missing"
        )
    known = set(found["arguments"])
    for key in arguments:
        if known and key not in known:
            raise OptionError(
                f"{OPTION} {key}", f"{name} has no such argument", f"use a field of {wanted.arguments}"
            )
    _check_model(found["architectures"], model, name)
    return name, found


def has_grammars(found: dict[str, Any]) -> bool:
    """Tell whether an interpreter that was looked at has what constraints are made with."""
    return at_least(found.get("grammars") or "", OLDEST_GRAMMARS)


def version_with(name: str, arguments: dict[str, Any]) -> str:
    """Return what the answers depend on, in words: the engine with the arguments that were given."""
    return " ".join([name, *(f"{key}={json.dumps(value)}" for key, value in sorted(arguments.items()))])


def _check_model(architectures: list[str], model: Path, name: str) -> None:
    asked = read_json(model / "config.json").get("architectures") or []
    if architectures and asked and not set(asked) & set(architectures):
        raise OptionError(
            "--model",
            f"{name} does not know {', '.join(map(str, asked))}",
            "use another model or a later version",
        )


def _ask(python: str | None, module: str) -> dict[str, Any]:
    if python is not None and not (Path(python).is_file() and os.access(python, os.X_OK)):
        raise OptionError(
            PYTHON,
            f"{python} is no interpreter",
            "name one, like /opt/vllm/bin/python; a path, not a command",
        )
    with tempfile.TemporaryDirectory(prefix="nightblend-look-") as folder:
        try:
            done = subprocess.run(  # noqa: S603 - our own module, no shell
                command_for(python, module),
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
