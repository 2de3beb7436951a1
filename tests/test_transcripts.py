"""Every transcript, over a pipe and over a socket, in one piece and byte by byte."""

from __future__ import annotations

import pytest
from harness import Home
from transcripts import Transcript, load

CASES = [
    pytest.param(
        transcript,
        over,
        dribble,
        id=f"{transcript.name}-{'bytes' if dribble else 'whole'}-{over}",
        marks=[pytest.mark.slow] if dribble else [],
    )
    for transcript in load()
    for over, dribble in transcript.modes
]


@pytest.mark.parametrize(("transcript", "over", "dribble"), CASES)
def test_transcript(home: Home, transcript: Transcript, over: str, dribble: bool) -> None:
    transcript.check(home, over, dribble)
