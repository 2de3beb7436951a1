"""For `qsmtpd --check`: lists in the DNS with which dnsbl or rhsbl can refuse nobody."""

from __future__ import annotations

from functools import lru_cache
from time import monotonic

from ..config.session import plugin_specs
from ..filters.dnslist import entries, is_error
from ..log import Log
from ..net.dns.settings import DnsSettings, Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..net.dns.message import Answer
    from .report import Report

#: The filters that have such a list: its control file, the setting of its threshold, and
#: what each list has, and none (RFC 5782, 5).
LISTS = {
    "dnsbl": ("dnsbls", "dnsblthreshold", b"2.0.0.127", b"1.0.0.127"),
    "rhsbl": ("rhsbls", "rhsblthreshold", b"test", b"invalid"),
}


def check_dns_lists(report: Report, settings: Settings) -> None:
    """Report on the lists of each such filter of a session.  Raises ControlError."""
    for spec in plugin_specs(settings):
        if spec.plugin not in LISTS:
            continue
        file, name, always, never = LISTS[spec.plugin]
        own = settings.for_plugin(spec.name, spec.options, Log(2))
        where = "control/" + own.list_file(file)
        found = entries(own, file)
        threshold = own.number(name, name.upper(), 1)
        most = sum(entry.weight for entry in found if entry.weight > 0)
        if not found:
            report.wrong(where, f"has no list, so {spec.name} refuses nobody")
        elif threshold and not most:
            report.wrong(where, f"has no weight over 0, so {spec.name} refuses nobody")
        elif threshold > most:
            what = f"has weights of {most} together, and {name} is {threshold}: nobody is refused"
            report.warn(where, what)
        zones = tuple(sorted({entry.zone for entry in found}))
        servers = tuple((one.family, one.address) for one in DnsSettings(settings).servers())
        for problem in _problems(zones, always, never, servers):
            report.warn(where, problem)


@lru_cache(maxsize=100)  # qsmtpd-server --check looks at each rule
def _problems(
    zones: tuple[bytes, ...],
    always: bytes,
    never: bytes,
    servers: tuple[tuple[int, tuple[str | int, ...]], ...],
) -> list[str]:
    """What is wrong with each list that does not answer as it should."""
    from ..net.dns.exchange import Exchange
    from ..net.dns.message import Question
    from .report import PATIENCE

    exchange = Exchange([Server(*place) for place in servers], monotonic() + PATIENCE)
    names = [label + b"." + zone for zone in zones for label in (always, never)]
    answers = exchange.ask([Question(name, "A") for name in names])
    problems = []
    for number, zone in enumerate(zones):
        problem = _problem(*answers[2 * number : 2 * number + 2])
        if problem is not None:
            problems.append(f"{zone.decode('ascii')} {problem}")
    return problems


def _problem(always: Answer, never: Answer) -> str | None:
    if always.trouble:
        return f"does not answer: {always.trouble}"
    for record in always.records:
        if is_error(record):
            return f"answers {record.decode('ascii')}, which is no listing: does it answer you?"
    if not always.records:
        return f"does not list {always.name.decode('ascii')}, as lists do: is that its name?"
    if never.records:
        return f"lists {never.name.decode('ascii')}, so everything, and does not count"
    return None
