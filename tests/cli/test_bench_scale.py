"""The closed forms behind docs/scale.md, against difnet's own graphs, matrices, messages and processes."""

import csv
import importlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import networkx as nx
import numpy as np
import pytest

from difnet.exchange import wire
from difnet.exchange.links import links_of
from difnet.maths.combine import mix_all, padded
from difnet.maths.mixing import mixing_rate
from difnet.topology.networks import load
from tests.conftest import REPOSITORY, environment

FAMILIES = ("ring", "exponential", "random regular", "star")


@pytest.fixture(scope="module")
def bench() -> Iterator[dict[str, ModuleType]]:
    """The scripts of bench/, which are no package."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "bench")
        yield {name: importlib.import_module(name) for name in ("growth", "agreement")}
        for name in set(sys.modules) - before:
            if str(REPOSITORY / "bench") in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


@pytest.mark.parametrize("K", [5, 10, 16, 34, 40])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_round_is_what_the_links_of_every_agent_add_up_to(bench, name, K):
    family = bench["growth"].FAMILIES[name]
    topology = load(family.topology(K))
    links = [links_of(k, topology, topology.hub) for k in range(K)]
    told = [sum(link.tells for link in mine) for mine in links]
    each = [len(mine) for mine in links]
    assert family.round(K) == (sum(each), sum(told), max(each), max(told))


@pytest.mark.parametrize("K", [3, 10, 40, 257])
def test_a_ring_mixes_at_the_rate_of_its_closed_form(bench, K):
    family = bench["growth"].FAMILIES["ring"]
    assert family.rate(K) == pytest.approx(load(family.topology(K)).mixing_rate, abs=1e-12)


@pytest.mark.parametrize("K", [2, 9, 10, 40, 97, 128])
def test_an_exponential_graph_mixes_at_the_rate_of_its_closed_form(bench, K):
    family = bench["growth"].FAMILIES["exponential"]
    assert family.rate(K) == pytest.approx(load(family.topology(K)).mixing_rate, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("degree", [3, 4, 6])
def test_random_regular_graphs_come_near_the_rate_of_their_limit(bench, degree):
    graph = load(f"random_regular_graph(d={degree}, n=3000)")
    assert graph.mixing_rate == pytest.approx(bench["growth"].regular_rate(3000, degree), abs=5e-3)


@pytest.mark.parametrize("K", [3, 10, 40])
def test_the_slowest_wave_of_a_ring_is_a_tenth_after_the_predicted_rounds_and_not_before(bench, K):
    growth, rounds = bench["growth"], 0
    ring, W = padded(load(f"cycle_graph(n={K})").A), np.cos(2 * math.pi * np.arange(K) / K)[:, None]
    enough = np.linalg.norm(W) / 10
    while np.linalg.norm(W) > enough * (1 + 1e-9):
        W, rounds = mix_all(ring, W), rounds + 1
    assert rounds == math.ceil(growth.rounds_to_a_tenth(growth.ring_rate(K)) - 1e-9)


@pytest.mark.parametrize("name", FAMILIES[:3])
def test_slots_made_without_a_matrix_are_those_of_the_matrix(bench, name):
    family = bench["growth"].FAMILIES[name]
    expected_weights = padded(load(family.topology(12)).A)
    for made, expected in zip(bench["agreement"].slots_of(family, 12), expected_weights, strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-15)


@pytest.mark.parametrize("round_", [0, 127, 128, 255, 256, 65535, 65536])
@pytest.mark.parametrize("values", [0, 5, 63, 64, 1761])
def test_a_message_is_its_header_its_state_and_the_framing_of_both(bench, values, round_):
    """Framing as ZMTP 3 has it, and as tests/network reads it off a connection: 2 bytes, or 9 above 255."""
    header, body = wire.pack("state", epoch=1, round=round_), bytes(4 * values)
    assert bench["growth"].header_bytes(round_) == len(header)
    framing = 2 + (9 if len(body) > 255 else 2)
    assert bench["growth"].message_bytes(values, round_) == len(header) + len(body) + framing


def test_the_time_of_a_round_by_hand(bench):
    """Two cores of three agents each, 1 ms and 0.5 ms for each of 4 neighbours: 9 ms. A card of 8 kbit/s: 24 messages.

    On a star of 7 there is one neighbour, 4.5 ms; then the hub's 2 ms and 6 times 0.25 ms, and two messages under way.
    """
    growth = bench["growth"]
    agent, hub, values = growth.Cost(1e-3, 0.5e-3), growth.Cost(2e-3, 0.25e-3), growth.SMALL
    fast, slow = growth.Hosts(2, 3, 1e12, 0.0), growth.Hosts(2, 3, 8e3, 0.0)
    even = growth.regular_round(100)
    assert growth.round_s(even, 100, values, agent, 0.0, fast) == pytest.approx(9e-3)
    sent_s = 24 * growth.message_bytes(values) / 1000
    assert growth.round_s(even, 100, values, agent, 0.0, slow) == pytest.approx(sent_s)
    late, star = growth.Hosts(2, 3, 1e12, 1e-2), growth.star_round(7)
    assert growth.round_s(star, 7, values, agent, 0.0, late, hub) == pytest.approx(4.5e-3 + 3.5e-3 + 2e-2)


def test_beats_take_their_share_of_a_processor_once_a_round_is_long(bench):
    """250 agents with 4 neighbours at 0.1 ms: beats take 0.1 s in every 0.25 s, so 0.3 s of work take 0.5 s."""
    growth = bench["growth"]
    r, agent = growth.regular_round(1000), growth.Cost(0.8e-3, 0.1e-3)
    crowd = growth.Hosts(1, 250, math.inf, 0.0)
    assert growth.round_s(r, 1000, growth.SMALL, agent, 0.0, crowd) == pytest.approx(0.5)
    assert growth.round_s(r, 1000, growth.SMALL, agent, 0.0, crowd._replace(agents_per_core=200)) == pytest.approx(0.24)
    assert growth.round_s(r, 1000, growth.SMALL, agent, 0.0, crowd._replace(agents_per_core=625)) == math.inf


def test_a_byte_more_costs_what_a_byte_costs(bench):
    growth = bench["growth"]
    hosts, r = growth.Hosts(1, 1, 1e15, 0.0), growth.ring_round(10)
    small, large = (growth.round_s(r, 10, v, growth.Cost(0.0, 0.0), 1e-9, hosts) for v in (growth.SMALL, growth.LARGE))
    assert large - small == pytest.approx(2 * 4 * (growth.LARGE - growth.SMALL) * 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "K", "rounds"), [("exponential", 10, 20), ("star", 6, 20)])
def test_real_processes_send_the_states_of_the_closed_form(bench, difnet, tmp_path, name, K, rounds):
    """Exactly, in run.json and in edges.csv; a hub that serves says goodbye to each client with one state more."""
    family = bench["growth"].FAMILIES[name]
    done = difnet("launch", "--topology", family.topology(K), *family.more, "--iterations", str(rounds), "--tasks", "1",
                  "--eval-tasks", "2", "--engine", "eager", "--name", "run", "--json", "--quiet")  # fmt: skip
    assert done.status == 0, done.err
    per_round, state = family.round(K), 4 * 1761
    with (tmp_path / "runs" / "run" / "edges.csv").open(newline="") as file:
        ends = [{name: int(figure) for name, figure in row.items()} for row in csv.DictReader(file)]
    goodbyes = K - 1 if name == "star" else 0
    states = rounds * per_round.states + goodbyes
    assert done.json()["bytes"]["payload"] == sum(end["payload_bytes"] for end in ends) == states * state
    assert len(ends) == per_round.messages
    headers = sum(len(wire.pack("state", epoch=1, round=i)) for i in range(rounds))
    for end in ends:
        others = end["messages"] - rounds  # to join, to part, and now and then a beat
        rest = end["wire_bytes"] - end["payload_bytes"] - headers
        assert others >= 2 and 6 * others <= rest <= 140 * others, end


def test_the_ring_is_what_networkx_calls_a_cycle(bench):
    """The words for a family of K agents make K agents, also where a generator counts otherwise."""
    assert all(len(load(bench["growth"].FAMILIES[name].topology(12)).graph) == 12 for name in FAMILIES)
    assert nx.is_isomorphic(load(bench["growth"].FAMILIES["ring"].topology(7)).graph, nx.cycle_graph(7))
    assert mixing_rate(load("star_graph(n=9)").served().A) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "column"), [
    ("agreement", "rounds, worst start"), ("growth", "rounds/s, 7 kB, 1 Gbit/s"), ("control", "µs each"),
    ("held", "memory, MiB"),
])  # fmt: skip
def test_the_tables_of_the_page_can_be_made(name, column, tmp_path):
    words = [sys.executable, REPOSITORY / "bench" / f"{name}.py", "--quick", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert table["name"] == name and table["question"].endswith("?") and any(column in row for row in table["rows"])
