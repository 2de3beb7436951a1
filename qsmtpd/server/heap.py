"""The memory that the master shares with its workers, before and after a fork.

What a worker writes to is copied for it, page by page.
"""

from __future__ import annotations

import gc

#: Python allocates up to 512 bytes from pools, one for each multiple of 16.
_SIZES = range(1, 480, 16)
_EACH = 50
_filling: list[bytes] = []


def freeze() -> None:
    """Make ready for forks: nothing long-lived will be made before thaw()."""
    gc.collect()
    # What was freed has left holes between objects that stay.  A worker would fill
    # them, and with each one copy a page.  Filled now (0.4 MB, once), they make a
    # session 0.1 to 0.3 MB smaller where there is a certificate (November 2026).
    _filling.extend(bytes(size) for size in _SIZES for _ in range(_EACH))
    # The collector writes to each object that it looks at.
    gc.freeze()
    gc.disable()  # the master itself makes no cycles


def thaw() -> None:
    """Let go of what is no longer used, as a plugin's old module, while more is loaded."""
    gc.enable()
    gc.unfreeze()
    _filling.clear()
