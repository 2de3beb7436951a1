"""Senders for a cluster, which do as mail servers do: what is not taken they send again later.

Of each message is known what its sender has heard: accepted; put off; or unsure, which is where
the whole of it was sent and no answer came, or the front end has had none from its hub.
"""

from __future__ import annotations

import heapq
import random
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cluster import FRONTS, HUBS, Cluster
from harness import wait_for

#: A message that is no one of the load.
RELAYED = b"Subject: relayed\r\n\r\nhi\r\n"
#: Of what is put off for another reason (seconds).
RETRY = 0.3
#: The front end does not know whether a hub has the message; a queue program was killed.
UNSURE = (b"communication with mail server failed (#4.4.2)", b"qq crashed (#4.3.0)")
GREYLISTED = re.compile(rb"451 greylisted, try again in (\d+) seconds? \(#4\.7\.1\)")
#: With so many that wait for their time there is nothing new.
WAITING = 40
SIZES = (200, 1000, 3000, 20_000, 400_000)  # the last one is held in a file by qmqpqueue
WEIGHTS = (20, 20, 20, 5, 1)


@dataclass
class Mail:
    """A message, and what became of it."""

    number: int
    client: str
    sender: bytes
    recipients: list[bytes]
    text: bytes  # with LF
    unsure: int = 0
    attempts: int = 0
    accepted: bool = False
    #: Recipients for whom it was greylisted, and when they are known (monotonic).
    waits: dict[bytes, float] = field(default_factory=dict)

    @property
    def wire(self) -> bytes:
        lines = self.text.split(b"\n")[:-1]
        return b"".join((b"." if x[:1] == b"." else b"") + x + b"\r\n" for x in lines) + b".\r\n"


def made(number: int) -> Mail:
    """One of its own, with lines of any bytes but CR and LF, and many that begin with a dot."""
    rng = random.Random(number)
    body, size = b"", rng.choices(SIZES, WEIGHTS)[0]
    while len(body) < size:
        line = rng.randbytes(rng.randrange(200)).translate(None, b"\r\n\0")
        body += b"." * rng.randrange(3) + line + b"\n"
    head = b"Message-ID: <%d@sender.example>\nSubject: number %d\n\n" % (number, number)
    recipients = [b"r%d@example.org" % rng.randrange(100) for _ in range(rng.choice((1, 1, 2, 3)))]
    client = f"10.{rng.randrange(10)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
    return Mail(number, client, b"s%d@sender.example" % rng.randrange(100), recipients, head + body)


@dataclass
class Load:
    """So many senders at once; a context manager, left when all that they have is accepted."""

    cluster: Cluster
    senders: int = 6
    counts: Counter[str] = field(default_factory=Counter)
    replies: Counter[bytes] = field(default_factory=Counter)
    mails: list[Mail] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._due: list[tuple[float, int]] = []
        self._lock = threading.Condition()
        self._ending = False
        self._threads = [threading.Thread(target=self._work) for _ in range(self.senders)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._lock:
            self._ending = True
            if kind is not None:
                self._due.clear()
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()

    def further(self, number: int, *names: str) -> None:
        """Wait until so many more attempts have come to one of these ends."""

        def count() -> int:
            return sum(self.counts[name] for name in names)

        before = count()
        wait_for(lambda: count() >= before + number or self.faults)
        assert not self.faults, self.faults

    # -- inside ------------------------------------------------------------

    def _next(self) -> Mail | None:
        """One whose time has come, or a new one; None at the end."""
        with self._lock:
            while True:
                now = time.monotonic()
                if self._due and self._due[0][0] <= now:
                    return self.mails[heapq.heappop(self._due)[1]]
                if not self._ending and len(self._due) < WAITING:
                    mail = made(len(self.mails))
                    self.mails.append(mail)
                    return mail
                if not self._due:
                    return None
                self._lock.wait(max(0, self._due[0][0] - now))

    def _work(self) -> None:
        while (mail := self._next()) is not None:
            mail.attempts += 1
            try:
                outcome, pause = self._attempt(mail)
            except Exception as error:
                self.faults.append(f"{mail.number}: {error!r}")
                return
            with self._lock:
                self.counts[outcome] += 1
                if outcome != "accepted":
                    heapq.heappush(self._due, (time.monotonic() + pause, mail.number))
                    self._lock.notify()

    def _attempt(self, mail: Mail) -> tuple[str, float]:
        """How it ended, and after how many seconds it is sent again."""
        told = False
        try:
            with self.cluster.client(mail.client) as client:
                client.reply()
                commands = [b"EHLO sender.example", b"MAIL FROM:<%b>" % mail.sender]
                commands += [b"RCPT TO:<%b>" % recipient for recipient in mail.recipients]
                # Each recipient is asked for, so each is known the next time.
                replies = client.answers(*commands)
                for recipient, reply in zip(mail.recipients, replies[2:], strict=True):
                    self._look_at_greylisting(mail, recipient, reply)
                bad = [reply for reply in replies if not reply.startswith(b"250")]
                if not bad and not (reply := client.ask(b"DATA")).startswith(b"354"):
                    bad = [reply]
                if not bad and not client.send(mail.wire):
                    bad = [b""]
                if not bad:
                    told = True
                    reply = client.reply()
                    if reply.startswith(b"250 "):
                        mail.accepted = True
                        client.ask(b"QUIT")
                        return "accepted", 0
                    bad = [reply]
                client.ask(b"QUIT")
        except (OSError, AssertionError) as error:  # a reset; a reply that is cut off
            if isinstance(error, TimeoutError):
                raise
            bad = [b""]
        return self._not_accepted(mail, max(bad), told)

    def _look_at_greylisting(self, mail: Mail, recipient: bytes, reply: bytes) -> None:
        """Who has waited is known at all front ends; the store forgets nothing."""
        if found := GREYLISTED.fullmatch(reply):
            now = time.monotonic()
            if mail.waits.setdefault(recipient, now + int(found[1]) + 1) < now:
                self.faults.append(f"{mail.number} was greylisted twice for {recipient!r}")

    def _not_accepted(self, mail: Mail, reply: bytes, told: bool) -> tuple[str, float]:
        if mail.accepted:  # only the reply to QUIT is missing
            return "accepted", 0
        self.replies[re.sub(rb" in \d+ sec.*", b"", reply)] += 1
        if told and (not reply or reply.endswith(UNSURE)):
            mail.unsure += 1
            return ("unsure: no reply" if not reply else "unsure: hub"), RETRY
        if not reply:
            return "lost", RETRY
        if found := GREYLISTED.fullmatch(reply):
            return "greylisted", int(found[1]) + 1
        assert reply.startswith(b"4"), reply
        return "deferred", RETRY


#: What a hub has put before what was sent: who it is from and for, and where it has come through.
HEAD = re.compile(
    rb"Return-Path: <(?P<sender>[^>\n]*)>\n"
    rb"(?P<to>(?:Delivered-To: [^\n]*\n)+)"
    rb"Received: from [^\n]*\n  by (?P<hub>hub\d)\.example\.org with QMQP[^\n]*\n"
    rb"Received: from [^\n]* \((?P<client>[0-9.]+)\)\n"
    rb"  by (?P<front>mx\d)\.example\.org with [^\n]*\n"
)


@dataclass
class Found:
    """What is in the Maildirs: copies by number, and by whom they were taken."""

    copies: Counter[int] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    relayed: int = 0


def found(cluster: Cluster, mails: list[Mail]) -> Found:
    """Everything that the hubs have, each byte of which is as it was sent."""
    all_ = Found()
    for hub in HUBS:
        for path in (cluster.maildir(hub) / "new").iterdir():
            _look(path, hub, mails, all_)
    return all_


def _look(path: Path, hub: str, mails: list[Mail], all_: Found) -> None:
    text = path.read_bytes()
    head = HEAD.match(text)
    assert head is not None, text[:1000]
    rest = text[head.end() :]
    if rest.replace(b"\n", b"\r\n") == RELAYED:
        all_.relayed += 1
        return
    number = re.match(rb"Message-ID: <(\d+)@sender\.example>\n", rest)
    assert number is not None, text[:1000]
    mail = mails[int(number[1])]
    assert rest == mail.text, f"{path}: other bytes than those of {mail.number}"
    to = b"".join(b"Delivered-To: %b\n" % recipient for recipient in mail.recipients)
    assert (head["sender"], head["to"]) == (mail.sender, to), text[:1000]
    assert (head["hub"], head["client"]) == (hub.encode(), mail.client.encode())
    front = head["front"].decode()
    assert front in FRONTS
    all_.copies[mail.number] += 1
    all_.parts.update((hub, front))
