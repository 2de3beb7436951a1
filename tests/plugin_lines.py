"""Lines of control/plugins that name a plugin of tests/plugins, and qsmtpd for what goes wrong."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from harness import BIN, ROOT
from listeners import patched


def _without_blanks(path: Path) -> Path:
    """The same folder, by a path that a line can hold: there a blank ends it."""
    if " " not in str(path):
        return path
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    link = folder / path.name
    link.symlink_to(path)
    return link


PLUGINS = _without_blanks(ROOT / "tests" / "plugins")


def decide(**options: str) -> str:
    """A line for the plugin `decide`; see there for its options."""
    return " ".join([f"{PLUGINS}/decide.py", *(f"{k}={v}" for k, v in options.items())])


def label(line: str, name: str) -> str:
    """The same, as another instance."""
    return line.replace("decide.py", f"decide.py:{name}")


#: A plugin has a second, but not to start: of that, none is spent on a machine that stands still.
STARTS = (
    "timelimit.TimeLimit.call = (lambda call: lambda self, who, seconds, *rest:"
    " call(self, who, 60.0 if who[1] == 'start' else seconds, *rest))(timelimit.TimeLimit.call)"
)
#: Where the alarm is enough there is no watchdog, which might come first to one that was stopped.
ALARM_ALONE = "timelimit._start_watchdog = lambda *_: None"
#: What the alarm does not end.
FOR_THE_WATCHDOG = ("hang", "compute", "disarm")


def limited(stage: str, how: str, name: str = "qsmtpd") -> list[str | Path]:
    """qsmtpd for a plugin that goes wrong in this way; `name`: or the package of a server."""
    changes = [STARTS] if stage != "start" else []
    if how not in FOR_THE_WATCHDOG:
        changes.append(ALARM_ALONE)
    if not changes:
        return [BIN / "qsmtpd"]
    return patched(*changes, package="qsmtpd.policy", program=name)
