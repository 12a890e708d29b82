"""Was every edge used as both its ends agreed, each round at most once, and nothing used that nobody sent? Pure.

Rounds are counted by both ends: each says which were the first and the last round of every epoch of an edge, and in how
many rounds it combined what came. That is enough to know of each round that it was used once, or missed.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from difnet.checking.evidence import Evidence
from difnet.checking.verdicts import Finding, judged, number_of
from difnet.record.events import Event, LinkHealed, NeighbourBack, NeighbourLost, Progress

SLACK_S = 2.0  # beyond a bound: looks at the links are a quarter of a second apart, or more on a busy machine
SILENT = "silent for "  # what an end says that has not heard the other; of one that has left it says "it left: …"
SIMULATED = "it was simulated: no edge could break, and no round be missed"


class Span(NamedTuple):
    """The rounds in which one end used one epoch of an edge."""

    first: int | None  # None: of two new processes, which say of their first epoch only how it ended
    used: int | None  # the last; None: the record does not say

    @property
    def rounds(self) -> int:
        """How many, as far as that is known."""
        return 0 if self.first is None or self.used is None else max(0, self.used + 1 - self.first)


Spans = dict[tuple[int, int], dict[int, Span]]  # (who, its neighbour) -> epoch -> the rounds


def epochs(known: Evidence) -> list[Finding]:
    """Epochs of an edge follow each other, share no round, and are the same rounds at both ends."""
    name = "epochs"
    if not known.is_launched or known.weights is None:
        return judged(name, "", [], SIMULATED if not known.is_launched else "topology.json has no A that can be read")
    wrong: list[tuple[str, str]] = []
    ends = looked = rounds = compared = torn = 0
    for number, life in enumerate(known.lives):
        is_last = number == len(known.lives) - 1
        replaced = known.replaced(life)
        spans = _spans(known, life, is_last, replaced, wrong)
        ends = max(ends, len(spans))
        looked += sum(map(len, spans.values()))
        rounds += sum(span.rounds for by_epoch in spans.values() for span in by_epoch.values())
        if known.in_step:
            for pair, epoch, one, other in _both_ends(known, spans, replaced):
                compared += 1
                if _is_torn(life, pair, epoch, one, other):
                    torn += 1
                elif one != other:
                    k, l = pair
                    wrong.append((f"edge {k}-{l}, epoch {epoch}",
                                  f"used in rounds {_text(one)} at {k} and {_text(other)} at {l}"))  # fmt: skip
    if known.in_step and (told := known.summary.get("one_sided_exchanges") or 0) > torn:
        wrong.append(("run.json", f"it tells of {told} one-sided exchanges"))
    what = (f"{number_of(looked, 'epoch')} at {number_of(ends, 'end')} of edges, {number_of(rounds, 'round')}; "
            f"{compared} compared with the other end")  # fmt: skip
    if torn:
        what += (f", {number_of(torn, 'exchange')} one-sided, as a connection broke, or fell silent, with a state on "
                 f"its way")  # fmt: skip
    return judged(name, what, wrong, _unseen(known, looked, rounds, ends))


def _unseen(known: Evidence, looked: int, rounds: int, ends: int) -> str:
    if not ends and not looked:
        return "" if not any(known.heard_by.values()) else "no end has told of its edges"
    if not rounds:
        return "no end has told of a round: the run goes on, was killed, or is of an older difnet, and lost no edge"
    return ""


def _spans(
    known: Evidence, life: list[Event], is_last: bool, replaced: set[int], wrong: list[tuple[str, str]]
) -> Spans:  # fmt: skip
    """The epochs of every end in one life, and, in `wrong`, what does not follow in them."""
    start, spans = known.first_round(life), Spans()
    current: dict[tuple[int, int], int] = {}
    for event in life:
        if not isinstance(event, NeighbourLost | NeighbourBack):
            continue
        pair = event.agent, event.neighbour
        now, at = spans.setdefault(pair, {1: Span(start, None)}), current.setdefault(pair, 1)
        where = _where(*pair)
        is_new = event.agent in replaced  # whose processes each count on their own
        if isinstance(event, NeighbourBack):
            if event.epoch <= at or (now[at].used is None and not is_new):
                when = "after" if event.epoch <= at else "during"
                wrong.append((where, f"epoch {event.epoch} began {when} epoch {at}"))
            used = [span.used for span in now.values() if span.used is not None]
            if used and event.first <= max(used):
                wrong.append((where, f"epoch {event.epoch} began with round {event.first}, and an earlier one had used "
                                     f"round {max(used)}"))  # fmt: skip
            current[pair], now[event.epoch] = event.epoch, Span(event.first, None)
        elif event.epoch == at and now[at].used is None:
            now[at] = Span(now[at].first, event.used)
        elif is_new:
            current[pair], now[event.epoch] = event.epoch, Span(None, event.used)
        else:
            wrong.append((where, f"epoch {event.epoch} ended {'twice' if event.epoch == at else f'during epoch {at}'}"))
    if is_last:
        _ended(known, spans, start, replaced, wrong)
    for (k, l), by_epoch in spans.items():
        for epoch, (first, last) in by_epoch.items():
            if first is not None and last is not None and last < first - 1 and l in known.heard_by.get(k, ()):
                wrong.append((_where(k, l), f"epoch {epoch} began with round {first}, and was used until {last}"))
    return spans


def _where(k: int, l: int) -> str:
    return f"agent {k}, edge to {l}"


def _ended(
    known: Evidence, spans: Spans, start: int, replaced: set[int], wrong: list[tuple[str, str]]
) -> None:  # fmt: skip
    """Take in what agents said at their end of the epoch that each edge was in."""
    for pair, end in known.edges.items():
        if end.epoch is None or end.used is None or not end.epoch:
            continue
        by_epoch = spans.setdefault(pair, {1: Span(start, None)})
        before = by_epoch.get(end.epoch)
        if before is None and pair[0] not in replaced:
            wrong.append((_where(*pair), f"it ended in epoch {end.epoch}, of which no beginning is recorded"))
        elif before is not None and before.used is not None and before.used != end.used and known.in_step:
            wrong.append((_where(*pair), f"epoch {end.epoch} was used until round {before.used} when it was lost, and "
                                         f"until {end.used} at the end"))  # fmt: skip
        is_first = before is not None and before.first == start and pair[0] in replaced and end.epoch == 1
        by_epoch[end.epoch] = Span(None if before is None or is_first else before.first, end.used)


def _both_ends(
    known: Evidence, spans: Spans, replaced: set[int]
) -> Iterator[tuple[tuple[int, int], int, Span, Span]]:  # fmt: skip
    """(edge, epoch, its rounds at one end, at the other) where both lived on and hear each other."""
    for (k, l), mine in spans.items():
        theirs = spans.get((l, k), {})
        if (k > l and theirs) or {k, l} & replaced or l not in known.heard_by[k] or k not in known.heard_by[l]:
            continue
        for epoch in sorted(mine.keys() | theirs.keys()):
            one, other = mine.get(epoch, Span(0, -1)), theirs.get(epoch, Span(0, -1))
            if one.used is not None and other.used is not None and (one.rounds or other.rounds):
                yield (k, l), epoch, one, other


def _is_torn(life: list[Event], pair: tuple[int, int], epoch: int, one: Span, other: Span) -> bool:
    """Whether one end used one round more, since what the other one needed for it went under with the connection.

    It broke, or it swallowed what was sent until both ends called the other silent; one that was stopped does not do
    that when it goes on. No protocol can spare both ends it, unless they wait for each other's word in every round.
    """
    why = {e.agent: e.reason for e in life
           if isinstance(e, NeighbourLost) and e.epoch == epoch and {e.agent, e.neighbour} == {*pair}}  # fmt: skip
    broke = any("connection broke" in reason for reason in why.values())
    broke = broke or (len(why) == 2 and all(reason.startswith(SILENT) for reason in why.values()))
    return broke and one.first == other.first and one.rounds + other.rounds == 2 * min(one.rounds, other.rounds) + 1


def _text(span: Span) -> str:
    return f"{span.first} to {span.used}" if span.rounds else "none"


def rounds(known: Evidence) -> list[Finding]:
    """In every round every neighbour was combined once or missed: then the weights of each round sum to one."""
    name = "rounds"
    if not known.is_launched or known.served:
        return judged(name, "", [], SIMULATED if not known.is_launched else
                      "a hub serves: it decides whom it hears in a round, and no agent counts all of them")  # fmt: skip
    local_steps, replaced = int(known.config.get("local_steps", 1)), known.replaced()
    wrong, agents, counted = [], 0, 0
    for k, hears in known.heard_by.items():
        told, last = [known.edges.get((k, l)) for l in sorted(hears)], known.last_word(k)
        combined = [end.combined for end in told if end and end.combined is not None]
        if k in replaced or last is None or not hears or len(combined) < len(hears):
            continue
        done = last.steps // local_steps + known.is_offline
        agents, counted = agents + 1, counted + sum(combined)
        if sum(combined) + last.missed != done * len(hears):
            wrong.append((f"agent {k}", f"{done} rounds, each with {number_of(len(hears), 'neighbour')}; combined "
                                        f"{sum(combined)}, missed {last.missed}"))  # fmt: skip
        wrong += [(_where(k, l), f"combined in {end.combined} of {done} rounds")
                  for l, end in zip(sorted(hears), told, strict=True)
                  if end and end.combined is not None and end.combined > done]  # fmt: skip
    what = f"{number_of(agents, 'agent')} that lived from start to end, {counted} states combined"
    return judged(name, what, wrong, "" if agents else _no_ends(known))


def _no_ends(known: Evidence) -> str:
    if known.weights is None:
        return "topology.json has no A that can be read"
    if not any(known.heard_by.values()):
        return "no agent hears another"
    return "edges.csv does not say what was combined: the run goes on, was killed, or is of an older difnet"


def exchanges(known: Evidence) -> list[Finding]:
    """Nobody combined more of a neighbour's states than that has sent; without faults, just as many."""
    size, wrong, looked, states, again = known.state_bytes, list[tuple[str, str]](), 0, 0, 0
    told = Counter[tuple[int, int]]()
    for event in known.of(LinkHealed, known.events):
        told[event.agent, event.neighbour] += event.resent
    disturbed = known.replaced() | {e.agent for e in known.of(NeighbourLost, known.events)}
    for (k, l), end in sorted(known.edges.items()):
        other = known.edges.get((l, k))
        if end.combined is None or other is None or not size or k in known.replaced() or l in known.replaced():
            continue
        sent, looked, states = other.payload_bytes // size - other.resent, looked + 1, states + end.combined
        again += other.resent
        is_exact = known.in_step and not {k, l} & disturbed and l in known.heard_by.get(k, ())
        if other.payload_bytes % size:
            wrong.append((_where(l, k), f"it sent {other.payload_bytes} bytes of states that have {size} each"))
        elif other.resent > told[l, k]:
            wrong.append((_where(l, k), f"it sent {number_of(other.resent, 'state')} again, and of connections that "
                                        f"broke and came back it told {told[l, k]}"))  # fmt: skip
        elif known.in_step and (end.combined > sent or (is_exact and end.combined != sent)):
            wrong.append((_where(k, l), f"it combined {end.combined} states, and {l} sent {sent}"))
    totals, words = _heard(known, wrong)
    what = f"{states} states over {number_of(looked, 'direction')} of edges, what {number_of(totals, 'agent')} heard"
    if again:
        what += f"; {again} sent again, as connections broke and came back"
    return judged("exchanges", what, wrong, "" if looked or totals else words or "no agent has told what it sent")


def _heard(known: Evidence, wrong: list[tuple[str, str]]) -> tuple[int, str]:
    """How many agents' bytes heard were compared with what their neighbours sent them; "" or why none."""
    if not known.edges:
        return 0, "there is no edges.csv: the run goes on, was killed, or has no edges"
    replaced, looked = known.replaced(), 0
    for k in range(known.agents):
        last = known.last_word(k)
        size = known.state_bytes
        to_me = {l: end.payload_bytes - end.resent * size for (l, other), end in known.edges.items() if other == k}
        if last is None or not to_me or replaced & {k, *to_me} or len(known.lives) > 1:
            continue
        looked += 1
        if last.heard_payload_bytes > sum(to_me.values()) and known.config.get("mode", "sync") == "sync":
            wrong.append((f"agent {k}", f"it heard {last.heard_payload_bytes} bytes of states, and was sent "
                          f"{sum(to_me.values())}"))  # fmt: skip
    return looked, "no agent and its neighbours lived from start to end"


def missed(known: Evidence) -> list[Finding]:
    """In synchronous rounds nobody is missed but who was lost, and the summary counts what the agents counted."""
    name = "missed"
    if not known.in_step:
        return judged(name, "", [], "a hub serves, or rounds are asynchronous: whoever is late is missed")
    told = {k: last for k in sorted(known.own) if (last := known.last_word(k))}
    lost = {e.agent for e in known.of(NeighbourLost, known.events)} | known.replaced()
    wrong = [(f"agent {k}", f"it missed {last.missed} exchanges, and lost no neighbour")
             for k, last in told.items() if last.missed and k not in lost]  # fmt: skip
    total = sum(last.missed for last in told.values())
    recorded = known.summary.get("missed_exchanges")
    if recorded is not None and not known.replaced() and len(known.lives) == 1 and len(told) == known.agents:
        wrong += [] if recorded == total else [("run.json", f"{recorded} missed exchanges, and its agents say {total}")]
    return judged(name, f"{number_of(len(told), 'agent')}, {total} missed; {len(lost)} of them lost somebody", wrong,
                  "" if told else "no agent has told of itself")  # fmt: skip


def waits(known: Evidence) -> list[Finding]:
    """No round was waited for beyond what silence_s and step_timeout_s allow."""
    silence_s, step_s = (known.config.get(n) for n in ("silence_s", "step_timeout_s"))
    told = {k: max((e.longest_wait_s for e in events if isinstance(e, Progress)), default=0.0)
            for k, events in known.own.items()}  # fmt: skip
    why = (SIMULATED if not known.is_launched else
           "a hub serves: its clients wait until they are called" if known.served else
           "rounds are asynchronous: one wait may follow another" if not known.in_step else
           "config.toml does not say how long a neighbour is waited for" if silence_s is None or step_s is None else
           "" if any(told.values()) or not any(known.heard_by.values()) else
           "no agent has told how long it waited: it is of an older difnet, or has not begun")  # fmt: skip
    if why or silence_s is None or step_s is None:
        return judged("waits", "", [], why)
    bound = 2 * step_s + silence_s + SLACK_S  # who beats and tells nothing is left behind after two steps
    wrong = [(f"agent {k}", f"it waited {longest:.1f} s for a round, and the bound is {bound:.1f} s")
             for k, longest in sorted(told.items()) if longest > bound]  # fmt: skip
    worst = max(told, key=told.__getitem__, default=None)
    longest = "" if worst is None else f", the longest {told[worst]:.2f} s at agent {worst}"
    return judged("waits", f"{number_of(len(told), 'agent')}{longest}; the bound is {bound:g} s", wrong)


def refusals(known: Evidence) -> list[Finding]:
    """Messages that did not belong were dropped and counted; here they are named. The summary counts the same."""
    told = {k: last for k in sorted(known.own) if (last := known.last_word(k))}
    counted = {k: last.refused for k, last in told.items() if last.refused}
    wrong: list[tuple[str, str]] = []
    recorded, total = known.summary.get("refused_messages"), sum(counted.values())
    if recorded is not None and not known.replaced() and len(known.lives) == 1 and recorded != total:
        wrong.append(("run.json", f"{recorded} refused messages, and its agents say {total}"))
    control = known.summary.get("refused_control") or 0
    named = f" ({_named(counted)})" if counted else ""
    what = f"{number_of(total, 'message')} between agents dropped as not belonging{named}, {control} to the launcher"
    return judged("refusals", what, wrong, "" if told else "no agent has told of itself")


def _named(counted: dict[int, int]) -> str:
    shown: Iterable[tuple[int, int]] = sorted(counted.items(), key=lambda item: -item[1])[:8]
    return ", ".join(f"{count} at agent {k}" for k, count in shown)
