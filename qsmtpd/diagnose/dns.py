"""For `qsmtpd --check`: does the DNS answer the filters that ask it?"""

from __future__ import annotations

from functools import lru_cache
from time import monotonic

from ..net.dns import settings
from ..net.dns.exchange import Exchange
from ..net.dns.message import Question
from .report import PATIENCE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from .report import Report

#: Every resolver knows it (RFC 6761, 6.3), and one that does not says so.
ASKED = b"localhost"


def check_dns(report: Report, lookup: Settings) -> None:
    """Ask each server.  Raises ControlError."""
    servers = settings.DnsSettings(lookup).servers()
    problems = [(_shown(server), problem(server.family, server.address)) for server in servers]
    for name, found in problems:
        if found is None:
            report.note("DNS server", name, "answers")
        else:
            report.warn(f"DNS server {name}", found)
    if all(found for _, found in problems):
        report.wrong("DNS", "no server answers, so filters that ask it cannot tell")


@lru_cache(maxsize=100)  # qsmtpd-server --check looks at each rule
def problem(family: int, address: tuple[str | int, ...]) -> str | None:
    """What is wrong with this server, or None."""
    exchange = Exchange([settings.Server(family, address)], monotonic() + PATIENCE)
    (answer,) = exchange.ask([Question(ASKED, "A")])
    return answer.trouble or None


def _shown(server: settings.Server) -> str:
    ip, port = server.address[:2]
    return f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}"
