"""A few digits each: agents that know some of MNIST's digits, tested on any of them.

Source: "Meta-Backward: Energy-Efficient Federated Meta learning", section V: two agents know the digits 0 to 2 and
7 to 9; the launch model is fine-tuned to five random digits from ten samples of each.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from difnet.data import Array, Indices, Table
from difnet.data import mnist as files
from difnet.data.home import folder
from difnet.errors import ConfigError
from difnet.maths.evaluate import accuracy_of
from difnet.maths.federation import sample_rows
from difnet.maths.seeding import data_generator
from difnet.meta import Batch, Tasks

PARTS = {"validation": "train", "test": "test"}  # a part of the tasks -> the part of MNIST that they are made of


class Digits:
    """Classification by digit: an output means the same digit for everybody, whichever digits a task has."""

    loss = staticmethod(cross_entropy)
    accuracy = staticmethod(accuracy_of)
    default_model = "mlp"

    def __init__(
        self, tables: dict[str, Table], known: Sequence[Indices], spare: Indices, *, ways: int, shots: int,
        queries: int, own: Sequence[Sequence[int]],
    ) -> None:  # fmt: skip
        """
        Args: `tables` by part of MNIST; `known`, the rows of the training part that each agent has; `spare`, those that
            nobody has, from which validation tasks are made; `own`, each agent's digits.
        """
        self._tables, self._known, self._own, self.ways = tables, known, own, ways
        self.shots, self.queries, self.model_words = shots, queries, {"inputs": 784, "outputs": 10}
        rows = {"validation": spare, "test": np.arange(len(tables["test"].targets))}
        self._rows = {part: [of[self._digits(part)[of] == digit] for digit in range(10)] for part, of in rows.items()}

    def draw(self, agent: int | None, count: int, rng: np.random.Generator) -> Tasks:
        """Minibatches of an agent's samples, `shots` and `queries` of them, all different; for None validation tasks.

        Inputs (count, samples, 784), float32, from 0 to 1; targets the digits, int64.
        """
        if agent is None:
            return self.draw_unseen("validation", count, rng)
        own = self._known[agent]
        rows = own[sample_rows(rng, [len(own)] * count, self.shots + self.queries)]
        return self._tasks("validation", rows[:, : self.shots], rows[:, self.shots :])

    def draw_unseen(self, part: str, count: int, rng: np.random.Generator) -> Tasks:
        """Tasks of `ways` digits of all ten, `shots` support and `queries` query samples of each digit."""
        digits = sample_rows(rng, [10] * count, self.ways)  # (count, ways)
        each = self.shots + self.queries
        sizes = np.array([len(rows) for rows in self._rows[part]])
        picked = sample_rows(rng, sizes[digits].ravel(), each).reshape(count, self.ways, each)
        rows = np.stack([np.stack([self._rows[part][d][p] for d, p in zip(*one, strict=True)])
                         for one in zip(digits, picked, strict=True)])  # fmt: skip
        support, query = rows[:, :, : self.shots], rows[:, :, self.shots :]
        return self._tasks(part, support.reshape(count, -1), query.reshape(count, -1))

    def manifest(self) -> dict[str, Any]:
        """Who has what: the digits of every agent, and those of unseen tasks."""
        told = [[{"client": "digits " + ", ".join(map(str, digits)), "samples": len(rows)}]
                for digits, rows in zip(self._own, self._known, strict=True)]  # fmt: skip
        unseen = [{"client": f"any {self.ways} digits"}]
        about = {"data": self._tables["train"].digest, "division": {"partition": "digits"}}
        return {**about, "agents": told, "validation": unseen, "test": unseen}

    def _digits(self, part: str) -> Array:
        return np.asarray(self._tables[PARTS[part]].targets)

    def _tasks(self, part: str, support: Indices, query: Indices) -> Tasks:
        table = self._tables[PARTS[part]]

        def batch(rows: Indices) -> Batch:
            pixels = table.inputs[rows].reshape(*rows.shape, -1).astype(np.float32) / 255
            return torch.from_numpy(pixels), torch.from_numpy(np.asarray(table.targets)[rows])

        return Tasks(batch(support), batch(query))


def digits(
    agents: int, shots: int, queries: int, data_dir: str | None = None,
    own: Sequence[Sequence[int]] | None = None, samples: int = 400, ways: int = 5, data_seed: int = 0,
) -> Digits:  # fmt: skip
    """MNIST's digits as agents that know some of them: each has `samples` training images of its own, at random.

    Validation tasks are made of the training images that nobody has, test tasks of MNIST's test part.

    Args: `own`, each agent's digits; None: the ten digits, cut evenly over the agents in order; `ways`, how many digits
        an unseen task has.
    Raises: ConfigError for values that do not fit; EnvironmentLacks and DataError as `difnet.data.mnist.read`.
    """
    own = [part.tolist() for part in np.array_split(np.arange(10), agents)] if own is None else own
    if len(own) != agents:
        raise ConfigError(f"task digits: own has the digits of {len(own)} agents, but there are {agents} with tasks; "
                          f"give a list for each")  # fmt: skip
    if not all(known and len(set(known)) == len(known) and set(known) <= set(range(10)) for known in own):
        raise ConfigError(f"task digits: own is {[list(known) for known in own]}; each agent needs digits from 0 to 9, "
                          f"each once")  # fmt: skip
    if not 2 <= ways <= 10:
        raise ConfigError(f"task digits: ways is {ways}; a task has 2 to 10 digits")
    if not shots + queries <= samples:
        raise ConfigError(f"task digits: {shots} shots and {queries} queries, but an agent has {samples} samples; "
                          f"they must be {samples} together at most")  # fmt: skip
    place = folder("mnist", data_dir)
    tables = {part: files.read(place, part) for part in ("train", "test")}
    targets, left = np.asarray(tables["train"].targets), np.ones(len(tables["train"].targets), dtype=bool)
    known = []
    for agent, its in enumerate(own):
        rows = np.flatnonzero(left & np.isin(targets, list(its)))
        if len(rows) < samples:
            raise ConfigError(f"task digits: {samples} samples for agent {agent}, but {len(rows)} images of its digits "
                              f"{list(its)} are left; ask for fewer")  # fmt: skip
        known.append(np.sort(data_generator(data_seed, agent).choice(rows, size=samples, replace=False)))
        left[known[-1]] = False
    return Digits(tables, known, np.flatnonzero(left), ways=ways, shots=shots, queries=queries, own=own)
