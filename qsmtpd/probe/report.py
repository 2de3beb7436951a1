"""Results as text for people, or as JSON for machines."""

from __future__ import annotations

import json
import os
import textwrap
from typing import TextIO

from .check import Rating, Result
from .evidence import NOTE, Entry, printable

_WIDTH = 78
_INDENT = " " * 4
#: SGR codes (ECMA-48, 8.3.117).
_COLOURS = {
    Rating.SAFE: "32",
    Rating.VULNERABLE: "1;31",
    Rating.ODD: "33",
    Rating.UNTESTED: "36",
}
#: The order of the summary: what matters first.
_ORDER = (Rating.VULNERABLE, Rating.ODD, Rating.UNTESTED, Rating.SAFE)
#: What is explained without having been asked for.
_STRIKING = (Rating.VULNERABLE, Rating.ODD)


class Text:
    """The readable report: each result as it comes, then a summary.

    Explanation and evidence follow what is vulnerable or odd; with `verbose`,
    everything.  Colour and progress only on a terminal.
    """

    def __init__(self, out: TextIO, verbose: bool) -> None:
        self._out = out
        self._verbose = verbose
        self._terminal = out.isatty()
        # no-color.org: the variable's presence, not its value
        self._colour = self._terminal and "NO_COLOR" not in os.environ

    def announce(self, text: str) -> None:
        """Say what is about to be done."""
        self._print(paragraph(text))

    def progress(self, text: str) -> None:
        """Show what is being done; the next line takes its place."""
        if self._terminal:
            self._out.write(f"\r\x1b[K{text} ...")
            self._out.flush()

    def result(self, result: Result) -> None:
        """Show a result; what was not tried is left to the summary."""
        if not result.tried:
            return
        verdict = result.finding.verdict
        self._print(f"{self._column(verdict)}  {result.name}: {result.finding.reason}")
        if self._verbose or verdict in _STRIKING:
            self._print(paragraph(result.explanation, _INDENT))
            for entry in result.evidence.entries():
                self._print(_INDENT + _line(entry))

    def done(self) -> None:
        """Remove the progress."""
        if self._terminal:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def summary(self, results: list[Result], status: int) -> None:
        """Count the verdicts; `status` is the exit status."""
        untried = [result for result in results if not result.tried]
        if untried:
            # All for the same reason, so it is given once.
            self._print(f"{self._column(Rating.UNTESTED)}  {untried[0].finding.reason}:")
            self._print(paragraph(", ".join(result.name for result in untried), _INDENT))
        parts = []
        for verdict in _ORDER:
            names = [result.name for result in results if result.finding.verdict is verdict]
            if names:
                listed = f" ({', '.join(names)})" if verdict in _STRIKING else ""
                parts.append(f"{len(names)} {self._painted(verdict, verdict)}{listed}")
        if status == 0 and any(result.finding.verdict is Rating.UNTESTED for result in results):
            parts[-1] += ".  Nothing vulnerable was found."
        self._print("\n" + ("; ".join(parts) or "nothing was tested"))

    def _column(self, verdict: Rating) -> str:
        return self._painted(verdict, f"{verdict:14}")

    def _painted(self, verdict: Rating, text: str) -> str:
        return f"\x1b[{_COLOURS[verdict]}m{text}\x1b[0m" if self._colour else text

    def _print(self, text: str) -> None:
        self.done()
        self._out.write(text + "\n")
        self._out.flush()


def counted(number: int, thing: str) -> str:
    """A number of these, in words."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def paragraph(text: str, indent: str = "") -> str:
    """Text in lines for a terminal; names with hyphens stay whole."""
    return textwrap.fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _line(entry: Entry) -> str:
    if entry.who == NOTE:
        return f"-- {entry.data.decode('ascii')}"
    return f"{entry.who:5} {entry.layer:5} {printable(entry.data)}"


def as_json(subject: dict[str, str | int], results: list[Result], status: int) -> str:
    """What was tested and all results as one JSON object; its form is in starttls-probe(1)."""
    return json.dumps(
        {
            **subject,
            "exit": status,
            "results": [
                {
                    "name": result.name,
                    "verdict": result.finding.verdict,
                    "reason": result.finding.reason,
                    "explanation": result.explanation,
                    "evidence": [
                        {
                            "who": entry.who,
                            "layer": entry.layer,
                            "bytes": printable(entry.data),
                        }
                        for entry in result.evidence.entries()
                    ],
                }
                for result in results
            ],
        },
        indent=1,
    )
