"""For `qsmtpd --check`: lists whose entries are probably meant as regular expressions."""

from __future__ import annotations

from ..config.session import plugin_specs
from ..filters.wildmat import EXPRESSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.settings import Settings
    from .report import Report

#: The filters that have such lists, and their control files.
LISTS = {
    "badattachments": ("badattachments",),
    "badheaders": ("badheaders",),
    "badmailfrom": ("badmailfrom",),
    "badrcptto": ("badrcptto",),
    "greylist": ("greylistexemptfrom", "greylistexemptto"),
    "helocheck": ("badhelo",),
}
#: Of these the entries are no addresses.
OTHERS = ("badattachments", "badheaders", "helocheck")
#: qregex refuses what does not match behind a `!`, and here that takes back.
NEGATED = "re: begins one, but for what is not to match write another, as re:[^@]+ for !@"
#: What stands in no address, name or pattern, but in the expressions of the qregex patch.
_PARTS = (b"\\.", b".+", b"]+", b"@.*")
_CLASSES = (b"d", b"D", b"w", b"W", b"s", b"S", b"b", b"B")  # behind a backslash


def check_lists(report: Report, settings: Settings) -> None:
    """Report on each list that a filter of a session has.  Raises ControlError."""
    for line in plugin_specs(settings):
        for file in LISTS.get(line.plugin, ()):
            given = line.options.get(file.encode("ascii"))
            file = file if given is None else given.decode("ascii", "backslashreplace")
            _check_list(report, settings, file, line.plugin not in OTHERS)


def _check_list(report: Report, settings: Settings, file: str, of_addresses: bool) -> None:
    """Report on one of them."""
    for number, entry in _entries(settings, file):
        name = entry.removeprefix(b"!")
        shown = entry[:80].decode("ascii", "backslashreplace")
        if not name.startswith(EXPRESSION):
            if looks_like_expression(name):
                what = "looks like a regular expression, and is none: "
                what += NEGATED if entry != name else "write re: before it"
                report.wrong("control/" + file, f"line {number}: {shown} {what}")
        elif of_addresses and not _has_domain(name.removeprefix(EXPRESSION)):
            what = "matches no address with a domain: it is for the whole address"
            report.warn("control/" + file, f"line {number}: {shown} {what}")


def looks_like_expression(entry: bytes) -> bool:
    """Is this, without its `!`, probably a line for the qregex patch?"""
    return (
        entry.startswith((b"^", b".*"))
        or entry.endswith((b"$", b".*@"))
        or entry in (b"@", b".")
        or any(part in entry for part in _PARTS)
        or (b"(" in entry and b"|" in entry and b")" in entry)
        or any(
            (byte == 0x7C and entry[at - 1 : at].isalnum() and entry[at + 1 : at + 2].isalnum())
            or (byte == 0x5C and entry[at + 1 : at + 2] in _CLASSES)
            or (byte == 0x7B and entry[at + 1 : at + 2].isdigit() and b"}" in entry[at:])
            for at, byte in enumerate(entry)
        )
    )


def _has_domain(text: bytes) -> bool:
    """Can this expression match an address with an `@`?  One that names it knows what it does."""
    from ..filters.expression import Expression

    try:
        return text == b"" or b"@" in text or Expression(text).may_hold(0x40)
    except ValueError:
        return True  # that is an error of its own


def _entries(settings: Settings, file: str) -> Iterator[tuple[int, bytes]]:
    """The entries of a list, each with the number of its line."""
    content = settings.files.read(file) or b""
    for number, line in enumerate(content.split(b"\n"), 1):
        entry = line.strip(b" \t\r")
        if entry and not entry.startswith(b"#"):
            yield number, entry
