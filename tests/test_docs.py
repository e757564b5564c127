"""The documentation agrees with the tree and the command line: links, paths, rooms, commands, options."""

from __future__ import annotations

import re
import tomllib
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from typing import TYPE_CHECKING

import pytest

from flows.cli import NAMES, main
from flows.parameters.presets import PRESETS
from tasks.base.accounting import ExitCode
from tasks.requests.formats import AUTO, FORMATS
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGES = ("engine", "tasks", "flows")
FOLDERS = (*PACKAGES, "docs", "examples", "infra", "tests")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
)
README_LINES = 150

CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^(?: {4}.*\n)+", re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(rf"(?<![\w/{{.-])(?:{'|'.join(FOLDERS)})/[\w./*-]*")
MODULE = re.compile(rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)`")
COMMAND = re.compile(r"nightblend ([a-z]+(?:-[a-z]+)*)(.*)", re.DOTALL)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
ROOM = re.compile(rf"^\| \**`((?:{'|'.join(PACKAGES)})/[\w/]*)`", re.MULTILINE)
OTHER_OPTIONS = {"--help", "--version", "--limit", "--head", "--address"}
"""Of every command, of `nightblend` itself, of a Prefect worker, and of `ray start`."""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


documents = pytest.mark.parametrize("path", DOCUMENTS, ids=named)
for_users = pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "infra" / "RUNBOOK.md", *ROOT.glob("docs/*.md")],
    ids=named,
)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@documents
def test_links_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(path.read_text()):
        place, _, anchor = link.partition("#")
        if re.match(r"\w+:", place):
            continue
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@documents
def test_paths_exist(path: Path) -> None:
    for found in PATH.findall(path.read_text()):
        place = found.rstrip("./")
        # From the root, or from where the document lies.
        assert any(ROOT.glob(place)) or any(path.parent.glob(place)), found


@documents
def test_modules_exist(path: Path) -> None:
    for name in MODULE.findall(path.read_text()):
        parts = name.split(".")
        for count in range(len(parts), 0, -1):
            module = ROOT.joinpath(*parts[:count])
            source = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
            if source.exists():
                break
        rest = parts[count:]
        assert len(rest) <= 1, name
        assert not rest or re.search(rf"\b{rest[0]}\b", source.read_text()), name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def rooms() -> set[str]:
    """Folders with Python files."""
    folders = {file.parent for package in PACKAGES for file in (ROOT / package).rglob("*.py")}
    return {f"{named(folder)}/" for folder in folders}


def test_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    listed = ROOM.findall(text)
    assert sorted(listed) == sorted(rooms())
    (diagram,) = CODE.findall(text)
    drawn = {f"{place.rstrip('/')}/" for place in PATH.findall(diagram)}
    assert drawn
    assert drawn <= rooms()


@cache
def options_of(command: str) -> frozenset[str]:
    """Return the options that the help of a command lists."""
    said = StringIO()
    with redirect_stdout(said), pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert not ended.value.code, command
    text = said.getvalue()
    listed = re.findall(r"^  (-.*?)(?:  |$)", text, re.MULTILINE)
    return frozenset(option for line in listed for option in OPTION.findall(line))


def calls(text: str) -> Iterator[tuple[str, str]]:
    """Yield (command, what follows) of each call of the command line in a document."""
    text = CODE.sub("", text)
    for block in INDENTED.findall(text):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            found = COMMAND.search(line)
            if found:
                yield found[1], found[2]
    for code in INLINE.findall(INDENTED.sub("", text)):
        found = COMMAND.match(code)
        if found:
            yield found[1], found[2]


@for_users
def test_commands_and_options_exist(path: Path) -> None:
    text = path.read_text()
    for command, rest in calls(text):
        assert command in NAMES, command
        assert set(OPTION.findall(rest)) <= options_of(command), (command, rest)
    known = OTHER_OPTIONS.union(*map(options_of, NAMES))
    mentioned = {option for code in INLINE.findall(CODE.sub("", text)) for option in OPTION.findall(code)}
    assert mentioned <= known


def test_options_lists_commands_options_presets_and_exit_codes() -> None:
    text = (ROOT / "docs" / "options.md").read_text()
    listed = set(INLINE.findall(text))
    assert set(NAMES) <= listed
    assert set(PRESETS) <= listed
    mentioned = {option for code in listed for option in OPTION.findall(code)}
    assert options_of("run") - {"--json", "--help"} <= mentioned
    for code in ExitCode:
        assert f"\n| {code.value} | " in text


def test_sources_lists_the_formats() -> None:
    listed = set(INLINE.findall((ROOT / "docs" / "sources.md").read_text()))
    assert set(FORMATS) - {AUTO} <= listed


def test_the_changelog_has_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"\n## [{version}]" in text or f"\n## {version}" in text


DECIDED = re.compile(r"`((?:engine|tasks|flows)/[\w/]+\.py)`, `(\w+)`")


def test_architecture_names_what_decides() -> None:
    found = DECIDED.findall((ROOT / "docs" / "architecture.md").read_text())
    assert len(found) >= 12
    missing = [
        (path, name)
        for path, name in found
        if not re.search(rf"^\s*(?:def|class) {name}\b|\b{name}\b\s*[:=]", (ROOT / path).read_text(), re.M)
    ]
    assert missing == []
