"""For `qsmtpd --check`: do the daemons that a session asks answer?

Each is asked as a session would ask it, as the user who runs the check.  Of programs, which
it does not run, see programs.py.
"""

from __future__ import annotations

import os
import stat
from functools import partial
from importlib import import_module

from ..facts import Client, Envelope, Peer
from ..log import Log
from ..net.daemon import Address, NoAnswer, address_of
from ..net.dovecot import Users
from ..net.dovecotauth import Authentication, Server
from ..net.policyprotocol import PolicyServer
from .programs import check_plugins
from .report import PATIENCE
from .spool import is_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..config.session import PolicySettings
    from ..config.settings import PluginSettings, Settings
    from ..net.daemonlist import Listed
    from .report import Report

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

    client = Client(Peer(b"127.0.0.1", host=b"localhost"))
    servers = {one.listed.name: one for one in policyserver.servers(settings)}

    def ask(listed: Listed) -> bytes:
        one = servers[listed.name]
        question = policyserver.question(one, one.stages[0], client, Envelope(b""), _NOBODY, 0)
        server = PolicyServer(listed.address, PATIENCE)
        try:
            action = server.ask(question)
        finally:
            server.close()
        if action.kind in policyserver.NOT_DONE:
            name, word = _text(listed.name), _text(action.word)
            where = "control/" + settings.list_file(policyserver.FILE)
            report.warn(where, f"{name} wants {word}, which is not done: it is 451")
        return action.word

    listed = [one.listed for one in servers.values()]
    _ask_each(report, settings, policyserver.FILE, "policy server", listed, ask)


def _check_scanner(report: Report, settings: PluginSettings, name: str) -> None:
    """One of those whose filter and whose protocol have the same name."""
    filter = import_module(f"qsmtpd.filters.{name}")
    protocol = import_module(f"qsmtpd.net.{name}")
    scanners = filter.Plugin(settings).scanners
    listed = [scanner.listed for scanner in scanners]
    for scanner in scanners:
        decides = scanner.headers or scanner.rejects or scanner.score is not None
        if name != "rspamd" and not decides:  # which may still put mail off
            where = "control/" + settings.list_file(filter.FILE)
            what = "with headers=no and reject=never is asked for the log alone"
            report.warn(where, f"{_text(scanner.listed.name)} {what}")

    def ask(one: Listed) -> bytes:
        said: bytes = protocol.ping(one.address, PATIENCE)
        return said

    _ask_each(report, settings, filter.FILE, f"{name}'s socket", listed, ask)


def _check_milters(report: Report, settings: PluginSettings) -> None:
    from ..filters import milter
    from ..net.milter.conversation import Milter
    from ..net.milter.protocol import ACTION_NAMES

    wants_file = False

    def ask(one: Listed) -> bytes:
        nonlocal wants_file
        asked = Milter(one.address, PATIENCE, PATIENCE)
        asked.quit()
        options = asked.options
        wants_file = wants_file or options.wants_file
        may = [name for bits, name in ACTION_NAMES.items() if options.actions & bits]
        return b"version %d, and may change %b" % (options.version, b", ".join(may) or b"nothing")

    listed = [one for one, _ in milter.Plugin(settings).milters]
    _ask_each(report, settings, milter.FILE, "milter", listed, ask)
    if wants_file:  # check_spool() asks filters without their daemons
        is_place(report)


def _check_hubs(report: Report, settings: PluginSettings) -> None:
    from ..filters import qmqpqueue

    hubs = qmqpqueue.Plugin(settings).hubs
    if hubs is not None:
        from .hubs import reach  # now: few have it

        reach(report, hubs)


def _ask_each(
    report: Report,
    settings: PluginSettings,
    file: str,
    what: str,
    listed: Sequence[Listed],
    ask: Callable[[Listed], bytes],
) -> None:
    """Those of a control file: what ask() is answered by each; it may raise NoAnswer."""
    where = "control/" + settings.list_file(file)
    if not listed:
        report.wrong(where, "has no entry, so nobody is asked")
    for one in listed:
        try:
            said = ask(one)
        except NoAnswer as error:
            report.wrong(where, no_answer(one.address, error))
        else:
            report.note(what, _text(one.name), f"it answers {_text(said)}")


def _text(text: bytes) -> str:
    return text.decode("ascii", "backslashreplace")


#: The filters that ask others, and what checks those.
_ASKING: dict[str, Callable[[Report, PluginSettings], None]] = {
    "clamd": partial(_check_scanner, name="clamd"),
    "dovecotusers": _check_dovecotusers,
    "milter": _check_milters,
    "policyserver": _check_policyservers,
    "qmqpqueue": _check_hubs,
    "rspamd": partial(_check_scanner, name="rspamd"),
    "spamd": partial(_check_scanner, name="spamd"),
    "spp": check_plugins,
}


def _check_users(report: Report, where: str, address: Address) -> None:
    try:
        users = Users(address, PATIENCE)
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
        exchange = Authentication(address, PATIENCE)
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
