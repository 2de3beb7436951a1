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
    if os.geteuid() == 0:
        os.setgroups([] if options.gid is None else [options.gid])
    if options.gid is not None:
        os.setgid(options.gid)
    if options.uid is not None:
        os.setuid(options.uid)
