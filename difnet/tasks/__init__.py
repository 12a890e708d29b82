"""Where do an agent's tasks come from? A task family draws them.

One file is one family; its factory bears the file's name and takes (agents, shots, queries), `data_dir` if it reads
files, and its own options. The functions here say a task with data of one's own in Python, for `difnet.launch`; a file
of such a family ends in an underscore, since a function here has its name.

Imports: errors, data, meta, maths.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeGuard

import numpy as np
from torch import Tensor

from difnet.meta import Tasks
from difnet.tasks._given import OwnTask, arrays, episodes_from, from_datasets, images, table

__all__ = ["Federation", "OwnTask", "Owned", "TaskFamily", "arrays", "episodes_from", "from_datasets", "images",
           "is_owned", "table"]  # fmt: skip


class TaskFamily(Protocol):
    """Tasks of every agent of a network.

    A family may also have
    - `accuracy`, with the signature of `loss`: the share of samples predicted rightly; and `metrics`, more such figures
      by name, which `difnet evaluate` tells;
    - `model_words`, what a model for its samples is built with, as far as its factory takes it: {"inputs": 784};
    - `draw_alike(agent, count, rng)`, where support and query come from different parts of a client's samples: tensors
      of the same shapes drawn from all of them alike, for algorithms that know no such parts;
    - `samples_drawn(agent, count, rng)`, where an agent has several clients: how many samples the client behind each
      task has that `draw` makes of the same generator, by which answers are weighted; else `samples(agent)` is asked;
    - `draw_unseen(part, count, rng)`, tasks held out for "validation" or "test"; else `draw(None, …)` is asked;
    - `manifest()`, a table of who has what, which a run keeps as partition.json: "agents" (a list for each) and parts;
    - `baselines`, predictors by name that need no training: one client's Tasks -> scores of its query samples.
    """

    loss: Callable[[Tensor, Tensor], Tensor]  # (prediction, target) -> mean over the samples, ()
    default_model: str  # the model that is meant when none is named

    def draw(self, agent: int | None, count: int, rng: np.random.Generator) -> Tasks:
        """`count` independent tasks of one agent, or of the whole network's law for None (validation).

        All randomness comes from `rng`. Support and query samples are drawn independently.
        Returns: tensors of leading size `count`.
        """
        ...


class Federation(TaskFamily, Protocol):
    """A family whose data belongs to clients: each is for training, for validation or for testing, never for two.

    Training clients are dealt out to the agents; `draw(agent, …)` draws from that agent's clients alone.
    """

    accuracy: Callable[[Tensor, Tensor], Tensor]  # (prediction, target) -> share of samples predicted rightly, ()

    def samples(self, agent: int) -> int:
        """How many training samples an agent holds: its chance to be called where calls go by samples."""
        ...

    def held_out(self, part: str) -> Sequence[Tasks]:
        """One task per client held out for "validation" or "test": all its data, support and query disjoint.

        Tensors have no leading size: support (n, ...), query (m, ...), n and m differing from client to client.
        """
        ...


class Owned(TaskFamily, Protocol):
    """A family whose data stays with its owners: a process has that of its own agents' clients, and of nobody else.

    Its factory takes, beside (agents, shots, queries), the keywords
    - `data`, the path or paths of this process's own data, which is no part of a run's configuration (none, where its
      module has the data of all);
    - `here`, the agents whose data that is (None: all of them);
    - `keeps`, whether every client keeps rows back for validation and test; False where whole owners are held out;
    - `schema`, as plain values, what the data means; None: it follows from the data.
    All that is random about a client depends on its name and on `data_seed`, never on who else is here. `draw` of an
    agent whose data is not here raises a ConfigError, and so does that of None: nobody has the data of all.
    """

    here: Sequence[int]
    owners: Mapping[int, Sequence[str]]  # agent -> its clients, for the agents here
    cautions: Sequence[str]  # what is to be told with the results: by client, with counts and without values

    def samples(self, agent: int) -> int:
        """How many rows for training an agent's clients hold."""
        ...

    def draw_kept(self, agent: int, part: str, count: int, rng: np.random.Generator) -> Tasks:
        """As `draw`, with query rows of those that the agent's clients keep back for "validation" or "test"."""
        ...

    def manifest(self) -> dict[str, Any]:
        """Who of those here has how many rows of which part: names and counts alone."""
        ...

    def example(self, count: int, rng: np.random.Generator) -> Tasks:
        """Tasks of nobody's data, in the shapes of everybody's: models and kernels are tried with them."""
        ...


def is_owned(family: TaskFamily) -> TypeGuard[Owned]:
    """Whether a family's data stays with its owners."""
    return hasattr(family, "draw_kept")
