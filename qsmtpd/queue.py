"""Kept for plugins: the name by which they have always imported Verdict."""

from __future__ import annotations

from .child.queue import Verdict

__all__ = ["Verdict"]
