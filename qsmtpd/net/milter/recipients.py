"""The recipients of a message as a milter adds and deletes them.  Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Recipients:
    """`suffix` is that of RELAYCLIENT, behind those that the client has named: no milter sees it.

    However many are added and deleted, each is found at once.
    """

    __slots__ = ("_before", "_known", "_deleted", "_added")

    def __init__(self, recipients: Iterable[bytes], suffix: bytes = b"") -> None:
        self._before = [(_key(one.removesuffix(suffix)), one) for one in recipients]
        self._known = {key for key, _ in self._before}
        self._deleted: set[bytes] = set()
        self._added: dict[bytes, bytes] = {}

    def add(self, address: bytes) -> None:
        """One more, unless it is there."""
        key = _key(address)
        if key not in self._known or key in self._deleted:
            self._added.setdefault(key, address)

    def delete(self, address: bytes) -> None:
        """Not this one, if it is there, however often."""
        key = _key(address)
        self._deleted.add(key)
        self._added.pop(key, None)

    def all(self) -> list[bytes]:
        """Those that are left, in their order, and those that are new."""
        left = [address for key, address in self._before if key not in self._deleted]
        return left + list(self._added.values())


def _key(address: bytes) -> bytes:
    """Domains are the same in any case."""
    box, at, domain = address.rpartition(b"@")
    return box + at + domain.lower() if at else address
