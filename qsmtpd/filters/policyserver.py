"""policyserver: asks servers of Postfix's policy protocol, as postgrey.

Configuration: control/policyservers, a server a line (see qsmtpd/net/daemonlist.py): its
address, and the options name=, timeout= (seconds, 30), fail=, and

    at        when it is asked: some of rcpt, data, data_post, with commas; rcpt
    context   the value of policy_context that it is told

A session has one connection to each.  Where several are there they are asked in their
order, until one refuses or says OK.
Replies: what a server says: REJECT, `554 access denied (#5.7.1)`, or its text, and its code
and status; DEFER, DEFER_IF_PERMIT, DEFER_IF_REJECT, `450 access denied, try again later
(#4.7.1)`; an action that we do not do, `451 a mail filter wants what cannot be done
(#4.3.5)`; without an answer, by fail=, `451 a mail filter gives no answer now (#4.3.0)` or
`554 a mail filter gives no answer (#5.3.0)`.
Log keys: by=policyserver; event=plugin with server=, and result= where it gave no answer,
or action= and text= of what only the log is told, or is not done.

OK lets nobody in: that is for relay, rcpthosts and spp.  DEFER_IF_PERMIT is a DEFER, said when
the servers behind it have been asked, for a REJECT of theirs is for good;
DEFER_IF_REJECT makes a DEFER of such a REJECT.  DISCARD is done at data_post alone.
"""

from __future__ import annotations

import posix as os
from time import monotonic, time

from ..decision import DECLINED, Decision, check_header_line, decline, defer, discard, drop, reject
from ..facts import ControlError
from ..net import policyprotocol as protocol
from ..net.daemon import NoAnswer
from ..net.daemonlist import entries
from ..net.policyprotocol import Action, PolicyServer, request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope, Message
    from ..net.daemonlist import Listed

FILE = "policyservers"
TIMEOUT = 30  # seconds
RCPT, DATA, DATA_POST = STAGES = (b"rcpt", b"data", b"data_post")
#: What Postfix calls them.
_STATES = {RCPT: b"RCPT", DATA: b"DATA", DATA_POST: b"END-OF-MESSAGE"}
#: DISCARD where all of the message has not come yet.
NOT_DONE = (protocol.UNSUPPORTED, protocol.DISCARD)
UNABLE = defer(b"a mail filter wants what cannot be done", 451, b"4.3.5")
DENIED, LATER = b"access denied", b"access denied, try again later"
#: Of a line of a header (RFC 5322, 2.1.1).
LINE_LIMIT = 998
#: In the notes of an envelope.
INSTANCE = "policyserver.instance"

_count = 0


def Plugin(settings: PluginSettings) -> _Filter:
    """The filter, with the hooks of the stages at which a server is to be asked."""
    return _Filter(settings, servers(settings))


def servers(settings: PluginSettings) -> list[Server]:
    """The lines of the control file.  Raises ControlError."""
    found = entries(settings, FILE, TIMEOUT, (b"at", b"context"))
    return [Server(settings, one) for one in found]


class Server:
    """A line of the control file.  Raises ControlError."""

    __slots__ = ("listed", "stages", "context")

    def __init__(self, settings: PluginSettings, listed: Listed) -> None:
        self.listed = listed
        self.stages = listed.options.get(b"at", RCPT).split(b",")
        self.context = listed.options.get(b"context", b"")
        if not set(self.stages) <= set(STAGES) or len(set(self.stages)) < len(self.stages):
            name = listed.name.decode("ascii", "backslashreplace")
            what = f"{name}: at= is some of rcpt, data, data_post"
            raise ControlError("control/" + settings.list_file(FILE), what)


class _Filter:
    """What all sessions share."""

    __slots__ = ("settings", "servers", "_kind")
    immune = ("relay", "auth", "listed")

    def __init__(self, settings: PluginSettings, servers: list[Server]) -> None:
        self.settings = settings
        self.servers = servers
        wanted = {stage for server in servers for stage in server.stages}
        # A hook that nobody wants would cost each message.
        self._kind = _KINDS[DATA in wanted, DATA_POST in wanted]

    def for_session(self) -> _Session:
        return self._kind(self)


class _Session:
    """The same for one session: a connection to each server."""

    __slots__ = ("_filter", "_open", "_silent_until")

    def __init__(self, filter: _Filter) -> None:
        self._filter = filter
        self._open: dict[bytes, PolicyServer] = {}
        self._silent_until: dict[bytes, float] = {}

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        asked = client.asked_for(recipient)
        return self._ask(RCPT, client, envelope, asked, envelope.size)

    def disconnect(self, client: Client) -> None:
        for server in self._open.values():
            server.close()
        self._open.clear()

    def _ask(
        self, stage: bytes, client: Client, envelope: Envelope, recipient: bytes, size: int
    ) -> Decision:
        """What the servers of a stage say."""
        found: list[bytes] = []
        if_permit: Decision | None = None
        if_reject: Decision | None = None
        for server in self._filter.servers:
            if stage not in server.stages:
                continue
            listed = server.listed
            try:
                action = self._answer(
                    listed, question(server, stage, client, envelope, recipient, size)
                )
            except NoAnswer as error:
                self._log(listed, recipient, result=str(error))
                failed = listed.failed
                if failed is DECLINED:
                    continue
                return if_reject if if_reject is not None and failed.code >= 500 else failed
            kind = action.kind
            if kind == protocol.OK:
                break
            if action.code >= 500 and if_reject is not None:
                return if_reject
            if kind in (protocol.REJECT, protocol.DEFER, protocol.DROP):
                return _refusal(action)
            if kind == protocol.IF_PERMIT:
                if_permit = if_permit or _refusal(action)
            elif kind == protocol.IF_REJECT:
                if_reject = if_reject or _refusal(action)
            elif kind == protocol.PREPEND and stage != DATA_POST and _is_line(action.text):
                found.append(action.text)
            elif kind == protocol.DISCARD and stage == DATA_POST:
                self._log(listed, recipient, action=action.word, text=action.text)
                return discard(action.text)
            elif kind != protocol.DUNNO:
                self._log(listed, recipient, action=action.word, text=action.text)
                if kind in NOT_DONE:
                    return UNABLE
        if if_permit is not None:
            return if_permit
        return decline(above=found) if found else DECLINED

    def _answer(self, listed: Listed, asked: bytes) -> Action:
        """Raises NoAnswer or Shutdown."""
        name, began = listed.name, monotonic()
        # Each of many recipients would else cost the whole time.
        if began < self._silent_until.get(name, 0.0):
            raise NoAnswer("timeout, a moment ago")
        server = self._open.get(name)
        if server is None:
            server = self._open[name] = PolicyServer(listed.address, listed.timeout)
        try:
            return server.ask(asked)
        except NoAnswer:
            now = monotonic()
            if now - began >= listed.timeout:
                self._silent_until[name] = now + listed.timeout
            raise

    def _log(self, listed: Listed, recipient: bytes, **fields: bytes | str) -> None:
        self._filter.settings.log(server=listed.name, **fields, to=recipient or None)


class _AtData(_Session):
    __slots__ = ()

    def data(self, client: Client, envelope: Envelope) -> Decision:
        return self._ask(DATA, client, envelope, _only(client, envelope), envelope.size)


class _AtEnd(_Session):
    __slots__ = ()

    def data_post(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        return self._ask(DATA_POST, client, envelope, _only(client, envelope), message.size)


class _AtBoth(_AtData, _AtEnd):
    __slots__ = ()


#: (at data?, at the end of it?)
_KINDS: dict[tuple[bool, bool], type[_Session]] = {
    (False, False): _Session,
    (True, False): _AtData,
    (False, True): _AtEnd,
    (True, True): _AtBoth,
}


def _only(client: Client, envelope: Envelope) -> bytes:
    """The recipient where there is one alone: after RCPT Postfix names no other."""
    found = envelope.recipients
    return client.asked_for(found[0]) if len(found) == 1 else b""


def _refusal(action: Action) -> Decision:
    make = reject if action.kind == protocol.REJECT else defer
    usual, status = (DENIED, b"5.7.1") if make is reject else (LATER, b"4.7.1")
    if action.kind == protocol.DROP:
        make = drop
        status = b"%d.7.1" % (action.code // 100)
    return make(action.text or usual, action.code, action.status or status)


def _is_line(text: bytes) -> bool:
    try:
        check_header_line(text)
    except ValueError:
        return False
    return len(text) <= LINE_LIMIT


def question(
    server: Server,
    stage: bytes,
    client: Client,
    envelope: Envelope,
    recipient: bytes,
    size: int,
) -> bytes:
    """The request: what Postfix would say of this client and this message (`size` in bytes)."""
    facts = _facts(stage, client, envelope, recipient, size)
    return request([*facts, (b"policy_context", server.context)])


def _facts(
    stage: bytes, client: Client, envelope: Envelope, recipient: bytes, size: int
) -> Iterator[tuple[bytes, bytes]]:
    """The attributes that Postfix documents, as far as we know them."""
    peer, auth, tls = client.peer, client.auth, client.tls
    sasl_sender = envelope.parameters.get(b"AUTH") if auth is not None else None
    if sasl_sender == b"<>":  # it is not known: Postfix then tells of none
        sasl_sender = None
    count = 0 if stage == RCPT else len(envelope.recipients)
    fingerprint = (tls.fingerprint if tls is not None else None) or b""
    pairs = [fingerprint[at : at + 2] for at in range(0, len(fingerprint), 2)]
    yield b"protocol_state", _STATES[stage]
    yield b"protocol_name", b"ESMTP" if client.esmtp else client.protocol
    yield b"helo_name", client.helo or b""
    yield b"queue_id", b""
    yield b"sender", envelope.sender
    yield b"recipient", recipient
    yield b"recipient_count", b"%d" % count
    yield b"client_address", peer.ip
    yield b"client_name", peer.host
    yield b"reverse_client_name", peer.host
    yield b"instance", _instance(envelope)
    yield b"sasl_method", auth.mechanism if auth is not None else b""
    yield b"sasl_username", auth.user if auth is not None else b""
    yield b"sasl_sender", sasl_sender or b""
    yield b"size", b"%d" % size
    yield b"ccert_subject", b""
    yield b"ccert_issuer", b""
    yield b"ccert_fingerprint", b":".join(pairs).upper()
    yield b"encryption_protocol", (tls.protocol if tls is not None else None) or b""
    yield b"encryption_cipher", (tls.cipher if tls is not None else None) or b""
    yield b"encryption_keysize", _key_size((tls.cipher if tls is not None else None) or b"")
    yield b"etrn_domain", b""
    yield b"stress", b""
    yield b"ccert_pubkey_fingerprint", b""
    yield b"client_port", peer.port or b""
    yield b"server_address", peer.local_ip or b""
    yield b"server_port", peer.local_port or b""


def _key_size(cipher: bytes) -> bytes:
    """The bits of a cipher's key, from its name; 0 where that does not say it."""
    for name, bits in ((b"CHACHA20", b"256"), (b"256", b"256"), (b"128", b"128")):
        if name in cipher.partition(b"SHA")[0]:
            return bits
    return b"0"


def _instance(envelope: Envelope) -> bytes:
    """The same for all questions about a message, and for those about no other one."""
    global _count
    if INSTANCE not in envelope.notes:
        _count += 1
        envelope.notes[INSTANCE] = b"%x.%x.%x" % (os.getpid(), int(time() * 1e6), _count)
    found: bytes = envelope.notes[INSTANCE]
    return found
