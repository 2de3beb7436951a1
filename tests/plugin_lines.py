"""Lines of control/plugins that name a plugin of tests/plugins."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from harness import ROOT


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
