"""What sessions share keeps nothing of them: the plan with its filters, and the modules."""

from __future__ import annotations

import os
import socket
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
from cdbs import make_cdb
from filters import script
from harness import PROGRAMS, Home
from test_in_turn import COMMANDS, LEAVERS, MESSAGE, Session, equip

from qsmtpd.config.files import ControlFiles
from qsmtpd.net.descriptors import Descriptors
from qsmtpd.policy.spec import BUILT_IN
from qsmtpd.session import connection, plan
from qsmtpd.session.dialogue import Smtp
from qsmtpd.session.plan import Plan

pytestmark = pytest.mark.slow

#: What may change: cdbs, which are opened when they are asked; the wire form of a reply, made
#: when it is first said; the fields of a log that each session begins anew, and values that it
#: has quoted, so many at most.
CACHES = {"_cdbs", "_cdb", "_state", "_header", "_fd", "_wire", "_common", "_known"}
#: Of the store: until when the next question may wait.
CACHES |= {"deadline"}
#: Of modules: addresses that were read before, so many at most; what is to be known when the store
#: cannot say, too.
MODULE_CACHES = {"qsmtpd.net.ucspi._seen", "qsmtpd.filters.sendlimits._memory"}
#: Of modules: signals and the log of the process under test.
OF_THE_PROCESS = {"qsmtpd.waits", "qsmtpd.log", "qsmtpd.start", "qsmtpd.testing"}
ATOMS = (bytes, str, int, float, bool, type(None), frozenset, types.CodeType)


def snapshot(what: object, seen: dict[int, int]) -> object:
    """All that an object holds, by value, as far as it is of ours."""
    if isinstance(what, ATOMS):
        return what
    if id(what) in seen:
        return f"#{seen[id(what)]}"
    seen[id(what)] = len(seen)
    if isinstance(what, dict):
        return {
            repr(k) if not isinstance(k, ATOMS) else k: snapshot(v, seen) for k, v in what.items()
        }
    if isinstance(what, (list, tuple)):
        return [snapshot(each, seen) for each in what]
    if isinstance(what, (set, bytearray)):
        return type(what)(what)
    if isinstance(what, types.FunctionType):
        return [what.__qualname__, snapshot(what.__closure__ or (), seen)]
    if isinstance(what, types.CellType):
        return snapshot(what.cell_contents, seen)
    if isinstance(what, types.MethodType):
        return [what.__func__.__qualname__, snapshot(what.__self__, seen)]
    kind = type(what)
    if not kind.__module__.startswith("qsmtpd."):
        return repr(kind)
    return [kind.__qualname__, {n: snapshot(v, seen) for n, v in attributes(what)}]


def attributes(what: object) -> Iterator[tuple[str, Any]]:
    for base in type(what).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in CACHES and hasattr(what, name):
                yield name, getattr(what, name)
    yield from getattr(what, "__dict__", {}).items()


def modules() -> object:
    """The variables of our modules, and of the classes in them."""
    seen: dict[int, int] = {}
    found = {}
    for name, module in sorted(sys.modules.items()):
        if name.startswith("qsmtpd.") and name not in OF_THE_PROCESS:
            for key, value in vars(module).items():
                if isinstance(value, type) and value.__module__ == name:
                    for inner, what in vars(value).items():
                        found[f"{name}.{key}.{inner}"] = snapshot(what, seen)
                elif not isinstance(value, (types.ModuleType, type)) and not key.startswith("__"):
                    found[f"{name}.{key}"] = snapshot(value, seen)
    return {name: what for name, what in found.items() if name not in MODULE_CACHES}


def differences(one: object, other: object, where: str = "") -> list[str]:
    """Where two snapshots are not the same."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        parts = [(f"{where}.{key}", one[key], other[key]) for key in one]
    elif (
        isinstance(one, (list, tuple))
        and isinstance(other, (list, tuple))
        and len(one) == len(other)
    ):
        parts = [(f"{where}[{n}]", *pair) for n, pair in enumerate(zip(one, other, strict=True))]
    else:
        return [] if one == other else [f"{where}: {one!r} -> {other!r}"[:300]]
    return [found for name, a, b in parts for found in differences(a, b, name)]


@pytest.fixture
def made(home: Home, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan with every filter but those that ask the DNS, or a daemon."""
    equip(home)
    (home.control_dir / "plugins").unlink()
    make_cdb(home.control_dir / "validrcptto.cdb", dict.fromkeys((b"x@ok.example",), b""))
    home.control("singleheaders", "Subject")
    home.control("sendlimits", "client:* messages=1000000/day", "user:* recipients=1000000/hour")
    home.control("authresults", "mx.example")
    home.control("morercpthosts", "more.example")
    home.control("badheaders", "Subject: bad", "re:x-a:[ ]?b")
    home.control("badattachments", "*.exe", "re:.*\\.com")
    make_cdb(home.control_dir / "badmimetypes.cdb", {b"TVqQAAMAA": b""})
    make_cdb(home.control_dir / "badloadertypes.cdb", {b"TVqQA": b""})
    home.control(
        "smtpplugins", "[mail]", ":echo P250 x; echo HX: y", "[rcpt]", ":echo SX=1; echo N"
    )
    environ = {
        **home.environ,
        "RBLSMTPD": "",
        "QSMTPD_STORE": "store",
        "RCPTCHECK": str(script(home.path, "exit 0")),
        "MESSAGECHECK": str(script(home.path, "exit 0")),
        "LOGFORMAT": "spamcontrol",
        "BADMIMETYPE": "",
        "BADLOADERTYPE": "M",
        "CONTENTACTION": "mark",
    }
    monkeypatch.chdir(home.path)
    checker = [os.fsencode(PROGRAMS / "checker"), b"true"]
    variables = {os.fsencode(name): os.fsencode(value) for name, value in environ.items()}
    found = plan.make(Smtp, ControlFiles(os.fsencode(home.path)), variables, checker)
    assert isinstance(found, Plan), found.error
    return found


def have(made: Plan, session: bytes, **facts: str) -> str:
    """A session with this plan, in this process; how it ended."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(session)
        ours.shutdown(socket.SHUT_WR)
        environ = {**made.environ, **{os.fsencode(k): os.fsencode(v) for k, v in facts.items()}}
        transport = Descriptors(theirs.fileno(), theirs.fileno())
        outcome = connection.serve(transport, theirs.fileno(), environ, made, os._exit)
        assert not outcome.trouble
    return outcome.end


def wire(session: Session) -> bytes:
    pieces = [
        piece for command in session.commands for piece in command if isinstance(piece, bytes)
    ]
    return b"".join(p if p.startswith(b"BDAT") else p + b"\r\n" for p in pieces)


def test_sessions_leave_nothing(made: Plan) -> None:
    """Every session of a kind, with rights and without, to its end or not."""
    names = {spec.plugin for spec in made.settings.policy.plugins}
    asks = {"mfdnscheck", "fcrdns", "dnsbl", "rhsbl", "spf", "dmarc", "dovecotusers"}
    asks |= {"dkim", "policyserver", "clamd", "rspamd", "spamd", "milter", "qmqpqueue"}
    asks |= {"greylist", "clientlimit"}  # which puts everybody off; what it keeps is the store
    assert names | asks == set(BUILT_IN)
    talks = [wire(Session("", [*commands, *MESSAGE], "")) for commands in ([c] for c in COMMANDS)]
    talks += [wire(leaver) for leaver in LEAVERS]
    for talk in talks:  # what is imported, or kept once for all, is there afterwards
        have(made, talk)
    before = snapshot(made, {}), modules()
    for number, talk in enumerate(talks):
        facts = {"TCPREMOTEIP": f"192.0.2.{number}", "TCPREMOTEHOST": f"c{number}.example"}
        have(made, talk + b"QUIT\r\n" * (number % 2), **facts)
    after = snapshot(made, {}), modules()
    assert differences(list(before), list(after)) == []
