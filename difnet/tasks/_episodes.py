"""N-way k-shot episodes: classification tasks made of a few samples of a few classes at a time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from difnet.data import Array, Indices, Table
from difnet.errors import ConfigError
from difnet.maths.evaluate import accuracy_of
from difnet.maths.federation import deal_clients, sample_rows
from difnet.meta import Batch, Tasks

UNSEEN = ("validation", "test")


class Episodes:
    """Tasks of `ways` classes, numbered anew in each task, with `shots` support and `queries` query samples of each.

    A class is a group of the table, in each of `turns` rotations by 90 degrees: a rotated class is another class.
    """

    loss = staticmethod(cross_entropy)
    accuracy = staticmethod(accuracy_of)

    def __init__(
        self, table: Table, hands: Sequence[Indices], held_out: Mapping[str, Indices], *, ways: int, shots: int,
        queries: int, turns: int = 1, change: Callable[[Array], Array], default_model: str,
        model_words: Mapping[str, Any], about: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """
        Args: `hands`, the groups of each agent; `held_out`, those for "validation" and "test"; `change`, from pixels as
            stored to a network's input.
        Raises: ConfigError, if a task needs more classes than a part has, or more samples than a class has.
        """
        self.ways, self.shots, self.queries, self.turns = ways, shots, queries, turns
        self.default_model, self.model_words, self._about = default_model, dict(model_words), dict(about or {})
        self._table, self._change = table, change
        self._groups: dict[int | str, Indices] = dict(enumerate(hands))
        self._groups.update(held_out)
        fewest = min(len(groups) for groups in self._groups.values()) * turns
        if not 2 <= ways <= fewest:
            raise ConfigError(f"task.ways is {ways}; an agent, or a part that is held out, has {fewest} classes: it "
                              f"must be from 2 to {fewest}")  # fmt: skip
        smallest = int(min(table.sizes[groups].min() for groups in self._groups.values()))
        if shots + queries > smallest:
            raise ConfigError(f"{shots} shots and {queries} queries of every class, but a class has {smallest} "
                              f"samples; they must be {smallest} together at most")  # fmt: skip

    def draw(self, agent: int | None, count: int, rng: np.random.Generator) -> Tasks:
        """Tasks of an agent's own classes (for None: of the validation classes), their samples in order of class.

        Inputs (count, ways * samples of each class, channels, height, width), float32; classes int64.
        """
        return self._tasks("validation" if agent is None else agent, count, rng)

    def draw_unseen(self, part: str, count: int, rng: np.random.Generator) -> Tasks:
        """Tasks of the classes held out for "validation" or for "test"."""
        return self._tasks(part, count, rng)

    def manifest(self) -> dict[str, Any]:
        """Who has what: the classes of every agent, or of "everyone" where all have the same, and those held out."""

        def told(groups: Indices) -> list[dict[str, Any]]:
            return [{"client": self._table.names[g], "samples": int(self._table.sizes[g])} for g in groups]

        hands = [groups for k, groups in self._groups.items() if isinstance(k, int)]
        alike = len(hands) > 1 and all(np.array_equal(hand, hands[0]) for hand in hands)
        who = {"everyone": told(hands[0])} if alike else {"agents": [told(hand) for hand in hands]}
        return {**self._about, **who, **{part: told(self._groups[part]) for part in UNSEEN}}

    def _tasks(self, part: int | str, count: int, rng: np.random.Generator) -> Tasks:
        groups, each = self._groups[part], self.shots + self.queries
        chosen = sample_rows(rng, [len(groups) * self.turns] * count, self.ways)  # (count, ways)
        group, turn = groups[chosen // self.turns], chosen % self.turns
        members = sample_rows(rng, self._table.sizes[group].ravel(), each).reshape(count, self.ways, each)
        images = self._change(_turned(self._table.inputs[self._table.first[group][..., None] + members], turn))
        return Tasks(self._batch(images[:, :, : self.shots]), self._batch(images[:, :, self.shots :]))

    def _batch(self, images: Array) -> Batch:
        count, ways, n = images.shape[:3]
        x = torch.from_numpy(np.ascontiguousarray(images)).flatten(1, 2)
        return x, torch.arange(ways).repeat_interleave(n).expand(count, -1)


def episodes_of(
    table: Table, parts: Mapping[str, Indices], *, agents: int, partition: str, **rest: Any
) -> Episodes:  # fmt: skip
    """Episodes from a table's groups.

    Args: `parts`, the groups for "train", "validation" and "test"; `partition`, "none" (every agent draws from all
        training classes: one task law for all) or "class" (they are dealt out: an agent has classes of its own).
    Raises: ConfigError for an unknown partition, or if there are too few classes.
    """
    if partition not in ("none", "class"):
        raise ConfigError(f"task.partition is {partition!r}; it must be none (every agent has all training classes) or "
                          f"class (they are dealt out to the agents)")  # fmt: skip
    train = parts["train"]
    hands = deal_clients(train, agents) if partition == "class" else [train] * agents
    about = {"data": table.digest, "division": {"partition": partition}}
    return Episodes(table, hands, {part: parts[part] for part in UNSEEN}, about=about, **rest)


def _turned(images: Array, turns: Indices) -> Array:
    """Images (count, ways, n, height, width, ...), those of each class turned so many times by 90 degrees."""
    if not turns.any():
        return images
    turned = images.copy()
    for turn in np.unique(turns[turns > 0]):
        turned[turns == turn] = np.rot90(images[turns == turn], turn, axes=(2, 3))
    return turned
