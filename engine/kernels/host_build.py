"""Builds the C operations of the CPU, where there is a compiler: once for each machine's instructions.

The library lies beside the compiled functions (`engine.cache_places`), under a digest of its source and of
how it was built: one for other instructions is never loaded. It is linked without a run time for threads of
its own, and uses that of torch, which has to be loaded before: two pools would fight for the cores.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from engine.cache_places import cache_places

SOURCE: Final = Path(__file__).with_name("host_ops.c")
_FLAGS: Final = ("-std=c11", "-O3", "-fPIC", "-fopenmp", "-fno-math-errno", "-ffp-contract=fast")
_COMPILERS: Final = ("cc", "gcc", "clang")
_SECONDS: Final = 120
_X86: Final = {
    "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    "x86-64-v3": ("avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"),
}
"""Levels of instructions, best first, and what tells them (x86-64 psABI, section 3.1.1)."""


class NoCompilerError(Exception):
    """There is no C compiler, or it cannot build the library."""


def level() -> str:
    """Return the instructions that this machine has, as compilers call them, '' for none in particular."""
    if platform.machine() == "x86_64":
        with suppress(OSError):
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith("flags"):
                    flags = set(line.split())
                    return next((name for name, needed in _X86.items() if flags.issuperset(needed)), "")
    return ""


def levels() -> tuple[str, ...]:
    """Return the instructions that machines of this kind may have."""
    return (*_X86, "") if platform.machine() == "x86_64" else ("",)


def file_name(chosen: str) -> str:
    """Return the name of the library for a level."""
    digest = hashlib.sha256(SOURCE.read_bytes())
    digest.update(" ".join((*_FLAGS, platform.machine(), chosen)).encode())
    return f"host-ops-{digest.hexdigest()[:16]}.so"


def build(chosen: str | None = None) -> Path:
    """Return the library for a level, None: for this machine; built if need be, which takes two seconds.

    Raises
    ------
    NoCompilerError
        If there is none (install one, as gcc), or if it fails, or no folder can be written.
    """
    chosen = level() if chosen is None else chosen
    name = file_name(chosen)
    for folder in cache_places():
        if (folder / name).exists():
            return folder / name
    compilers = (os.environ.get("CC"), *_COMPILERS)
    compiler = next((path for one in compilers if one and (path := shutil.which(one))), None)
    if compiler is None:
        raise NoCompilerError("there is no C compiler")
    for folder in cache_places():
        # A folder that cannot be written is no reason to stop: there is another one.
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="host-ops-", dir=folder) as made:
                # Others may build it at the same time.
                return _compiled(compiler, chosen, Path(made)).replace(folder / name)
    raise NoCompilerError("no folder for what it makes can be written")


def _compiled(compiler: str, chosen: str, folder: Path) -> Path:
    """Compile and link in a folder."""
    machine = (f"-march={chosen}",) if chosen else ()
    made, library = folder / "host_ops.o", folder / "host_ops.so"
    for command in (
        (compiler, *_FLAGS, *machine, "-c", str(SOURCE), "-o", str(made)),
        # Without -fopenmp here: see the top.
        (compiler, "-shared", str(made), "-lm", "-o", str(library)),
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)  # noqa: S603 - no shell
        except (subprocess.SubprocessError, OSError) as error:
            raise NoCompilerError(f"{compiler} cannot build it ({type(error).__name__})") from error
    return library
