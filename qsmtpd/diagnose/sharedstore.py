"""For `qsmtpd --check`: a store on a server: does it answer, does it write, may it forget?"""

from __future__ import annotations

import os
import stat
from time import monotonic, time

from ..net.daemon import LOCALHOST, UNIX
from ..policy.store import CLIENTS, KEY, Record, StoreSettings, Trouble
from ..policy.store.redis import RedisStore
from .report import PATIENCE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..policy.store.address import Server
    from .report import Report

#: Clocks of machines that share a store may differ by so many seconds.
DIFFERENCE = 30
#: Key of a record that is written to see whether that can be done; it lasts a second.
_TRIAL = b"check"


def check_shared(
    report: Report, settings: Settings, wanted: StoreSettings, server: Server, where: str
) -> None:
    """Report on the server of this setting, which is called `where`."""
    _look_at_secrets(report, settings, server, where)
    if server.password is None and not _is_near(server):
        report.warn(where, "names no password: whoever reaches the server can change all counts")
    store = RedisStore(server, wanted.prefix, wanted.secret)
    store.deadline = monotonic() + PATIENCE
    now = int(time())
    try:
        store.update(CLIENTS, [_TRIAL], now, lambda _: [Record(now, 0, now + 1)])
        (clock,) = store.ask([(b"TIME",)], 0)
        facts = _facts(store)
    except Trouble as error:
        report.wrong(where, f"{error.reason} ({error.word})")
        return
    finally:
        store.close()
    version = facts.get("valkey_version") or facts.get("redis_version", "of some version")
    report.note("server of the store", server.name, f"it answers, and writes: {version}")
    policy = facts.get("maxmemory_policy", "noeviction")
    if facts.get("maxmemory", "0") != "0" and policy != "noeviction":
        what = f"has maxmemory-policy {policy}: when it is full, it forgets what is counted"
        report.warn(where, f"{server.name} {what}; noeviction refuses, and that is logged")
    seconds = clock[0] if isinstance(clock, list) and clock else None
    if isinstance(seconds, bytes) and seconds.isdigit():
        difference = int(seconds[:12]) - int(time())
        if abs(difference) > DIFFERENCE:
            what = "the clocks of machines that share a store have to agree"
            report.warn(where, f"{server.name} is {difference} seconds ahead of us: {what}")


def _facts(store: RedisStore) -> dict[str, str]:
    """What the server says of itself; nothing where it may not say it.  Raises Trouble."""
    try:
        (said,) = store.ask([(b"INFO",)], 0)
    except Trouble as error:
        if error.word != "denied":
            raise
        return {}
    text = said.decode("ascii", "replace") if isinstance(said, bytes) else ""
    pairs = (line.partition(":") for line in text.split("\r\n"))
    return {name: value for name, colon, value in pairs if colon}


def _is_near(server: Server) -> bool:
    target = server.address.target
    if server.address.family == UNIX or not isinstance(target, tuple):
        return True
    return target[0] in (LOCALHOST.decode(), "::1") or target[0].startswith("127.")


def _look_at_secrets(report: Report, settings: Settings, server: Server, where: str) -> None:
    """Who can read them?"""
    files = [KEY]
    if server.password is not None:
        if where.startswith("control/"):
            files.append(where.removeprefix("control/"))
        else:
            what = "has a password, and all programs that qsmtpd starts are given it"
            report.warn(where, f"{what}: better put it into control/store")
    for name in files:
        try:
            mode = os.stat(settings.files.path(name)).st_mode
        except OSError:
            continue
        if mode & 0o007:
            what = "which has a secret, can be read by everybody"
            report.warn("control/" + name, f"{what}: mode {stat.S_IMODE(mode):04o}")
