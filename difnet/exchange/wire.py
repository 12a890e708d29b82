"""How is a message bytes, and what do we refuse? Pure: no socket, and nothing received is ever unpickled.

Between neighbours a message is two frames: a small msgpack header of a known kind with exactly its own fields, and one
flat little-endian tensor (empty where there is nothing to say). On the control plane the header holds a document.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np

from difnet.errors import WireError

PROTOCOL = "2.0"
HEADER_LIMIT, LARGEST, LONGEST = 4096, 2**63, 256
DOCUMENT_LIMIT = 4 * 2**20
DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8")}

_FIELDS: dict[str, dict[str, type]] = {
    "hello": {"protocol": str, "run": str, "agent": int, "incarnation": int, "topology": str, "weights": str,
              "model": str, "dtype": str, "length": int, "epoch": int, "attempt": int, "round": int},
    "welcome": {"epoch": int, "round": int},
    "joined": {"epoch": int, "round": int},
    "ahead": {"epoch": int, "round": int},
    "reject": {"what": str, "expected": str, "got": str},
    "state": {"epoch": int, "round": int},
    "last": {"epoch": int, "round": int},
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


def unpack_document(frame: bytes) -> tuple[str, dict[str, Any]]:
    """A control message's kind and body; what the body must hold is its reader's to check.

    Raises: WireError, if it is not a pair of text and table within the limits.
    """
    if len(frame) > DOCUMENT_LIMIT:
        raise WireError(f"a control message of {len(frame)} bytes; at most {DOCUMENT_LIMIT} are allowed")
    try:
        document = msgpack.unpackb(frame, raw=False, max_array_len=100_000, max_map_len=100_000, max_ext_len=0)
    except Exception as error:
        raise WireError(f"a control message that is no msgpack: {type(error).__name__}") from error
    if type(document) is not list or [type(part) for part in document] != [str, dict]:
        raise WireError("a control message that is not (kind, table)")
    return document[0], document[1]


def pack_control(kind: str, body: dict[str, Any], tensors: Sequence[np.ndarray]) -> list[bytes]:
    """A control message: its document, then the tensors, flat, whose types the document names."""
    named = body | ({"dtypes": [t.dtype.name for t in tensors]} if tensors else {})
    return [pack_document(kind, named), *(t.tobytes() for t in tensors)]


def unpack_control(frames: list[bytes]) -> tuple[str, dict[str, Any], list[np.ndarray]]:
    """A control message's kind, body and tensors, as `pack_control` put them.

    Raises: WireError, if they are not as announced.
    """
    kind, body = unpack_document(frames[0])
    dtypes = body.pop("dtypes", [])
    if not isinstance(dtypes, list) or len(dtypes) != len(frames) - 1:
        raise WireError("a control message whose tensors are not as announced")
    tensors = []
    for name, frame in zip(dtypes, frames[1:], strict=True):
        if name not in DTYPES or len(frame) % DTYPES[name].itemsize:
            raise WireError("a tensor of unknown type or broken length")
        tensors.append(np.frombuffer(frame, DTYPES[name]))
    return kind, body, tensors


def natural_number(body: dict[str, Any], name: str) -> int:
    """A whole number from 0 up in a message's body.

    Raises: WireError, if it is none.
    """
    value = body.get(name)
    if type(value) is not int or value < 0:
        raise WireError(f"{name} is not a natural number")
    return value
