"""The mechanisms by themselves: the RFCs' examples, and whatever a client may say."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.smtp import sasl
from qsmtpd.smtp.sasl import gs2, relay, scram

Ask = Callable[[sasl.Credentials | sasl.Message], sasl.Answer]
#: A response of the client; None: it cancels, or sends what is no base64.
Responses = list[bytes | None]
YES = sasl.Answer(sasl.ACCEPTED)


class Peer:
    """Whoever is asked: keeps the questions, and gives these answers, the last one again."""

    def __init__(self, *answers: sasl.Answer) -> None:
        self.answers = list(answers)
        self.questions: list[sasl.Credentials | sasl.Message] = []

    def __call__(self, question: sasl.Credentials | sasl.Message) -> sasl.Answer:
        self.questions.append(question)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        user = question.user if isinstance(question, sasl.Credentials) else b""
        return sasl.Answer(answer.verdict, user, answer.message)


def converse(
    exchange: sasl.Exchange, responses: Responses, ask: Ask
) -> tuple[list[bytes], sasl.Answer | None]:
    """The challenges, and the last answer; None where the client is to say more."""
    challenges: list[bytes] = []
    try:
        wanted = next(exchange)
        while True:
            if not isinstance(wanted, bytes):
                wanted = exchange.send(ask(wanted))
                continue
            challenges.append(wanted)
            if not responses:
                return challenges, None
            response = responses.pop(0)
            broken = response is None
            wanted = exchange.throw(sasl.Broken()) if broken else exchange.send(response)
    except StopIteration as stop:
        return challenges, stop.value


def run(
    name: bytes, initial: bytes | None, *responses: bytes | None, ask: Ask, certified: bytes = b""
) -> tuple[list[bytes], sasl.Answer | None]:
    context = sasl.Context(b"<1896.697170952@postoffice.reston.mci.net>", certified or None)
    exchange = sasl.MECHANISMS[name].begin(initial, context)
    return converse(exchange, list(responses), ask)


# -- the RFCs' examples ----------------------------------------------------


def test_plain_of_rfc_4616() -> None:
    peer = Peer(YES)
    _, answer = run(b"PLAIN", b"\0tim\0tanstaaftanstaaf", ask=peer)
    (asked,) = peer.questions
    assert isinstance(asked, sasl.Credentials) and answer is not None
    assert (asked.user, asked.proof) == (b"tim", b"tanstaaftanstaaf")
    assert (answer.verdict, answer.user) == (sasl.ACCEPTED, b"tim")
    # Kurt, who would act as Ursel.
    _, answer = run(b"PLAIN", b"Ursel\0Kurt\0xipj3plmq", ask=peer)
    assert answer is not None and len(peer.questions) == 1
    assert (answer.verdict, answer.user) == (sasl.REFUSED, b"Kurt")


def test_cram_md5_of_rfc_2195() -> None:
    peer = Peer(YES)
    challenges, answer = run(b"CRAM-MD5", None, b"tim b913a602c7eda7a495b4e6e7334d3890", ask=peer)
    (asked,) = peer.questions
    assert isinstance(asked, sasl.Credentials) and answer is not None
    assert challenges == [asked.challenge]
    digest = hmac.new(b"tanstaaftanstaaf", asked.challenge, "md5").hexdigest().encode()
    assert (asked.user, asked.proof) == (b"tim", digest)


SCRAM_1 = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SCRAM_2 = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
SCRAM_3 = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SCRAM_4 = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def server() -> scram.Server:
    """The server of RFC 7677, 3, behind the client's first message."""
    keys = scram.Keys.of(b"pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    return scram.Server(scram.ClientFirst(SCRAM_1), b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", keys)


def test_scram_of_rfc_7677() -> None:
    one = server()
    assert scram.ClientFirst(SCRAM_1).user == b"user"
    assert one.challenge == SCRAM_2
    assert one.verify(SCRAM_3) == SCRAM_4
    # The session passes on what it hears.
    peer = Peer(sasl.Answer(None, message=SCRAM_2), sasl.Answer(sasl.ACCEPTED, message=SCRAM_4))
    challenges, answer = run(b"SCRAM-SHA-256", SCRAM_1, SCRAM_3, b"", ask=peer)
    assert challenges == [SCRAM_2, SCRAM_4] and answer is not None
    assert (answer.verdict, answer.user) == (sasl.ACCEPTED, b"user")
    texts = [asked.text for asked in peer.questions if isinstance(asked, sasl.Message)]
    assert texts == [SCRAM_1, SCRAM_3]


def test_oauthbearer_of_rfc_7628() -> None:
    text = base64.b64decode(
        b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9"
        b"QmVhcmVyIHZGOWRmdDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    )
    for verdict, challenge in (
        (sasl.ACCEPTED, []),
        (sasl.REFUSED, [b'{"status":"invalid_token"}']),
    ):
        peer = Peer(sasl.Answer(verdict))
        challenges, answer = run(b"OAUTHBEARER", text, b"\1", ask=peer)
        (asked,) = peer.questions
        assert isinstance(asked, sasl.Credentials) and answer is not None
        assert (asked.user, asked.proof) == (
            b"user@example.com",
            b"vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==",
        )
        assert (challenges, answer.verdict) == (challenge, verdict)


def test_xoauth2_of_google() -> None:
    text = base64.b64decode(
        b"dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNr"
        b"QmhkSFJoZG1semRHRXVZMjl0Q2cBAQ=="
    )
    for verdict in (sasl.ACCEPTED, sasl.REFUSED, sasl.TEMPORARY):
        peer = Peer(sasl.Answer(verdict))
        challenges, answer = run(b"XOAUTH2", None, text, b"", ask=peer)
        (asked,) = peer.questions
        assert isinstance(asked, sasl.Credentials) and answer is not None
        assert asked.user == b"someuser@example.com"
        assert asked.proof == b"ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"
        more = [b'{"status":"401","schemes":"bearer"}'] if verdict == sasl.REFUSED else []
        assert (challenges, answer.verdict) == ([b"", *more], verdict)


# -- SCRAM -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "user", "identity", "binds"),
    [
        (b"n,,n=user,r=x", b"user", b"", False),
        (b"y,,n=user,r=x", b"user", b"", False),
        (b"y,a=user,n=user,r=x", b"user", b"user", False),
        (b"n,a=o=2Cther,n=us=3Der,r=x", b"us=er", b"o,ther", False),
        (b"p=tls-unique,,n=user,r=x", b"user", b"", True),
        (b"n,,n=user,r=x,e=ext,f=", b"user", b"", False),
        ("n,,n=jörg,r=x".encode(), "jörg".encode(), b"", False),
        (b"n,,n=user,r=" + b"x" * 512, b"user", b"", False),
    ],
)
def test_first_messages(message: bytes, user: bytes, identity: bytes, binds: bool) -> None:
    first = scram.ClientFirst(message)
    assert (first.user, first.identity, first.binds) == (user, identity, binds)
    assert first.header + first.bare == message


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n",
        b"n,",
        b"n,,",
        b"n,,n=user",
        b"n,,n=user,",
        b"n,,n=user,r=",
        b"n,,r=x,n=user",
        b"n,,m=must,n=user,r=x",
        b"n,,n=,r=x",
        b"n,,n=us=er,r=x",
        b"n,,n=us=2cer,r=x",
        b"n,,n=user=,r=x",
        b"n,,n=\xff,r=x",
        b"n,,n=us\0er,r=x",
        b"n,,n=user,r=x x",
        b"n,,n=user,r=x\x80",
        b"n,,n=user,r=x,",
        b"n,,n=user,r=x,e",
        b"n,,n=user,r=x,1=e",
        b"n,,n=user,r=x,ee=e",
        b"n,,n=user,r=" + b"x" * 513,
        b"N,,n=user,r=x",
        b"p,,n=user,r=x",
        b"p=,,n=user,r=x",
        b"x,,n=user,r=x",
        b"nn,,n=user,r=x",
        b"n,b=other,n=user,r=x",
        b"n,a=,n=user,r=x",
        b"n,a,n=user,r=x",
        b"n=user,r=x",
        b" n,,n=user,r=x",
    ],
)
def test_first_messages_that_are_none(message: bytes) -> None:
    with pytest.raises(sasl.Malformed):
        scram.ClientFirst(message)
    with pytest.raises(sasl.Malformed):
        run(b"SCRAM-SHA-256", message, ask=Peer(YES))


NONCE = b"rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
PROOF = b"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"c=biws",
        b"c=biws,r=" + NONCE,
        SCRAM_3[:-1],
        SCRAM_3 + b"=",
        SCRAM_3[:-44],
        b"r=" + NONCE + b",c=biws,p=" + PROOF,
        b"c=biws,r=" + NONCE + b",p=" + PROOF + b",e=x",
        b"c=biws,r=" + NONCE + b",p=" + base64.b64encode(bytes(31)),
        b"c=biws,r=" + NONCE + b",p=" + base64.b64encode(bytes(33)),
        b"c=bi ws,r=" + NONCE + b",p=" + PROOF,
        b"c=biwt=,r=" + NONCE + b",p=" + PROOF,
        SCRAM_3.replace(b"VQ=", b"VR="),  # another spelling of the same proof
    ],
)
def test_last_messages_that_are_none(message: bytes) -> None:
    with pytest.raises(sasl.Malformed):
        server().verify(message)


@pytest.mark.parametrize(
    "message",
    [
        b"c=biws,r=" + NONCE + b",p=" + base64.b64encode(bytes(32)),
        b"c=eSws,r=" + NONCE + b",p=" + PROOF,  # y,, where n,, was said
        b"c=biws,r=" + NONCE[:-1] + b",p=" + PROOF,
        b"c=biws,r=" + NONCE[:20] + b",p=" + PROOF,
        b"c=biws,r=" + NONCE + b",e=x,p=" + PROOF,
    ],
)
def test_last_messages_that_are_wrong(message: bytes) -> None:
    assert server().verify(message) is None


def signed(one: scram.Server, without: bytes, first: bytes = SCRAM_1) -> bytes:
    """A last message, with the proof that who has the password can give."""
    salted = binascii.a2b_hex(
        "c4a49510323ab4f952cac1fa99441939e78ea74d6be81ddf7096e87513dc615d"
    )  # of pencil, with the RFC's salt
    key = hmac.digest(salted, b"Client Key", "sha256")
    stored = hashlib.sha256(key).digest()
    said = first[3:] + b"," + one.challenge + b"," + without
    mask = hmac.digest(stored, said, "sha256")
    proof = bytes(a ^ b for a, b in zip(key, mask, strict=True))
    return without + b",p=" + base64.b64encode(proof)


def test_who_has_the_password_cannot_change_what_was_said() -> None:
    """With a right proof of it: the header of the first message, and both nonces, count."""
    assert signed(server(), b"c=biws,r=" + NONCE) == SCRAM_3
    assert server().verify(signed(server(), b"c=biws,r=" + NONCE + b",e=x")) is not None
    for without in (
        b"c=eSws,r=" + NONCE,
        b"c=,r=" + NONCE,
        b"c=cD10bHMtdW5pcXVlLCw=,r=" + NONCE,
        b"c=biws,r=" + NONCE[:-1],
        b"c=biws,r=" + NONCE[:20],
        b"c=biws,r=" + NONCE + b"x",
    ):
        assert server().verify(signed(server(), without)) is None


@given(st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text))
def test_names_in_a_header(text: str) -> None:
    try:
        name = text.encode()
    except UnicodeEncodeError:
        return
    written = name.replace(b"=", b"=3D").replace(b",", b"=2C")
    assert gs2.name(written) == name
    assert gs2.split(b"n,a=" + written + b",rest,") == (gs2.CANNOT, name, b"rest,")


@given(st.binary(max_size=100), st.integers(0, len(SCRAM_3)), st.integers(0, 30))
def test_only_this_message_is_right(junk: bytes, start: int, less: int) -> None:
    message = SCRAM_3[:start] + junk + SCRAM_3[start + less :]
    try:
        signature = server().verify(message)
    except sasl.Malformed:
        return
    assert (signature is None) == (message != SCRAM_3)


# -- tokens ----------------------------------------------------------------

GOOD = b"n,a=joe,\1auth=Bearer abc.DEF-_~+/==\1\1"


@pytest.mark.parametrize(
    ("name", "text", "token"),
    [
        (b"OAUTHBEARER", GOOD, b"abc.DEF-_~+/=="),
        (b"OAUTHBEARER", b"y,a=joe,\1auth=bearer  x\1\1", b"x"),
        (b"OAUTHBEARER", b"n,a=joe,\1host=h\1auth=BEARER x\1port=587\1odd=a b\tc\1\1", b"x"),
        (b"XOAUTH2", b"user=joe\1auth=Bearer abc\1\1", b"abc"),
        (b"XOAUTH2", b"user=joe\1auth=bearer abc=\1\1", b"abc="),
    ],
)
@pytest.mark.parametrize("dummy", [b"\1", b"", b"*anything", None])
def test_tokens(name: bytes, text: bytes, token: bytes, dummy: bytes | None) -> None:
    for verdict in (sasl.ACCEPTED, sasl.REFUSED, sasl.TEMPORARY):
        peer = Peer(sasl.Answer(verdict))
        challenges, answer = run(name, text, dummy, ask=peer)
        (asked,) = peer.questions
        assert isinstance(asked, sasl.Credentials) and answer is not None
        assert (asked.user, asked.proof, asked.challenge) == (b"joe", token, b"")
        assert (answer.verdict, answer.user) == (verdict, b"joe")
        assert len(challenges) == (verdict == sasl.REFUSED)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"OAUTHBEARER", text)
        for text in (
            b"",
            b"\1",
            b"n,a=joe,",
            b"n,a=joe,\1",
            b"n,a=joe,\1\1",
            b"n,,\1auth=Bearer x\1\1",  # nobody
            b"n,a=,\1auth=Bearer x\1\1",
            b"n,a=joe,x\1auth=Bearer x\1\1",
            b"n,a=joe\1auth=Bearer x\1\1",
            b"a=joe,\1auth=Bearer x\1\1",
            GOOD[:-1],
            GOOD[:-2],
            GOOD + b"\1",
            GOOD + b"x",
            b"n,a=joe,\1auth=Basic x\1\1",
            b"n,a=joe,\1auth=Bearer\1\1",
            b"n,a=joe,\1auth=Bearer =\1\1",
            b"n,a=joe,\1auth=Bearer x y\1\1",
            b"n,a=joe,\1auth=Bearer x=y\1\1",
            b"n,a=joe,\1auth=Bearer x\0\1\1",
            b"n,a=joe,\1auth=Bearer x\1auth=Bearer y\1\1",
            b"n,a=joe,\1auth\1\1",
            b"n,a=joe,\1=x\1auth=Bearer x\1\1",
            b"n,a=joe,\1h0st=x\1auth=Bearer x\1\1",
            b"n,a=joe,\1host=\x80\1auth=Bearer x\1\1",
            b"n,a=jo\ne,\1auth=Bearer x\1\1",
        )
    ]
    + [
        (b"XOAUTH2", text)
        for text in (
            b"",
            b"\1",
            b"user=joe",
            b"user=joe\1\1",
            b"user=\1auth=Bearer x\1\1",
            b"User=joe\1auth=Bearer x\1\1",
            b"auth=Bearer x\1user=joe\1\1",
            b"user=joe\1auth=Bearer x\1",
            b"user=joe\1auth=Bearer x\1\1\1",
            b"user=joe\1host=x\1auth=Bearer x\1\1",
            b"user=joe\1auth=Bearer \1\1",
            b"user=jo\0e\1auth=Bearer x\1\1",
        )
    ],
)
def test_tokens_that_are_none(name: bytes, text: bytes) -> None:
    with pytest.raises(sasl.Malformed):
        run(name, text, b"\1", ask=Peer(YES))


def test_a_token_is_not_bound_to_the_channel() -> None:
    _, answer = run(b"OAUTHBEARER", b"p=tls-unique,a=joe,\1auth=Bearer x\1\1", ask=Peer(YES))
    assert answer is not None and (answer.verdict, answer.user) == (sasl.REFUSED, b"joe")


# -- a peer that carries it out --------------------------------------------


def test_what_a_peer_says_is_passed_on() -> None:
    peer = Peer(
        sasl.Answer(None, message=b"one"),
        sasl.Answer(None, message=b""),
        sasl.Answer(sasl.ACCEPTED, message=b"last"),
    )
    challenges, answer = converse(
        relay.exchange(None, sasl.Context()), [b"first", b"second", b""], peer
    )
    assert challenges == [b"one", b"", b"last"]
    assert answer is not None and answer.verdict == sasl.ACCEPTED
    texts = [asked.text for asked in peer.questions if isinstance(asked, sasl.Message)]
    assert texts == [None, b"first", b"second"]
    with pytest.raises(sasl.Malformed):  # it has to hear the last word, and say nothing
        last = Peer(sasl.Answer(sasl.ACCEPTED, message=b"last"))
        converse(relay.exchange(b"x", sasl.Context()), [b"no"], last)


# -- whatever a client says ------------------------------------------------

PIECES = [
    b"\0", b"\1", b",", b"=", b" ", b"n", b"y", b"p=x", b"n,,", b"n,a=joe,", b"a=", b"n=joe",
    b"r=abc", b"joe", b"user=joe", b"auth=Bearer x", b"\xff", b"*", b"\n", b"0" * 32, b"c=biws",
    b"p=" + PROOF, b"\0joe\0secret", b"n,,n=joe,r=abc", GOOD, b"user=joe\1auth=Bearer x\1\1",
]  # fmt: skip
RESPONSES = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join), st.binary(max_size=60)
)
VERDICTS = st.sampled_from([None, sasl.ACCEPTED, sasl.REFUSED, sasl.TEMPORARY])
ANSWERS = st.builds(sasl.Answer, VERDICTS, st.just(b""), st.sampled_from([b"", b"more"]))


@pytest.mark.parametrize("name", sorted(sasl.MECHANISMS))
@given(
    initial=st.none() | RESPONSES,
    responses=st.lists(st.none() | RESPONSES, max_size=4),
    answers=st.lists(ANSWERS, min_size=1, max_size=4),
)
def test_whatever_is_said(
    name: bytes, initial: bytes | None, responses: Responses, answers: list[sasl.Answer]
) -> None:
    """It ends in order, and only a yes of who was asked, or the certificate's, is a yes."""
    given_verdicts: list[str | None] = []

    def ask(question: sasl.Credentials | sasl.Message) -> sasl.Answer:
        assert isinstance(question, sasl.Message) == (name == b"SCRAM-SHA-256")
        answer = answers[len(given_verdicts) % len(answers)]
        verdict = answer.verdict
        user = b""
        if isinstance(question, sasl.Credentials):
            user, verdict = question.user, verdict or sasl.TEMPORARY
            assert b"\0" not in question.user + question.proof
        given_verdicts.append(verdict)
        return sasl.Answer(verdict, user, answer.message)

    count = len(responses)
    try:
        challenges, answer = run(name, initial, *responses, ask=ask, certified=b"joe")
    except (sasl.Malformed, sasl.Broken):
        return
    assert len(challenges) <= 3 and len(given_verdicts) <= 2
    if answer is None:
        assert len(challenges) == count + 1
        return
    assert answer.verdict in (sasl.ACCEPTED, sasl.REFUSED, sasl.TEMPORARY)
    assert answer.user and all(32 <= byte != 127 for byte in answer.user)
    if answer.verdict == sasl.ACCEPTED:
        assert (given_verdicts or [None])[-1] == (None if name == b"EXTERNAL" else sasl.ACCEPTED)
