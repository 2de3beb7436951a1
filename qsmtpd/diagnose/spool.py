"""For `qsmtpd --check`: is there a place for the files of messages that filters want in one?"""

from __future__ import annotations

import os

from ..config.files import temporary
from ..policy.spool import CHUNK, Spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..policy.hooks import Hooks
    from .report import Report


def check_spool(report: Report, hooks: Hooks) -> None:
    """Such a file is made, and written to, as a session does, where any filter may want one."""
    wants = (entry.spool for entry in hooks.order.at.get("data_post", ()))
    if not any(want if isinstance(want, bool) else want() for want in wants):
        return
    if is_place(report):
        where = os.fsdecode(temporary())
        report.note("TMPDIR", where, "it takes the files of messages that filters look at")


def is_place(report: Report) -> bool:
    """Can a file be made, and written to?  Says only that it can not."""
    try:
        spool = Spool()
        try:
            spool.write(bytes(CHUNK))
        finally:
            spool.close()
    except OSError as error:
        where = os.fsdecode(temporary())
        report.wrong("TMPDIR", f"{where} takes no file of a message: {error.strerror or error}")
        return False
    return True
