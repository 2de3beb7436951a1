"""Header fields that plugins want removed from the message under way, as it streams by."""

from __future__ import annotations

from ..policy.stages import HEADER
from ..smtp.remover import FieldRemover

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..policy.hooks import Hooks
    from ..policy.spec import Entry

#: So many fields that one plugin has removed have a line in the log each; the rest is counted.
LOGGED = 20


class Removals:
    """Removes what the decisions at the stage header want removed.

    `failed`: a plugin could not say whether a field is to go.
    """

    __slots__ = ("failed", "_hooks", "_remover", "_counts")

    def __init__(self, hooks: Hooks) -> None:
        self.failed = False
        self._hooks = hooks
        self._counts: dict[str, int] = {}
        rules = [
            (entry.name, name.lower(), test and self._asking(entry, test))
            for entry, removals in hooks.removals
            for name, test in removals.items()
        ]
        self._remover = FieldRemover(rules, self._log)

    def feed(self, text: bytes, last: bool = False) -> bytes:
        """What stays of the header, or of what follows it; `last`: there is no more of it."""
        text = self._remover.feed(text, last)
        if self._remover.ended and self._counts:
            for name, count in self._counts.items():
                if count > LOGGED:
                    self._hooks.log.line("plugin", plugin=name, removed=count - LOGGED)
            self._counts = {}
        return text

    def _asking(self, entry: Entry, test: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
        def asks(value: bytes) -> bool:
            said = self._hooks.run(entry, HEADER, test, value)
            self.failed = self.failed or isinstance(said, BaseException)
            return bool(said)

        return asks

    def _log(self, plugin: str, name: bytes, value: bytes) -> None:
        count = self._counts[plugin] = self._counts.get(plugin, 0) + 1
        if count <= LOGGED:
            self._hooks.log.line("plugin", plugin=plugin, removed=name, value=value.strip())
