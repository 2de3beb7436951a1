"""For `qsmtpd --check`: has the filter dmarc what it needs?"""

from __future__ import annotations

from ..filters import dmarc
from ..log import Log
from . import dkim, spf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import PolicySettings
    from ..config.settings import PluginSettings, Settings
    from .report import Report


def check_dmarc(report: Report, settings: Settings, policy: PolicySettings) -> None:
    """Report on what makes DMARC worthless.  Raises ControlError."""

    def own(name: str) -> list[PluginSettings]:
        return [
            settings.for_plugin(spec.name, spec.options, Log(2))
            for spec in policy.plugins
            if spec.plugin == name
        ]

    words = [one.choice("dmarcpolicy", "DMARCPOLICY", dmarc.POLICIES) for one in own("dmarc")]
    if all(word == dmarc.OFF for word in words):
        return
    order = [spec.plugin for spec in policy.plugins]
    place = order.index("dmarc")
    has_dkim = dkim.checks(settings, policy)
    if not has_dkim and not spf.evaluates(settings, policy):
        what = "neither spf nor dkim is on, so no mail passes, and none is refused"
        report.wrong("dmarcpolicy", what)
    elif not has_dkim:
        what = "dkim is not on, so mail that was forwarded or came by a list fails"
        report.warn("dmarcpolicy", what)
    elif "dkim" in order[place:]:
        report.wrong("control/plugins", "has dkim behind dmarc, which then has no result of it")
    for one in own("spf"):
        if one.number("spfbehavior", "SPFBEHAVIOR", 0, most=6, empty=0) < 3:
            continue
        if one.choice("spfstage", "SPFSTAGE", ("rcpt", "data_post")) == "rcpt":
            what = "is rcpt: what SPF refuses is so before dmarc has seen who has signed it"
            report.warn("spfstage", what)
        elif "spf" in order[:place]:
            what = "has spf before dmarc, which then can excuse nothing"
            report.warn("control/plugins", what)
