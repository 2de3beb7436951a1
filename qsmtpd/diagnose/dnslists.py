"""For `qsmtpd --check`: lists in the DNS with which dnsbl or rhsbl can refuse nobody."""

from __future__ import annotations

from ..config.session import plugin_specs
from ..filters.dnslist import entries
from ..log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from .report import Report

#: The filters that have such a list: its control file, and the setting of its threshold.
LISTS = {"dnsbl": ("dnsbls", "dnsblthreshold"), "rhsbl": ("rhsbls", "rhsblthreshold")}


def check_dns_lists(report: Report, settings: Settings) -> None:
    """Report on the lists of each such filter of a session.  Raises ControlError."""
    for spec in plugin_specs(settings):
        if spec.plugin not in LISTS:
            continue
        file, name = LISTS[spec.plugin]
        own = settings.for_plugin(spec.name, spec.options, Log(2))
        where = "control/" + own.list_file(file)
        weights = [entry.weight for entry in entries(own, file)]
        threshold = own.number(name, name.upper(), 1)
        most = sum(weight for weight in weights if weight > 0)
        if not weights:
            report.wrong(where, f"has no list, so {spec.name} refuses nobody")
        elif threshold and not most:
            report.wrong(where, f"has no weight over 0, so {spec.name} refuses nobody")
        elif threshold > most:
            what = f"has weights of {most} together, and {name} is {threshold}: nobody is refused"
            report.warn(where, what)
