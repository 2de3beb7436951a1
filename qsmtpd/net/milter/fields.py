"""The header of a message as milters count and change its lines.  Pure.

A line that is inserted is counted in the message as it will be delivered, so with our
own Received, which is the first; one that is changed or deleted, among those of its
name in the message as it came (cleanup(8) of Postfix does so).
"""

from __future__ import annotations

from ...smtp.header import is_mbox_line, is_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Stands for our own Received, and what plugins have put around it.
_OURS = (b"", b"")
#: How many lines may stand above it: less than qsmtpd.policy.hooks lets plugins have.
ABOVE_LIMIT = 50


class Fields:
    """The lines of a header, in their order, those `above` our own before it."""

    __slots__ = ("_fields", "_mbox")

    def __init__(self, header: bytes, above: Sequence[bytes] = ()) -> None:
        #: (name, the line as it is, with its LF)
        self._fields = [(line.partition(b":")[0], line + b"\n") for line in above]
        self._fields.append(_OURS)
        self._mbox = b""
        ours = len(self._fields)
        for line in _lines(header):
            if line[:1] in b" \t" and len(self._fields) > ours:
                name, text = self._fields[-1]
                self._fields[-1] = name, text + line
            elif not self._mbox and len(self._fields) == ours and is_mbox_line(line):
                self._mbox = line
            else:
                self._fields.append((line.partition(b":")[0].rstrip(b" \t"), line))

    def shown(self, leading_space: bool) -> Iterator[tuple[bytes, bytes]]:
        """(name, value) of each; the value without one space behind the colon, or with all."""
        for name, text in self._fields:
            if name:
                value = text.partition(b":")[2].removesuffix(b"\n")
                yield name, value if leading_space else value.removeprefix(b" ")

    def add(self, name: bytes, value: bytes) -> None:
        """A line at the end.  Raises ValueError, as all that follow, where it can be none."""
        self._fields.append((name, _line(name, value)))

    def insert(self, index: int, name: bytes, value: bytes) -> None:
        """A line that is then the one of this index, from 0."""
        if index <= self._fields.index(_OURS) == ABOVE_LIMIT:
            raise ValueError("inserts too many lines above Received")
        self._fields.insert(index, (name, _line(name, value)))

    def change(self, index: int, name: bytes, value: bytes) -> None:
        """Another value for the line of this name and index, from 1; none, and it is added."""
        place = self._find(index, name)
        if place is None:
            self.add(name, value)
        else:
            self._fields[place] = name, _line(name, value)

    def delete(self, index: int, name: bytes) -> None:
        """No line of this name and index any more, if there is one."""
        place = self._find(index, name)
        if place is not None:
            del self._fields[place]

    @property
    def above(self) -> list[bytes]:
        """The lines above our own, without their last LF."""
        return [text[:-1] for _, text in self._fields[: self._fields.index(_OURS)]]

    @property
    def below(self) -> bytes:
        """All others."""
        behind = self._fields[self._fields.index(_OURS) + 1 :]
        return self._mbox + b"".join([text for _, text in behind])

    def _find(self, index: int, name: bytes) -> int | None:
        left = max(index, 1)  # 0 is the first as well (Sendmail)
        name = name.lower()
        for place, (found, _) in enumerate(self._fields):
            if found.lower() == name:
                left -= 1
                if not left:
                    return place
        return None


def _lines(header: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in header.split(b"\n")]
    return lines[:-1] if header.endswith(b"\n") or not header else lines


def _line(name: bytes, value: bytes) -> bytes:
    """A line of the header: its name, its value with what stands behind the colon."""
    if not is_name(name):
        raise ValueError("no name of a header line")
    first, *folds = value.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    text = b"%b:%b\n" % (name, first)
    for fold in folds:
        if fold.strip(b" \t"):  # a line of blanks alone would be taken for the end of the header
            text += (fold if fold[0] in b" \t" else b"\t" + fold) + b"\n"
    return text
