"""The two ends of a served star: the hub's `ask` and the client's `share`, over any line.

Only the hub decides who takes part; a client answers when it is called, and jumps to the newest call when it was too
slow for one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from difnet.agent import aligned
from difnet.errors import DifnetError
from difnet.maths.federation import weighted_mean
from difnet.workload.server_rounds import ServerRounds


class Line(Protocol):
    """What a hub needs of the transport."""

    @property
    def active(self) -> list[int]: ...

    def offer(self, state: np.ndarray) -> None: ...

    def await_return(self, patience_s: float, count: int = 1) -> bool: ...

    def tell(self, round_: int, phi: np.ndarray, to: Sequence[int], last: bool = False) -> None: ...

    def samples(self, neighbour: int) -> int | None: ...

    def hear(
        self, round_: int, of: Sequence[int], wanted: int | None = None, deadline_s: float | None = None
    ) -> dict[int, np.ndarray]: ...


class Answer(Protocol):
    """How a client tells its state of a round."""

    def __call__(self, round_: int, phi: np.ndarray, *, samples: int | None) -> None: ...


class Hub:
    """The hub's side of its rounds. `first` is the number of the first round on the wire; `patience_s`, how long it
    waits for clients to come back when there are too few."""

    def __init__(self, rounds: ServerRounds, transport: Line, first: int = 0, patience_s: float = 0.0) -> None:
        self._rounds, self._transport, self._first, self._patience_s = rounds, transport, first, patience_s
        self.abandoned = 0
        self.heard = 0  # messages of clients
        self.answered = 0  # those that answered a call

    def open(self) -> Tensor:
        """The mean of the local models, which every client sends uncalled: the launch model to begin with."""
        answers = self._transport.hear(0, self._rounds.clients)
        if not answers:
            raise DifnetError("no client sent its local model: all of them are lost")
        self.heard += len(answers)
        return aligned(weighted_mean(answers, dict.fromkeys(answers, 1.0)))

    def ask(self, i: int, w: Tensor) -> Tensor | None:
        """Call the clients of round i, hear them, and mean what they answer; None for an abandoned round."""
        settings = self._rounds.settings
        self._transport.offer(w.numpy())
        if len(self._transport.active) < settings.quorum and not self._transport.await_return(
            self._patience_s, settings.quorum
        ):
            raise DifnetError(f"{len(self._transport.active)} clients are left, and a round needs {settings.quorum} "
                              f"answers")  # fmt: skip
        there = self._transport.active
        called = self._rounds.called(i, there)
        self._transport.tell(self._first + i, w.numpy(), called)
        answers = self._transport.hear(self._first + i, called, self._rounds.wanted, settings.deadline_s)
        self.heard += len(answers)
        self.answered += len(answers)
        mean = self._rounds.mean(i, answers, {k: self._transport.samples(k) for k in answers})
        self.abandoned += mean is None
        return None if mean is None else aligned(mean)

    def dismiss(self, i: int, w: Tensor) -> None:
        """The last call, after i rounds: everybody gets the launch model."""
        self._transport.tell(self._first + i, w.numpy(), self._transport.active, last=True)


class Call(NamedTuple):
    """What a hub tells a client: adapt from this launch model, in this round; or, the last time, just keep it."""

    round: int
    w: np.ndarray
    last: bool


class Client:
    """The rim's side: the rounds that the hub calls for, and `share`, which answers a call and waits for the next.

    Args: `first`, the number of the first round on the wire; `start`, how many there were before this client's first;
        `samples`, from how many its answer of a round is drawn, where the hub does not know and weighs by it.
    """

    def __init__(
        self, wait: Callable[[int], Call], answer: Answer, first: int = 0, start: int = 0,
        samples: Callable[[int], int | None] = lambda i: None,
    ) -> None:  # fmt: skip
        self._wait, self._answer, self._first, self._samples = wait, answer, first, samples
        self._call = wait(first + start - 1)

    @property
    def w(self) -> Tensor:
        """The launch model of the newest call."""
        return aligned(self._call.w)

    @property
    def iteration(self) -> int:
        """How many rounds the hub has done, as far as this client knows."""
        return self._call.round - self._first

    def rounds(self) -> Iterator[int]:
        """The numbers of the rounds this client is called for, until the last call."""
        while not self._call.last:
            yield self._call.round - self._first

    def share(self, i: int, phi: Tensor) -> Tensor:
        """Answer the call of round i; the launch model of the next one."""
        self._answer(self._first + i, phi.numpy(), samples=self._samples(i))
        self._call = self._wait(self._first + i)
        return self.w
