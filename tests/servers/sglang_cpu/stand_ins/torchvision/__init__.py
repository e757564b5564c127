"""Stands for torchvision, whose builds need another torch; text needs none of it, but its names are imported.

Every module below it is there, and every name of these is a class with any attribute.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__version__ = "0.28.0"


class _AnyClass(type):
    """A class with any attribute."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


def _name_of(module: str, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"{module} has no {name}")
    return _AnyClass(name, (), {})


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return _name_of(self.__name__, name)


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, *_: Sequence[str] | object) -> ModuleSpec | None:
        inside = name.startswith(f"{__name__}.")
        return ModuleSpec(name, self, is_package=True) if inside else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


sys.meta_path.append(_Finder())


def __getattr__(name: str) -> Any:
    return _name_of(__name__, name)
