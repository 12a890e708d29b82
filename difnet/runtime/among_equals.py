"""How does an agent among equals keep step with its neighbours? The numbers of its iterations, and `share`.

An agent that has lost all its neighbours waits for them; where they are is where it goes on, with the mean of what they
have. Its own iterations between are left out.
"""

from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from difnet import agent
from difnet.agent import Share, aligned
from difnet.exchange.transport import Return, Transport
from difnet.maths.federation import weighted_mean

Tell = Callable[[int, Return], None]  # (iteration that would have been next, where it goes on)


class AmongEquals:
    """One agent's side of its rounds. `first` is the number of the first iteration's round on the wire.

    Args: `mix`, what the agent makes of what it hears; `patience_s`, how long it waits when it has lost everybody;
        `tell` hears that iterations are left out.
    """

    def __init__(
        self, transport: Transport, mix: Callable[[agent.Exchange], Share], tell: Tell, *, first: int, patience_s: float
    ) -> None:
        self._transport, self._tell, self._first, self._patience_s = transport, tell, first, patience_s
        self._mix = mix(lambda i, phi: transport.exchange(first + i, phi))
        self._next = 0

    def iterations(self, start: int, end: int) -> Iterator[int]:
        """The numbers of the iterations this agent does."""
        self._next = start
        while self._next < end:
            i, self._next = self._next, self._next + 1
            yield i

    def share(self, i: int, phi: Tensor) -> Tensor:
        """The mix of phi with what was heard; of an agent that was alone and comes back, what the others have."""
        self._transport.offer(phi.numpy())
        mixed = self._mix(i, phi)
        back = self._transport.returned(self._patience_s)
        if back is None:
            return mixed
        self._tell(i + 1, back)
        self._next = back.round - self._first
        mixed = mean_of(back.states) if back.states else mixed
        self._transport.go_ahead(back.round, mixed.numpy())
        return mixed


def mean_of(states: dict[int, np.ndarray]) -> Tensor:
    """The plain mean of what some agents have."""
    return aligned(weighted_mean(states, dict.fromkeys(states, 1.0)))
