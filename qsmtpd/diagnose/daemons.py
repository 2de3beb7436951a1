"""For `qsmtpd --check`: do the daemons that a session asks answer?

Each is asked as a session would ask it, as the user who runs the check.
"""

from __future__ import annotations

import os
import stat

from ..facts import Client, Envelope, Peer
from ..log import Log
from ..net.daemon import Address, NoAnswer, address_of
from ..net.dovecot import Users
from ..net.dovecotauth import Authentication, Server
from ..net.policyprotocol import UNSUPPORTED, PolicyServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..config.session import PolicySettings
    from ..config.settings import PluginSettings, Settings
    from .report import Report

#: What is waited for each (seconds).
WAIT = 5.0
#: A recipient who is nowhere (RFC 2606, 2).
_NOBODY = b"no-such-user-of-qsmtpd@check.invalid"


def check_filters(report: Report, settings: Settings, policy: PolicySettings) -> None:
    """Those of filters.  Raises ControlError."""
    for spec in policy.plugins:
        if spec.plugin in _ASKING:
            own = settings.for_plugin(spec.name, spec.options, Log(2))
            _ASKING[spec.plugin](report, own)


def _check_dovecotusers(report: Report, settings: PluginSettings) -> None:
    address = address_of(settings, "dovecotusers", "DOVECOTUSERS")
    if address is not None:
        where = (settings.text("dovecotusers", "DOVECOTUSERS") or ("",))[0]
        _check_users(report, where, address)


def _check_policyservers(report: Report, settings: PluginSettings) -> None:
    from ..filters import policyserver

    where = "control/" + settings.list_file(policyserver.FILE)
    listed = policyserver.servers(settings)
    if not listed:
        report.wrong(where, "has no entry, so nobody is asked")
    client = Client(Peer(b"127.0.0.1", host=b"localhost"))
    for one in listed:
        stage = one.stages[0]
        question = policyserver.question(one, stage, client, Envelope(b""), _NOBODY, 0)
        server = PolicyServer(one.listed.address, WAIT)
        try:
            action = server.ask(question)
        except NoAnswer as error:
            report.wrong(where, no_answer(one.listed.address, error))
        else:
            name = one.listed.name.decode("ascii", "backslashreplace")
            report.note("policy server", name, f"it answers {action.word.decode('ascii')}")
            if action.kind == UNSUPPORTED:
                what = f"{name} wants {action.word.decode('ascii')}, which is not done: it is 451"
                report.warn(where, what)
        finally:
            server.close()


#: The filters that ask daemons, and what checks those.
_ASKING: dict[str, Callable[[Report, PluginSettings], None]] = {
    "dovecotusers": _check_dovecotusers,
    "policyserver": _check_policyservers,
}


def _check_users(report: Report, where: str, address: Address) -> None:
    try:
        users = Users(address, WAIT)
        knows_all = users.knows(_NOBODY)  # what it says at first is no answer about a user
        users.close()
    except NoAnswer as error:
        report.wrong(where, no_answer(address, error))
    else:
        report.note("Dovecot's userdb socket", os.fsdecode(address.text), "it answers")
        if knows_all:
            report.warn(where, "Dovecot says yes to each name, so dovecotusers refuses nobody")
        path = address.target
        if isinstance(path, bytes) and stat.S_IMODE(os.stat(path).st_mode) == 0o666:
            what = "has mode 0666: Dovecot says only who exists with the user ID of whoever asks"
            report.warn(where, what)


def check_server(
    report: Report, server: Server, where: str, named: Sequence[bytes], by: str
) -> None:
    """Dovecot's auth socket; `where` and `by` are the settings of it and of those `named`."""
    address = server.address
    try:
        exchange = Authentication(address, WAIT)
    except NoAnswer as error:
        report.wrong(where, no_answer(address, error))
        return
    exchange.close()
    has = exchange.mechanisms
    if not has:
        report.wrong(where, f"{os.fsdecode(address.text)} has no mechanism for a client")
        return
    names = b" ".join(has).decode("ascii")
    report.note("Dovecot's auth socket", os.fsdecode(address.text), f"it has {names}")
    for name in named:
        if name not in has and name != b"EXTERNAL":
            report.wrong(by, f"has {name.decode('ascii')}, which Dovecot has not")


def no_answer(address: Address, error: NoAnswer) -> str:
    """What is wrong with the daemon there, behind the name of its setting."""
    return f"{os.fsdecode(address.text)} gives no answer: {error}"
