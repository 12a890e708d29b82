"""How is a message bytes, and what do we refuse? Pure: no socket, and nothing received is ever unpickled.

Between neighbours a message is two frames: a small msgpack header of a known kind with exactly its own fields, and one
flat little-endian tensor (empty where there is nothing to say). On the control plane the header is a document, and
what one may hold is in `vocabulary`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np

from difnet.errors import WireError

PROTOCOL = "2.1"
HEADER_LIMIT, LARGEST, LONGEST = 4096, 2**63, 256
DOCUMENT_LIMIT = FRAME_LIMIT = 4 * 2**20  # of control messages: a longer tensor takes several frames
DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8")}

_FIELDS: dict[str, dict[str, type]] = {
    "hello": {"protocol": str, "run": str, "agent": int, "incarnation": int, "topology": str, "weights": str,
              "model": str, "dtype": str, "length": int, "epoch": int, "attempt": int, "round": int},
    "resume": {"protocol": str, "run": str, "agent": int, "incarnation": int, "topology": str, "weights": str,
               "model": str, "dtype": str, "length": int, "epoch": int, "attempt": int, "lacks": int},
    "resumed": {"epoch": int, "lacks": int},
    "welcome": {"epoch": int, "round": int},
    "joined": {"epoch": int, "round": int},
    "ahead": {"epoch": int, "round": int},
    "reject": {"what": str, "expected": str, "got": str},
    "state": {"epoch": int, "round": int},
    "last": {"epoch": int, "round": int},
    "answer": {"epoch": int, "round": int, "samples": int},
    "beat": {"phase": str, "age_ms": int, "told": int},
    "bye": {"reason": str},
    "seen": {},
}  # fmt: skip


class Header(NamedTuple):
    """What a message between neighbours says of itself."""

    kind: str
    fields: dict[str, Any]


def pack(kind: str, **fields: Any) -> bytes:
    """The header frame of a message.

    >>> unpack(pack("state", epoch=1, round=7))
    Header(kind='state', fields={'epoch': 1, 'round': 7})
    """
    assert fields.keys() == _FIELDS[kind].keys(), (kind, fields)
    return msgpack.packb((kind, *fields.values()))


def unpack(frame: bytes) -> Header:
    """A header frame, checked.

    Raises: WireError for anything but exactly the fields of a known kind, each of its own type; integers are natural
    numbers below 2^63, text has at most 256 characters.
    """
    if len(frame) > HEADER_LIMIT:
        raise WireError(f"a header of {len(frame)} bytes; at most {HEADER_LIMIT} are allowed")
    try:
        values = msgpack.unpackb(frame, raw=False, max_array_len=16, max_map_len=0, max_str_len=1024, max_bin_len=0,
                                 max_ext_len=0, strict_map_key=True)  # fmt: skip
    except Exception as error:  # msgpack raises its own and built-in errors for hostile bytes
        raise WireError(f"a header that is no msgpack: {type(error).__name__}") from error
    if type(values) is not list or not values or type(values[0]) is not str or values[0] not in _FIELDS:
        raise WireError("a header of no known kind")
    kind, *values = values
    expected = _FIELDS[kind]
    if [type(value) for value in values] != [*expected.values()]:
        wanted = {name: of.__name__ for name, of in expected.items()}
        raise WireError(f"a {kind!r} header of {[type(value).__name__ for value in values]} instead of {wanted}")
    for value in values:
        if (0 <= value < LARGEST) if type(value) is int else (len(value) <= LONGEST):
            continue
        raise WireError(f"a {kind!r} header with a number below 0 or from 2^63 on, or a text over {LONGEST} characters")
    return Header(kind, dict(zip(expected, values, strict=True)))


def read_state(frame: bytes, dtype: np.dtype, length: int) -> np.ndarray:
    """The tensor frame of a state: exactly `length` finite values.

    Returns: a read-only array (length,) over the frame's own memory.
    Raises: WireError, if the frame has another size or a value is not finite.

    >>> read_state(np.ones(3, "<f4").tobytes(), DTYPES["float32"], 3)
    array([1., 1., 1.], dtype=float32)
    """
    if len(frame) != length * dtype.itemsize:
        raise WireError(
            f"a state of {len(frame)} bytes; {length} {dtype.name} values take {length * dtype.itemsize} bytes"
        )
    values = np.frombuffer(frame, dtype=dtype)
    if not is_finite(values):
        raise WireError("a state with values that are not finite")
    return values


def is_finite(values: np.ndarray) -> bool:
    """Whether every value is finite.

    >>> is_finite(np.array([1e30, -1e30], "f4")), is_finite(np.array([0.0, np.nan]))
    (True, False)
    """
    return bool(np.isfinite(values).all())


def pack_document(kind: str, body: dict[str, Any]) -> bytes:
    """The first frame of a control message."""
    return msgpack.packb((kind, body))


def kind_of(frame: bytes) -> str:
    """The kind that a document says it is, known without parsing it; "" for what begins as no document of ours does.

    >>> kind_of(pack_document("leave", {})), kind_of(b"GET / HTTP/1.1")
    ('leave', '')
    """
    if frame[:1] != b"\x92" or not 0xA0 <= (frame[1:2] or b"\0")[0] <= 0xBF:  # a pair, that begins with a short text
        return ""
    return frame[2 : 2 + frame[1] - 0xA0].decode(errors="replace")


def unpack_document(frame: bytes, limit: int = DOCUMENT_LIMIT) -> tuple[str, dict[str, Any]]:
    """A control message's kind and body; what the body must hold is its reader's to check.

    Raises: WireError, if it is not a pair of text and table within the limits, `limit` being that of its bytes.
    """
    if len(frame) > limit:
        raise WireError(f"a control message of {len(frame)} bytes; at most {limit} are allowed")
    try:
        document = msgpack.unpackb(frame, raw=False, max_array_len=100_000, max_map_len=100_000, max_bin_len=0,
                                   max_ext_len=0)  # fmt: skip
    except Exception as error:
        raise WireError(f"a control message that is no msgpack: {type(error).__name__}") from error
    if type(document) is not list or [type(part) for part in document] != [str, dict]:
        raise WireError("a control message that is not (kind, table)")
    return document[0], document[1]


def pack_control(kind: str, body: dict[str, Any], tensors: Sequence[np.ndarray]) -> list[bytes | memoryview]:
    """A control message: its document, which announces tensors, then these, flat, in frames of at most FRAME_LIMIT."""
    named = body | ({"carries": [[t.dtype.name, t.size] for t in tensors]} if tensors else {})
    flat = [memoryview(t.tobytes()) for t in tensors]
    pieces = [bytes_[at : at + FRAME_LIMIT] for bytes_ in flat for at in range(0, len(bytes_), FRAME_LIMIT)]
    return [pack_document(kind, named), *pieces]


def unpack_control(
    frames: Sequence[bytes], limit: int = DOCUMENT_LIMIT
) -> tuple[str, dict[str, Any], list[np.ndarray]]:
    """A control message's kind, body and tensors, as `pack_control` put them.

    Raises: WireError, if they are not as announced.
    """
    kind, body = unpack_document(frames[0], limit)
    announced, rest = body.pop("carries", []), iter(frames[1:])
    if type(announced) is not list:
        raise WireError("a control message whose tensors are not as announced")
    tensors = [_tensor(one, rest) for one in announced]
    if next(rest, None) is not None:
        raise WireError("a control message with more frames than it announces")
    return kind, body, tensors


def _tensor(announced: Any, frames: Iterator[bytes]) -> np.ndarray:
    """The next tensor of a message, from as many frames as it takes."""
    if type(announced) is not list or [type(part) for part in announced] != [str, int]:
        raise WireError("a tensor that is not announced as (type, values)")
    name, values = announced
    if name not in DTYPES or not 0 <= values < LARGEST:
        raise WireError("a tensor of unknown type or impossible length")
    size = values * DTYPES[name].itemsize
    pieces = []
    for at in range(0, size, FRAME_LIMIT):
        pieces.append(next(frames, b""))
        if len(pieces[-1]) != min(FRAME_LIMIT, size - at):
            raise WireError(f"a tensor whose frames do not make {values} {name} values")
    whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return np.frombuffer(whole, DTYPES[name])
