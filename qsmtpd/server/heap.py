"""The memory that the master shares with its workers, before and after a fork.

What a worker writes to is copied for it, page by page.
"""

from __future__ import annotations

import gc


def freeze() -> None:
    """Make ready for forks: nothing long-lived will be made before thaw()."""
    gc.collect()
    # The collector writes to each object that it looks at.
    gc.freeze()
    gc.disable()  # the master itself makes no cycles


def thaw() -> None:
    """Let go of what is no longer used, as a plugin's old module, while more is loaded."""
    gc.enable()
    gc.unfreeze()
