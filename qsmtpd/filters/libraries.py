"""libraries: is a library there that a filter loads when it needs it?"""

from __future__ import annotations

import posix as os
import sys

from ..facts import ControlError

_there: set[str] = set()


def expect(name: str, file: str, why: str) -> None:
    """Make sure that it is there; it is not imported.  Raises ControlError.

    `name` is for people, `file` is where it is below one of Python's folders.
    """
    if file in _there:
        return
    if not _find(file):
        import site

        site.main()  # our launcher started Python without site, and so without its packages
        if not _find(file):
            raise ControlError(name, f"is not there, and {why}")
    _there.add(file)


def _find(file: str) -> bool:
    for folder in sys.path:
        try:
            os.stat(f"{folder}/{file}")
        except (OSError, ValueError):
            continue
        return True
    return False
