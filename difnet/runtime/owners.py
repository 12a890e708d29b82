"""Where data stays with its owners: who of them tests which launch model, and when may they go?

A launch model travels to those who test it, figures come back. Agents stay after their last iteration until the launch
model that came out is tested too.
"""

import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from difnet.exchange.registry import Registry
from difnet.places import agents_text
from difnet.record.events import LAUNCH_MODEL
from difnet.record.final_scores import ScoredModel
from difnet.record.recorder import Recorder


class Owners:
    """The owners of a run, as its launcher sees them; without any, it does nothing.

    Args: `patience_s`, how long nothing may be heard of those who test before nobody waits for them any more.
    """

    def __init__(self, recorder: Recorder, registry: Registry, patience_s: float) -> None:
        self._recorder, self._registry, self._patience_s = recorder, registry, patience_s
        self._scores: list[ScoredModel] = []
        self._waited: set[int] | None = None  # those whose tests of what came out are waited for; None: not asked yet
        self._asked_at: float | None = None  # since when verdicts of those who test are waited for
        self._heard_at = 0.0  # when the last word of a test of what came out was heard, or it was asked for
        self._is_over = False
        self.untested = ""  # why somebody has not tested what came out

    @property
    def are_there(self) -> bool:
        """Whether data stays with its owners in this run; known from the start on."""
        facts = self._recorder.facts
        return facts is not None and bool(facts.judges)

    def begin(self) -> None:
        """The run starts: whoever ends stays to test what came out."""
        self._registry.keeps_them = self.are_there

    def has_let_go(self, agent: int) -> bool:
        """Whether this agent trains nothing, and was told that it may end."""
        return self._is_over and agent >= self._recorder.topology.agents

    def let_go(self) -> None:
        """Nobody is to test anything any more."""
        self._is_over = True
        self._registry.let_go()

    def take(self, kind: str, body: dict[str, Any], tensors: list[np.ndarray]) -> None:
        """One of them has tested what came out, or could not."""
        agent, self._heard_at = body["agent"], time.monotonic()
        if kind == "scored":
            figures, samples = tensors
            self._scores.append(ScoredModel(body["model"], body["iteration"], figures.reshape(body["shape"]), samples,
                                            agent))  # fmt: skip
            return
        if self._waited is not None:
            self._waited.discard(agent)
        if kind == "not scored":
            self.untested = self.untested or body["reason"]
            self._recorder.note(f"the launch model was not tested: {body['reason']}")

    def turn(self, exited: Collection[int]) -> None:
        """Have those tested that are due; and once all have ended, what came out; then let everybody go."""
        if not self.are_there or self._is_over:
            return
        g, judges = self._recorder.tally, self._recorder.facts.judges  # type: ignore[union-attr]
        gone = {*exited, *g.lost}
        for due, judge in g.verdicts.unasked(gone):
            self._asked_at = self._asked_at or time.monotonic()
            self._registry.ask_owners("validation", judge, {LAUNCH_MODEL: due.event.iteration}, [due.held.w])
        if not g.verdicts.missing():
            self._asked_at = None
        elif self._asked_at and time.monotonic() - self._asked_at > self._patience_s:
            self._recorder.wait_for_no_verdict()
        if any(k not in gone and k not in g.finished for k in range(g.agents)):
            return
        if self._waited is None and not g.verdicts.missing():
            self._ask(set(judges["test"]) - gone)
        if self._waited is not None:
            self._waited -= gone  # also if others take their place, who were not asked
            if not self._waited or self._is_out_of_patience():
                self._end(sorted(self._waited))

    def _is_out_of_patience(self) -> bool:
        return time.monotonic() - self._heard_at > self._patience_s

    def _ask(self, who: set[int]) -> None:
        models = self._recorder.models.to_test()
        self._waited, self._heard_at = who if models else set(), time.monotonic()
        if not who:
            self.untested = "none of the owners who were to test it is left"
        elif models:
            asked = {name: held.iteration for name, held in models.items()}
            self._registry.ask_owners("test", who, asked, [held.w for held in models.values()])

    def _end(self, silent: Sequence[int]) -> None:
        if silent:
            self.untested = self.untested or f"agents {agents_text(silent)} did not test it in {self._patience_s:.0f} s"
            self._recorder.note(f"the launch model was tested without some owners: {self.untested}")
        if self._scores:
            self._recorder.score(self._scores)
        self.let_go()
