"""Federations of a table's groups: whose data is whose, what is cut where, and who looks at what."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from difnet.data import Table
from difnet.errors import ConfigError
from difnet.tasks import _clients
from difnet.tasks._clients import Division, clients_of, tensors

GROUPS = 40


def table(sizes=None, gap: int = 3) -> Table:
    """Groups with `gap` rows of nobody after each; a row's input is its number, its target the group's."""
    sizes = np.asarray(sizes if sizes is not None else np.arange(GROUPS) + 10)
    first = np.cumsum(sizes + gap) - sizes - gap
    rows = int((sizes + gap).sum())
    targets = np.full(rows, -1)
    for g in range(len(sizes)):
        targets[first[g] : first[g] + sizes[g]] = g
    inputs, names = np.arange(rows, dtype=np.float64)[:, None], [f"n{g}" for g in range(len(sizes))]
    return Table(inputs, targets, first, sizes, names, "digest", {})


def federation(data=None, take=None, in_order=False, shots=3, queries=4, agents=4, **division):
    data = data or table()
    take = take or tensors(data.inputs, data.targets)
    return clients_of(data, take, Division(**division), agents=agents, shots=shots, queries=queries,
                      default_model="mlp", model_words={}, in_order=in_order)  # fmt: skip


def rows(batch) -> list[int]:
    return batch[0].flatten().long().tolist()


def groups_of(family, part: str) -> list[int]:
    return [int(task.support[1][0]) for task in family.held_out(part)]


def drawn(family, agent, count=400):
    return family.draw(agent, count, np.random.default_rng(0))


def test_eighty_ten_and_ten_percent_of_the_clients_are_for_training_validation_and_test():
    family = federation()
    parts = [set(groups_of(family, part)) for part in ("validation", "test")]
    hands = [set(drawn(family, agent).support[1].unique().tolist()) for agent in range(4)]
    assert [*map(len, parts)] == [4, 4] and [*map(len, hands)] == [8] * 4
    assert set().union(*parts, *hands) == set(range(GROUPS))


def test_support_and_query_of_a_client_are_a_fifth_and_the_rest_and_share_nothing():
    data = table()
    for part in ("validation", "test"):
        for task in federation(data).held_out(part):
            group, support, query = int(task.support[1][0]), rows(task.support), rows(task.query)
            assert sorted(support + query) == data.rows(group).tolist()
            assert len(support) == int(0.2 * data.sizes[group] + 0.5)
            assert set(task.support[1].tolist() + task.query[1].tolist()) == {group}


def test_a_drawn_task_is_of_one_client_and_its_support_is_never_query_in_another():
    family = federation()
    tasks = drawn(family, 2)
    assert tasks.support[0].shape == (400, 3, 1) and tasks.query[0].shape == (400, 4, 1)
    owners = torch.cat([tasks.support[1], tasks.query[1]], dim=1)
    assert (owners == owners[:, :1]).all()
    assert not set(rows(tasks.support)) & set(rows(tasks.query))
    assert all(len(set(rows((x, None)))) == 4 for x in tasks.query[0])  # without replacement
    assert len(set(rows(tasks.support)) | set(rows(tasks.query))) == family.samples(2)


def test_drawn_alike_a_sample_is_as_likely_as_any_other_of_its_client():
    """Twenty thousand minibatches of one client of 25, a fifth for support: 3 + 4 different samples of it each.

    Each sample's count is within five standard deviations of 7 / 25; drawn as support and query they are 3/5 and 1/5.
    """
    n, data = 20_000, table([25] * 10)
    family = federation(data, agents=8)
    tasks = family.draw_alike(0, n, np.random.default_rng(0))
    assert tasks.support[0].shape == (n, 3, 1) and tasks.query[0].shape == (n, 4, 1)
    both = torch.cat([tasks.support[0], tasks.query[0]], dim=1)[..., 0].long()
    assert all(len(set(batch)) == 7 for batch in both[:500].tolist())
    values, counts = both.unique(return_counts=True)
    assert sorted(values.tolist()) == data.rows(int(tasks.support[1][0, 0])).tolist()
    spread = (n * 7 / 25 * 18 / 25) ** 0.5
    assert (abs(counts - n * 7 / 25) < 5 * spread).all()
    apart = family.draw(0, n, np.random.default_rng(0))
    assert len(set(rows(apart.support))) == 5 and len(set(rows(apart.query))) == 20


def test_the_samples_that_are_counted_are_those_of_the_client_that_is_drawn():
    """By the same generator, whichever way the tasks are drawn: the size of the group that the targets name."""
    data = table()
    family = federation(data)
    counted = family.samples_drawn(1, 50, np.random.default_rng(3))
    for draw in (family.draw, family.draw_alike):
        groups = draw(1, 50, np.random.default_rng(3)).support[1][:, 0].numpy()
        assert counted.tolist() == data.sizes[groups].tolist()
    assert len(set(counted.tolist())) > 3 and max(counted) < family.samples(1)


def test_an_agent_looks_at_the_rows_of_its_own_clients_alone():
    """Every row that anybody asks for is written down."""
    data, asked = table(), []

    def take(wanted):
        asked.extend(wanted.ravel().tolist())
        return tensors(data.inputs, data.targets)(wanted)

    family = federation(data, take)
    for k in range(4):
        family.samples(k)
    assert not asked
    own = []
    for agent in range(4):
        drawn(family, agent, 50)
        own.append({int(data.targets[row]) for row in asked})
        asked.clear()
    assert all(own) and -1 not in set().union(*own) and sum(map(len, own)) == len(set().union(*own))


@pytest.mark.slow
def test_the_same_clients_are_cut_alike_in_every_process():
    program = ("from tests.tasks.test_clients import *\n"
               "print([rows(b) for part in ('validation', 'test') for t in federation().held_out(part) for b in t])\n"
               "print(rows(drawn(federation(), 1).support))")  # fmt: skip
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    here = [rows(b) for part in ("validation", "test") for t in federation().held_out(part) for b in t]
    assert ended.stdout.splitlines() == [str(here), str(rows(drawn(federation(), 1).support))]


def test_another_data_seed_holds_out_others_and_cuts_otherwise():
    def cuts(seed):
        return {int(t.support[1][0]): rows(t.support) for p in ("validation", "test")
                for t in federation(data_seed=seed).held_out(p)}  # fmt: skip

    one, other = cuts(0), cuts(1)
    assert one.keys() != other.keys() and all(one[g] != other[g] for g in one.keys() & other.keys())


def test_clients_with_too_few_samples_are_left_out():
    family = federation(least=30)
    seen = {*groups_of(family, "validation"), *groups_of(family, "test")}
    seen |= set().union(*(drawn(family, agent).support[1].unique().tolist() for agent in range(4)))
    assert seen == set(range(20, GROUPS))  # group g has 10 + g samples


@pytest.mark.parametrize("in_order", [False, True])
def test_of_a_client_with_many_samples_as_many_as_are_wanted_are_taken(in_order):
    """In order they are its first ones; else any of them."""
    data = table(np.full(GROUPS, 50))
    family = federation(data, most=20, in_order=in_order)
    taken = [set(rows(t.support) + rows(t.query)) for t in family.held_out("test")]
    firsts = [set(range(min(t), min(t) + 20)) for t in taken]
    assert all(len(t) == 20 for t in taken)
    assert all(t == f for t, f in zip(taken, firsts, strict=True)) == in_order


def test_in_order_the_first_samples_are_for_support_and_the_last_for_query():
    for task in federation(in_order=True, support=0.5).held_out("test"):
        both = rows(task.support) + rows(task.query)
        assert both == list(range(both[0], both[0] + len(both)))


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize(("support", "query", "sizes"),
                         [(0.05, 0.2, (2, 8)), (0.5, 0.5, (20, 20)), (0.6, 0.1, (24, 4))])  # fmt: skip
def test_a_query_set_may_have_a_share_of_its_own(in_order, support, query, sizes):
    data = table(np.full(10, 40))
    for task in federation(data, in_order=in_order, agents=2, support=support, query=query).held_out("test"):
        own = data.rows(int(task.support[1][0])).tolist()
        assert (len(rows(task.support)), len(rows(task.query))) == sizes
        assert not set(rows(task.support)) & set(rows(task.query))
        in_place = rows(task.support) == own[: sizes[0]] and rows(task.query) == own[-sizes[1] :]
        assert in_place == in_order


def test_of_very_many_clients_the_manifest_tells_those_of_an_agent_together(monkeypatch):
    """As long as a message may be; the hash still tells whose rows they are."""
    apart = federation().manifest()
    monkeypatch.setattr(_clients, "MOST_NAMED", 3)
    told = federation().manifest()
    assert told["targets"] == apart["targets"]
    for together, one_by_one in zip(told["agents"], apart["agents"], strict=True):
        [entry] = together
        assert entry["client"] == f"{len(one_by_one)} clients"
        assert [entry["support"], entry["query"]] == [sum(c[part] for c in one_by_one) for part in ("support", "query")]
    assert told["agents"] != federation(data_seed=1).manifest()["agents"]


def test_the_manifest_tells_every_client_once_with_its_samples():
    told = federation().manifest()
    clients = [c for hand in told["agents"] for c in hand] + told["validation"] + told["test"]
    assert sorted(c["client"] for c in clients) == sorted(f"n{g}" for g in range(GROUPS))
    assert all(c["support"] + c["query"] == 10 + int(c["client"][1:]) for c in clients)
    assert len({c["rows"] for c in clients}) == GROUPS and told["data"] == "digest"
    assert told == federation().manifest() != federation(data_seed=1).manifest()


def test_made_clients_have_all_samples_whoever_they_were_of_and_none_of_nobody():
    family = federation(partition="iid", clients=12)
    held = [row for part in ("validation", "test") for t in family.held_out(part) for b in t for row in rows(b)]
    hands = [row for agent in range(4) for batch in drawn(family, agent, 3000) for row in rows(batch)]
    data = table()
    everything = {row for g in range(GROUPS) for row in data.rows(g).tolist()}
    assert len(held) == len(set(held)) and not set(held) & set(hands)
    assert set(held) | set(hands) == everything


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"least": 48}, "2 clients with 48 samples or more"), ({"agents": 33}, "32 training clients for 33 agents"),
        ({"shares": (0.5, 0.5, 0.5)}, "sum to 1"), ({"data_seed": -1}, "data_seed is -1"),
        ({"partition": "by taste"}, "task.partition is 'by taste'"),
    ],
)
def test_divisions_that_cannot_be_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        federation(**options)


@pytest.mark.parametrize("options", [{"support": 0.001}, {"support": 0.8, "query": 0.3}, {"query": 0.0}, {"most": 0}])
def test_cuts_that_leave_nothing_are_refused_when_a_client_is_looked_at(options):
    with pytest.raises(ConfigError, match="support"):
        federation(**options).held_out("test")
