"""The task family of sines, whose agent 3 is killed once, at the point that $DIFNET_FAILPOINT names.

The host imports this before it forks its agents, so what is put in the way here is in every agent's way.
"""

import os
import signal
from functools import wraps
from typing import Any

from difnet.exchange.outgoing import Outgoing
from difnet.exchange.transport import Transport
from difnet.record.events import Finished
from difnet.runtime import agent_process
from difnet.runtime.among_equals import AmongEquals
from difnet.runtime.reporter import Reporter
from difnet.tasks.sinusoid import sinusoid as real

VICTIM, ROUND = 3, 60
LEAVING = "when it has done all and has not said with what it ends"
POINTS = ("after adapt", "before it sends", "half its neighbours told", "in combine", "in a checkpoint")


def die() -> None:
    """Once in a folder."""
    try:
        os.close(os.open("died", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, is_there: Any) -> None:
    """Put a death before a call, if it is the one; `is_there` is asked with the call's arguments."""
    call = getattr(owner, name)

    @wraps(call)
    def dying(*given: Any, **named: Any) -> Any:
        if is_there(*given, **named):
            die()
        return call(*given, **named)

    setattr(owner, name, dying)


def _set(point: str) -> None:
    told: list[int] = []
    who: list[int] = []  # this process is

    def is_second(self: Outgoing, link: Any, kind: str, *rest: Any, round_: int) -> bool:
        if who[-1:] == [VICTIM] and kind == "state" and round_ == ROUND:
            told.append(link.neighbour)
        return len(told) == 2

    if point == "after adapt":
        before(AmongEquals, "share", lambda self, i, phi: i == ROUND and self._transport.identity.agent == VICTIM)
    elif point == "before it sends":
        before(Transport, "tell", lambda self, i, *rest, **more: i == ROUND and self.identity.agent == VICTIM)
    elif point == "half its neighbours told":
        before(Transport, "tell", lambda self, *rest, **more: who.append(self.identity.agent))
        before(Outgoing, "tell", is_second)
    elif point == "in combine":
        rule, mixed = agent_process.rule, []

        def counted(name: str) -> Any:
            mix = rule(name)

            def counting(weights: Any, k: int, *rest: Any) -> Any:
                mixed.append(k)
                if k == VICTIM and len(mixed) > ROUND:
                    die()
                return mix(weights, k, *rest)

            return counting

        agent_process.rule = counted
    elif point == LEAVING:
        before(Reporter, "say", lambda self, event, *rest: isinstance(event, Finished) and event.agent == VICTIM)
    elif point == "in a checkpoint":
        before(os, "replace", lambda source, to: f"{VICTIM:03d}/checkpoint-{ROUND:06d}" in str(to))


if os.environ.get("DIFNET_FAILPOINT"):
    _set(os.environ["DIFNET_FAILPOINT"])


@wraps(real)
def sinusoid(*given: Any, **named: Any) -> Any:
    return real(*given, **named)
