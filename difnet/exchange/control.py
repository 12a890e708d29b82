"""How does an agent or a host talk to the registry, and never wait for it without a deadline?

Once it has an `introduction`, it keeps what it says until the launcher has told that it is recorded, and asks for that
once a second. A launcher that took the place of one that died asks it who it is, and is told all that was kept.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import zmq

from difnet.errors import ConfigError, EnvironmentLacks, WireError
from difnet.exchange.sockets import dual
from difnet.exchange.vocabulary import ANYBODY, FROM_REGISTRY, read
from difnet.exchange.wire import FRAME_LIMIT, pack_control

MAY_BE_DROPPED = ("beat", "log", "mark")  # where there is no room: beats come soon, and printing may have no end
MEASUREMENTS = ("Progress", "Snapshot", "Submitted", "Evaluated")  # these when so much is kept that memory counts
MOST_KEPT = 64 * 2**20  # bytes that wait for a launcher which does not listen; here, and about as much in ZeroMQ
FEWEST, MOST = 10, 10_000  # messages in ZeroMQ
PASSING = (*MAY_BE_DROPPED, "register", "joined", "at", "doing", "prepared")  # of no use to a later launcher
MARK_S = 1.0  # between two questions about what is recorded


class Control:
    """An agent's or a host's end of the control plane; use as a context manager, from any thread.

    Args: `endpoint`, with a number in it and no name; `life`, of the run, once it is known; `who` speaks, in words;
        `largest`, the bytes of its largest messages.
    """

    def __init__(self, endpoint: str, token: str, life: str | None = None, who: str = "", largest: int = 1) -> None:
        self._token, self.life, self._who = token.encode(), life, who
        self._kept_bytes = 0
        self._left_out = 0  # measurements
        self.refused = 0  # messages that were not what the registry may say
        self._kept: deque[list[Any]] = deque()  # what found no room, in order
        self.introduction: Callable[[], tuple[str, dict[str, Any]]] | None = None  # who speaks, for one that asks
        self._unrecorded: deque[tuple[int, str, list[Any]]] = deque()  # number, kind, message
        self._unrecorded_bytes, self._said, self._mark_at, self._forgotten = 0, 0, 0.0, 0
        self._lock = threading.Lock()  # a long step's helper thread reads it too
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 2000)
        self.socket.setsockopt(zmq.SNDHWM, max(FEWEST, min(MOST, MOST_KEPT // largest)))
        self.socket.setsockopt(zmq.MAXMSGSIZE, FRAME_LIMIT + 1024)
        dual(self.socket, endpoint)
        self.socket.connect(endpoint)
        self.endpoint = endpoint

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, *exception: object) -> None:
        self._context.destroy()  # each socket keeps its own linger

    def say(self, kind: str, body: dict[str, Any], tensors: tuple[np.ndarray, ...] = ()) -> bool:
        """Tell the registry something without waiting. What finds no room, since the launcher is stopped or slow, is
        kept until there is some, in order. Of what MAY_BE_DROPPED then nothing is kept, of MEASUREMENTS no more than
        MOST_KEPT bytes, and the answer is False; how many were left out is said when there is room again."""
        message = self._message(kind, body, tensors)
        with self._lock:
            self._keep(message)
            self._hold_until_recorded(kind, message)
            self._make_room()
            is_full = kind in MEASUREMENTS and self._kept_bytes > MOST_KEPT
            if self._kept and (kind in MAY_BE_DROPPED or is_full):
                self._kept_bytes -= sum(map(len, self._kept.pop()))
                self._left_out += is_full
                if is_full and self._unrecorded and self._unrecorded[-1][2] is message:
                    self._unrecorded_bytes -= sum(map(len, self._unrecorded.pop()[2]))
                return False
        return True

    def _message(self, kind: str, body: dict[str, Any], tensors: tuple[np.ndarray, ...] = ()) -> list[Any]:
        return [self._token, *pack_control(kind, body | self._known, tensors)]

    def _hold_until_recorded(self, kind: str, message: list[Any]) -> None:
        """Keep a message for a launcher that takes this one's place; of measurements no more than MOST_KEPT bytes."""
        if self.introduction is None or kind in PASSING:
            return
        self._said += 1
        self._unrecorded.append((self._said, kind, message))
        self._unrecorded_bytes += sum(map(len, message))
        while self._unrecorded_bytes > MOST_KEPT:
            oldest = next((one for one in self._unrecorded if one[1] in MEASUREMENTS), None)
            if oldest is None:
                return
            self._unrecorded.remove(oldest)
            self._unrecorded_bytes -= sum(map(len, oldest[2]))
            self._forgotten += 1

    def _mark(self) -> None:
        """Ask, now and then, whether all that was said is recorded; who does not know us asks back."""
        if self.introduction is not None and time.monotonic() >= self._mark_at:
            self._mark_at = time.monotonic() + MARK_S
            if not self._kept:  # else there is no room, and the next question comes soon
                self._keep(self._message("mark", {"said": self._said}))
                self._make_room()

    def _recorded(self, said: int) -> None:
        while self._unrecorded and self._unrecorded[0][0] <= said:
            self._unrecorded_bytes -= sum(map(len, self._unrecorded.popleft()[2]))

    def _tell_all_again(self) -> None:
        """To a launcher that has taken the place of another: who we are, and whatever may not be recorded, in order."""
        if self.introduction is None:
            return
        again = [message for _, _, message in self._unrecorded]
        known = set(map(id, again))
        waiting = [message for message in self._kept if id(message) not in known]
        self._kept.clear()
        self._kept_bytes = 0
        for message in [self._message(*self.introduction()), *again, *waiting]:
            self._keep(message)
        if self._forgotten:
            told = (f"{self._who}: {self._forgotten} measurements may be missing: {MOST_KEPT >> 20} MB waited already "
                    f"to be recorded when the launcher died")  # fmt: skip
            self._keep(self._message("note", {"text": told}))
            self._forgotten = 0
        self._make_room()

    def _keep(self, message: list[Any]) -> None:
        self._kept.append(message)
        self._kept_bytes += sum(map(len, message))

    @property
    def _known(self) -> dict[str, str]:
        return {"of": self.life} if self.life else {}

    def _make_room(self) -> None:
        """Send what was kept, as far as there is room now."""
        while self._kept:
            try:
                self.socket.send_multipart(self._kept[0], zmq.NOBLOCK)
            except zmq.Again:
                return
            self._kept_bytes -= sum(map(len, self._kept.popleft()))
            if self._left_out and not self._kept:
                told = (f"{self._who}: {self._left_out} measurements are missing: the launcher did not listen, and "
                        f"{MOST_KEPT >> 20} MB of them waited already")  # fmt: skip
                self._left_out = 0
                self._keep(self._message("note", {"text": told}))

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """While nobody of this process talks to the registry."""
        with self._lock:
            yield

    def hear(self, timeout_s: float) -> tuple[str, dict[str, Any]] | None:
        """The next thing the registry says, or None if it says nothing for so long; `tensors` are in its body.

        What it may not say, or not in this shape, is dropped and counted, and said once where others print.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock:
                self._mark()
                self._make_room()
                if self.socket.poll(min(50, max(0, int(1000 * (deadline - time.monotonic()))))):
                    try:
                        kind, body, tensors = read(FROM_REGISTRY, self.socket.recv_multipart(), ANYBODY)
                        if kind == "recorded":
                            self._recorded(body["said"])
                            continue
                        if kind == "who":
                            self._tell_all_again()
                            continue
                        return kind, body | ({"tensors": tensors} if tensors else {})
                    except WireError as error:
                        self._refuse(error)
            if time.monotonic() >= deadline:
                return None

    def _refuse(self, error: WireError) -> None:
        self.refused += 1
        if self.refused == 1:
            print(f"dropped a message of the registry at {self.endpoint}: {error}; is it of the same version? Others "
                  f"will be dropped without a word", flush=True)  # fmt: skip

    def expect(self, kind: str, timeout_s: float) -> dict[str, Any]:
        """Wait for one kind of answer.

        Raises: ConfigError, if the registry refuses; EnvironmentLacks, if it is silent for too long.
        """
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            heard = self.hear(left)
            if heard and heard[0] == kind:
                return heard[1]
            if heard and heard[0] == "refused":
                raise ConfigError(f"the registry refuses: {heard[1].get('reason')}")
        raise EnvironmentLacks(f"no answer {kind!r} from the registry at {self.endpoint} in {timeout_s:.0f} s; is it a "
                               f"launcher of this run that listens there?")  # fmt: skip
