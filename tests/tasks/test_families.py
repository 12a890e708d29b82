"""Every federation in the catalog, and in a ready-made run, through one battery: whose data is whose, and what is held
out from whom.

A sample is known by its values, so a family whose samples repeat by their nature is no family for this battery.
"""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch.func import grad

from difnet import catalog
from difnet.config import Choice, load
from difnet.maths.flat import FlatModel, flatten
from difnet.meta import Tasks
from difnet.topology.networks import load as load_topology
from difnet.workload.building import build
from tests import miniature

AGENTS = 4
PARTS = ("validation", "test")


def made(task: Choice):
    return miniature.family(task.name, agents=AGENTS, shots=5, queries=6, **task.options)


RUNS = {run.stem: load(run) for run in catalog.entries("launch")}
REPEATING = {"recommendation"}  # two records of a user may have the same features, after the same past
FEDERATIONS = {n: task for n in catalog.names("tasks")
               if n not in REPEATING and hasattr(made(task := Choice(name=n)), "held_out")}  # fmt: skip
FEDERATIONS |= {f"launch {stem}": run.task for stem, run in RUNS.items() if run.task.name in FEDERATIONS}
every_federation = pytest.mark.parametrize("name", FEDERATIONS)


def family(name: str):
    return made(FEDERATIONS[name])


def samples(inputs: Iterable[torch.Tensor]) -> list[bytes]:
    """Every sample of inputs (n, ...), as bytes that can be looked up."""
    return [row.tobytes() for x in inputs for row in x.numpy()]


def drawn(family, agent: int | None, seed: int = 0) -> tuple[set[bytes], set[bytes]]:
    """The support and the query samples of 100 tasks."""
    tasks = family.draw(agent, 100, np.random.default_rng(seed))
    return set(samples(tasks.support[0])), set(samples(tasks.query[0]))


def everything(tasks: Tasks) -> list[bytes]:
    return samples([tasks.support[0], tasks.query[0]])


def test_there_are_federations_to_test():
    assert {"synthetic", "launch federated"} <= {*FEDERATIONS}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name == "miniimagenet" else [])
                                  for name in RUNS])  # fmt: skip
def test_network_task_model_and_algorithm_of_a_ready_made_run_fit_together(name):
    """Its last agent can take a step."""
    config = RUNS[name]
    options = config.task.options | miniature.OPTIONS.get(config.task.name, {})
    config = config.model_copy(update={"task": Choice(name=config.task.name, options=options),
                                       "data_dir": str(miniature.home())})  # fmt: skip
    topology = load_topology(config.topology, agents=config.agents, weights=config.weights)
    with miniature.kept_apart():
        workload = build(config, topology.agents, topology.hub)
    k = workload.clients[-1]
    tasks = workload.draw(workload.client(k), 1, np.random.default_rng(0))
    state, info = workload.algorithm.adapt(workload.first_state(k), tasks)
    assert state.phi.shape == (workload.length,) and torch.isfinite(info["loss"])


@every_federation
def test_support_and_query_of_a_client_held_out_share_no_sample(name):
    for part in PARTS:
        for client in family(name).held_out(part):
            rows = everything(client)
            assert len(rows) == len(set(rows))


@every_federation
def test_support_samples_of_an_agent_are_never_its_query_samples_in_any_task(name):
    """A client's data is cut once, not anew for each task."""
    f = family(name)
    for agent in (0, AGENTS - 1, None):
        support, query = drawn(f, agent)
        assert support and query and not support & query


@every_federation
def test_no_client_is_for_two_purposes_and_no_two_agents_share_one(name):
    f = family(name)
    sets = [set().union(*map(everything, f.held_out(part))) for part in PARTS]
    sets += [set().union(*drawn(f, agent)) for agent in range(AGENTS)]
    assert all(sets)
    assert len(set().union(*sets)) == sum(map(len, sets))


@every_federation
def test_tasks_of_nobody_are_those_of_the_validation_clients(name):
    """As they were cut: their support samples for support, their query samples for query."""
    f = family(name)
    support, query = drawn(f, None)
    assert support <= set(samples(client.support[0] for client in f.held_out("validation")))
    assert query <= set(samples(client.query[0] for client in f.held_out("validation")))


@every_federation
def test_clients_held_out_come_without_a_leading_size_and_with_all_their_data(name):
    """As many samples as each has; inputs and targets of a task drawn, less the leading size."""
    f = family(name)
    one = f.draw(0, 1, np.random.default_rng(0))
    for part in PARTS:
        assert f.held_out(part)
        for client in f.held_out(part):
            for (x, y), (drawn_x, drawn_y) in zip(client, one, strict=True):
                assert len(x) == len(y) > 0
                assert x.shape[1:] == drawn_x.shape[2:] and y.shape[1:] == drawn_y.shape[2:]
                assert x.dtype == drawn_x.dtype and y.dtype == drawn_y.dtype


@every_federation
def test_the_data_is_the_same_in_every_process_whatever_a_run_draws(name):
    """Two families alike hold the same clients, one of them used before; global generators are left alone."""
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[2]
    f = family(name)
    drawn(f, 1, seed=5)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[2] == before[1]
    torch.manual_seed(2)
    other = family(name)
    for part in PARTS:
        for a, b in zip(f.held_out(part), other.held_out(part), strict=True):
            assert all(torch.equal(s, t) for x, y in zip(a, b, strict=True) for s, t in zip(x, y, strict=True))
    assert [f.samples(k) for k in range(AGENTS)] == [other.samples(k) for k in range(AGENTS)]


@every_federation
def test_an_agent_holds_at_least_the_samples_that_are_drawn_from_it(name):
    f = family(name)
    for agent in range(AGENTS):
        held = f.samples(agent)
        assert type(held) is int and held >= len(set().union(*drawn(f, agent)))


@every_federation
def test_accuracy_is_the_share_of_targets_that_are_predicted(name):
    """On the model's own predictions, counted one by one; sure of the targets it is 1, sure of other classes 0."""
    f = family(name)
    client = f.held_out("test")[0]
    module = miniature.model(f).double()
    x, y = (torch.cat([s, q]) for s, q in zip(client.support, client.query, strict=True))
    x = x.double() if x.is_floating_point() else x
    prediction = module(x).detach()
    right = sum(int(np.argmax(p)) == int(t) for p, t in zip(prediction.numpy(), y.numpy(), strict=True))
    assert float(f.accuracy(prediction, y)) == pytest.approx(right / len(y), rel=1e-12)
    sure = torch.nn.functional.one_hot(y, prediction.shape[-1]).double()
    assert f.accuracy(sure, y) == 1 and f.accuracy(sure.roll(1, -1), y) == 0
    assert f.accuracy(sure, y).shape == ()


@every_federation
def test_the_default_model_can_be_fitted_to_a_client_held_out(name):
    """Its ragged data goes through the same loss as a drawn task, and a small step down its gradient lowers it."""
    f = family(name)
    torch.manual_seed(0)
    module = miniature.model(f)
    model, w = FlatModel(module), flatten(module, torch.float64)

    def loss(w, batch):
        return f.loss(model(w, batch[0]), batch[1])

    for client in f.held_out("validation"):
        support = client.support[0].double() if client.support[0].is_floating_point() else client.support[0]
        batch = support, client.support[1]
        g = grad(loss)(w, batch)
        assert loss(w - 1e-4 * g, batch) < loss(w, batch)
