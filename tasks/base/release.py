"""Which release of Nightblend this is."""

from __future__ import annotations


def release() -> str:
    """Return the version of the installed package; a bare checkout has none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("nightblend")
    except PackageNotFoundError:
        return "(not installed)"
