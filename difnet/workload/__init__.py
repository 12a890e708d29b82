"""What does an agent of this run compute? A RunConfig made into an algorithm, its tasks and a model, and compiled.

Imports: errors, system, catalog, config, meta, maths, algorithms, launch_models, tasks, topology.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor

from difnet import catalog
from difnet.algorithms import Algorithm, State
from difnet.config import FROM, Choice, RunConfig
from difnet.launch_models import LaunchModel, read
from difnet.maths.flat import FlatModel, flatten
from difnet.maths.seeding import NETWORK, Purpose, generator
from difnet.meta import Batch, Tasks, in_turn
from difnet.tasks import Owned, TaskFamily, is_owned
from difnet.workload.server_rounds import ServerRounds

MOST_MEASURED = 2**16  # values of a model that is small enough to travel for every measurement
OFFLINE_STEPS = 2000  # unless told
VALIDATED, FEW_VALIDATED = 100, 20  # tasks of a validation, unless told


@dataclass(frozen=True)
class Workload:
    """One run's algorithm, task family and model, before anything is traced or compiled."""

    config: RunConfig
    agents: int  # those of the topology; owners that are held out have the numbers after them
    hub: int | None  # the agent that serves, without tasks of its own; None: there is no server
    family: TaskFamily
    unseen: TaskFamily  # the same family, with the samples per task that validation and test tasks have
    choice: Choice  # the model by name, with every option that the task family or the user gave it
    model: FlatModel
    algorithm: Algorithm
    offline: Algorithm  # what each agent trains with alone, before the first iteration
    dtype: torch.dtype
    block: int  # adapt steps whose tasks are drawn together
    owners: int | None  # whose tasks a single learner has; None: every agent its own

    @cached_property
    def given(self) -> LaunchModel | None:
        """The launch model that `init = "from:FILE"` names.

        Raises: ConfigError, if it cannot be read or is of another model.
        """
        if not self.config.init.startswith(FROM):
            return None
        given = read(self.config.init.removeprefix(FROM))
        given.check_fits(self.model.signature(), f"this run's model {self.choice.name!r}")
        return given

    def first_launch_model(self, k: int) -> Tensor:
        """w_{k,0}, shape (M,): the same for all agents, or each its own with `init = "separate"`; or from a file."""
        if self.given is not None:
            return self.given.w.to(self.config.device, self.dtype, copy=True)
        owner = NETWORK if self.config.init == "common" else k
        seed = int(generator(self.config.seed, Purpose.INIT, owner).integers(2**62))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return flatten(catalog.model(self.choice.name, self.choice.options), self.dtype).to(self.config.device)

    def first_state(self, k: int) -> State:
        """The state agent k starts from; where it learns inner rates too and the file has some, from these."""
        state = self.algorithm.init(self.first_launch_model(k))
        if self.given is None or self.given.rates is None or len(state.w) != len(self.given.state):
            return state
        begun = self.given.state.to(self.config.device, self.dtype, copy=True)
        return state._replace(w=begun, phi=begun)

    def fingerprint(self) -> str:
        """A hash of what two agents must share to combine states: parameters in order, and what is done to them, the
        schema of owners' data among it."""
        c = self.config
        done = [self.model.signature(), c.dtype, c.mode, c.strategy, c.algorithm.model_dump(), c.task.model_dump()]
        return hashlib.sha256(json.dumps(done, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @cached_property
    def length(self) -> int:
        """L, the number of values that travel: the model's, and those that are learnt beside it."""
        return len(self.first_state(self.clients[0]).w)

    @cached_property
    def clients(self) -> list[int]:
        """The agents with tasks: all, or those on the rim of a served star."""
        return [k for k in range(self.agents) if k != self.hub]

    @property
    def holders(self) -> Sequence[int]:
        """The agents that hold a launch model of the network's, and tell of it: all, or the hub that serves."""
        return range(self.agents) if self.hub is None else [self.hub]

    def carries(self, k: int) -> bool:
        """Whether agent k keeps something of its own from one iteration to the next.

        On a served star the hub does, and clients only where each takes part in every round; others begin each round
        from what the hub calls them with.
        """
        return k < self.agents and (self.hub is None or k == self.hub or self.algorithm.everyone)

    @property
    def is_owned(self) -> bool:
        """Whether data stays with its owners: this process then has that of the agents of its own host alone."""
        return is_owned(self.family)

    @cached_property
    def judges(self) -> Mapping[str, Sequence[int]]:
        """The agents that test launch models with data of their own, for "validation" and "test"; {}: all have the same
        tasks, and whoever holds a launch model tests it.

        Those that are held out for it; or, where nobody is, every owner, with what it keeps back.
        """
        if not self.is_owned:
            return {}
        held_out, K = self.config.hold_out, self.agents
        if not held_out:
            return {"validation": self.clients, "test": self.clients}
        first_tester = K + held_out.validation
        return {"validation": range(K, first_tester), "test": range(first_tester, first_tester + held_out.test)}

    def tests_itself(self, k: int) -> bool:
        """Whether agent k, which holds a launch model, also tests it on the way; else others are asked to."""
        return not self.is_owned or (not self.config.hold_out and k != self.hub)

    def client(self, k: int) -> int:
        """Agent k's number among the agents with tasks, by which its tasks are drawn; those held out have the last."""
        if self.owners is not None and k >= self.agents:
            return self.owners + k - self.agents
        return k - (self.hub is not None and k > self.hub)

    def owned_by(self, k: int) -> Sequence[int]:
        """By which numbers agent k's tasks are drawn: its own; where it is the only learner, everybody's."""
        return [self.client(k)] if self.owners is None or k >= self.agents else range(self.owners)

    def samples(self) -> dict[int, int]:
        """How many samples each client holds; where a family does not tell, every client counts alike."""
        if self.is_owned:
            return dict.fromkeys(self.clients, 1)  # how many they are is their owners' affair; see `samples_told`
        count = getattr(self.family, "samples", lambda client: 1)
        return {k: int(count(self.client(k))) for k in self.clients}

    @cached_property
    def server_rounds(self) -> ServerRounds:
        """Who takes part in which round, where there is a server."""
        return ServerRounds(self.config.server, self.clients, self.samples(), self.samples_drawn, self.config.seed)

    def samples_drawn(self, k: int, i: int) -> float:
        """How many samples the clients have that agent k draws from in round i: the mean over its tasks."""
        drawn = self._drawn(k, i)
        return sum(drawn) / len(drawn) if drawn else float(self.samples()[k])

    def samples_told(self, k: int, i: int) -> int | None:
        """What a client's answer of round i tells its hub, which weighs by it and cannot know it; else None.

        It is the sum of `samples_drawn` over the round's tasks, of which every client has as many.
        """
        if not self.is_owned or self.config.server.aggregation != "samples":
            return None
        return int(sum(self._drawn(k, i)))

    def _drawn(self, k: int, i: int) -> list[float]:
        """The samples of the client behind each task of agent k in round i; [] where a family does not tell."""
        count = getattr(self.family, "samples_drawn", None)
        if count is None:
            return []
        steps, per_step = self.config.local_steps, self.config.tasks
        drawn = list[float]()
        for number, place in (divmod(step, self.block) for step in range(i * steps, (i + 1) * steps)):
            rng = generator(self.config.seed, Purpose.TRAIN, self.client(k), number)
            block = count(self.client(k), self.block * per_step, rng)
            drawn += [float(n) for n in block[place * per_step : (place + 1) * per_step]]
        return drawn

    @property
    def offline_steps(self) -> int:
        """Steps each agent trains alone before the first iteration; 0 for no offline start."""
        asked = self.config.offline_steps
        return asked if asked is not None else OFFLINE_STEPS if self.algorithm.offline else 0

    @property
    def measure_every(self) -> int:
        """Iterations between two measurements of the consensus error, for which every launch model travels once.

        Unless told: ten times as often as validations for small models, only with validations for bigger ones.
        """
        default = self.config.eval_every // 10 if self.model.size <= MOST_MEASURED else self.config.eval_every
        return self.config.measure_every or max(1, default)

    def loss(self, w: Tensor, batch: Batch) -> Tensor:
        """The family's loss of the model with parameters w (M,) on a batch, a scalar."""
        return self.family.loss(self.model(w, batch[0]), batch[1])

    def measure(self, w: Tensor, batch: Batch) -> Tensor:
        """Loss, and accuracy where the family has one, of the model within w (L,): shape (1,) or (2,)."""
        prediction = self.model(self.algorithm.model(w), batch[0])
        figures = [self.family.loss(prediction, batch[1])]
        if (accuracy := getattr(self.family, "accuracy", None)) is not None:
            figures.append(accuracy(prediction, batch[1]).to(figures[0].dtype))
        return torch.stack(figures)

    def draw(self, client: int | None, count: int, rng: np.random.Generator, alike: bool = False) -> Tasks:
        """Tasks of a client in the run's dtype and on its device; of the whole network's law, unseen ones, for None.

        Args: `alike`, samples of every kind alike, where the family makes a difference between support and query.
        """
        if client is None:
            return self._placed(self.unseen.draw(None, count, rng))
        draw = getattr(self.family, "draw_alike", self.family.draw) if alike else self.family.draw
        return self._placed(draw(client, count, rng))

    def validation_tasks(self, k: int | None = None) -> Tasks | Sequence[Tasks]:
        """The tasks that a launch model is tested on in training: `eval_tasks` held-out clients where there are any.

        Args: `k`, whose they are, where data stays with its owners.
        """
        usual = FEW_VALIDATED if self.model.each is in_turn else VALIDATED
        return self._unseen("validation", self.config.eval_tasks or usual, Purpose.VALIDATE, k)

    def test_tasks(self, k: int | None = None) -> Tasks | Sequence[Tasks]:
        """The tasks that are kept for the end: other tasks, other clients, or other rows of agent k."""
        return self._unseen("test", self.config.test_tasks, Purpose.TEST, k)

    @property
    def engine(self) -> str:
        """How kernels run: as the run says; unless told, what runs task after task is neither traced nor compiled."""
        return "eager" if self.config.engine == "auto" and self.model.each is in_turn else self.config.engine

    @property
    def cautions(self) -> list[str]:
        """What computes as it was asked to, and is hardly what somebody wants."""
        c, begins_anew = self.config, self.hub is not None and self.algorithm.anew
        if begins_anew and c.optimizer == "adam" and c.local_steps == 1 and self.first_state(self.clients[0]).slots:
            return [f"caution: {c.algorithm.name}'s clients begin each round with an Adam anew, and in its first step "
                    f"Adam takes the gradient's signs alone; with one local step that is all it does: try --optimizer "
                    f"sgd, or more --local-steps"]  # fmt: skip
        return []

    @property
    def has_tests(self) -> bool:
        """Whether anything is kept for the end: clients held out, or `test_tasks` of the network's law."""
        return hasattr(self.unseen, "held_out") or self.config.test_tasks > 0

    def _unseen(self, part: str, count: int, purpose: Purpose, k: int | None) -> Tasks | Sequence[Tasks]:
        if self.is_owned:
            return self._of_owner(part, count, purpose, k)
        if (held_out := getattr(self.unseen, "held_out", None)) is not None:
            most = count if part == "validation" else None
            return [self._placed(task) for task in held_out(part)[:most]]
        if (draw_unseen := getattr(self.unseen, "draw_unseen", None)) is not None:
            return self._placed(draw_unseen(part, count, generator(self.config.seed, purpose)))
        return self.draw(None, count, generator(self.config.seed, purpose))

    def _of_owner(self, part: str, count: int, purpose: Purpose, k: int | None) -> Tasks:
        """What agent k tests a launch model with; None: tasks of nobody's, of the same shapes."""
        if k is None:
            count *= 1 if self.config.hold_out else len(self.owned_by(self.clients[0]))
            return self._placed(cast(Owned, self.unseen).example(count, generator(self.config.seed, purpose)))
        drawn = []
        for owner in self.owned_by(k):
            rng = generator(self.config.seed, purpose, owner)
            if self.config.hold_out:
                drawn.append(self.unseen.draw(owner, count, rng))
            else:
                drawn.append(cast(Owned, self.unseen).draw_kept(owner, part, count, rng))
        return self._placed(joined(drawn))

    def example(self, count: int, rng: np.random.Generator) -> Tasks:
        """Tasks by whose shapes models and kernels are tried: of the first agent; or nobody's, where data stays."""
        if self.is_owned:
            return self._placed(cast(Owned, self.family).example(count, rng))
        return self.draw(self.owned_by(self.clients[0])[0], count, rng, self.algorithm.alike)

    def first_tasks(self) -> Tasks:
        """Tasks of one adapt step, as `TaskStream` gives them to the first agent; or nobody's, where data stays."""
        k = self.clients[0]
        if not self.is_owned:
            return TaskStream(self, k)(0)
        count = self.config.tasks * len(self.owned_by(k))
        return self.example(count, generator(self.config.seed, Purpose.TRAIN))

    def _placed(self, drawn: Tasks) -> Tasks:
        (sx, sy), (qx, qy) = drawn
        return Tasks((self._place(sx), self._place(sy)), (self._place(qx), self._place(qy)))

    def _place(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self.config.device, dtype, copy=True)


class TaskStream:
    """Agent k's tasks for step 0, 1, 2, …, drawn a block at a time; the same whatever step one begins with."""

    def __init__(self, workload: Workload, k: int, purpose: Purpose = Purpose.TRAIN) -> None:
        self._workload, self._k, self._purpose, self._number = workload, k, purpose, -1
        self._alike = (workload.offline if purpose is Purpose.OFFLINE else workload.algorithm).alike
        self._block: list[Tasks] = []

    def __call__(self, step: int) -> Tasks:
        """The tasks of one adapt step: leading size `config.tasks`, of every owner."""
        number, place = divmod(step, self._workload.block)
        if number != self._number:
            self._block, self._number = steps_of(self.block(number)), number
        return self._block[place]

    def block(self, number: int) -> list[Tensor]:
        """The support inputs and targets and query inputs and targets of one block: leading sizes (steps, tasks).

        Of a learner that has the tasks of all, those that each owner would draw by itself, side by side.
        """
        size, per_step = self._workload.block, self._workload.config.tasks
        each = []
        for owner in self._workload.owned_by(self._k):
            rng = generator(self._workload.config.seed, self._purpose, owner, number)
            drawn = self._workload.draw(owner, size * per_step, rng, self._alike)
            each.append([t.unflatten(0, (size, per_step)) for batch in drawn for t in batch])
        return each[0] if len(each) == 1 else [torch.cat(tensors, dim=1) for tensors in zip(*each, strict=True)]


def joined(drawn: Sequence[Tasks]) -> Tasks:
    """The tasks of several owners as one batch."""
    if len(drawn) == 1:
        return drawn[0]
    each = [[t for batch in tasks for t in batch] for tasks in drawn]
    sx, sy, qx, qy = (torch.cat(tensors) for tensors in zip(*each, strict=True))
    return Tasks((sx, sy), (qx, qy))


def steps_of(block: list[Tensor]) -> list[Tasks]:
    """A block's tensors [sx, sy, qx, qy], cut along the first axis into the tasks of each step."""
    return [Tasks((sx, sy), (qx, qy)) for sx, sy, qx, qy in zip(*(t.unbind(0) for t in block), strict=True)]


