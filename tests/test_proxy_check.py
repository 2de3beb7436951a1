"""`qsmtpd --check` of the settings of the PROXY protocol."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from harness import BIN, Home, Variables
from listeners import listening, make_rules

pytestmark = pytest.mark.slow


def said(home: Home, **environ: Any) -> str:
    return home.run(b"", "--check", **environ).out.decode()


@pytest.mark.parametrize(
    ("entries", "environ", "text"),
    [
        (["0.0.0.0/0"], {}, "warning: control/proxyhosts: names everybody"),
        (["::/0"], {}, "warning: control/proxyhosts: names everybody"),
        (["192.0.2."], {"PROXYHOSTS": "0.0.0.0/0"}, "warning: PROXYHOSTS: names everybody"),
        (["# none"], {}, "warning: control/proxyhosts: has no entry"),
        (["192.0.2.1 # ours"], {}, "wrong: control/proxyhosts: line 1: '192.0.2.1 # ours' is no"),
        (["192.0.2.1/24"], {}, "wrong: control/proxyhosts: line 1: '192.0.2.1/24' is no"),
        (["192.0.2.1"], {"RELAYCLIENT": ""}, "warning: RELAYCLIENT: is not for clients behind"),
        (
            ["192.0.2.1"],
            {"PROXYTLS": "on", "QSMTPD_TLS": "external"},
            "warning: QSMTPD_TLS: says that all have TLS",
        ),
        (["192.0.2.1"], {"PROXYRULES": "/no/such.cdb"}, "wrong: PROXYRULES: /no/such.cdb: No such"),
        (None, {"PROXYTLS": "on"}, "warning: PROXYTLS: has no effect: proxyhosts names nobody"),
        (None, {"PROXYRULES": "/x"}, "warning: PROXYRULES: has no effect"),
    ],
)
def test_what_is_odd(home: Home, entries: list[str] | None, environ: Variables, text: str) -> None:
    if entries is not None:
        home.control("proxyhosts", *entries)
    assert text in said(home, **environ)


def test_what_is_right(home: Home) -> None:
    home.control("proxyhosts", "192.0.2.1", "2001:db8::/32", "192.0.2.")
    rules = make_rules(home.path / "proxied.cdb", "10.:allow", ":allow")
    text = said(home, PROXYRULES=str(rules), PROXYTLS="on")
    assert "ok: proxyhosts = 3 entries" in text
    assert "warning: proxy" not in text.lower() and "wrong: proxy" not in text.lower()


def test_rules_by_name_and_damaged_ones(home: Home) -> None:
    home.control("proxyhosts", "192.0.2.1")
    rules = make_rules(home.path / "proxied.cdb", "=mail.example:deny", ":allow")
    assert "warning: PROXYRULES: has 1 rules by name" in said(home, PROXYRULES=str(rules))
    rules.write_bytes(b"x" * 3000)
    assert f"wrong: PROXYRULES: {rules}" in said(home, PROXYRULES=str(rules))


def test_the_rules_of_the_warm_server_are_for_clients(home: Home) -> None:
    """Those give what they say: there is nothing to warn of."""
    home.control("proxyhosts", "192.0.2.1")
    rules = make_rules(home.path / "rules.cdb", '10.:allow,RELAYCLIENT=""', ":allow")
    options = ["--check", "-H", "-x", str(rules), "127.0.0.1", "0"]
    command = [str(BIN / "qsmtpd-server"), *options]
    checked = subprocess.run(command, env=listening(home), capture_output=True, text=True)
    assert "RELAYCLIENT = " in checked.stdout
    assert "is not for clients behind" not in checked.stdout
