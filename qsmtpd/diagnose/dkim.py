"""For `qsmtpd --check`: the library of the filter dkim, memory for it, and who asks for results."""

from __future__ import annotations

from ..filters import dkim
from ..log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import PolicySettings
    from ..config.settings import Settings
    from .report import Report

MB = 1024 * 1024
#: What a session wants that checks a signature (bytes): measured 40 and 16 MB, and a reserve.
SPACE_LEAST, DATA_LEAST = 56 * MB, 24 * MB


def checks(settings: Settings, policy: PolicySettings) -> bool:
    """Is there a filter dkim that checks signatures?  Raises ControlError."""
    for spec in policy.plugins:
        if spec.plugin == "dkim":
            own = settings.for_plugin(spec.name, spec.options, Log(2))
            if own.number("dkim", "DKIM", 0, most=dkim.MOST, empty=dkim.DEFAULT):
                return True
    return False


def check_dkim(report: Report) -> None:
    """Load the library as the filter does.  Raises ControlError."""
    dkim.expect_library()
    from ..filters import dkimkey

    report.note(dkim.LIBRARY, str(dkimkey.cryptography.__file__), dkimkey.cryptography.__version__)


def check_order(report: Report, policy: PolicySettings) -> None:
    """Whoever writes down results has to come behind those who have them."""
    order = [spec.plugin for spec in policy.plugins]
    behind = order[order.index("authresults") :] if "authresults" in order else []
    for name in ("dkim", "dmarc"):
        if name in behind:
            what = f"has {name} behind authresults, which then has no result of it"
            report.wrong("control/plugins", what)
