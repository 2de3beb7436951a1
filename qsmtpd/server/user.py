"""The change from root to the user that serves."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .options import Options


def become(options: Options) -> None:
    """Change to the user of -u and the group of -g.  Raises OSError."""
    if options.gid is None and options.uid is None:
        return
    what = "the groups"
    try:
        if os.geteuid() == 0:
            os.setgroups([] if options.gid is None else [options.gid])
        if options.gid is not None:
            what = f"to group {options.gid}"
            os.setgid(options.gid)
        if options.uid is not None:
            what = f"to user {options.uid}"
            os.setuid(options.uid)
    except OSError as error:
        raise OSError(0, f"cannot change {what}: {error.strerror}") from error
