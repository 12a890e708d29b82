"""Into which pieces a network falls, and who was away when: cases worked out by hand."""

from collections.abc import Iterable, Iterator

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difnet.record.absences import Effect, Spell, course, effect, least_adapted_loss
from difnet.record.events import (
    AgentLost,
    AgentReturned,
    Event,
    Measured,
    NeighbourBack,
    NeighbourLost,
    Pieces,
    Pulse,
    Resumed,
    Validated,
)
from difnet.record.pieces import named, pieces, pieces_text, stretches_text
from difnet.record.tally import Tally

RING = [(k, (k + 1) % 6) for k in range(6)]


def lost(agent: int, neighbour: int, iteration: int, reason: str = "silent for 3.1 s") -> NeighbourLost:
    return NeighbourLost(agent, neighbour, iteration, iteration - 1, reason)


def back(agent: int, neighbour: int, first: int) -> NeighbourBack:
    return NeighbourBack(agent, neighbour, first - 2, first, 2)


def pulse(seconds: float) -> Pulse:
    return Pulse(seconds, 0, 0.0, None, 0, 0, 0, None, 6, 0)


def cut(edge: tuple[int, int], iteration: int) -> Iterator[Event]:
    """Both ends go on without each other."""
    yield lost(*edge, iteration)
    yield lost(*edge[::-1], iteration)


# Pieces


@given(st.integers(0, 12), st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11))), st.data())
def test_pieces_are_the_components_that_networkx_finds(agents, edges, data):
    """Of whatever graph, of which some edges are apart, at one end or at both, and some agents are lost."""
    edges = sorted(e for e in edges if max(e) < agents and e[0] != e[1])
    apart = {e[::turn] for e, turn in data.draw(st.sets(st.tuples(st.sampled_from(edges), st.sampled_from([1, -1]))))
             } if edges else set()  # fmt: skip
    living = sorted(data.draw(st.sets(st.sampled_from(range(agents))))) if agents else []
    graph = nx.Graph(edges)
    graph.add_nodes_from(range(agents))
    graph.remove_edges_from(apart)
    found = pieces(living, edges, apart)
    assert {frozenset(piece) for piece in found} == {*map(frozenset, nx.connected_components(graph.subgraph(living)))}
    assert found == sorted(map(sorted, found), key=lambda piece: (-len(piece), piece))


def test_pieces_are_said_shortly_also_of_a_big_network():
    ring = [(k, (k + 1) % 40) for k in range(40)]
    fallen = pieces(range(40), ring, {(12, 13), (27, 26)})
    assert pieces_text(fallen) == "in 2 pieces: 0-12, 27-39 | 13-26"
    assert named([[0, 1], [2, 3], *([k] for k in range(4, 1000, 2))])[2].endswith(" and 490 more")
    assert stretches_text(range(0, 100, 2)) == "0, 2, 4, 6, 8, 10, 12, 14 and 42 more"
    assert len(named([[2 * k, 2 * k + 1] for k in range(100)])) == 9


def test_the_tally_tells_pieces_once_when_they_change_and_when_they_are_joined():
    """A ring of which one edge is cut is whole; with a second one it is not."""
    g = Tally(6)
    for event in cut((0, 1), 7):
        g.left(event)
    assert g.fallen(lambda: RING, 1.0) == []
    for event in cut((3, 4), 9):
        g.left(event)
    assert g.fallen(lambda: RING, 2.0) == [Pieces(9, 2.0, [[0, 4, 5], [1, 2, 3]])]
    assert g.fallen(lambda: pytest.fail("nobody came or went"), 3.0) == []
    g.died(AgentLost(2, "killed by SIGKILL", 20, ""), None)
    assert g.fallen(lambda: RING, 4.0) == [Pieces(20, 4.0, [[0, 4, 5], [1], [3]])]
    g.came_back(AgentReturned(2, 1, 22, None, "the mean of agents 3"))
    g.joined(back(3, 4, 30))
    assert g.fallen(lambda: RING, 5.0) == [Pieces(30, 5.0, [[0, 4, 5], [1, 2, 3]])]
    g.joined(back(4, 3, 31))
    assert g.fallen(lambda: RING, 6.0) == [Pieces(31, 6.0, [[0, 1, 2, 3, 4, 5]])]


def test_nothing_is_told_of_agents_that_were_never_joined_nor_of_nobody():
    g = Tally(3)
    g.died(AgentLost(1, "killed by SIGKILL", 5, ""), None)
    assert g.fallen(list, 1.0) == []
    for k in (0, 2):
        g.died(AgentLost(k, "killed by SIGKILL", 5, ""), None)
    assert g.fallen(lambda: [(0, 1), (1, 2)], 2.0) == []


# Absences


def of(stream: Iterable[Event], edges=RING) -> list[tuple]:
    return [(a.agent, a.began, a.ended, a.why, a.model, a.left_out) for a in course(stream, edges).absences]


STOOD_STILL = [
    pulse(1.0), lost(3, 4, 50), pulse(2.0), lost(5, 4, 51), lost(4, 5, 40, "the connection broke"),
    lost(4, 3, 40, "the connection broke"), pulse(6.0), back(5, 4, 90), back(4, 5, 90),
    AgentReturned(4, 0, 92, 52, "the mean of agents 3, 5"), back(3, 4, 92), back(4, 3, 92), pulse(7.0),
]  # fmt: skip


def test_an_agent_is_away_from_when_its_last_neighbour_went_on_without_it_until_it_goes_on():
    """What it says itself when it wakes does not make its neighbours absent, nor do its edges count beside it."""
    told = course(STOOD_STILL, RING)
    assert of(STOOD_STILL) == [(4, 51, 92, "silent for 3.1 s", "the mean of agents 3, 5", 52)]
    assert told.partings == [] and not told.is_whole
    assert (told.absences[0].began_s, told.absences[0].ended_s) == (2.0, 6.0)


@pytest.mark.parametrize("returned_first", [True, False])
def test_an_agent_that_died_is_away_until_a_new_process_is_it(returned_first):
    """In whatever order its neighbours and the launcher say so."""
    words = [back(1, 2, 64), back(3, 2, 66)]
    words.insert(0 if returned_first else 2, AgentReturned(2, 1, 64, None, "the mean of agents 1, 3"))
    stream = [lost(1, 2, 60), AgentLost(2, "killed by SIGKILL; a new process takes its place", 58, ""), lost(3, 2, 61),
              *words]  # fmt: skip
    assert of(stream) == [(2, 58, 64, "killed by SIGKILL", "the mean of agents 1, 3", None)]


def test_who_never_comes_back_is_away_to_the_end_and_says_how_it_ended():
    stream = [lost(1, 2, 60), lost(3, 2, 61), AgentLost(2, "left behind by its neighbours: silent for 3.1 s", 60, "")]
    assert of(stream) == [(2, 61, None, "left behind by its neighbours: silent for 3.1 s", "", None)]


def test_who_waits_between_two_that_are_away_is_not_away():
    stream = [lost(2, 3, 10), lost(4, 3, 10), lost(0, 5, 10), lost(4, 5, 10)]
    assert [a[0] for a in of(stream)] == [3, 5]


def test_two_neighbours_that_stood_still_together_are_away_for_what_they_left_out():
    stream = [lost(0, 1, 10), lost(3, 2, 11), back(0, 1, 40), back(1, 0, 40),
              AgentReturned(1, 0, 40, 29, "its own model"), AgentReturned(2, 0, 41, 29, "its own model")]  # fmt: skip
    assert [(k, began, ended) for k, began, ended, *_ in of(stream)] == [(1, 11, 40), (2, 12, 41)]


def test_a_cut_parts_neighbours_of_whom_nobody_is_away():
    stream = [*cut((0, 1), 30), *cut((3, 4), 31), Pieces(31, 5.0, [[0, 4, 5], [1, 2, 3]]), back(0, 1, 80),
              Pieces(85, 9.0, [[0, 1, 2, 3, 4, 5]]), back(1, 0, 80)]  # fmt: skip
    told = course(stream, RING)
    assert told.absences == []
    assert [(p.edge, p.began, p.ended) for p in told.partings] == [((0, 1), 30, 80), ((3, 4), 31, None)]
    assert told.in_pieces == [(31, 85)]


def test_a_second_absence_is_another_one():
    again = [lost(3, 4, 200), lost(5, 4, 201)]
    assert [(began, ended) for _, began, ended, *_ in of([*STOOD_STILL, *again])] == [(51, 92), (201, None)]


def test_a_run_that_goes_on_has_everybody_and_forgets_what_it_does_again():
    """Away at 51 and, undone, at 201; resumed after 70, when it was away still."""
    stream = [*STOOD_STILL, lost(3, 4, 200), lost(5, 4, 201), Resumed(70, 300, 8.0, 131), lost(1, 2, 90),
              lost(3, 2, 90)]  # fmt: skip
    told = course(stream, RING)
    assert [(a.agent, a.began, a.ended) for a in told.absences] == [(4, 51, 70), (2, 90, None)]
    assert told.resumed == [70]


def test_without_edges_those_who_died_are_known_and_others_by_what_they_left_out():
    stream = [AgentLost(2, "exit status 1", 5, ""), AgentReturned(4, 0, 92, 52, "the mean of agents 3, 5")]
    assert [a[:3] for a in of(stream, edges=())] == [(2, 5, None), (4, 40, 92)]


def test_an_effect_is_what_was_measured_before_highest_while_and_after():
    """Also where measurements came late; nothing where there was none; the end of the run has no afterwards."""
    told = [Measured(i, 0.0, x, {}) for i, x in ((0, 1.0), (40, 2.0), (20, 5.0), (10, 9.0), (30, 4.0))]
    error = lambda e: e.disagreement  # noqa: E731
    assert effect(Spell(10, 30, 0, 0, ""), told, error) == Effect(1.0, 9.0, 4.0)
    assert effect(Spell(11, 19, 0, 0, ""), told, error) == Effect(9.0, None, 5.0)
    assert effect(Spell(25, None, 0, None, ""), told, error) == Effect(5.0, 4.0, None)
    assert effect(Spell(10, 30, 0, 0, ""), told, least_adapted_loss) == Effect(None, None, None)


def test_the_loss_is_that_after_the_fewest_inner_steps():
    event = Validated(5, 0.0, 0.1, {}, {"mean": 9.0}, {"10": {"mean": 1.0}, "5": {"mean": 2.0}}, {}, {})
    assert least_adapted_loss(event) == 2.0
