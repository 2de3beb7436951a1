"""Filters that ask the DNS, and resolvers of other people: unbound and dnsmasq."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Home, Variables, needs, wait_for
from ports import free_port

pytestmark = pytest.mark.interop

UNBOUND = """
server:
  interface: 127.0.0.1@{port}
  do-daemonize: no
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  directory: "{folder}"
  module-config: "iterator"
  local-zone: "example." static
  local-data: "a.example. MX 10 mx.a.example."
  local-data: "mx.a.example. A 192.0.2.1"
  local-data: "null.example. MX 0 ."
  local-data: "bare.example. AAAA 2001:db8::1"
  local-data: "3.2.1.192.bl.example. A 127.0.0.2"
  local-zone: "2.0.192.in-addr.arpa." static
  local-data: "1.2.0.192.in-addr.arpa. PTR mx.a.example."
{many}
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@1
"""
#: More than a datagram without EDNS holds (RFC 1035, 4.2.1): these come by TCP.
MANY = [f"mx{number}.of-a-domain-with-many-names.example" for number in range(40)]


def _unbound(folder: Path, port: int) -> list[str]:
    many = "".join(f'  local-data: "many.example. MX 10 {name}."\n' for name in MANY)
    path = folder / "unbound.conf"
    path.write_text(UNBOUND.format(port=port, folder=folder, many=many))
    return [needs("unbound"), "-c", str(path)]


def _dnsmasq(folder: Path, port: int) -> list[str]:
    names = ["a.example,mx.a.example,10", "null.example,.,0"]
    names += [f"many.example,{name},10" for name in MANY]
    return [
        needs("dnsmasq"),
        *("--keep-in-foreground", f"--port={port}", "--no-resolv", "--conf-file="),
        *("--listen-address=127.0.0.1", "--bind-interfaces", "--user=", "--group=", "--pid-file="),
        *(f"--mx-host={name}" for name in names),
        *("--host-record=mx.a.example,192.0.2.1", "--host-record=bare.example,2001:db8::1"),
        *("--local=/example/", "--server=127.0.0.1#1"),
    ]


@pytest.fixture(params=[_unbound, _dnsmasq])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where one of them is asked."""
    command: Callable[[Path, int], list[str]] = request.param
    port = free_port()
    with subprocess.Popen(command(tmp_path, port)) as process:
        try:
            wait_for(lambda: _listens(port))
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_what_they_answer(home: Home, server: str) -> None:
    environ: Variables = {
        "DNSCACHEIP": server,
        "MFDNSCHECK": "",
        "FCRDNS": "require",
        "HELOCHECK": "A",
    }
    commands = b"EHLO mx.a.example\r\n"
    for name in (b"a", b"many", b"bare", b"null", b"none"):
        commands += b"MAIL FROM:<x@%b.example>\r\nRCPT TO:<x@ok.example>\r\n" % name
    run = home.run(commands + b"MAIL FROM:<x@far.com>\r\nRCPT TO:<x@ok.example>\r\n", **environ)
    replies = [line for line in run.lines if line[3:4] == b" "][3::2]
    assert replies == [
        b"250 ok",
        b"250 ok",
        b"250 ok",
        b"550 sorry, your envelope sender's domain takes no mail (#5.7.27)",
        b"553 sorry, your envelope sender must exist (#5.7.1)",
        b"451 DNS temporary failure (#4.4.3)",
    ], run.log
    assert run.events("plugin")[0]["iprev"] == "pass"
    run = home.run(b"", "--check", **environ)
    assert f"ok: DNS server = {server} (answers)" in run.out.decode()
