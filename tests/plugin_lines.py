"""Lines of control/plugins that name a plugin of tests/plugins."""

from __future__ import annotations

from harness import ROOT

PLUGINS = ROOT / "tests" / "plugins"


def decide(**options: str) -> str:
    """A line for the plugin `decide`; see there for its options."""
    return " ".join([f"{PLUGINS}/decide.py", *(f"{k}={v}" for k, v in options.items())])


def label(line: str, name: str) -> str:
    """The same, as another instance."""
    return line.replace("decide.py", f"decide.py:{name}")
