"""What keeps a check from a verdict."""

from __future__ import annotations


class CouldNotTest(Exception):
    """A check has no answer; the text says why."""
