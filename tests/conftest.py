"""Fixtures of every test."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A QMAILHOME with me and rcpthosts, and the oracle as its queue program."""
    return Home(tmp_path)
