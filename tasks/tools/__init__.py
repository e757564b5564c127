"""Calls of tools: how a model writes them, what holds it to that, and what they are in an answer."""

from __future__ import annotations
