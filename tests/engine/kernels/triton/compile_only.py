"""What the compiler makes of every kernel for sm_80 and sm_90, without a GPU.

    python tests/engine/kernels/triton/compile_only.py            # compare with resources.json
    python tests/engine/kernels/triton/compile_only.py --write    # update it

Registers and spilled bytes per thread come from ptxas, shared memory per block from Triton. The kernels are
those of the lists ``SPECS`` in the modules ``specs_*.py`` beside this one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
TABLE = HERE / "resources.json"
ARCHITECTURES = {"sm_80": 80, "sm_90": 90}
SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024}
"""Most bytes of shared memory that a block may have (CUDA C++ programming guide, compute capabilities)."""


@dataclass(frozen=True)
class Spec:
    """One kernel with the types and constants of one launch.

    Attributes
    ----------
    name
        Key in the table.
    kernel
        An `engine.kernels.backend.Kernel`.
    types
        Triton type of every argument that is no constant, such as "*bf16", "i32" or "fp32".
    constants
        Compile-time arguments, and the options num_warps and num_stages.
    unaligned
        Arguments of `types` that are not multiples of 16 in real launches: integers such as a count, or
        pointers. All others are told to the compiler to be, as a real launch would.
    attention
        Whether any spilled register is a failure.
    architectures
        What it can be compiled for; e4m3 numbers need sm_90 (sm_89 would do).
    """

    name: str
    kernel: object
    types: dict[str, str]
    constants: dict[str, object]
    unaligned: tuple[str, ...] = ()
    attention: bool = False
    architectures: tuple[str, ...] = ("sm_80", "sm_90")
    options: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        constants = dict(self.constants)
        options = {k: constants.pop(k) for k in ("num_warps", "num_stages") if k in constants}
        object.__setattr__(self, "constants", constants)
        object.__setattr__(self, "options", options)


def specs() -> list[Spec]:
    """The specs of all modules beside this one."""
    sys.path.insert(0, str(HERE))
    found = [s for path in sorted(HERE.glob("specs_*.py")) for s in import_module(path.stem).SPECS]
    names = [f"{spec.name} {architecture}" for spec in found for architecture in spec.architectures]
    if len(set(names)) != len(names):
        raise ValueError(f"two specs have the same name: {sorted(names)}")
    return found


def build(spec: Spec, architecture: str):
    """Compile one spec and return Triton's compiled kernel."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = spec.kernel.compiled()
    unknown = set(spec.types) | set(spec.constants)
    if unknown != set(function.arg_names):
        raise ValueError(f"{spec.name}: arguments differ: {unknown ^ set(function.arg_names)}")
    signature = {name: spec.types.get(name, "constexpr") for name in function.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(function.arg_names)
        if name in spec.types and name not in spec.unaligned and not spec.types[name].startswith("fp")
    }
    source = ASTSource(function, signature, spec.constants, aligned)
    target = GPUTarget("cuda", ARCHITECTURES[architecture], 32)
    return triton.compile(source, target=target, options=spec.options)


def measure(spec: Spec, architecture: str) -> dict[str, int]:
    """Return registers and spilled bytes per thread and shared bytes per block."""
    import triton.backends.nvidia

    compiled = build(spec, architecture)
    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "ptxas"
    name = "sm_90a" if architecture == "sm_90" else architecture
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / "kernel.ptx"
        ptx.write_text(compiled.asm["ptx"])
        report = subprocess.run(
            [tool, "-v", f"--gpu-name={name}", ptx, "-o", os.devnull],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    registers = re.search(r"Used (\d+) registers", report)
    if spilled is None or registers is None:
        raise RuntimeError(f"ptxas reports nothing about {spec.name}:\n{report}")
    return {
        "registers": int(registers[1]),
        "spills": int(spilled[1]) + int(spilled[2]),
        "shared": compiled.metadata.shared,
    }


def table() -> dict[str, dict[str, int]]:
    """The committed table: "name architecture" -> figures."""
    return json.loads(TABLE.read_text())["kernels"] if TABLE.exists() else {}


def table_versions() -> str:
    """The version of Triton that the committed table was made with; other versions may differ a little."""
    return json.loads(TABLE.read_text())["triton"]


def versions() -> str:
    """The version of Triton, whose ptxas decides the figures."""
    import triton

    return triton.__version__


def problems(spec: Spec, architecture: str, found: dict[str, int]) -> list[str]:
    """Return why the figures are not acceptable, whatever the table says."""
    out = []
    if spec.attention and found["spills"]:
        out.append(f"{spec.name} {architecture}: {found['spills']} bytes spilled")
    if found["shared"] > SHARED_LIMIT[architecture]:
        out.append(f"{spec.name} {architecture}: {found['shared']} bytes of shared memory do not fit")
    return out


def main() -> None:
    """Compile everything, print the table, and compare it or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    parser.add_argument("--only", default="", help="only kernels whose name contains this")
    arguments = parser.parse_args()
    found, bad, known = {}, [], table()
    for spec in specs():
        for architecture in spec.architectures:
            if arguments.only not in spec.name:
                continue
            key = f"{spec.name} {architecture}"
            found[key] = measure(spec, architecture)
            bad += problems(spec, architecture, found[key])
            mark = "" if known.get(key) == found[key] else "  *"
            line = "  ".join(f"{value:>7} {name}" for name, value in found[key].items())
            print(f"{key:48} {line}{mark}")
    if arguments.write:
        kept = {} if not arguments.only else known
        rows = dict(sorted((kept | found).items()))
        TABLE.write_text(json.dumps({"triton": versions(), "kernels": rows}, indent=1) + "\n")
    elif any(known.get(key) != value for key, value in found.items()):
        bad.append("rows marked * differ from the table; --write updates it")
    print(*bad, sep="\n")
    if bad:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
