"""The layers: a module imports only from those below its own; a cold start imports little."""

from __future__ import annotations

import ast
import functools
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest
from harness import BIN, ROOT, Home
from hubs import Hub
from tls_home import SERVER

from qsmtpd import start

PACKAGE = ROOT / "qsmtpd"

#: From the ground up.  A module or package may import only from layers below its own,
#: and what is in a package from that package (but not in a circle).
LAYERS = [
    {"decision", "log", "smtp.sasl", "start"},
    {"facts"},
    {"smtp", "config", "waits"},
    {"net", "child", "probe"},
    {"tls", "policy.spec", "policy.lines", "policy.store", "policy.spool", "policy.held"},
    {"config.session", "checkpassword"},
    {"child.queue"},
    {"filters", "policy", "queue"},
    {"session"},
    {"diagnose", "qmtp"},
    {"main", "queues", "server", "testing"},
    {"qmtp.qmtpd", "qmtp.qmqpd"},
]
MOST_LAYERS, MOST_ENTRIES, MOST_LINES = 12, 24, 400


@functools.cache
def modules() -> dict[str, Path]:
    """Every module, by its name below qsmtpd; a package is the module of its __init__.py."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    del found["__init__"]
    return found


def layer(name: str) -> int:
    """The number of the layer in which a module is: the one that names it or its package."""
    while name:
        for number, names in enumerate(LAYERS):
            if name in names:
                return number
        name = name.rpartition(".")[0]
    raise AssertionError("is in no layer")


@functools.cache
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
            found |= {inner} & known.keys() or {base} & known.keys()
    return found


def test_the_layout_stays_small() -> None:
    entries = {entry for entry in os.listdir(PACKAGE) if entry != "__pycache__"}
    assert len(entries) <= MOST_ENTRIES, sorted(entries)
    assert len(LAYERS) <= MOST_LAYERS
    for path in PACKAGE.rglob("*.py"):
        assert path.read_text().count("\n") <= MOST_LINES, path
    for name in set().union(*LAYERS):
        assert name in modules(), f"{name} is in a layer, and nowhere else"


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down(name: str) -> None:
    own = layer(name)
    package = name.partition(".")[0]
    for other in imports(name, modules()[name]):
        inside = other.partition(".")[0] == package
        assert layer(other) < own or (inside and layer(other) == own), other


def test_packages_that_need_not_be_read() -> None:
    for name in start.EMPTY:
        (only,) = ast.parse((ROOT / name.replace(".", "/") / "__init__.py").read_text()).body
        assert isinstance(only, ast.Expr), name


def test_no_imports_in_a_circle() -> None:
    graph = {name: imports(name, path) - {name} for name, path in modules().items()}
    while graph:
        free = {name for name, others in graph.items() if not others & set(graph)}
        assert free, f"these import each other: {sorted(graph)}"
        graph = {name: others for name, others in graph.items() if name not in free}


def test_only_the_ways_in_touch_the_process() -> None:
    for name, path in modules().items():
        if name.startswith(("server.", "probe.")):
            continue
        if name not in (
            "main",
            "queues.interface",
            "queues.maildir",
            "queues.qmqpc",
            "checkpassword.main",
        ):
            text = path.read_text()
            assert "os.environ" not in text, name
            assert "_exit(" not in text, name
            assert "getpeername" not in text or name == "net.ucspi", name


#: Who looks at the environment: what reads settings, who is there, and programs of their own.
READ_ENVIRONMENT = ("config.", "net.ucspi", "server.", "queues.", "checkpassword.", "probe.")


def test_settings_come_from_one_place() -> None:
    """So that --check needs no list of its own."""
    for name, path in modules().items():
        if name.startswith(READ_ENVIRONMENT):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            item = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load)
            get = isinstance(node, ast.Attribute) and node.attr == "get"
            if isinstance(node, ast.Subscript | ast.Attribute) and (item or get):
                value = ast.unparse(node.value)
                assert not value.endswith("environ"), f"{name}: {ast.unparse(node)}"


def test_nobody_looks_into_the_bytes_of_a_reply() -> None:
    for name, path in modules().items():
        if name.startswith(("probe.", "diagnose.dryrun")):  # these are clients
            continue
        text = path.read_text()
        for look in (".wire()[", "reply[", '.startswith(b"2', '.startswith(b"4', '.startswith(b"5'):
            assert look not in text, f"{name}: {look}"


#: What of ours a session without DATA, AUTH and STARTTLS imports, and what DATA adds.
COLD = """
    child config config.files config.session config.settings decision facts
    filters filters.qmailqueue filters.rcpthosts filters.relay log main
    net net.channel net.descriptors net.ucspi
    policy policy.hooks policy.load policy.spec policy.stages
    session session.commands session.connection session.dialogue session.ending
    session.envelope session.plan session.protocol session.run session.transaction
    smtp smtp.address smtp.command smtp.replies smtp.states start
    tls tls.errors tls.pairs tls.provider tls.settings waits
"""
DATA = """
    child.queue child.spawn session.data session.message smtp.decoder smtp.header smtp.received
"""
#: What the children of QMTP and QMQP import instead of SMTP's own.
OF_SMTP = {"qsmtpd.session.commands", "qsmtpd.session.dialogue", "qsmtpd.smtp.states"}
QMTP = """
    qmtp qmtp.conversation qmtp.package qmtp.qmtp qmtp.qmtpd qmtp.verdict
    policy.held smtp.decoder smtp.netstring
"""
QMQP = QMTP.replace(
    "qmtp.qmtp qmtp.qmtpd", "net.addresslist net.prefixes qmtp.clients qmtp.qmqp qmtp.qmqpd"
)
#: What of Python, beyond what every start imports.
PYTHON = "__future__ select"


#: A program that says at its end, in the last line of its log, what it has imported.
LISTS_MODULES = """
import sys, posix
before = set(sys.modules)
sys.path.insert(0, sys.argv[1])
exit = posix._exit
def leave(status):
    posix.write(2, ' '.join(set(sys.modules) - before).encode())
    exit(status)
posix._exit = leave
__import__('qsmtpd.' + sys.argv[2], None, None, ['main']).main([])
"""


def imported(home: Home, module: str, data: bytes) -> tuple[set[str], bytes]:
    """What a child imports that has a client who says this, and what it answers."""
    done = subprocess.run(
        [BIN / "python3", "-IS", "-c", LISTS_MODULES, str(ROOT), module],
        input=data,
        capture_output=True,
        env=home.environ,
        check=True,
    )
    loaded = set(done.stderr.decode().splitlines()[-1].split())
    return loaded - set(sys.builtin_module_names), done.stdout


def all_of(*lists: str) -> set[str]:
    """The names of these modules of ours, and of Python's."""
    ours = " ".join(lists).split()
    return {"qsmtpd", *("qsmtpd." + name for name in ours), *PYTHON.split()}


@pytest.mark.parametrize("certificate", [False, True])
@pytest.mark.parametrize("data", [False, True])
def test_a_plain_session_imports_little(home: Home, data: bool, certificate: bool) -> None:
    """Each module costs a cold start 50 us, some of Python's much more: enum 4 ms, re 12 ms."""
    if certificate:
        SERVER.save(home.control_dir / "servercert.pem")
    message = b"DATA\r\n.\r\n" if data else b""
    envelope = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\n"
    loaded, said = imported(home, "main", envelope + message + b"QUIT\r\n")
    assert (b"STARTTLS" in said) == certificate
    assert loaded <= all_of(COLD, data * DATA)
    assert len(home.messages()) == data


@pytest.mark.parametrize("data", [False, True])
def test_so_do_the_other_protocols(home: Home, data: bool) -> None:
    home.control("qmqpclients", "192.0.2.1")
    to = b"12:x@ok.example," if data else b"12:x@no.example,"
    loaded, said = imported(home, "qmtp.qmtpd", b"1:\n,5:a@b.c,16:" + to + b",")
    assert (b"Kok" in said) == data
    assert loaded <= all_of(COLD, QMTP, data * DATA) - OF_SMTP
    if data:
        loaded, said = imported(home, "qmtp.qmqpd", b"28:0:,6:a@bb.c," + to + b",")
        assert b"Kok" in said
        assert loaded <= all_of(COLD, QMQP, DATA) - OF_SMTP
    assert len(home.messages()) == 2 * data


#: The same of the queue programs, which are started for each message.
QUEUES = {
    "maildir": "",
    "qmqpc": """
        config config.files config.settings decision facts net net.daemon net.qmqp net.qmqphandover
        policy policy.held smtp smtp.netstring waits
    """,
}


@pytest.mark.parametrize("name", QUEUES)
def test_a_queue_program_imports_little(home: Home, name: str) -> None:
    with Hub() as hub:
        home.control("qmqpservers", hub.where)
        run = subprocess.run(
            [BIN / "python3", "-IS", "-c", LISTS_MODULES, str(ROOT), "queues." + name],
            stdin=subprocess.DEVNULL,
            stdout=home.file("envelope", b"Fa@b\0Tx@ok.example\0\0").open("rb"),
            stderr=subprocess.PIPE,
            env={**home.environ, "QSMTPD_MAILDIR": str(home.path / "Maildir")},
            check=True,
        )
    assert len(hub.taken) == (name == "qmqpc")
    loaded = set(run.stderr.decode().splitlines()[-1].split())
    ours = [*QUEUES[name].split(), "queues", "queues.interface", f"queues.{name}"]
    expected = {"qsmtpd", "_socket", *("qsmtpd." + name for name in ours), *PYTHON.split()}
    assert loaded - set(sys.builtin_module_names) <= expected


def test_stale_bytecode_is_not_taken(tmp_path: Path) -> None:
    source = tmp_path / "qsmtpd" / "__init__.py"
    source.parent.mkdir()
    source.write_text("first = 1\n")
    finder = start.Finder(f"{tmp_path}/")
    assert finder.find_spec("qsmtpd", None) is None
    compiled = Path(str(py_compile.compile(str(source), doraise=True)))
    assert finder.find_spec("qsmtpd", None) is not None
    os.utime(source, (0, 0))
    assert finder.find_spec("qsmtpd", None) is None, "an older source is another source, too"
    py_compile.compile(str(source), doraise=True)
    assert finder.find_spec("qsmtpd", None) is not None
    source.write_text("second = 2\n")
    os.utime(source, (0, 0))
    assert finder.find_spec("qsmtpd", None) is None, "of another size"
    for mode in (py_compile.PycInvalidationMode.CHECKED_HASH, None):
        py_compile.compile(str(source), doraise=True, invalidation_mode=mode)
        assert (finder.find_spec("qsmtpd", None) is None) == (mode is not None)
    content = compiled.read_bytes()
    compiled.write_bytes(b"\0\0" + content[2:])
    assert finder.find_spec("qsmtpd", None) is None, "of another Python"
    compiled.write_bytes(content + bytes(start.LIMIT))
    assert finder.find_spec("qsmtpd", None) is None, "more than is read"
    assert finder.find_spec("os", None) is None
