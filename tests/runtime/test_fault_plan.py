"""A plan of faults is read whole or refused whole, and one that is drawn can be written down and repeated."""

import pytest

from difnet.errors import ConfigError
from difnet.runtime.fault_plan import DRAWN, KINDS, NUMBERS, Fault, draw, parse, to_toml

RING6 = [(0, 1), (0, 5), (1, 2), (2, 3), (3, 4), (4, 5)]


@pytest.mark.parametrize("seed", range(5))
def test_a_drawn_plan_is_the_same_once_more_and_after_it_was_written_down(seed):
    plan = draw(seed, 6, RING6, faults=40, seconds=600)
    assert draw(seed, 6, RING6, faults=40, seconds=600) == plan != draw(seed + 1, 6, RING6, faults=40, seconds=600)
    assert parse(to_toml(plan), 6, RING6) == plan


def test_drawn_faults_follow_each_other_and_kill_nobody_more_often_than_hosts_bear():
    plan = draw(3, 6, RING6, faults=200, seconds=600)
    assert {fault.kind for fault in plan} == set(DRAWN)
    ends = [(fault.at_s or 0) + fault.for_s for fault in plan]
    assert all(end <= after.at_s for end, after in zip(ends, plan[1:], strict=False))
    kills = [fault.agents[0] for fault in plan if fault.kind == "kill"]
    assert kills and max(map(kills.count, kills)) <= 2


def test_without_links_that_can_be_broken_none_is_drawn():
    assert not [fault for fault in draw(0, 6, [], faults=50) if KINDS[fault.kind].of == "edges"]


def test_edges_may_be_named_from_either_end():
    [fault] = parse('fault = [{at_iteration = 7, kind = "cut", edges = [[5, 0]], for_s = 1}]', 6, RING6)
    assert fault == Fault("cut", at_iteration=7, for_s=1.0, edges=((0, 5),))


@pytest.mark.parametrize(("table", "told"), [
    ('kind = "stpo"', "no kind 'stpo'; did you mean 'stop'?"),
    ('kind = "stop", at_s = 1, agents = [0]', "'stop' needs for_s: seconds"),
    ('kind = "stop", at_s = 1, at_iteration = 2, agents = [0], for_s = 1', "at_s or at_iteration, one of them"),
    ('kind = "slow", at_s = 1, agents = [0], for_s = 1, share = 1.5', "share is 1.5; it should be a number from"),
    ('kind = "slow", at_s = nan, agents = [0], for_s = 1, share = 0.5', "at_s is nan"),
    ('kind = "kill", at_s = true, agents = [0]', "at_s is True"),
    ('kind = "kill", at_iteration = 1.5, agents = [0]', "at_iteration is 1.5; it should be an iteration"),
    ('kind = "kill", at_s = 1, agents = 3', "agents is 3; it should be a list"),
    ('kind = "kill", at_s = 1, agents = ["a", 6]', "no agent 6; there are agents 0 to 5"),
    ('kind = "cut", at_s = 1, edges = [[0, 3]], for_s = 1', "no edge [0, 3]; the network has 0-1, 0-5"),
    ('kind = "cut", at_s = 1, edges = [[[0], 3]], for_s = 1', "no edge [[0], 3]"),
    ('kind = "cut", at_s = 1, agents = [0], for_s = 1', "'cut' takes no agents"),
])  # fmt: skip
def test_what_is_wrong_is_named_with_what_would_be_right(table, told):
    with pytest.raises(ConfigError) as caught:
        parse(f"fault = [{{{table}}}]", 6, RING6)
    assert told in str(caught.value)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        parse('name = "x"\nfault = [{kind = "kill", at_s = 1, agents = [9]}, {kind = "disk", at_s = -1, for_s = 0}]', 6,
              RING6, "p.toml")  # fmt: skip
    head, *errors = str(caught.value).splitlines()
    assert head == "p.toml has 4 errors:" and len(errors) == 4


@pytest.mark.parametrize("text", ["", "fault = 3", "fault = []", "fault = [1]", "[[fault", "[fault]\nkind = 'kill'"])
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(ConfigError, match=r"no TOML|fault"):
        parse(text, 6, RING6)


def test_every_number_that_a_kind_takes_is_one_that_is_checked():
    assert all({*kind.needs, *kind.may} <= NUMBERS.keys() for kind in KINDS.values())
