"""How did the models that came out do on test tasks, and if nobody can say, why not? A host scores them at the end."""

import time
from collections.abc import Callable
from typing import Any

from difnet.exchange.hosts_seen import HostSeen
from difnet.exchange.registry import Registry
from difnet.record.final_scores import ScoredModel
from difnet.record.recorder import Recorder
from difnet.system.lifetime import say_alive

KINDS = ("scored", "all scored", "not scored")


class FinalTest:
    """One test, asked for when training is over, while a host is still there."""

    def __init__(self, recorder: Recorder, registry: Registry) -> None:
        self._recorder, self._registry = recorder, registry
        self._scores: list[ScoredModel] = []
        self._is_over = False
        self.untested = ""  # why not

    def take(self, kind: str, body: dict[str, Any], tensors: list[Any]) -> None:
        """What the host says of it."""
        if kind == "scored":
            figures, samples = tensors
            figures = figures.reshape(body["shape"])
            self._scores.append(ScoredModel(body["model"], body["iteration"], figures, samples))
        elif kind == "all scored":
            self._is_over = True
        else:
            self.untested = body["reason"]

    def run(self, turn: Callable[[], None], why_not: Callable[[HostSeen, float], str]) -> None:
        """Have a host score the models, and record what it says, or why it says nothing.

        Args: `turn` listens once, and takes in what is said; `why_not` tells why a host is waited for no longer, given
            it and when it was asked; "": it is.
        """
        models = self._recorder.models.to_test()
        if not models:
            return
        asked = {name: held.iteration for name, held in models.items()}
        host = self._registry.score(asked, [held.w for held in models.values()])
        self.untested = "" if host else "no host was left to test it"
        asked_at = time.monotonic()
        while host and not self._is_over and not self.untested:
            say_alive()
            turn()
            if not self._is_over:
                self.untested = self.untested or why_not(host, asked_at)
        if self.untested:
            self._recorder.note(f"the launch model was not tested: {self.untested}")
        else:
            self._recorder.score(self._scores)
