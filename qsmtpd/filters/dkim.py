"""dkim: the signatures of a message (DKIM, RFC 6376, 8301, 8463).

Configuration: control/dkim or DKIM, how many signatures of a message are checked, 0 to 32;
empty: 8.  Others are only counted.  What the DNS does not say is temperror, and nothing is
put off.
It needs cryptography, 38.0 or later.
Replies: none; it refuses nothing.
Log keys: event=plugin plugin=dkim result=RESULT domain=, selector=, algorithm=, reason=, in the
words of RFC 8601, 2.7.1; unchecked=, how many more there are.
For later plugins: envelope.notes["dkim"], a list of dkimresult.Signature.
"""

from __future__ import annotations

from time import time

from ..decision import DECLINED, Decision
from ..net.dns.lookup import PASS, Dns
from . import libraries
from .dkimresult import FAIL, NEUTRAL, PERMERROR, POLICY, TEMPERROR, Signature
from .dkimresult import PASS as PASSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope, Message
    from ..smtp.canonical import BodyHash
    from .dkimkey import Key
    from .dkimsignature import Fields, SignatureField, Unverified

    #: One that may be verified, with the keys that could be its, and where its result goes.
    Ready = tuple[SignatureField, list[Key], Signature]

DEFAULT, MOST = 8, 32
NOTE = "dkim"
LIBRARY = "Python's cryptography"
CHUNK = 256 * 1024  # bytes of a body that are hashed at once


class Plugin:
    """Checks signatures.  Raises ControlError."""

    __slots__ = ("spool", "_most", "_dns", "_log")
    immune = ("relay", "auth", "listed")

    def __init__(self, settings: PluginSettings) -> None:
        self._log = settings.log
        self._most = settings.number("dkim", "DKIM", 0, most=MOST, empty=DEFAULT)
        self.spool = self._most > 0
        self._dns: Dns | None = None
        if self._most:
            self._dns = Dns(settings, PASS)
            expect_library()

    def data_post(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        if self._dns is None or message.file is None:
            return DECLINED
        found = _Check(self._dns, client, message.file, self._most).results()
        envelope.notes[NOTE] = found
        for signature in found[: self._most]:
            self._log(
                result=signature.result,
                domain=signature.domain,
                selector=signature.selector,
                algorithm=signature.algorithm,
                reason=signature.reason or None,
            )
        if len(found) > self._most:
            self._log(unchecked=len(found) - self._most)
        return DECLINED


def expect_library() -> None:
    """Make sure that the library is there.  Raises ControlError."""
    libraries.expect(LIBRARY, "cryptography/__init__.py", "the filter dkim needs it")


class _Check:
    """That of one message."""

    def __init__(self, dns: Dns, client: Client, file: BinaryIO, most: int) -> None:
        self._dns = dns
        self._client = client
        self._file = file
        self._most = most
        self._fields: Fields = []
        self._canonical: dict[tuple[int, bool], bytes] = {}

    def results(self) -> list[Signature]:
        """One for each signature, in their order.  Raises Shutdown, ControlError or OSError."""
        from ..smtp import canonical, header
        from .dkimsignature import NAME, SignatureField, Unverified

        self._file.seek(0)
        start = self._file.read(header.HEADER_LIMIT + 2)
        text, body = header.header_of(start)
        self._fields = canonical.fields(text)
        places = [place for place, (name, _) in enumerate(self._fields) if name == NAME]
        results: list[Signature] = []
        ready: list[tuple[SignatureField, Signature]] = []
        for place in places[: self._most]:
            field = SignatureField(self._fields, place, time())
            result = Signature(PASSED, field.domain, field.selector, field.algorithm, field.digest)
            results.append(result)
            problem = field.problem
            if not (problem or start[len(text) : body] == b"\n" or len(start) == len(text)):
                # What others take for its header, and for its body, nobody knows.
                problem = Unverified(PERMERROR, "the header has no end, or a line that is none")
            if problem is not None:
                _set(result, problem)
            else:
                ready.append((field, result))
        if ready:
            self._verify(self._with_keys(ready), body)
        unchecked = (Signature(NEUTRAL, reason="not checked") for _ in places[self._most :])
        return [*results, *unchecked]

    def _with_keys(self, signatures: list[tuple[SignatureField, Signature]]) -> list[Ready]:
        """Those for which there are keys."""
        from .dkimsignature import Unverified

        names = ((field.key_name, "TXT") for field, _ in signatures)
        ready: list[Ready] = []
        for (field, result), answer in zip(
            signatures, self._dns.ask(self._client, *names), strict=True
        ):
            if answer.trouble:
                self._dns.log_trouble(answer)
                _set(result, Unverified(TEMPERROR, f"DNS {answer.trouble}"))
                continue
            try:
                found = _keys(answer.records, field)
            except Unverified as problem:
                _set(result, problem)
            else:
                result.testing = any(key.testing for key in found)
                ready.append((field, found, result))
        return ready

    def _verify(self, signatures: list[Ready], body: int) -> None:
        from hashlib import sha256

        from . import dkimkey
        from .dkimsignature import Unverified

        if not signatures:
            return
        hashes = self._body_hashes([field for field, _, _ in signatures], body)
        for field, keys, result in signatures:
            hashed = hashes[field.relaxed_body]
            try:
                digest, length = hashed.digest(field.length), field.length
                if length is not None and length > hashed.size:
                    raise Unverified(FAIL, "the body is shorter than l=")
                if digest != field.body_hash:
                    raise Unverified(FAIL, "the body has been changed")
                texts = field.signed(self._fields, self._canonical_field)
                dkimkey.verify(keys, field, sha256(b"".join(texts)).digest())
                if length is not None and length < hashed.size:
                    more = hashed.size - length
                    raise Unverified(POLICY, f"{more} bytes of the body are not signed (l=)")
            except Unverified as problem:
                _set(result, problem)

    def _body_hashes(self, signatures: list[SignatureField], body: int) -> dict[bool, BodyHash]:
        """The hashes that these want: relaxed -> those."""
        from ..smtp.canonical import BodyHash

        hashes = {
            relaxed: BodyHash(relaxed, {f.length for f in signatures if f.relaxed_body is relaxed})
            for relaxed in {field.relaxed_body for field in signatures}
        }
        self._file.seek(body)
        while chunk := self._file.read(CHUNK):
            for one in hashes.values():
                one.feed(chunk)
        return hashes

    def _canonical_field(self, place: int, relaxed: bool) -> bytes:
        from ..smtp.canonical import relaxed_field, simple_field

        found = self._canonical.get((place, relaxed))
        if found is None:
            found = (relaxed_field if relaxed else simple_field)(self._fields[place][1])
            self._canonical[place, relaxed] = found
        return found


def _set(result: Signature, problem: Unverified) -> None:
    result.result, result.reason = problem.result, problem.reason


def _keys(records: tuple[bytes, ...], field: SignatureField) -> list[Key]:
    """Those of the records.  Raises Unverified, or ControlError where the library does not work."""
    if not records:
        from .dkimsignature import Unverified

        raise Unverified(PERMERROR, "there is no key")
    from . import dkimkey  # now: to load the library takes longer than a session

    return dkimkey.keys(records, field)
