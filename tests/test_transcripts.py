"""Every transcript, over a pipe and over a socket, in one piece and byte by byte; and warm.

The fast tests have each third once, in one piece; `make test` has each in one piece, and byte
by byte over the other, by turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Home
from transcripts import Transcript, load
from warm_home import WarmHome


def cases() -> Iterator[Any]:
    """Each transcript in its modes; one mode of every third one is fast."""
    for number, transcript in enumerate(load()):
        whole = [mode for mode in transcript.modes if not mode[1]]
        bytewise = [mode for mode in transcript.modes if mode[1]]
        piece = whole[number // 3 % len(whole)]
        fast = None if number % 3 else piece
        slow = piece, bytewise[(number // 3 + 1) % len(bytewise)]
        for over, dribble in transcript.modes:
            mode = over, dribble
            marks = [pytest.mark.slow if mode in slow else pytest.mark.long]
            yield pytest.param(
                transcript,
                over,
                dribble,
                id=f"{transcript.name}-{'bytes' if dribble else 'whole'}-{over}",
                marks=[] if mode == fast else marks,
            )


@pytest.mark.parametrize(("transcript", "over", "dribble"), list(cases()))
def test_transcript(home: Home, transcript: Transcript, over: str, dribble: bool) -> None:
    transcript.check(home, over, dribble)


def cases_in_turn() -> Iterator[Any]:
    """One in so many in `make test`, all by hand."""
    for number, transcript in enumerate(load()):
        mark = pytest.mark.slow if number % 15 == 0 else pytest.mark.long
        yield pytest.param(transcript, id=transcript.name, marks=mark)


@pytest.mark.parametrize("transcript", list(cases_in_turn()))
def test_second_in_a_process(tmp_path: Path, transcript: Transcript) -> None:
    """In a process of qsmtpd-server, behind another client who did the same with other rights."""
    home = WarmHome(tmp_path)
    try:
        transcript.check(home, "socket", False)
    finally:
        home.end()
