"""The rooms of the project (folders), what each may import, and whether the code keeps to that.

    python -m tests.support.rooms                 # rooms, arrows between them, circles
    python -m tests.support.rooms tasks/store     # the imports behind each arrow from and to a room
    python -m tests.support.rooms --table         # the table of tests/test_layers.py as the code is now

An arrow leads from the room that imports to the one that is imported.
"""

from __future__ import annotations

import argparse
import textwrap
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from tests.support.imports import Import, all_imports, circles, python_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

TABLE = "ROOMS of tests/test_layers.py"
WIDTH = 110


class Room(NamedTuple):
    """A room of the table: what it is, in one line, and the rooms that it may import."""

    about: str
    may_import: tuple[str, ...]


def read_rooms(text: str) -> dict[str, Room]:
    """Read a table of rooms.

    A room begins a line, with a colon and what it is; the rooms that it may import follow, on indented lines.
    """
    about: dict[str, str] = {}
    may_import: dict[str, list[str]] = defaultdict(list)
    name = ""
    for line in text.splitlines():
        if line.startswith(" "):
            may_import[name] += line.split()
        elif line:
            name, _, about[name] = (part.strip() for part in line.partition(":"))
    return {name: Room(line, tuple(may_import[name])) for name, line in about.items()}


def write_rooms(rooms: Mapping[str, Room]) -> str:
    """Return the text that `read_rooms` reads, a package after the other."""
    lines, package = [], ""
    for name, (about, may_import) in rooms.items():
        if package and name.partition("/")[0] != package:
            lines.append("")
        package = name.partition("/")[0]
        lines.append(f"{name}: {about}")
        indent = {"initial_indent": "    ", "subsequent_indent": "    "}
        lines += textwrap.wrap(" ".join(may_import), WIDTH, break_on_hyphens=False, **indent)
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Layout:
    """What the code should look like.

    Attributes
    ----------
    rooms
        By path from the project's root.
    placed
        Files that belong to another room than their folder: entry points that a user names.
    """

    rooms: Mapping[str, Room]
    placed: Mapping[str, str] = field(default_factory=dict)


class Code:
    """The rooms and arrows that the code below some folders has."""

    def __init__(self, root: Path, folders: Iterable[str], placed: Mapping[str, str]) -> None:
        self.folders = list(folders)
        self._placed = placed
        self.files: dict[str, list[str]] = defaultdict(list)
        for file in python_files(root, *self.folders):
            self.files[self.room_of(file)].append(file)
        self.imports = all_imports(root, *self.folders)
        self.arrows: dict[tuple[str, str], list[Import]] = defaultdict(list)
        for step in self.imports:
            source, target = self.room_of(step.source), self.room_of(step.target)
            if source != target:
                self.arrows[source, target].append(step)
        self.room_circles = circles(self.arrows)
        self.file_circles = circles((step.source, step.target) for step in self.imports)

    def room_of(self, file: str) -> str:
        """Return the room of a file."""
        return self._placed.get(file) or file.rpartition("/")[0]

    def imported_by(self, room: str) -> tuple[str, ...]:
        """Return the rooms that a room imports, sorted."""
        return tuple(sorted(target for source, target in self.arrows if source == room))

    def ground_first(self) -> list[str]:
        """Return the rooms by package, each after all that it imports; those of a circle count as one."""
        group = {room: circle for circle in self.room_circles for room in circle}
        after: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
        for source, target in self.arrows:
            after[group.get(source, (source,))].add(group.get(target, (target,)))

        @cache
        def height(rooms: tuple[str, ...]) -> int:
            return 1 + max((height(below) for below in after[rooms] if below != rooms), default=0)

        def place(room: str) -> tuple[int, int, str]:
            return self.folders.index(room.partition("/")[0]), height(group.get(room, (room,))), room

        return sorted(self.files, key=place)


def problems(code: Code, layout: Layout) -> list[str]:
    """Return what the code and the layout do not agree about, each with what is to be done."""
    return [
        *_unknown_rooms(code, layout),
        *_new_arrows(code, layout),
        *_unused_arrows(code, layout),
        *_circles("rooms", code.room_circles),
        *_circles("files", code.file_circles),
    ]


def _unknown_rooms(code: Code, layout: Layout) -> list[str]:
    found = [
        f"{room}/ is not in {TABLE}. Give it a line there: what it is, and the rooms that it may import."
        for room in sorted(set(code.files) - set(layout.rooms))
    ]
    found += [
        f"{room}/ is in {TABLE}, and no file of the project is in it. Take its line out."
        for room in sorted(set(layout.rooms) - set(code.files))
    ]
    every = {file for files in code.files.values() for file in files}
    return found + [
        f"{file} has a place in the layout and does not exist. Take it out."
        for file in sorted(set(layout.placed) - every)
    ]


def _new_arrows(code: Code, layout: Layout) -> list[str]:
    found = []
    for (source, target), steps in sorted(code.arrows.items()):
        if source in layout.rooms and target not in layout.rooms[source].may_import:
            where = ", ".join(f"{step.source}:{step.line} imports {step.target}" for step in steps)
            found.append(
                f"{source} may not import {target}: {where}. Move what both need into a room that both may "
                f"import, or hand it over as an argument. If the data really goes that way, add "
                f'"{target}" to the line of "{source}" in {TABLE}.'
            )
    return found


def _unused_arrows(code: Code, layout: Layout) -> list[str]:
    return [
        f'{source} no longer imports {target}. Take "{target}" out of its line in {TABLE}.'
        for source, room in layout.rooms.items()
        for target in room.may_import
        if source in code.files and (source, target) not in code.arrows
    ]


def _circles(kind: str, found: list[tuple[str, ...]]) -> list[str]:
    return [
        f"{len(circle)} {kind} import each other in a circle: {', '.join(circle)}. "
        "Move what closes it into a room below, or hand it over as an argument."
        for circle in found
    ]


def print_rooms(code: Code, layout: Layout, root: Path) -> None:
    """Print each room with its size and what it imports, then the circles and the sums."""
    package = ""
    for name in code.ground_first():
        if name.partition("/")[0] != package:
            package = name.partition("/")[0]
            print(f"\n{package}/: ground first, each room imports rooms above it")
        files = code.files[name]
        lines = sum(len((root / file).read_text().splitlines()) for file in files)
        about = layout.rooms[name].about if name in layout.rooms else "(not in the table)"
        print(f"\n  {name}  -  {about}")
        print(f"      {len(files)} file{'s' * (len(files) != 1)}, {lines:,} lines")
        targets = code.imported_by(name)
        if targets:
            print(f"      imports {', '.join(targets)}")
    for kind, found in (("rooms", code.room_circles), ("files", code.file_circles)):
        for circle in found:
            print(f"\nCIRCLE of {kind}: {', '.join(circle)}")
    print(
        f"\n{len(code.files)} rooms, {len(code.arrows)} arrows, {len(code.room_circles)} circles of rooms, "
        f"{len(code.file_circles)} circles of files"
    )


def print_arrows(code: Code, room: str) -> None:
    """Print the imports behind each arrow from and to a room."""
    for (source, target), steps in sorted(code.arrows.items()):
        if room in {source, target}:
            print(f"\n{source} -> {target}")
            for step in steps:
                print(f"  {step.source}:{step.line} imports {step.target}")


def print_table(code: Code, layout: Layout) -> None:
    """Print the table as Python source; rooms without a line yet say so."""
    unknown = Room("TODO: what it is", ())
    rooms = {
        name: Room(layout.rooms.get(name, unknown).about, code.imported_by(name))
        for name in code.ground_first()
    }
    print(f'ROOMS = read_rooms("""\n{write_rooms(rooms)}""")')


def main() -> int:
    """Print what is asked for; the exit code is 1 if the code does not keep to the table."""
    from tests.support.paths import ROOT
    from tests.test_layers import FOLDERS, LAYOUT

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("rooms", nargs="*", help="rooms whose imports are listed")
    parser.add_argument("--table", action="store_true", help="the table as the code is now, to be pasted")
    arguments = parser.parse_args()
    code = Code(ROOT, FOLDERS, LAYOUT.placed)
    unknown = [room for room in arguments.rooms if room not in code.files]
    if unknown:
        parser.error(f"no such room: {', '.join(unknown)}")
    if arguments.table:
        print_table(code, LAYOUT)
        return 0
    for room in arguments.rooms:
        print_arrows(code, room)
    if arguments.rooms:
        return 0
    print_rooms(code, LAYOUT, ROOT)
    found = problems(code, LAYOUT)
    for problem in found:
        print(f"\n{problem}")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
