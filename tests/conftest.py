"""Fixtures of every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from child import Child
from harness import Home
from tls_home import S6, SERVER, SSLSERVER, Open
from ucspitls import Helper


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A QMAILHOME with me and rcpthosts, and the oracle as its queue program."""
    home = Home(tmp_path)
    yield home
    home.end()


@pytest.fixture
def inside(home: Home) -> Home:
    """A home with a certificate."""
    SERVER.save(home.control_dir / "servercert.pem")
    return home


@pytest.fixture(params=["inside", "sslserver", "s6"])
def door(request: pytest.FixtureRequest, home: Home) -> Open:
    """Starts a conversation with a STARTTLS door of each kind."""
    path = SERVER.save(home.path / "certificate")
    if request.param == "inside":
        SERVER.save(home.control_dir / "servercert.pem")

    def start(**environ: str) -> Child:
        if request.param == "inside":
            return home.talk(**environ)
        report = SSLSERVER if request.param == "sslserver" else S6
        return home.talk(helper=Helper(path, report), **{"UCSPITLS": "", **environ})

    return start
