"""The kinds of certificates that the fake server shows: a good one, and three bad ones."""

from __future__ import annotations

GOOD, WRONG_NAME, EXPIRED, SELF_SIGNED = "good", "wrong-name", "expired", "self-signed"
