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
from bench.contestants import COLD, FLOOR, MAILFRONT, ONE, WARM, Contestant
from bench.goals import goals
from bench.plan import FULL
from bench.report import MARKERS, goals_table, main_table, quote, spread
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
        rows.sessions(rows.QUIT),
        rows.sessions(rows.REFUSED),
        rows.sessions(rows.MESSAGE, 1),
        rows.sessions(rows.MESSAGE),
        rows.STARTTLS,
        rows.STARTTLS_QUIT,
        rows.MESSAGES,
        rows.SHORT,
        rows.LONG,
        rows.memory(4, tls=False),
        rows.memory(4, tls=True),
    ):
        found = line(document, row)
        assert float(found[COLD]) > 0, row
        assert float(found[WARM]) > 0, row
    # As many as a session can hardly do without; in a process that has served before, fewer
    # than in one that has everything to read.
    for load, least in ((rows.QUIT, 4), (rows.REFUSED, 9), (rows.MESSAGE, 30)):
        found = line(document, rows.calls(load))
        assert least <= float(found[FLOOR]) < float(found[WARM]) < float(found[COLD]), load
    # No interpreter has dirtied less, and no plain session takes much more.
    assert 1000 < float(line(document, rows.memory(4, tls=False))[COLD]) < 20_000
    assert "\n## Goals\n" in document
    ElementTree.parse(results.with_suffix(".svg"))
    quoted = readme.read_text()
    assert quoted.startswith(f"before\n{MARKERS[0]}\n")
    assert quoted.endswith(f"{MARKERS[1]}\nafter\n")
    assert rows.sessions(rows.MESSAGE) in quoted
    assert "old" not in quoted


@pytest.mark.interop
@pytest.mark.skipif(os.geteuid() != 0, reason="Postfix's master is for root")
def test_quick_run_of_hubs() -> None:
    for program in ("smtp-source", "qmqp-source", "tcpserver", "qmqpfront-qmail"):
        needs(program)
    done = subprocess.run(
        [sys.executable, "-m", "bench.hubs", "--quick"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table = [line.split("|")[2:-1] for line in done.stdout.splitlines() if "messages/s" in line]
    assert len(table) == 4
    assert all(float(value) > 0 for line in table for value in line)


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
    ("warm", "one", "verdicts"),
    [(800.0, 99.0, ["met", "missed"]), (799.0, 100.0, ["missed", "met"])],
)
def test_goals(warm: float, one: float, verdicts: list[str]) -> None:
    results = Results()
    row = rows.sessions(rows.REFUSED)
    for name, value in ((WARM, warm), (ONE, one), (FLOOR, 2000.0), (MAILFRONT, 100.0)):
        results.add(row, name, value)
    for clients, value in ((0, 100.0), (5_000, 10.0), (10_000, 80.0)):
        results.add(rows.beside_held(clients), WARM, value)
    results.add(rows.held(10_000), WARM, 16.1)
    results.add(rows.memory(500, tls=False), WARM, 2049.0)
    found = {goal.text: goal for goal in goals(results, FULL)}
    idle = found[f"MB of an idle connection, 500: {WARM}"]
    assert idle.verdict() == "missed, an aim"
    assert " ≤ (2) | 2.00 |" in " ".join(goals_table([idle]).split())
    ratios = [goal for text, goal in found.items() if text.startswith(row)]
    assert [goal.verdict() for goal in ratios] == verdicts
    assert [goal.floor for goal in ratios] == [20, 20]
    assert found[f"{rows.sessions(rows.QUIT)}: {WARM} / {MAILFRONT}"].verdict() == "not measured"
    (memory,) = [goal for text, goal in found.items() if text.startswith(rows.held(10_000))]
    assert memory.verdict() == "missed"
    (beside,) = [goal for text, goal in found.items() if text.startswith(rows.beside_held(10_000))]
    assert beside.verdict() == "met"
    lines = goals_table(found.values()).splitlines()
    assert "| ≥ 8 (12) | " in " ".join(lines[3].split())


@pytest.mark.slow
def test_only_some_loads_and_contestants(tmp_path: Path) -> None:
    """What is not measured is not run; and a word that there is not is said."""
    needs("smtp-source")
    command = [sys.executable, "-m", "bench", "--quick", "--who", FLOOR, "--results"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command += [str(tmp_path / "results.md")]
    subprocess.run([*command, "--loads", "quit,refused"], env=environ, check=True, timeout=60)
    document = (tmp_path / "results.md").read_text()
    assert float(line(document, rows.sessions(rows.REFUSED))[FLOOR]) > 0
    assert f"| {rows.sessions(rows.MESSAGE)}" not in document
    assert MAILFRONT not in document.partition("## All contestants")[2].partition("![")[0]
    done = subprocess.run([*command, "--loads", "quit,all"], env=environ, capture_output=True)
    assert done.returncode == 2
    assert b"quit, refused, message" in done.stderr


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
