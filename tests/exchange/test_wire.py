"""Anything may arrive: it is understood exactly, or it is a WireError, and never anything else."""

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from difnet.errors import WireError
from difnet.exchange import wire
from difnet.exchange.links import Link
from difnet.exchange.wire import DTYPES, HEADER_LIMIT, Header, is_finite, pack, read_state, unpack

NATURAL = st.integers(0, 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)
OF_TYPE = {int: NATURAL, str: TEXT}


@st.composite
def messages(draw):
    """A kind and its fields, as `pack` wants them."""
    kind = draw(st.sampled_from(sorted(wire._FIELDS)))
    return kind, {name: draw(OF_TYPE[type_]) for name, type_ in wire._FIELDS[kind].items()}


def understood(frame: bytes) -> Header | None:
    """What `unpack` makes of a frame, None for a WireError; anything else fails the test."""
    try:
        header = unpack(frame)
    except WireError as error:
        assert str(error)
        return None
    fields = wire._FIELDS[header.kind]
    assert list(header.fields) == list(fields)
    for name, value in header.fields.items():
        assert type(value) is fields[name]
        assert 0 <= value < 2**63 if fields[name] is int else len(value) <= 256
    return header


@given(message=messages())
def test_every_kind_of_message_comes_back_as_it_was_packed(message):
    kind, fields = message
    frame = pack(kind, **fields)
    if len(frame) <= HEADER_LIMIT:
        assert unpack(frame) == Header(kind, fields)
    else:
        assert understood(frame) is None


def test_no_greeting_of_ours_is_too_long_to_be_understood():
    """Six texts of 256 ASCII characters and three numbers fit the limit."""
    fields = {name: "x" * 256 if type_ is str else 2**63 - 1 for name, type_ in wire._FIELDS["hello"].items()}
    assert unpack(pack("hello", **fields)).fields == fields


def test_packing_a_message_with_other_fields_is_our_own_mistake():
    with pytest.raises(AssertionError):
        pack("state", epoch=1)
    with pytest.raises(AssertionError):
        pack("state", epoch=1, round=2, more=3)


@given(frame=st.binary(max_size=200))
@example(b"")
@example(b"\xc1")
def test_any_bytes_are_a_message_or_a_wire_error(frame):
    understood(frame)


@given(message=messages(), data=st.data())
def test_a_garbled_message_is_a_message_or_a_wire_error(message, data):
    """One byte changed, or the frame cut short, or lengthened."""
    frame = pack(message[0], **message[1])
    place = data.draw(st.integers(0, len(frame) - 1))
    understood(frame[:place] + bytes([data.draw(st.integers(0, 255))]) + frame[place + 1 :])
    assert understood(frame[:place]) is None
    assert understood(frame + b"\x00") is None


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20)
    | st.binary(max_size=20) | st.sampled_from(sorted(wire._FIELDS)),
    lambda inner: st.lists(inner, max_size=10) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)  # fmt: skip


@given(document=ANYTHING)
def test_any_msgpack_document_is_a_message_or_a_wire_error(document):
    understood(msgpack.packb(document))


@given(kind=st.sampled_from(sorted(wire._FIELDS)), values=st.lists(ANYTHING, max_size=10))
def test_a_known_kind_with_anything_behind_it_is_a_message_or_a_wire_error(kind, values):
    header = understood(msgpack.packb([kind, *values]))
    assert header is None or list(header.fields.values()) == values


HOSTILE = {
    "nested a thousand deep": b"\x91" * 1000 + b"\x00",
    "nested as deep as the limit lets it": b"\x91" * HEADER_LIMIT,
    "maps in maps": b"\x81\x00" * 1000,
    "an array of 2^32 announced": b"\xdd\xff\xff\xff\xff",
    "a map of 2^32 announced": b"\xdf\xff\xff\xff\xff",
    "a text of 2^32 announced": b"\xdb\xff\xff\xff\xff",
    "bytes of 2^32 announced": b"\xc6\xff\xff\xff\xff",
    "an extension of 2^32 announced": b"\xc9\xff\xff\xff\xff\x01",
    "a map in place of a list": msgpack.packb({"state": 1, "epoch": 2}),
    "duplicate keys": b"\x82\xa5epoch\x01\xa5epoch\x02",
    "a map in a field": msgpack.packb(["state", 1, {"round": 2}]),
    "true for a number": msgpack.packb(["state", True, 1]),
    "false for a number": msgpack.packb(["state", 1, False]),
    "a negative number": msgpack.packb(["state", -1, 1]),
    "a number beyond 2^63": msgpack.packb(["state", 2**63, 1]),
    "a float for a number": msgpack.packb(["state", 1.0, 1]),
    "NaN for a number": msgpack.packb(["state", float("nan"), 1]),
    "infinity for a number": msgpack.packb(["state", float("inf"), 1]),
    "nothing for a number": msgpack.packb(["state", None, 1]),
    "text for a number": msgpack.packb(["state", "1", 1]),
    "bytes for text": msgpack.packb(["bye", b"done"]),
    "a number for text": msgpack.packb(["bye", 1]),
    "text that is no UTF-8": b"\x92\xa3bye\xa2\xff\xfe",
    "257 characters": msgpack.packb(["bye", "x" * 257]),
    "an extension type": msgpack.packb(["bye", msgpack.ExtType(5, b"done")]),
    "an empty extension type": msgpack.packb(["bye", msgpack.ExtType(5, b"")]),
    "a time stamp": msgpack.packb(["state", msgpack.Timestamp(1, 2), 1]),
    "an unknown kind": msgpack.packb(["eval", "1"]),
    "an unhashable kind": msgpack.packb([["state"], 1, 1]),
    "bytes for a kind": msgpack.packb([b"seen"]),
    "no kind": msgpack.packb([]),
    "a field too few": msgpack.packb(["state", 1]),
    "a field too many": msgpack.packb(["state", 1, 2, 3]),
    "two documents": pack("seen") * 2,
    "5 kB": msgpack.packb(["bye", "x" * 5000]),
    "a pickle": b"\x80\x04\x95\x0f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
}  # fmt: skip


@pytest.mark.parametrize("frame", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_hostile_is_refused(frame):
    with pytest.raises(WireError):
        unpack(frame)


# --- control messages ----------------------------------------------------------------------------------------------


def test_a_control_message_comes_back_as_it_was_packed():
    body = {"agent": 3, "endpoints": {"1": "tcp://a"}, "losses": [1.5, None, True], "nested": {"a": {"b": [1]}}}
    assert wire.unpack_document(wire.pack_document("peers", body)) == ("peers", body)


@given(frame=st.binary(max_size=100) | ANYTHING.map(msgpack.packb)
       | st.tuples(st.text(max_size=5), ANYTHING).map(msgpack.packb))  # fmt: skip
@example(b"\x92\xa1k" + b"\x81\xa1a" * 3000)
@example(b"\xdd\x7f\xff\xff\xff")
@example(b"\x92\xa1k\xdf\x00\x0f\xff\xff")
@example(b"\x92\xa1k\x81\xd6\xff\x00\x00\x00\x00\x01")
@example(b"\x92\xa1k\x81\x90\x01")
@example(b"\x00" * (wire.DOCUMENT_LIMIT + 1))
def test_any_control_message_is_a_kind_and_a_table_or_a_wire_error(frame):
    try:
        kind, body = wire.unpack_document(frame)
    except WireError:
        return
    assert type(kind) is str and type(body) is dict


# --- states --------------------------------------------------------------------------------------------------------


@given(dtype=st.sampled_from(sorted(DTYPES)), length=st.integers(0, 40), data=st.data())
def test_a_state_is_read_as_it_was_sent_and_cannot_be_written_to(dtype, length, data):
    width = DTYPES[dtype].itemsize * 8
    values = data.draw(st.lists(st.floats(width=width, allow_nan=False, allow_infinity=False),
                                min_size=length, max_size=length))  # fmt: skip
    sent = np.array(values, DTYPES[dtype])
    got = read_state(sent.tobytes(), DTYPES[dtype], length)
    assert got.dtype == DTYPES[dtype] and got.tobytes() == sent.tobytes() and not got.flags.writeable


@given(dtype=st.sampled_from(sorted(DTYPES)), length=st.integers(0, 40), size=st.integers(0, 400))
def test_a_state_of_another_length_is_refused(dtype, length, size):
    if size != length * DTYPES[dtype].itemsize:
        with pytest.raises(WireError, match=f"a state of {size} bytes; {length} {dtype} values take"):
            read_state(bytes(size), DTYPES[dtype], length)


@given(dtype=st.sampled_from(sorted(DTYPES)), bad=st.sampled_from([np.nan, np.inf, -np.inf]),
       others=st.lists(st.floats(-(2.0**120), 2.0**120, width=32), min_size=1), data=st.data())  # fmt: skip
def test_a_state_with_one_value_that_is_not_finite_is_refused(dtype, bad, others, data):
    """Also between values so large that their squares overflow."""
    state = np.array(others, DTYPES[dtype])
    state[data.draw(st.integers(0, len(state) - 1))] = bad
    assert not is_finite(state)
    with pytest.raises(WireError, match="not finite"):
        read_state(state.tobytes(), DTYPES[dtype], len(state))


@pytest.mark.parametrize(("dtype", "large"), [("float32", 1e30), ("float64", 1e200)])
def test_values_whose_squares_overflow_are_as_good_as_others(dtype, large):
    """And no warning is given: hundreds of agents would print it."""
    state = np.array([large, -large, 0.0], DTYPES[dtype])
    with np.errstate(all="raise"):
        assert (read_state(state.tobytes(), DTYPES[dtype], 3) == state).all()


# --- links: which states are kept ----------------------------------------------------------------------------------


class Rounds(RuleBasedStateMachine):
    """One end of an edge, and a neighbour that may send any round in any order.

    Rounds go on as `Transport` lets them: when the link answers.
    """

    @initialize(lag=st.none() | st.integers(0, 3))
    def begin(self, lag):
        self.link, self.lag, self.current = Link(1, True, True, True), lag, 0
        self.best, self.taken = -1, []

    @rule(ahead=st.integers(-4, 4))
    def hears(self, ahead):
        round_, current = self.current + ahead, self.current
        if round_ < 0:
            return
        state, held = np.array([round_]), dict(self.link.states)
        kept = self.link.accept(round_, state, current, self.lag)
        early = self.lag is None and round_ > current + 1
        if round_ <= self.best or early:
            assert not kept and self.link.states == held
        elif self.lag is not None or round_ >= current:
            assert kept
        if kept:
            self.best = round_

    @rule()
    def hears_the_same_again(self):
        assert not self.link.accept(self.best, np.array([-1]), self.current, self.lag)

    @precondition(lambda self: self.link.answers(self.current, self.lag))
    @rule()
    def takes(self):
        state = self.link.take(self.current, self.lag)
        if self.lag is None:
            assert state[0] == self.current == self.link.used
            assert self.link.take(self.current, None) is None
        elif self.best >= 0:
            assert state[0] == self.best >= self.current - self.lag and self.link.used == self.current
        else:
            assert state is None
        self.current += 1

    @invariant()
    def few_states_are_kept(self):
        if hasattr(self, "link"):
            assert len(self.link.states) <= (2 if self.lag is None else 1)

    @invariant()
    def what_is_kept_may_still_be_used(self):
        if hasattr(self, "link") and self.lag is None:
            assert all(self.current <= round_ <= self.current + 1 for round_ in self.link.states)


TestRounds = Rounds.TestCase
TestRounds.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_a_round_without_a_state_is_an_answer_too():
    """Over an edge that only tells, the neighbour's empty message paces the rounds and nothing is combined."""
    link = Link(1, True, False, True)
    assert not link.answers(0, None)
    assert link.accept(0, None, 0, None) and link.answers(0, None)
    assert link.take(0, None) is None and link.used == -1 and not link.states
