"""Which models does a run's folder keep: on the way, of each agent at its end, and as what the network has learnt?"""

import json
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from difnet.config import RunConfig
from difnet.record.disk import Disk
from difnet.record.events import LAUNCH_MODEL, LOCAL_AVERAGE, Finished
from difnet.record.files import folder_of, read_tensors, tensor_bytes
from difnet.record.summary import Facts
from difnet.record.tally import ModelAt, Tally

MOST_SAVING = 0.05  # of the time goes into saving launch models on the way
FILE = "launch-model.safetensors"
FIRST = "local-average.safetensors"  # what a run that began from local models began as


def state_file(k: int, iteration: int) -> str:
    """Where in a run's folder the state lies that an agent ended with.

    >>> state_file(3, 100)
    'agents/003/state-000100.safetensors'
    """
    return f"{folder_of(k)}/state-{iteration:06d}.safetensors"


class Models:
    """The models of one run, in its folder. `facts` are known when the agents are ready."""

    def __init__(self, config: RunConfig, tally: Tally, disk: Disk) -> None:
        self.config, self.tally, self.disk = config, tally, disk
        self.facts: Facts | None = None
        self._states: dict[int, np.ndarray] = {}
        self._saved: ModelAt | None = None  # what launch-model.safetensors holds
        self._save_again_at = 0.0
        self._has_first = False

    def to_test(self) -> dict[str, ModelAt]:
        """The launch model, what it began as where it began as the average of local models, and the agents' own models
        where these differ, each under the agent's number."""
        models, held = {}, self._launch_model()
        if held:
            own = {str(k): ModelAt(held.iteration, w) for k, w in held.that_differ().items()}
            models = {LAUNCH_MODEL: ModelAt(held.iteration, held.w)} | own
        return models | ({LOCAL_AVERAGE: self.tally.first} if self.tally.alone and self.tally.first else {})

    def keep(self) -> None:
        """Have the newest tested model on disk, or the best, for whoever finds a run that was killed."""
        g, began = self.tally, time.monotonic()
        held = g.best if self.config.launch_model == "best" else g.last
        if held and held is not self._saved and began >= self._save_again_at and np.isfinite(held.w).all():
            if self._save(held):
                self._saved = held
            self._save_again_at = began + (time.monotonic() - began) / MOST_SAVING

    def keep_first(self) -> None:
        """Have what was begun with on disk, where it is tested at the end: a run that is resumed needs it."""
        if self.tally.alone and self.tally.first and not self._has_first:
            self._has_first = True
            self.disk.write(FIRST, tensor_bytes({"w": self.tally.first.w}, {}))

    def recall(self, finished: Mapping[int, Finished] = MappingProxyType({})) -> None:
        """Take from the folder what a run that goes on had learnt: the best model, and what it began with.

        Args: `finished`, the agents whose last states are in it, with which the run ends.
        """
        folder, g = self.disk.folder, self.tally
        for k, event in finished.items():
            self._states[k] = read_tensors(folder / state_file(k, event.iteration))["w"]
        if g.alone and (folder / FIRST).is_file():
            g.first = ModelAt(0, read_tensors(folder / FIRST)["w"])
        if self.config.launch_model == "best" and (folder / FILE).is_file():
            from difnet.launch_models import read  # which loads torch, and no launcher needs that else

            best = read(folder)
            g.best = ModelAt(best.about["iteration"], best.state.numpy())

    def take(self, event: Finished, tensors: Sequence[np.ndarray]) -> None:
        """What one agent ended with."""
        w, *slots = tensors
        self._states[event.agent] = w
        named = {"w": w, **{f"optimizer.{n}": slot for n, slot in enumerate(slots)}}
        self._write_state(event.agent, event.iteration, event.state, named)

    def finish(self) -> None:
        """Write the newest models of those that could not hand over their last, and what was learnt."""
        for k, held in self.tally.newest.items():
            if k not in self._states:
                self._write_state(k, held.iteration, "unfinished", {"w": held.w})
        self._save(self._launch_model())

    def _launch_model(self) -> ModelAt | None:
        """What the network has learnt: the centroid of the agents that ended well, or the hub's model; or the best.

        Where nobody ended well, what the last measurement saw.
        """
        g = self.tally
        if self.config.launch_model == "best" and g.best:
            return g.best
        ended = [k for k in g.holders if k in self._states and g.finished[k].state != "failed"]
        if not ended:
            return g.last
        own = {k: self._states[k] for k in ended}
        W = np.stack([*own.values()])
        return ModelAt(g.finished[ended[0]].iteration, W.mean(axis=0, dtype=np.float64).astype(W.dtype), own)

    def _save(self, held: ModelAt | None) -> bool:
        f, c = self.facts, self.config
        if held is None or f is None:
            return False
        learnt = {"w": held.w[: f.parameters]} | (
            {"inner_lr": held.w[f.parameters :]} if len(held.w) > f.parameters else {})
        about = {"task": c.task.model_dump(), "model": f.model, "algorithm": c.algorithm.model_dump(),
                 "inner_lr": c.inner_lr, "inner_steps": c.inner_steps, "iteration": held.iteration,
                 "agents": len(held.own), "apart": held.apart, "transductive": f.transductive,
                 "parameters": f.pieces}  # fmt: skip
        metadata = {name: json.dumps(value) for name, value in about.items()}
        return self.disk.write(FILE, tensor_bytes(learnt, metadata))

    def _write_state(self, k: int, iteration: int, state: str, named: Mapping[str, np.ndarray]) -> None:
        about = {"iteration": str(iteration), "state": state}
        self.disk.write(state_file(k, iteration), tensor_bytes(dict(named), about))
