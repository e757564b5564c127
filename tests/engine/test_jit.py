"""Compiled functions: the types of entries, one form for all integers, and the folders they are kept in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from numba import types

from engine.arrays import frozen
from engine.jit import Entry, entry, njit
from engine.jit_types import argument_types, struct
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.arrays import Float64, Int32, UInt64
    from engine.runtime.schedule.flight import Flight
    from engine.runtime.state import Requests, Slots, Work


@struct(dims={"table": 2}, frozen=("fixed",))
class Pair(NamedTuple):
    fixed: Int32
    table: Float64
    count: int


def test_types_are_those_of_the_annotations() -> None:
    def function(pair: Pair, words: UInt64, n: int, x: float, y: bool) -> int: ...

    found = argument_types(function, {"words": 3}, ("words",))
    table = types.Array(types.float64, 2, "C")
    fixed = types.Array(types.int32, 1, "C", readonly=True)
    words = types.Array(types.uint64, 3, "C", readonly=True)
    pair = types.NamedTuple((fixed, table, types.int64), Pair)
    assert found == (pair, words, types.int64, types.float64, types.boolean)


def test_a_struct_of_arrays_has_the_type_that_numba_gives_its_values() -> None:
    from numba import typeof

    from engine.runtime.schedule.flight import make_flight
    from engine.runtime.state import make_requests, make_slots, make_work

    def function(a: Requests, b: Slots, c: Work, d: Flight) -> None: ...

    n = np.ones(2, np.int32)
    requests = make_requests(np.ones(3, np.int32), np.array([0, 1, 3]), n, np.ones(2), np.ones(2, np.int8))
    values = (requests, make_slots(2, 3, 4), make_work(5, 2), make_flight(2))
    assert argument_types(function, {}, ()) == tuple(typeof(value) for value in values)


def test_what_has_no_compiled_form_is_named() -> None:
    def unknown(a: dict[str, int]) -> None: ...

    def known(a: int) -> None: ...

    with pytest.raises(TypeError, match=r"unknown: a is a dict\[str, int\]"):
        argument_types(unknown, {}, ())
    with pytest.raises(TypeError, match="known: b is declared and is not there"):
        argument_types(known, {"b": 2}, ())


def test_two_structs_of_one_name_are_refused() -> None:
    from engine.runtime.state import Work

    other = type("Work", (), {"__module__": "elsewhere"})
    assert Work.__module__ != "elsewhere"
    with pytest.raises(ValueError, match="Work: a struct in engine"):
        struct()(other)


def test_an_integer_has_one_form_whatever_its_size_and_constants_too() -> None:
    @njit
    def part(n: int) -> int:
        return n + 1

    @entry()
    def whole(values: Int32, n: int) -> int:
        return part(0) + part(n) + part(values[0])

    assert isinstance(whole, Entry)
    whole._cache.disable()
    assert whole(np.array([5], np.int32), 7) == 15
    assert part.signatures == [(types.int64,)]
    assert set(whole.signatures) == {whole.types}


def test_a_part_answers_python_as_well() -> None:
    @njit
    def part(n: int) -> int:
        return 3 * n

    assert part(4) == 12


def test_frozen_arrays_share_their_elements_and_cannot_be_written() -> None:
    values = np.arange(6).reshape(2, 3)
    view = frozen(values)
    assert np.shares_memory(view, values)
    assert view.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1
    values[0, 0] = 9
    assert view[0, 0] == 9
    assert frozen(values[:, 1]).flags.c_contiguous


PACKAGE = ("__init__.py", "arrays.py", "cache_places.py", "jit.py", "jit_cache.py", "jit_types.py", "warm.py")
INNER = "from engine.jit import njit\n\n@njit\ndef part(n):\n    return n + {}\n"
OUTER = (
    "from engine.jit import entry\nfrom engine.inner import part\n\n"
    "@entry()\ndef whole(values: 'Int64') -> 'int':\n    return part(values[0])\n"
)
ASK = """
import json, sys
from pathlib import Path
import numpy as np
from numba.core.event import Listener, install_listener
from engine.jit import ENTRIES
from engine.warm import warm
compiled = []
class Seen(Listener):
    def on_start(self, event): compiled.append(event.data["dispatcher"].py_func.__name__)
    def on_end(self, event): pass
with install_listener("numba:compile", Seen()):
    warmed = warm({"engine": Path(sys.argv[1])}, lambda: None) if sys.argv[2] == "warm" else None
    from engine.outer import whole
    answer = int(whole(np.array([4])))
print(json.dumps([answer, compiled, warmed and warmed.compiled, warmed and warmed.functions]))
"""


def made(folder: Path) -> Path:
    """Return a package `engine` with one entry, in a folder of its own."""
    package = folder / "engine"
    package.mkdir(parents=True)
    for name in PACKAGE:
        shutil.copyfile(ROOT / "engine" / name, package / name)
    (package / "inner.py").write_text(INNER.format(1))
    (package / "outer.py").write_text(OUTER)
    return package


def ask(package: Path, how: str = "use", bound: Sequence[str] = (), **environment: str) -> tuple[list, str]:
    """Return what a process of its own finds: the answer, what it compiled; and what it said."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "XDG"))}
    environment = {"HOME": str(package.parent / "home"), **environment}
    found = subprocess.run(
        [*bound, sys.executable, "-c", ASK, str(package), how],
        env={**inherited, "PYTHONPATH": str(package.parent), "PYTHONSAFEPATH": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    return json.loads(found.stdout), found.stderr


def without_privileges() -> list[str]:
    """Return what a command begins with so that the permissions of files count, for root as well."""
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        pytest.skip("root writes everywhere, and there is no setpriv")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]


def test_what_is_warmed_is_found_in_a_copy_that_cannot_be_written(tmp_path: Path) -> None:
    """As in an image: another path, other times, a read-only root, and no home."""
    package = made(tmp_path / "built")
    assert ask(package, "warm", NUMBA_CPU_NAME="generic") == ([5, ["whole", "part"], 1, 1], "")
    assert ask(package, "warm", NUMBA_CPU_NAME="generic") == ([5, [], 0, 0], "")
    copied = tmp_path / "image" / "site" / "engine"
    shutil.copytree(package, copied, copy_function=shutil.copyfile)
    for path in (copied, *copied.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    bound = without_privileges()
    assert ask(copied, "use", bound, NUMBA_CPU_NAME="generic", HOME="/proc/nowhere") == (
        [5, [], None, None],
        "",
    )
    # For another processor it is compiled, in vain: there is nowhere to keep it, and it says so once.
    for _ in range(2):
        found, said = ask(copied, "use", bound, HOME="/proc/nowhere")
        assert found[:2] == [5, ["whole", "part"]]
        assert said.count("nightblend warm") == 1
    # Where there is a home, it is kept there.
    for compiled in (["whole", "part"], []):
        assert ask(copied, "use", bound, HOME=str(tmp_path / "home"))[0][:2] == [5, compiled]


def test_a_change_in_a_function_that_is_called_is_seen(tmp_path: Path) -> None:
    package = made(tmp_path / "built")
    assert ask(package)[0][:2] == [5, ["whole", "part"]]
    assert ask(package)[0][:2] == [5, []]
    (package / "inner.py").write_text(INNER.format(3))
    assert ask(package)[0][:2] == [7, ["whole", "part"]]
