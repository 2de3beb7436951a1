"""The rows of the table: what is measured, by its name."""

from __future__ import annotations

QUIT = "greeting + QUIT"
REFUSED = "refused at RCPT"
MESSAGE = "one message"
#: What a session may be.
LOADS = (QUIT, REFUSED, MESSAGE)

MESSAGES = "messages/s in one connection"
STARTTLS = "STARTTLS and one message, sessions/s"
STARTTLS_CPU = "STARTTLS and one message, CPU, ms"
STARTTLS_QUIT = "STARTTLS and QUIT, sessions/s"
STARTTLS_QUIT_CPU = "STARTTLS and QUIT, CPU, ms"
GENERATOR_CPU = "STARTTLS and one message, CPU of the client, ms"
SHORT = "DATA, short lines, MB/s"
LONG = "DATA, long lines, MB/s"
COLD_CPU = "CPU of a cold session in pipes, ms"


def sessions(load: str, at_a_time: int = 4) -> str:
    """Sessions of a load."""
    return f"{load}, sessions/s, {at_a_time} at a time"


def cpu(load: str, at_a_time: int = 4) -> str:
    """The server's CPU for one of them."""
    return f"{load}, CPU, ms, {at_a_time} at a time"


def calls(load: str) -> str:
    """System calls of one of them."""
    return f"{load}, system calls"


def beside(idle: int) -> str:
    """Sessions while others are idle in theirs."""
    return f"{MESSAGE}, sessions/s beside {idle} idle"


def memory(connections: int, tls: bool) -> str:
    """Of one idle connection among so many."""
    return f"memory of an idle connection, {connections}{' in TLS' if tls else ''}, KB"


def held(clients: int) -> str:
    """Memory of one client that has said nothing yet, among so many."""
    return f"memory of a held client, {clients}, KB"


def slowest(clients: int, dribble: bool) -> str:
    """How long it takes while so many others say nothing, or a byte a second and no line."""
    how = "that say a byte a second" if dribble else "that say nothing"
    return f"{REFUSED}, 99th percentile, ms, beside {clients} {how}"


def beside_held(clients: int) -> str:
    """Sessions while so many clients have said nothing yet."""
    return f"{REFUSED}, sessions/s beside {clients} held"
