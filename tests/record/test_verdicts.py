"""Measurements wait for owners that test, and leave in order."""

import numpy as np
import pytest

from difnet.record.events import AgentLost, AgentReturned, Evaluated, Judged, Measured, Snapshot, Submitted, Validated
from difnet.record.final_scores import ScoredModel, of_all_owners
from difnet.record.tally import Tally

W = np.zeros(3, "f4")


def tally(judges: tuple[int, ...] = (7, 8)) -> Tally:
    """Two agents that learn, and judges."""
    g = Tally(2)
    g.verdicts.judges = judges
    return g


def submit(g: Tally, iteration: int, kind: type[Snapshot] = Submitted) -> list[Measured]:
    done = []
    for k in range(2):
        event = Submitted(k, iteration, 10, 2, 1) if kind is Submitted else Snapshot(k, iteration)
        done += g.measured(event, W, 1.0)
    return done


def judge(g: Tally, agent: int, iteration: int, loss: float) -> list[Measured]:
    g.verdicts.hear(Judged(agent, iteration, 2.0, {"1": loss}, {"0": 0.5, "1": loss / 10}))
    return g.judged()


def test_a_validation_is_the_figures_of_all_judges_and_what_comes_after_it_waits():
    g = tally()
    assert [e.iteration for e in submit(g, 10, Snapshot)] == [10]
    assert submit(g, 20) == [] and submit(g, 22, Snapshot) == []
    assert [(one.event.iteration, who) for one, who in g.verdicts.unasked()] == [(20, [7, 8])]
    assert g.verdicts.unasked() == []
    assert judge(g, 7, 20, 1.0) == [] and g.verdicts.missing() == [8]
    validated, after = judge(g, 8, 20, 4.0)
    assert isinstance(validated, Validated) and (validated.iteration, after.iteration) == (20, 22)
    assert validated.after == {"1": {"mean": 2.5, "median": 2.5, "worst": 4.0}}
    assert validated.accuracy["1"]["worst"] == 0.1, "of accuracies the least is the worst"
    assert validated.spent == {"payload_bytes": 20, "steps": 4, "uploads": 2}
    assert g.validations == [validated] and g.best is not None and g.best.iteration == 20


def test_a_judge_that_is_lost_is_not_waited_for():
    g = tally()
    submit(g, 20)
    judge(g, 7, 20, 1.0)
    g.died(AgentLost(8, "killed by SIGKILL", 0, ""), 0)
    [validated] = g.judged()
    assert isinstance(validated, Validated) and validated.after["1"]["worst"] == 1.0


def test_one_that_comes_back_is_not_waited_for_with_what_it_was_asked_before():
    """It died before it answered, or was away when others were asked; what it says later of a newer model counts."""
    g = tally()
    submit(g, 20)
    g.verdicts.unasked()
    g.died(AgentLost(8, "killed by SIGKILL", 0, ""), 0)
    submit(g, 40)
    assert [who for _, who in g.verdicts.unasked(g.lost)] == [[7]]
    g.came_back(AgentReturned(8, 1, 0, None, "none"))
    assert g.verdicts.missing() == [7]
    submit(g, 60)
    assert [who for _, who in g.verdicts.unasked(g.lost)] == [[7, 8]]
    assert [m.iteration for i in (20, 40) for m in judge(g, 7, i, 1.0)] == [20, 40]
    assert judge(g, 7, 60, 1.0) == [] and [m.iteration for m in judge(g, 8, 60, 3.0)] == [60]


def test_where_nobody_says_anything_no_validation_is_invented():
    g = tally()
    submit(g, 20)
    [measured] = g.judged(at_once=True)
    assert type(measured) is Measured and not g.validations


@pytest.mark.parametrize(("agent", "iteration"), [(3, 20), (7, 40)])
def test_the_word_of_whom_nobody_asked_counts_nothing(agent, iteration):
    g = tally((7,))
    submit(g, 20)
    assert judge(g, agent, iteration, 0.0) == [] and not g.validations


def test_agents_that_test_themselves_wait_for_nobody():
    g = tally(())
    events = [Evaluated(k, 20, 10, 2, 1, 2.0, {"1": 1.0 + k}, {}) for k in range(2)]
    assert g.measured(events[0], W, 1.0) == []
    [validated] = g.measured(events[1], W, 1.0)
    assert isinstance(validated, Validated) and validated.after["1"]["mean"] == 1.5


def test_the_tests_of_all_owners_are_put_together_in_their_order():
    figures = {k: np.full((2, 3, 1), float(k)) for k in (4, 2)}
    scored = [ScoredModel("m", 9, figures[k], np.ones(2), k) for k in (4, 2)]
    [one] = of_all_owners(scored)
    assert one.figures[:, 0, 0].tolist() == [2.0, 2.0, 4.0, 4.0] and one.samples.shape == (4,) and one.owner is None
