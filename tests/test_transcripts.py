"""Every transcript, over a pipe and over a socket, in one piece and byte by byte.

The fast tests have each once, in one piece: over the one and the other by turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from harness import Home
from transcripts import Transcript, load


def cases() -> Iterator[Any]:
    for number, transcript in enumerate(load()):
        whole = [mode for mode in transcript.modes if not mode[1]]
        fast = whole[number % len(whole)]
        for over, dribble in transcript.modes:
            yield pytest.param(
                transcript,
                over,
                dribble,
                id=f"{transcript.name}-{'bytes' if dribble else 'whole'}-{over}",
                marks=[] if (over, dribble) == fast else [pytest.mark.slow],
            )


@pytest.mark.parametrize(("transcript", "over", "dribble"), list(cases()))
def test_transcript(home: Home, transcript: Transcript, over: str, dribble: bool) -> None:
    transcript.check(home, over, dribble)
