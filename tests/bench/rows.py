"""The rows of the table: what is measured, by its name."""

from __future__ import annotations

MESSAGES = "messages/s in one connection"
STARTTLS = "STARTTLS sessions/s"
STARTTLS_CPU = "CPU of a STARTTLS session, ms"
GENERATOR_CPU = "CPU of its client, ms"
SHORT = "DATA, short lines, MB/s"
LONG = "DATA, long lines, MB/s"
COLD_CPU = "CPU of a cold session in pipes, ms"


def sessions(at_a_time: int) -> str:
    """Sessions of one message each."""
    return f"sessions/s, {at_a_time} at a time"


def cpu(at_a_time: int) -> str:
    """The server's CPU for one of them."""
    return f"CPU of a session, {at_a_time} at a time, ms"


def beside(idle: int) -> str:
    """Sessions while others are idle."""
    return f"sessions/s beside {idle} idle"


def memory(connections: int, tls: bool) -> str:
    """Of one idle connection among so many."""
    return f"memory of an idle connection, {connections}{' in TLS' if tls else ''}, KB"
