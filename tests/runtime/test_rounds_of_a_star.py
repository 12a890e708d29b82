"""A star's rounds, by hand: the hub's and the client's side over a line that only remembers, and over real sockets."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest
import torch
import zmq

from difnet import agent
from difnet.algorithms import Server as Step
from difnet.algorithms import State
from difnet.config import Server
from difnet.errors import DifnetError
from difnet.exchange import wire
from difnet.exchange.links import Link
from difnet.exchange.transport import Patience, Transport
from difnet.runtime.star import Call, Client, Hub
from difnet.workload.server_rounds import ServerRounds
from tests.conftest import until
from tests.exchange.test_transport import IDENTITY, Fake, M

ALIKE = {1: 1, 2: 1, 3: 1}
LOCAL = "tcp://127.0.0.1:*"


def rounds(samples: dict[int, int] = ALIKE, **settings: object) -> ServerRounds:
    """The rounds of three clients, of agent 0's star."""
    return ServerRounds(Server(**settings), sorted(samples), samples, lambda k, i: float(samples[k]), seed=0)


def message(value: float) -> np.ndarray:
    """What a client sends: the same value M times."""
    return np.full(M, value, "f4")


# --- over a line that only remembers -------------------------------------------------------------------------------


class Said(NamedTuple):
    """What the hub told."""

    round: int
    value: float
    to: list[int]
    last: bool


@dataclass
class Paper:
    """A line on which in each round that is written down here these clients answer with these values."""

    answers: dict[int, dict[int, float]]
    active: list[int] = field(default_factory=lambda: [1, 2, 3])
    said: list[Said] = field(default_factory=list)
    asked: list[tuple] = field(default_factory=list)

    offered: list[float] = field(default_factory=list)
    drawn: dict[int, int] = field(default_factory=dict)  # what clients tell with their answers

    def offer(self, state: np.ndarray) -> None:
        self.offered.append(float(state[0]))

    def await_return(self, patience_s: float, count: int = 1) -> bool:
        return len(self.active) >= count

    def samples(self, neighbour: int) -> int | None:
        return self.drawn.get(neighbour)

    def tell(self, round_: int, phi: np.ndarray, to: Sequence[int], last: bool = False) -> None:
        self.said.append(Said(round_, float(phi[0]), list(to), last))

    def hear(self, round_: int, of: Sequence[int], wanted: int | None = None, deadline_s: float | None = None) -> dict:
        self.asked.append((round_, list(of), wanted, deadline_s))
        return {k: message(value) for k, value in self.answers.get(round_, {}).items() if k in of}


def adding(w: float) -> tuple[Step, State]:
    """A server that adds the mean to its launch model."""
    start = torch.full((M,), w)
    return Step(lambda w: State(w, w, ()), lambda s, mean: s._replace(w=s.w + mean)), State(start, start, ())


def models(path: list[State]) -> list[float]:
    """The first value of each launch model; all its values are alike."""
    assert all((state.w == state.w[0]).all() for state in path)
    return [float(state.w[0]) for state in path]


def serve(hub: Hub, w: float, iterations: int) -> list[float]:
    """The launch models after each round of a server that adds the mean."""
    server, state = adding(w)
    path: list[State] = []
    agent.serve(server, state, hub.ask, iterations=range(iterations), observe=lambda i, s, info: path.append(s) or True)
    return models(path)


def test_the_hub_calls_with_its_newest_model_and_steps_along_the_mean():
    line = Paper({0: {1: 1.0, 2: 2.0, 3: 6.0}, 1: {1: 0.0, 2: 0.0, 3: 3.0}})
    hub = Hub(rounds(deadline_s=7.0), line)
    assert serve(hub, 10.0, 2) == [13.0, 14.0]
    assert line.said == [Said(0, 10.0, [1, 2, 3], False), Said(1, 13.0, [1, 2, 3], False)]
    assert line.asked == [(0, [1, 2, 3], 3, 7.0), (1, [1, 2, 3], 3, 7.0)]
    assert (hub.heard, hub.answered, hub.abandoned) == (6, 6, 0)


def test_answers_weigh_as_much_as_their_clients_hold_samples():
    """By hand: (1 * 1 + 2 * 2 + 5 * 7) / 8; and without the third, renormalised, (1 + 4) / 3."""
    line = Paper({0: {1: 1.0, 2: 2.0, 3: 7.0}, 1: {1: 1.0, 2: 2.0}})
    hub = Hub(rounds({1: 1, 2: 2, 3: 5}, aggregation="samples"), line)
    first, second = hub.ask(0, torch.zeros(M)), hub.ask(1, torch.zeros(M))
    assert first.tolist() == [5.0] * M
    np.testing.assert_allclose(second.numpy(), 5 / 3, rtol=1e-6)


def test_where_clients_alone_know_their_samples_their_answers_say_them():
    """What is told counts, and not what the hub would have taken: (1 * 2 + 2 * 1 + 6 * 1) / 4."""
    line = Paper({0: {1: 1.0, 2: 2.0, 3: 6.0}}, drawn={1: 2, 2: 1, 3: 1})
    assert Hub(rounds(aggregation="samples"), line).ask(0, torch.zeros(M)).tolist() == [2.5] * M
    assert Hub(rounds(), line).ask(0, torch.zeros(M)).tolist() == [3.0] * M, "unless it weighs all alike"


def test_a_round_with_too_few_answers_changes_nothing_and_is_counted():
    line = Paper({0: {2: 4.0}, 1: {1: 1.0, 3: 2.0}, 2: {}})
    hub = Hub(rounds(quorum=2), line)
    assert serve(hub, 10.0, 3) == [10.0, 11.5, 11.5]
    assert (hub.abandoned, hub.heard, hub.answered) == (2, 3, 3)


def test_with_fewer_clients_than_the_quorum_the_hub_gives_up():
    """Nobody is called: no answer could come to anything."""
    line = Paper({}, active=[3])
    with pytest.raises(DifnetError, match="1 clients are left, and a round needs 2 answers"):
        Hub(rounds(quorum=2), line).ask(0, torch.zeros(M))
    assert line.said == []


def test_after_an_offline_start_the_hub_begins_with_the_mean_and_numbers_its_rounds_from_one():
    line = Paper({0: {1: 3.0, 3: 5.0}, 1: {1: 1.0, 2: 1.0, 3: 1.0}})
    hub = Hub(rounds(), line, first=1)
    assert hub.open().tolist() == [4.0] * M
    hub.ask(0, torch.full((M,), 4.0))
    hub.dismiss(1, torch.full((M,), 5.0))
    assert line.said == [Said(1, 4.0, [1, 2, 3], False), Said(2, 5.0, [1, 2, 3], True)]
    assert (hub.heard, hub.answered) == (5, 3)  # a local model is a message, but no answer
    with pytest.raises(DifnetError, match="no client sent its local model"):
        Hub(rounds(), Paper({}), first=1).open()


def test_the_last_call_goes_to_everybody_who_is_there():
    """Also to those who were not called in the last round, but not to those who are lost."""
    line = Paper({0: {2: 1.0}}, active=[2, 3])
    hub = Hub(rounds(clients=1), line)
    hub.ask(0, torch.zeros(M))
    hub.dismiss(1, torch.ones(M))
    assert len(line.said[0].to) == 1 and line.said[1] == Said(1, 1.0, [2, 3], True)


@pytest.mark.parametrize("first", [0, 1])
def test_a_client_jumps_to_the_newest_call_and_ends_with_the_last_one(first):
    """Rounds 0, 1 and 5, two local steps each: it fits from the call's own model, on the tasks of the round's steps."""
    calls = [Call(first + i, message(w), last) for i, w, last in [(0, 1, False), (1, 2, False), (5, 3, False),
                                                                 (9, 4, True)]]  # fmt: skip
    waited: list[int] = []
    answered: list[tuple[int, float]] = []
    stepped: list[tuple[int, float]] = []

    def wait(after: int) -> Call:
        waited.append(after)
        return calls.pop(0)

    def adapt(state: State, tasks: int) -> tuple[State, dict]:
        stepped.append((tasks, float(state.w[0])))
        return state._replace(phi=state.w + 0.25), {}

    client = Client(wait, lambda i, phi, samples: answered.append((i, float(phi[0]))), first)
    state = agent.run(
        adapt, lambda s, w: s._replace(w=w), State(client.w, client.w, ()), lambda step: step, client.share,
        iterations=client.rounds(), local_steps=2, combine_first=False, observe=lambda *told: True,
    )  # fmt: skip
    assert stepped == [(0, 1.0), (1, 1.25), (2, 2.0), (3, 2.25), (10, 3.0), (11, 3.25)]
    assert answered == [(first, 1.5), (first + 1, 2.5), (first + 5, 3.5)]
    assert waited == [first - 1, first, first + 1, first + 5]
    assert client.iteration == 9 and state.w.tolist() == [4.0] * M


def test_a_client_that_comes_later_counts_as_the_hub_does():
    """Round 7 of a hub whose first round was number 1 on the wire is iteration 7 of the client, on that one's tasks."""
    waited: list[int] = []

    def wait(after: int) -> Call:
        waited.append(after)
        return Call(1 + 7, message(2.0), False)

    client = Client(wait, lambda i, phi, samples: None, first=1, start=5)
    assert waited == [5] and next(client.rounds()) == 7 == client.iteration


def test_a_client_that_is_called_for_nothing_but_the_end_does_no_step():
    client = Client(lambda after: Call(3, message(2.0), True), lambda i, phi, samples: pytest.fail("it answered"))
    assert list(client.rounds()) == [] and client.w.tolist() == [2.0] * M and client.iteration == 3


# --- over real sockets, with clients that speak the protocol by hand -----------------------------------------------

Script = Callable[[int, int], Sequence[tuple[int, np.ndarray]]]  # (client, the call's round) -> states it then sends


class Clients(threading.Thread):
    """Three clients that answer calls by a script, and otherwise only beat; after a while they hang up for good."""

    def __init__(self, endpoint: str, script: Script) -> None:
        super().__init__(daemon=True)
        self.calls: list[tuple[int, str, int, float]] = []  # (client, kind, round, value) of each call
        self._endpoint, self._script, self._ending = endpoint, script, threading.Event()

    def run(self) -> None:
        fakes = {k: Fake(self._endpoint) for k in ALIKE}
        of, poller = {fake.socket: k for k, fake in fakes.items()}, zmq.Poller()
        for k, fake in fakes.items():
            poller.register(fake.socket, zmq.POLLIN)
            fake.greet(agent=k)
        hang_up_at = time.monotonic() + 30
        while not self._ending.is_set() and time.monotonic() < hang_up_at:
            for socket, _ in poller.poll(20):
                self._answer(of[socket], fakes[of[socket]])
        for fake in fakes.values():
            fake.socket.close()

    def end(self) -> None:
        self._ending.set()
        self.join(10)
        assert not self.is_alive(), "the clients hang"

    def _answer(self, k: int, fake: Fake) -> None:
        header, body = fake.socket.recv_multipart()
        kind, fields = wire.unpack(header)
        if kind == "welcome":
            fake.say("joined", **fields)
        elif kind == "beat":
            fake.say("beat", phase="waiting", age_ms=0, told=0)
        elif kind == "bye":
            fake.say("seen")
        elif kind in ("state", "last"):
            self.calls.append((k, kind, fields["round"], float(np.frombuffer(body, "f4")[0])))
            for round_, state in self._script(k, fields["round"]) if kind == "state" else ():
                fake.say("state", state.tobytes(), epoch=fields["epoch"], round=round_)


@dataclass
class Star:
    """A hub with its transport, its clients, and why it left whom behind."""

    hub: Hub
    transport: Transport
    clients: Clients
    lost: list[tuple[int, str]]

    def ask(self, i: int) -> float | None:
        """The mean of a round, whose values are all alike."""
        mean = self.hub.ask(i, torch.full((M,), float(i)))
        assert mean is None or (mean == mean[0]).all()
        return None if mean is None else float(mean[0])


@contextmanager
def star(run: ServerRounds, script: Script, silence_s: float = 10.0) -> Iterator[Star]:
    """Agent 0 and its three clients, joined."""
    lost: list[tuple[int, str]] = []
    links = [Link(k, False, True, True) for k in run.clients]
    with Transport(IDENTITY, links, patience=Patience(silence_s, 30.0),
                   lost=lambda link, why: lost.append((link.neighbour, why))) as transport:  # fmt: skip
        clients = Clients(transport.bind(LOCAL), script)
        clients.start()
        try:
            transport.join({}, 10.0)
            yield Star(Hub(run, transport), transport, clients, lost)
        finally:
            clients.end()


def test_a_late_answer_is_counted_and_nothing_of_it_is_averaged_in():
    """Client 3 answers the first call only after the second: the first round goes on at its deadline without it."""

    def script(k: int, i: int) -> list[tuple[int, np.ndarray]]:
        if k == 3:
            return [] if i == 0 else [(0, message(1e6)), (i, message(9.0))]
        return [(i, message(float(k)))]

    with star(rounds(deadline_s=1.0), script) as s:
        assert s.ask(0) == 1.5
        assert s.ask(1) == 4.0
        c = s.transport.counters
        assert (c.late, c.refused, c.missed, s.lost) == (1, 0, 1, [])
        assert c.heard_payload_bytes == 5 * M * 4 and (s.hub.heard, s.hub.abandoned) == (5, 0)


def test_of_more_clients_than_are_needed_the_first_to_answer_are_taken():
    """All three are called, two suffice; there is no deadline, so waiting for the third would be for ever."""
    silent = {0: 1, 1: 3}

    def script(k: int, i: int) -> list[tuple[int, np.ndarray]]:
        late = [(0, message(1e6))] if (k, i) == (1, 1) else []
        return late if silent[i] == k else [*late, (i, message(float(k)))]

    with star(rounds(clients=2, oversample=1), script) as s:
        assert s.ask(0) == 2.5
        assert s.ask(1) == 1.5
        assert s.transport.counters.late == 1 and s.lost == []
        until(lambda: len(s.clients.calls) == 6, "the calls of two rounds", 10)
        assert sorted((k, i) for k, _, i, _ in s.clients.calls) == [(k, i) for k in ALIKE for i in (0, 1)]


def test_of_more_answers_than_are_needed_no_more_are_taken_though_all_are_there():
    with star(rounds(clients=2, oversample=1), lambda k, i: [(i, message(float(k)))]) as s:
        s.transport.tell(0, message(0.0))
        newest = s.transport.newest
        until(lambda: s.transport.service(0.05) or all(newest(k)[0] == 0 for k in ALIKE), "three answers", 10)
        heard = s.transport.hear(0, [1, 2, 3], wanted=2)
        assert {k: float(state[0]) for k, state in heard.items()} == {1: 1.0, 2: 2.0}
        assert s.transport.counters.heard_payload_bytes == 2 * M * 4
        assert s.ask(1) in (1.5, 2.0, 2.5)  # of any two of the three


def test_a_round_that_misses_its_quorum_by_its_deadline_is_abandoned_and_the_next_one_is_held():
    def script(k: int, i: int) -> list[tuple[int, np.ndarray]]:
        return [] if i == 0 and k > 1 else [(i, message(float(k)))]

    with star(rounds(quorum=2, deadline_s=1.0), script) as s:
        assert [s.ask(0), s.ask(1)] == [None, 2.0]
        assert s.hub.abandoned == 1 and s.lost == []


@pytest.mark.parametrize("bad", [
    np.array([1, 2, np.nan, 4, 5], "f4"), np.ones(M - 1, "f4"),
], ids=["not a number", "too short"])  # fmt: skip
def test_what_is_no_state_is_refused_counted_and_never_averaged_in(bad):
    """Client 2 sends it and then only says that it waits: the round ends without it, and it is left behind, told why.

    Without a deadline nothing else would end the round: the client is alive.
    """

    def script(k: int, i: int) -> list[tuple[int, np.ndarray]]:
        return [(i, bad if k == 2 else message(float(k)))]

    with star(rounds(), script, silence_s=1.0) as s:
        assert s.ask(0) == 2.0  # of 1 and 3
        assert s.lost == [(2, "what it sent was refused, and nothing better came")]
        assert s.transport.counters.refused == 1 and s.transport.active == [1, 3]
        assert s.ask(1) == 2.0
        assert {k for k, _, i, _ in s.clients.calls if i == 1} == {1, 3}


@pytest.mark.slow
def test_a_client_that_sends_a_good_state_after_a_bad_one_stays():
    """What was wrong is forgiven with the next state that is right: round 2 alone outlasts the hub's patience."""

    def script(k: int, i: int) -> list[tuple[int, np.ndarray]]:
        garbled = [(i, np.full(M, np.nan, "f4"))] if k == 2 else []
        return [*garbled, (i, message(float(k)))] if i != 2 or k != 3 else []

    with star(rounds(deadline_s=1.5), script, silence_s=1.0) as s:
        assert [s.ask(i) for i in range(4)] == [2.0, 2.0, 1.5, 2.0]
        assert s.lost == [] and s.transport.counters.refused == 4


def test_the_last_call_tells_every_client_the_launch_model():
    with star(rounds(clients=1), lambda k, i: [(i, message(1.0))]) as s:
        s.ask(0)
        s.hub.dismiss(1, torch.full((M,), 8.0))
        s.transport.farewell()
    assert sorted(call for call in s.clients.calls if call[1] == "last") == [(k, "last", 1, 8.0) for k in ALIKE]


@contextmanager
def called_on(lost: Callable[[Link, str], None] = lambda link, why: None) -> Iterator[tuple[Transport, Fake, int]]:
    """A client, its hub that speaks the protocol by hand, and the epoch of their link."""
    with Transport(IDENTITY, [Link(1, False, True, True)], patience=Patience(10.0, 30.0), lag=0, must=True,
                   lost=lost) as client:  # fmt: skip
        hub = Fake(client.bind(LOCAL))
        joining = threading.Thread(target=client.join, args=({}, 10.0))
        joining.start()
        hub.greet()
        header, _ = hub.hear("welcome")
        hub.say("joined", **header.fields)
        joining.join(10)
        yield client, hub, header.fields["epoch"]
        hub.socket.close()


def test_a_slow_client_takes_the_newest_call_of_several():
    """Three calls came while it was busy, and then an old one again; of the last one it learns that it is the last."""
    with called_on() as (client, hub, epoch):
        for i in (0, 1, 2, 1):
            hub.say("state", message(i).tobytes(), epoch=epoch, round=i)
        until(lambda: client.service(0.05) or client.counters.refused, "the old call", 10)
        assert client.hear(1)[1].tolist() == [2.0] * M and client.newest(1) == (2, False)
        hub.say("state", message(5).tobytes(), epoch=epoch, round=5)
        hub.say("last", message(6).tobytes(), epoch=epoch, round=6)
        assert client.hear(6)[1].tolist() == [6.0] * M and client.newest(1) == (6, True)
        assert (client.counters.refused, client.counters.late) == (1, 0)


def test_a_client_whose_hub_is_gone_is_told_of_no_call():
    """Its wait ends as soon as the connection breaks, and with nothing to go on from."""
    reasons: list[str] = []
    with called_on(lambda link, why: reasons.append(why)) as (client, hub, epoch):
        hub.say("state", message(0).tobytes(), epoch=epoch, round=0)
        assert list(client.hear(0)) == [1]
        hub.socket.close()
        assert client.hear(1) == {} and reasons == ["the connection broke"]
