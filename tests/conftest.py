"""Fixtures of every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A QMAILHOME with me and rcpthosts, and the oracle as its queue program."""
    home = Home(tmp_path)
    yield home
    home.end()
