"""A plugin's source becomes the very code that compile() would make of it."""

from __future__ import annotations

import gc
import sys
import warnings
from pathlib import Path

import pytest
from harness import ROOT

from qsmtpd.policy.source import compile_file

SOURCES = [
    *(ROOT / "tests" / "plugins").glob("*.py"),
    *(ROOT / "qsmtpd" / "filters").glob("[!_]*.py"),
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_same_code(path: Path) -> None:
    source = path.read_bytes()
    expected = compile(source, str(path), "exec", dont_inherit=True)
    found = compile_file(source, str(path))
    assert found == expected
    assert found.co_filename == str(path)
    inside = [each for each in found.co_consts if type(each) is type(found)]
    assert inside and all(each.co_filename == str(path) for each in inside)


def test_nothing_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.getprofile()
    code = compile_file(b"print('run')", "x.py")
    assert capsys.readouterr().out == ""
    assert sys.getprofile() is before
    exec(code, {})
    assert capsys.readouterr().out == "run\n"


def test_a_warning_shown_while_it_compiles() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown: list[str] = []
        warnings.showwarning = lambda message, *rest: shown.append(str(message))
        code = compile_file(b"def f(a):\n    return a is 5\n", "/a/x.py")
    assert len(shown) == 1 and code.co_names == ("f",)


def test_garbage_collected_while_it_compiles() -> None:
    seen: list[str] = []

    def callback(phase: str, info: dict[str, int]) -> None:
        seen.append(phase)

    threshold = gc.get_threshold()
    gc.callbacks.append(callback)
    gc.set_threshold(1)
    try:
        code = compile_file(
            b"def f(a):\n    return (lambda b: (a, b), [a for a in a])\n", "/a/x.py"
        )
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(callback)
    assert seen and code.co_names == ("f",)


@pytest.mark.parametrize("source", [b"def", b"a = 1\n  b = 2\n", b"\xff", b"a\0b", b"return"])
def test_what_is_no_source(source: bytes) -> None:
    with pytest.raises((SyntaxError, ValueError)) as expected:
        compile(source, "/a/x.py", "exec", dont_inherit=True)
    with pytest.raises((SyntaxError, ValueError)) as found:
        compile_file(source, "/a/x.py")
    assert type(found.value) is type(expected.value)
    assert str(found.value) == str(expected.value)


def test_no_future_is_inherited() -> None:
    scope: dict[str, object] = {}
    exec(compile_file(b"def f(a: 1 + 1): pass\n", "x.py"), scope)
    function = scope["f"]
    assert getattr(function, "__annotations__") == {"a": 2}  # noqa: B009
