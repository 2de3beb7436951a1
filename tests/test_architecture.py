"""The house: a room imports only rooms below it; the cold path stays small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from harness import BIN, ROOT, Home

from qsmtpd.policy.order import BUILT_IN

PACKAGE = ROOT / "qsmtpd"

#: The filters that only read settings and facts: they are all on one floor.
FILTERS = {f"policy.{name}" for name in BUILT_IN} - {"policy.qmailqueue", "policy.localmfcheck"}
#: The filters that only read settings and facts: they are all on one floor.
FILTERS = {f"policy.{name}" for name in BUILT_IN} - {"policy.qmailqueue", "policy.localmfcheck"}
#: From the ground up.  A module may import only from floors below its own.
FLOORS = [
    {"bytecode", "decision", "log", "process"},
    {"facts"},
    {"smtp.replies", "smtp.command", "smtp.address", "smtp.header"},
    {"smtp.data", "smtp.submission", "smtp.date", "smtp.states", "tls.errors", "tls.environ"},
    {"cdb", "address", "channel", "received", "users", "policy.stages"},
    {"ucspi", "control", "maildir", "policy.wildmat"},
    {"policy.wording", "policy.order", "policy.guard", "tls.settings"},
    {"limits"},
    {"queue", "auth", "policy.guardian", "policy.immune", "policy.outside", *FILTERS},
    {"policy.localmfcheck", "policy.qmailqueue", "useredit"},
    {"policy.hooks", "tls.context", "tls.helper", "checkpassword"},
    {"policy.load"},
    {"policy.audit"},
    {"tls.tunnel"},
    {"tls.inside"},
    {"tls.door"},
    {"hangup", "commands.starttls", "commands.auth", "commands.inspection"},
    {"commands.data", "commands.envelope"},
    {"session"},
    {"rehearsal"},
    {"check", "explain", "testing"},
    {"main"},
    {"server"},
    {"programs"},
    {"launch"},
]


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if path.name != "__init__.py" and not name.startswith("probe"):
            found[name] = path
    return found


def imports(name: str, path: Path) -> set[str]:
    """The modules of ours that a module imports, at the top, inside or for its types."""
    found = set()
    known = modules()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            parts = name.split(".")[: -node.level]
            base = ".".join(parts + ([node.module] if node.module else []))
        elif node.module == "qsmtpd":
            base = ""
        else:
            continue
        for alias in node.names:
            inner = f"{base}.{alias.name}" if base else alias.name
            found |= {candidate for candidate in (inner, base) if candidate in known}
    return found


def test_every_module_has_a_floor() -> None:
    assert set().union(*FLOORS) == set(modules())


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down(name: str) -> None:
    floor = next(i for i, rooms in enumerate(FLOORS) if name in rooms)
    below = set().union(*FLOORS[:floor])
    assert imports(name, modules()[name]) <= below


def test_only_the_ways_in_touch_the_process() -> None:
    for name, path in modules().items():
        if name not in ("main", "server", "maildir", "checkpassword", "policy.guardian"):
            text = path.read_text()
            assert "os.environ" not in text, name
            assert "_exit(" not in text, name
            assert "getpeername" not in text, name


def test_a_plain_session_imports_little(home: Home) -> None:
    """No module that costs a cold start: see the list in the house's rules."""
    wrapper = (
        "import sys, posix as os; sys.path.insert(0, sys.argv[1])\n"
        "os_exit = os._exit\n"
        "def leave(status): os.write(2, ' '.join(sys.modules).encode()); os_exit(status)\n"
        "os._exit = leave\n"
        "from qsmtpd import main; main.main([])"
    )
    done = subprocess.run(
        [BIN / "python3", "-IS", "-c", wrapper, str(ROOT)],
        input=b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n.\r\nQUIT\r\n",
        capture_output=True,
        env=home.environ,
        check=True,
    )
    loaded = done.stderr.decode().splitlines()[-1].split()
    costly = {"enum", "typing", "re", "socket", "dataclasses", "subprocess", "ssl", "OpenSSL"}
    costly |= {"os", "signal", "collections", "functools", "ipaddress", "site", "email", "logging"}
    assert not costly & set(loaded)
    assert len(home.messages()) == 1


@pytest.mark.parametrize("way", ["make", "make install", "pip install"])
def test_each_installation_starts_python_isolated(way: str, home: Home, tmp_path: Path) -> None:
    if way == "make":
        program = BIN / "qsmtpd"
    elif way == "make install":
        prefix = tmp_path / "usr"
        make = ["make", "-s", "-C", str(ROOT), "install", f"PREFIX={prefix}", "DESTDIR="]
        subprocess.run([*make, f"PYTHON={sys.executable}"], check=True)
        program = prefix / "bin" / "qsmtpd"
        assert list((prefix / "lib/qsmtpd/qsmtpd/__pycache__").glob("session.*.pyc"))
        assert (prefix / "share/man/man8/qsmtpd.8").exists()
    else:
        source = tmp_path / "source"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
        venv = tmp_path / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [venv / "bin/pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, str(source)], check=True, capture_output=True)
        program = venv / "bin" / "qsmtpd"
    seen = tmp_path / "seen"
    queue = home.script(f"tr '\\0' ' ' </proc/$PPID/cmdline >{seen}; cat >/dev/null; cat <&1 >&1")
    session = b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n.\r\nQUIT\r\n"
    link = tmp_path / "qmail-smtpd"
    link.symlink_to(program)
    for path in (program, link):
        environ = {**home.environ, "QMAILQUEUE": queue}
        done = subprocess.run([path], input=session, capture_output=True, env=environ, check=True)
        assert b"354 go ahead" in done.stdout
        assert "python3 -IS " in seen.read_text()
        seen.unlink()
