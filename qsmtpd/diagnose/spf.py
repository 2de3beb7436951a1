"""For `qsmtpd --check`: can the filter spf load its library, and is there memory for that?"""

from __future__ import annotations

from ..filters import spflibrary
from ..log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import PolicySettings
    from ..config.settings import Settings
    from .report import Report

MB = 1024 * 1024
#: What a session wants that evaluates a record (bytes): measured 18 and 10 MB, and a reserve.
SPACE_LEAST, DATA_LEAST = 26 * MB, 16 * MB


def evaluates(settings: Settings, policy: PolicySettings) -> bool:
    """Is there a filter spf that evaluates records?  Raises ControlError."""
    for spec in policy.plugins:
        if spec.plugin == "spf":
            own = settings.for_plugin(spec.name, spec.options, Log(2))
            if own.number("spfbehavior", "SPFBEHAVIOR", 0, most=6, empty=0):
                return True
    return False


def check_spf(report: Report) -> None:
    """Load the library as the filter does.  Raises ControlError."""
    library = spflibrary.load()
    report.note(spflibrary.NAME, str(library.__file__), str(library.__version__))
