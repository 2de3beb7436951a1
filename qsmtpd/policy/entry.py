"""A plugin in its place: its hooks, and what holds for it."""

from __future__ import annotations

from .spec import NO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ..facts import Client

TIMEOUT = 30.0  # seconds
#: Which clients a plugin may want to leave alone.
IMMUNITIES = ("relay", "auth", "listed")


class Entry:
    """A plugin in its place: its name there, and what holds for it.

    `functions` maps a stage to what is to be called there.  `ours`: it came
    with this package.  `grants`: its accept lets a recipient in.
    """

    __slots__ = (
        "name",
        "functions",
        "immune",
        "spool",
        "timeout",
        "postpone",
        "grants",
        "ours",
        "file",
    )

    def __init__(
        self,
        name: str,
        functions: dict[str, Callable[..., Any]],
        immune: Iterable[str] = (),
        spool: bool = False,
        timeout: float = TIMEOUT,
        postpone: str = NO,
        grants: bool = False,
        ours: bool = True,
        file: str | None = None,
    ) -> None:
        self.name = name
        self.functions = functions
        self.immune = tuple(immune)
        self.spool = spool
        self.timeout = timeout
        self.postpone = postpone
        self.grants = grants
        self.ours = ours
        self.file = file  # where its code is

    def skips(self, client: Client) -> bool:
        """Is this client immune against this plugin?"""
        return bool(self.immune) and (
            ("relay" in self.immune and client.relay is not None)
            or ("auth" in self.immune and client.auth is not None)
            or ("listed" in self.immune and client.listed)
        )


#: class -> the names of its hooks: a warm process looks them up once.
_NAMES: dict[type, list[str]] = {}


def methods(plugin: object) -> dict[str, Callable[..., Any]]:
    """The public methods of a plugin: its hooks."""
    kind = type(plugin)
    if kind not in _NAMES:
        found = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}
        _NAMES[kind] = [
            name for name, what in found.items() if callable(what) and hasattr(what, "__get__")
        ]
    return {name: getattr(plugin, name) for name in _NAMES[kind]}
