"""A DNS server for tests, on loopback: real packets, UDP and TCP on one port.

    with DnsServer('''
        example.org     MX   10 mx.example.org
        example.org     TXT  "v=spf1 mx -all" " and a second string"
        mx.example.org  A    192.0.2.7
        null.example    MX   0 .
        *.bl.example    A    127.0.0.2
        7.2.0.192.in-addr.arpa  PTR  mx.example.org
        old.example     CNAME example.org
        dead.example    DO   silent
    ''') as dns:
        home.run(…, DNSCACHEIP=dns.where)
        assert dns.asked == [("example.org", "MX")]

A name without records, and without any below it, does not exist (NXDOMAIN).  It says
what a resolver would: aliases are followed.  What is too long for UDP comes by TCP.
Nothing of it is from the program under test.

What a name may DO instead, or before:

    silent       no answer
    late S       the answer, after S seconds
    servfail     an error; so are refused, formerr, notimp
    lame         no answer, and no recursion either: other servers are to be asked
    half         the first half of the answer
    garbage      bytes that are no message
    wrong-id     the answer to a question with another id; the right one never comes
    wrong-name   the answer to a question for another name
    wrong-type   the answer to a question for another type
    spoofed      one of each of these and some records that nobody wants, then the answer
    flood        answers to a question with another id, without end
    elsewhere    the answer, from another port
    tcp          truncated: the answer comes by TCP
    tcp-silent   truncated, and by TCP nothing comes
    tcp-half     truncated, and by TCP half of it comes, and then the end
    tcp-refused  truncated, and by TCP the connection is closed at once
    tcp-slow     truncated, and by TCP it comes in pieces
"""

from __future__ import annotations

import ipaddress
import select
import shlex
import socket
import threading
from collections.abc import Callable
from typing import Self

TYPES = {"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28,
         "SPF": 99}  # fmt: skip
NUMBERS = {number: name for name, number in TYPES.items()}
CODES = {"formerr": 1, "servfail": 2, "notimp": 4, "refused": 5}
NXDOMAIN = 3
UDP_LIMIT = 512

Send = Callable[[bytes], object]


class DnsServer:
    """One server, from __enter__ to __exit__.  `zone`: lines as above."""

    def __init__(self, zone: str = "", ip: str = "127.0.0.1") -> None:
        #: (name, type) -> the data of its records
        self.records: dict[tuple[bytes, str], list[bytes]] = {}
        self.behaviour: dict[bytes, list[str]] = {}
        #: (name, type) of each question, in the order in which they came, TCP as well
        self.asked: list[tuple[str, str]] = []
        #: the same of those by TCP
        self.asked_by_tcp: list[tuple[str, str]] = []
        #: (port of the client, id) of each question by UDP
        self.sources: list[tuple[int, int]] = []
        self._timers: list[threading.Timer] = []
        self._open: list[socket.socket] = []
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        while True:
            self._tcp = socket.create_server((ip, 0), family=family)
            self._udp = socket.socket(family, socket.SOCK_DGRAM)
            self.port: int = self._tcp.getsockname()[1]
            try:
                self._udp.bind((ip, self.port))
            except OSError:  # somebody has that port
                self._tcp.close()
                self._udp.close()
                continue
            break
        #: for DNSCACHEIP
        self.where = f"[{ip}]:{self.port}" if ":" in ip else f"{ip}:{self.port}"
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        for line in zone.splitlines():
            if line.strip() and not line.strip().startswith("#"):
                self._add_line(line)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.send(b"x")
        self._thread.join()
        for timer in self._timers:
            timer.cancel()
        for one in (self._udp, self._tcp, self._stop, self._stopped, *self._open):
            one.close()

    # -- the zone ----------------------------------------------------------

    def add(self, name: str | bytes, type: str, *data: object) -> None:
        """One more record; of TXT, text or bytes of any length."""
        self.records.setdefault((_key(name), type), []).append(_data(type, data))

    def do(self, name: str | bytes, *what: str) -> None:
        """What this name does; see above."""
        self.behaviour[_key(name)] = list(what)

    def _add_line(self, line: str) -> None:
        name, type, *data = shlex.split(line)
        if type == "DO":
            self.do(name, *data)
        else:
            self.add(name, type, *data)

    def _find(self, name: bytes, type: str) -> list[bytes]:
        found = self.records.get((name, type))
        if found is None and not any(key == name for key, _ in self.records):
            _, _, parent = name.partition(b".")
            while found is None and parent:
                found = self.records.get((b"*." + parent, type))
                _, _, parent = parent.partition(b".")
        return found or []

    def _exists(self, name: bytes) -> bool:
        return any(
            key == name
            or key.endswith(b"." + name)
            or (key[:2] == b"*." and name.endswith(key[1:]))
            for key, _ in self.records
        )

    # -- packets -----------------------------------------------------------

    def _serve(self) -> None:
        poll = select.poll()
        for one in (self._udp, self._tcp, self._stopped):
            poll.register(one, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._udp.fileno():
                    query, client = self._udp.recvfrom(65535)
                    self.sources.append((client[1], int.from_bytes(query[:2], "big")))
                    self._by_udp(query, client)
                elif fd == self._tcp.fileno():
                    threading.Thread(target=self._by_tcp, args=self._tcp.accept()[:1]).start()
                else:
                    return

    def _by_udp(self, query: bytes, client: tuple[object, ...]) -> None:
        def send(wire: bytes) -> None:
            try:
                self._udp.sendto(wire, client)
            except OSError:
                pass  # the client is gone

        name, type, _ = _question(query)
        self.asked.append((_shown(name), type))
        what, *more = self.behaviour.get(name, ["answer"])
        answer = self.answer(query)
        if what == "late":
            timer = threading.Timer(float(more[0]), send, [answer])
            self._timers.append(timer)
            timer.start()
        elif what == "flood":
            threading.Thread(target=self._flood, args=(query, send), daemon=True).start()
        elif what == "elsewhere":
            with socket.socket(self._udp.family, socket.SOCK_DGRAM) as other:
                other.bind((self._udp.getsockname()[0], 0))
                other.sendto(answer, client)
        elif what == "spoofed":
            for how in ("wrong-id", "wrong-name", "wrong-type", "garbage", "half"):
                send(_changed(how, query, answer))
            send(answer)
        elif what.startswith("tcp") or len(answer) > UDP_LIMIT:
            send(_head(query, 0, 0, truncated=True))
        elif what != "silent":
            send(_changed(what, query, answer))

    def _flood(self, query: bytes, send: Send) -> None:
        wrong = _changed("wrong-id", query, self.answer(query))
        while self._thread.is_alive():
            send(wrong)

    def _by_tcp(self, client: socket.socket) -> None:
        self._open.append(client)
        with client.makefile("rb") as stream:
            length = stream.read(2)
            query = stream.read(int.from_bytes(length, "big"))
        if not query:
            return
        name, type, _ = _question(query)
        self.asked.append((_shown(name), type))
        self.asked_by_tcp.append((_shown(name), type))
        what = self.behaviour.get(name, ["answer"])[0]
        answer = self.answer(query)
        wire = len(answer).to_bytes(2, "big") + answer
        try:
            if what == "tcp-silent":
                return  # and it stays open
            if what == "tcp-half":
                client.sendall(wire[: len(wire) // 2])
            elif what == "tcp-slow":
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for at in range(len(wire)):
                    client.sendall(wire[at : at + 1])
            elif what != "tcp-refused":
                client.sendall(wire)
            client.close()
        except OSError:
            pass  # the client is gone

    def answer(self, query: bytes) -> bytes:
        """The right answer to a query."""
        name, type, _ = _question(query)
        records, code = [], 0
        pointer = b"\xc0\x0c"  # to the name in the question
        for _ in range(50):
            found = self._find(name, type)
            alias = [] if found or type == "CNAME" else self._find(name, "CNAME")
            if not found and not alias:
                code = 0 if self._exists(name) else NXDOMAIN
                break
            for data in found:
                records.append(pointer + _record(type, data))
            if found:
                break
            records.append(pointer + _record("CNAME", alias[0]))
            name, pointer = _text(alias[0]), alias[0]
        body, count = b"", 0
        for record in records:
            if len(body) + len(record) < 65000:
                body, count = body + record, count + 1
        return _head(query, code, count) + body


def _question(query: bytes) -> tuple[bytes, str, int]:
    """(the name in lower case, the type, where the question ends)"""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]])
        at += 1 + query[at]
    number = int.from_bytes(query[at + 1 : at + 3], "big")
    return b".".join(labels).lower(), NUMBERS.get(number, str(number)), at + 5


def _head(
    query: bytes, code: int, answers: int, truncated: bool = False, flags: int = 0x80
) -> bytes:
    """Header and question of a response."""
    end = _question(query)[2]
    first = 0x80 | (query[2] & 0x79) | (0x02 if truncated else 0)
    head = query[:2] + bytes((first, flags | code)) + b"\0\1" + answers.to_bytes(2, "big")
    return head + bytes(4) + query[12:end]


def _changed(what: str, query: bytes, answer: bytes) -> bytes:
    if what in CODES:
        return _head(query, CODES[what], 0)
    if what == "lame":
        return _head(query, 0, 0, flags=0)
    if what == "half":
        return answer[: len(answer) // 2]
    if what == "garbage":
        return b"\xff" * 3 + query
    if what == "wrong-id":
        return bytes((answer[0] ^ 1,)) + answer[1:]
    if what == "wrong-name":
        return answer[:13] + bytes((answer[13] ^ 1,)) + answer[14:]
    if what == "wrong-type":
        end = _question(query)[2]
        return answer[: end - 3] + bytes((answer[end - 3] ^ 1,)) + answer[end - 2 :]
    return answer


def _record(type: str, data: bytes) -> bytes:
    number = TYPES[type].to_bytes(2, "big")
    return number + b"\0\1" + (300).to_bytes(4, "big") + len(data).to_bytes(2, "big") + data


def _data(type: str, data: tuple[object, ...]) -> bytes:
    if type in ("A", "AAAA"):
        return ipaddress.ip_address(str(data[0])).packed
    if type == "MX":
        return int(str(data[0])).to_bytes(2, "big") + _wire(data[1])
    if type in ("TXT", "SPF"):
        return b"".join(map(_strings, data)) or b"\0"
    return _wire(data[0])


def _strings(text: object) -> bytes:
    """Text as strings of at most 255 bytes."""
    raw = text if isinstance(text, bytes) else str(text).encode("latin-1")
    parts = [raw[at : at + 255] for at in range(0, len(raw), 255)] or [b""]
    return b"".join(bytes((len(part),)) + part for part in parts)


def _wire(name: object) -> bytes:
    raw = name if isinstance(name, bytes) else str(name).encode("latin-1")
    labels = [label for label in raw.rstrip(b".").split(b".") if label]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def _text(wire: bytes) -> bytes:
    at, labels = 0, []
    while wire[at]:
        labels.append(wire[at + 1 : at + 1 + wire[at]])
        at += 1 + wire[at]
    return b".".join(labels).lower()


def _key(name: str | bytes) -> bytes:
    return _text(_wire(name))


def _shown(name: bytes) -> str:
    return name.decode("ascii", "backslashreplace")
