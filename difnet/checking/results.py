"""Did a run come to what its summary says: agents back, measurements whole, consensus reached again? Pure."""

import statistics
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from difnet.checking.evidence import Evidence
from difnet.checking.verdicts import Finding, judged, number_of
from difnet.maths.mixing import iterations_at
from difnet.record.events import (
    AgentLost,
    AgentReturned,
    Event,
    Measured,
    NeighbourBack,
    NeighbourLost,
    Ready,
    RunStarted,
    Validated,
)  # fmt: skip

REPLACED = "a new process takes its place"  # in the words about a process that had a successor
MOST_MISSING = 8  # iterations in one sentence
FACTOR = 10.0  # by which the consensus error may be larger after a heal than before the fault: see docs/reliability.md
FEWEST = 3  # measurements of which a median is taken


def agents(known: Evidence) -> list[Finding]:
    """Who was lost, who returned and who stayed apart is the same in run.json and in the events; "done" means done."""
    name, s = "agents", known.summary
    if not known.has_ended:
        lost, returned = _lost(known), {e.agent for e in known.of(AgentReturned)}
        return judged(name, "", [], f"the run has no summary yet; by its events {len(lost)} are lost now, and "
                                    f"{len(returned)} have returned")  # fmt: skip
    lost, apart = _lost(known), _apart(known)
    pairs: list[tuple[str, Any, Any]] = [
        ("lost_agents", s.get("lost_agents"), sorted(lost)),
        ("returned_agents", s.get("returned_agents"), sorted({e.agent for e in known.of(AgentReturned)})),
        ("edges_apart", s.get("edges_apart") and [*map(list, s["edges_apart"])], apart),
    ]
    wrong = [("run.json", f"{name} is {ours}, and by the events {theirs}")
             for name, ours, theirs in pairs if ours is not None and ours != theirs]  # fmt: skip
    if s.get("state") == "done":
        wrong += _undone(known, lost, apart)
    what = (f"state {s.get('state')}, {number_of(known.agents, 'agent')}: {len(lost)} lost, {len(pairs[1][2])} "
            f"returned, {number_of(len(apart), 'edge')} apart")  # fmt: skip
    return judged(name, what, wrong, "events.jsonl has nothing that can be read" if not known.events else "")


def _undone(known: Evidence, lost: set[int], apart: Sequence[Sequence[int]]) -> list[tuple[str, str]]:
    """Why a run that says that it is done is not."""
    s, most, asked = known.summary, known.config.get("max_lost"), known.config.get("iterations")
    wrong = []
    if most is not None and len(lost) > most:
        wrong.append(("run.json", f"done, though {number_of(len(lost), 'agent')} were lost and max_lost is {most}"))
    if apart and most is not None:
        wrong.append(("run.json", f"done, though edges stayed apart: {[*map(list, apart)]}"))
    reached = (s.get("target") or {}).get("reached")
    if asked is not None and s.get("iterations") is not None and s["iterations"] < asked and not reached:
        wrong.append(("run.json", f"done after {s['iterations']} iterations of {asked}"))
    return wrong


def _lost(known: Evidence) -> set[int]:
    """Who was lost for good in the last life: nobody took his place, or nobody came back."""
    last = known.lives[-1]
    found: set[int] = set()
    for k in {e.agent for e in known.of(AgentLost, last)}:
        deaths = [e for e in known.of(AgentLost, last) if e.agent == k]
        returns = [e for e in known.of(AgentReturned, last) if e.agent == k and e.incarnation]
        succeeded = [e for e in deaths if REPLACED in e.status]
        if len(deaths) > len(succeeded) or len(returns) < len(succeeded):
            found.add(k)
    return found


def _apart(known: Evidence) -> list[list[int]]:
    """The edges at which somebody went on alone to the end, though both lived on."""
    apart: dict[tuple[int, int], Event] = {}
    for event in known.lives[-1]:
        if isinstance(event, NeighbourLost):
            apart[event.agent, event.neighbour] = event
        elif isinstance(event, NeighbourBack):
            apart.pop((event.agent, event.neighbour), None)
    lost = _lost(known)
    return sorted([*pair] for pair in {(min(e), max(e)) for e in apart if not lost & {*e}})


def measurements(known: Evidence) -> list[Finding]:
    """Measurements are finite, their iterations rise, none is there twice, and none is missing of their schedule."""
    name, told = "measurements", known.of(Measured)
    if not told:
        return judged(name, "", [], "none was made yet")
    wrong: list[tuple[str, str]] = []
    for before, after in pairwise(told):
        if after.iteration <= before.iteration:
            again = "twice" if after.iteration == before.iteration else f"after {before.iteration}"
            wrong.append(("events.jsonl", f"iteration {after.iteration} was measured {again}"))
    for event in told:
        if endless := _not_finite(event):
            wrong.append((f"iteration {event.iteration}", f"{endless} is not finite"))
    wrong += _off_schedule(known, told)
    ended = known.summary.get("iterations")
    if known.summary.get("state") == "done" and told[-1].iteration != ended:
        wrong.append(("events.jsonl", f"the last measurement is of iteration {told[-1].iteration}, the run ended after "
                                      f"{ended}"))  # fmt: skip
    tested = sum(isinstance(e, Validated) for e in told)
    return judged(name, f"{len(told)}, {tested} of them validations, iterations {told[0].iteration} to "
                        f"{told[-1].iteration}", wrong)  # fmt: skip


def _not_finite(event: Measured) -> str:
    """What of a measurement has no finite value; "" if all has."""
    if event.disagreement is None or None in event.distances.values():
        return "a distance from the centroid"
    if isinstance(event, Validated):
        figures = [event.before, *event.after.values(), *event.accuracy.values()]
        return "a validation's figure" if any(None in f.values() for f in figures) else ""
    return ""


def _off_schedule(known: Evidence, told: Sequence[Measured]) -> list[tuple[str, str]]:
    """What is missing of the schedule that the run's configuration and its first measurements follow."""
    every, wrong = known.config.get("eval_every"), list[tuple[str, str]]()
    if not every:
        return wrong
    often = known.config.get("measure_every") or (
        every // 10 if any(e.iteration == every // 10 for e in told) and every >= 10 else every)  # fmt: skip
    for step, what, there in (
        (every, "validation", {e.iteration for e in told if isinstance(e, Validated)}),
        (often, "measurement", {e.iteration for e in told}),
    ):
        missing = [i for i in range(0, told[-1].iteration + 1, step) if i not in there]
        if missing:
            more = f" and {len(missing) - MOST_MISSING} more" if len(missing) > MOST_MISSING else ""
            which = ", ".join(map(str, missing[:MOST_MISSING])) + more
            wrong.append(("events.jsonl", f"no {what} of iteration {which}, and one is made every {step}"))
    return wrong


def consensus(known: Evidence) -> list[Finding]:
    """After the last heal the agents are as near to each other again as they were before the first fault.

    Both are medians: of the later half of what was measured before, and of the last quarter of what was measured after.
    They may differ by FACTOR, since gradients differ as training goes on. Who is farther apart is given the iterations
    that A needs to bring a disagreement down to a tenth, before that is called wrong.
    """
    name, told = "consensus", [e for e in known.of(Measured) if e.disagreement is not None]
    first, last = _disturbed(known, told)
    if known.served:
        return judged(name, "", [], "a hub serves: there is one launch model, and nothing to agree about")
    if not told:
        return judged(name, "", [], "nothing was measured")
    if first is None or last is None:
        return judged(name, f"no fault is recorded; {number_of(len(told), 'measurement')}, the last consensus error "
                            f"{told[-1].disagreement:.3g}", [])  # fmt: skip
    if _lost(known) or _apart(known):
        return judged(name, "", [], "agents or edges were lost for good: the network is another one since")
    before = [e for e in told if e.iteration < first]
    after = [e for e in told if e.iteration >= last]
    before, after = before[len(before) // 2 :], after[-max(FEWEST, len(after) // 4) :]
    if min(len(before), len(after)) < FEWEST:
        return judged(name, "", [], f"{len(before)} measurements before the first fault (iteration {first}) and "
                                    f"{len(after)} after the last heal ({last}) are too few; measure more often with "
                                    f"--set measure_every=N")  # fmt: skip
    was, now = (statistics.median(e.disagreement for e in part) for part in (before, after))
    what = (f"median consensus error {was:.3g} before the first fault (iterations {before[0].iteration} to "
            f"{before[-1].iteration}), {now:.3g} after the last heal ({after[0].iteration} to {after[-1].iteration}, "
            f"healed at {last})")  # fmt: skip
    if now <= FACTOR * was:
        return judged(name, what, [])
    needed = iterations_at(float(known.topology.get("mixing_rate") or 0.0), 0.1)
    if needed is None or before[0].iteration < needed or after[0].iteration < last + needed:
        return judged(name, "", [], f"{what}: A needs {needed} iterations to bring a disagreement down to a "
                                    f"tenth, before and after, and there are fewer")  # fmt: skip
    return judged(name, what, [("events.jsonl", f"{now / was:.3g} times as far apart as before, and {FACTOR:g} are "
                                                f"allowed")])  # fmt: skip


def _disturbed(known: Evidence, told: Sequence[Measured]) -> tuple[int | None, int | None]:
    """The iterations of the first fault and of the last heal; None where there was none."""
    begun, ended = [*known.faults], [*known.heals]
    started, ready = known.of(RunStarted), known.of(Ready)
    if known.chaos and started and ready and len(known.lives) == 1:  # faults by a clock: between two measurements
        zero = datetime.fromisoformat(started[0].started_at).timestamp() + ready[0].seconds
        for at, phase in known.chaos:
            if phase == "begun":
                begun.append(max((e.iteration for e in told if e.seconds <= at - zero), default=0))
            else:
                ended.append(min((e.iteration for e in told if e.seconds > at - zero), default=told[-1].iteration + 1
                                 if told else 0))  # fmt: skip
    first = min(begun, default=None)
    return first, None if first is None else max([*ended, max(begun)])
