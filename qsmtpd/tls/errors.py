"""The two ways in which TLS fails."""

from __future__ import annotations


class Unavailable(Exception):
    """TLS cannot be had, although it is configured: the reason.  Plain mail goes on."""


class HandshakeFailed(Exception):
    """There is no TLS, and no way back to plain text: the reason."""
