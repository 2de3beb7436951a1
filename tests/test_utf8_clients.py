"""SMTPUTF8 with clients of other people: curl, and Postfix."""

from __future__ import annotations

import os
import subprocess

import pytest
from client import PATIENCE
from harness import Home, needs
from listeners import tcpserver
from postfix import Postfix

pytestmark = pytest.mark.interop

SENDER, RECIPIENT = "jürgen@bücher.example", "zoë@bücher.example"
MESSAGE = f"From: {SENDER}\nTo: {RECIPIENT}\nSubject: grüße\n\nhi\n"


@pytest.mark.parametrize("listed", ["bücher.example", "xn--bcher-kva.example"])
def test_curl(home: Home, listed: str) -> None:
    """It writes domains with A-labels, and asks for SMTPUTF8 where the rest needs it."""
    home.control("rcpthosts", listed)
    text = home.file("message", MESSAGE.replace("\n", "\r\n"))
    with tcpserver(home, ":allow") as server:
        url = f"smtp://127.0.0.1:{server.port}/me.example"
        people = ["--mail-from", SENDER, "--mail-rcpt", RECIPIENT]
        subprocess.run(
            [needs("curl"), "-sS", url, *people, "-T", text],
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            timeout=PATIENCE,
            check=True,
        )
    (stored,) = home.messages()
    assert b" with UTF8SMTP; " in stored.text
    assert stored.sender == "jürgen@xn--bcher-kva.example".encode()
    assert stored.recipients == [f"zoë@{listed}".encode()]
    assert "Subject: grüße\n".encode() in stored.text


def test_postfix(inside: Home) -> None:
    inside.control("rcpthosts", "xn--bcher-kva.example")
    with tcpserver(inside, ":allow") as server, Postfix(server.port) as postfix:
        outcome = postfix.send(SENDER, RECIPIENT, MESSAGE)
    assert "status=sent (250 ok " in outcome
    (stored,) = inside.messages()
    assert b" with UTF8SMTPS " in stored.text
    assert stored.sender == SENDER.encode()
    assert stored.recipients == ["zoë@xn--bcher-kva.example".encode()]
    assert "Subject: grüße\n".encode() in stored.text


@pytest.mark.parametrize("setting", ["off", "local"])
def test_what_postfix_bounces(inside: Home, setting: str) -> None:
    """Not offered, or not for this recipient: for good, and it says why."""
    inside.environ["RELAYCLIENT"] = ""
    inside.control("smtputf8", setting)
    with tcpserver(inside, ":allow") as server, Postfix(server.port) as postfix:
        outcome = postfix.send(SENDER, RECIPIENT, MESSAGE)
    assert "status=bounced" in outcome and "5.6.7" in outcome
