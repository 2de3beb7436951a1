"""spflibrary: pyspf, as spfquery.py wants it."""

from __future__ import annotations

import sys

from ..facts import ControlError
from . import libraries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "Python's pyspf"
LEAST = (2, 0, 14)


def expect() -> None:
    """Make sure that the library is there; it is not imported.  Raises ControlError."""
    libraries.expect(NAME, "spf.py", "the filter spf needs it")


def load() -> Any:
    """The library, without one for the DNS.

    It imports dnspython, or else py3dns, for lookups that are not done here; the first
    would make a cold session four times as long.  What it wants of the second is little.
    Raises ControlError.
    """
    expect()
    from types import ModuleType

    nobody: Any = ModuleType("DNS")
    nobody.Type = type("Type", (), {"SPF": 99})
    nobody.DiscoverNameServers = lambda: None
    modules: dict[str, Any] = sys.modules
    before: dict[str, Any] = {name: modules[name] for name in ("dns", "DNS") if name in modules}
    modules["dns"], modules["DNS"] = None, nobody
    try:
        import spf
    except MemoryError:
        raise
    except Exception as error:  # whatever the file holds, or its reading says
        raise ControlError(NAME, f"cannot be imported: {error}") from error
    finally:
        del modules["dns"], modules["DNS"]
        modules.update(before)
    version = str(getattr(spf, "__version__", "of no version"))
    numbers = tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:3])
    if numbers < LEAST:
        raise ControlError(NAME, f"is {version[:40]}, and 2.0.14 is the oldest that will do")
    return spf
