"""`make bench` works, and its arithmetic is right; how fast anything is, no test asks."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench import rows
from bench.contestants import COLD, MAILFRONT, MANY, WARM, Contestant
from bench.goals import goals
from bench.plan import FULL
from bench.report import MARKERS, main_table, quote, spread
from bench.results import Results
from harness import ROOT, needs


def line(document: str, row: str) -> dict[str, str]:
    """A row of the main table, by contestant."""
    table = document.partition("## All contestants")[2]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    head, *body = [[word.strip() for word in line.strip("|").split("|")] for line in lines]
    (found,) = [words for words in body if words[0] == row]
    return dict(zip(head[1:], found[1:], strict=True))


@pytest.mark.interop
@pytest.mark.timeout(900)
def test_quick_run(tmp_path: Path) -> None:
    for program in ("smtp-source", "tcpserver"):
        needs(program)
    results, readme = tmp_path / "results.md", tmp_path / "README.md"
    readme.write_text(f"before\n{MARKERS[0]}\nold\n{MARKERS[1]}\nafter\n")
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--results", results, "--readme", readme],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = results.read_text()
    for row in (
        rows.sessions(1),
        rows.sessions(4),
        rows.STARTTLS,
        rows.MESSAGES,
        rows.SHORT,
        rows.LONG,
        rows.memory(4, tls=False),
        rows.memory(4, tls=True),
    ):
        found = line(document, row)
        assert float(found[COLD]) > 0, row
        if row not in (rows.STARTTLS, rows.memory(4, tls=True)):
            assert float(found[WARM]) > 0, row
    # No interpreter has dirtied less, and no plain session takes much more.
    assert 1000 < float(line(document, rows.memory(4, tls=False))[COLD]) < 20_000
    assert "\n## Goals\n" in document
    ElementTree.parse(results.with_suffix(".svg"))
    quoted = readme.read_text()
    assert quoted.startswith(f"before\n{MARKERS[0]}\n")
    assert quoted.endswith(f"{MARKERS[1]}\nafter\n")
    assert rows.sessions(4) in quoted
    assert "old" not in quoted


def test_median_and_spread() -> None:
    results = Results()
    for value in (10.0, 30.0, 20.0, 1000.0, 21.0):
        results.add("row", "one", value)
    results.add("row", "other", 7.0)
    assert results.median("row", "one") == 21
    assert results.ratio("row", "one", "other") == 3
    assert results.ratio("row", "one", "nobody") is None
    assert spread([10.0, 20.0, 21.0, 30.0, 1000.0]) == " ±24%"
    results.failures["row", "broken"] = "why"
    (row,) = main_table(results, ["one", "other", "nobody", "broken"]).splitlines()[2:]
    assert row == "| row | 21.0 ±24% | 7.00 (1) |      - | failed |"


@pytest.mark.parametrize(
    ("warm", "many", "verdicts"),
    [(150.0, 299.0, ["met", "missed"]), (149.0, 300.0, ["missed", "met"])],
)
def test_goals(warm: float, many: float, verdicts: list[str]) -> None:
    results = Results()
    for name, value in ((WARM, warm), (MANY, many), (MAILFRONT, 100.0)):
        results.add(rows.sessions(4), name, value)
    results.add(rows.memory(500, tls=False), WARM, 1536.0)
    found = {goal.text: goal.verdict() for goal in goals(results, FULL)}
    sessions = [text for text in found if rows.sessions(4) in text and MAILFRONT in text]
    judged = [found[text] for text in sessions]
    assert [judged[0], judged[2]] == verdicts
    assert judged[1] == "not measured"
    assert found[f"MB of an idle connection, 500: {WARM}"] == "met"


def test_who_is_not_installed_is_named() -> None:
    present = Contestant("x", "", lambda place, port: ([], {}), ("sh",), module="json")
    assert present.missing() is None
    assert replace(present, needs=("sh", "no-such-program")).missing() == "no-such-program"
    assert replace(present, module="no_such_module").missing() == "no_such_module"


def test_a_readme_without_the_place_is_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"text {MARKERS[0]} text\n")
    with pytest.raises(ValueError):
        quote(readme, "new")
    assert readme.read_text() == f"text {MARKERS[0]} text\n"
