"""A connection that breaks and comes back changes nothing: real sockets, and a wire that breaks after so many bytes."""

import selectors
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from difnet.errors import DifnetError
from difnet.exchange import mending, wire
from difnet.exchange.knocking import Knock
from difnet.exchange.links import Link
from difnet.exchange.transport import Patience, Transport
from tests.conftest import until
from tests.exchange.test_transport import IDENTITY, PHI, Fake, M, folder, met  # noqa: F401

ROUNDS = 4
FOR_EVER = 10**9


class Wire(threading.Thread):
    """A wire between a dialler and a listener whose connections break after so many bytes each, both ways together.

    Args: `counts`, of the first connections that get so far (a knock does not); when all are used up, they last.
    """

    def __init__(self, port: int, counts: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self._server, self._port, self._counts = socket.create_server(("127.0.0.1", 0)), port, [*counts]
        self.endpoint = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.carried, self.breaks, self.is_over = 0, 0, False

    def run(self) -> None:
        self._server.settimeout(0.05)
        with self._server:
            while not self.is_over:
                try:
                    near, _ = self._server.accept()
                except TimeoutError:
                    continue
                near.settimeout(None)
                with near:
                    before = self.breaks
                    self._carry(near, self._counts[0] if self._counts else FOR_EVER)
                    if self.breaks > before:
                        del self._counts[0]

    def _carry(self, near: socket.socket, left: int) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._port), timeout=20)
        except OSError:
            return
        with far, selectors.DefaultSelector() as ends:
            ends.register(near, selectors.EVENT_READ, far)
            ends.register(far, selectors.EVENT_READ, near)
            while not self.is_over:
                for key, _ in ends.select(0.05):
                    if left == 0:
                        break
                    try:
                        piece = key.fileobj.recv(min(left, 65536))
                        key.data.sendall(piece)
                    except OSError:
                        return
                    if not piece:
                        return
                    left -= len(piece)
                    self.carried += len(piece)
                if left == 0:
                    self.breaks += 1
                    return


class Outcome:
    """What each of two agents heard and noticed."""

    def __init__(self) -> None:
        self.heard: list[list[float]] = [[], []]
        self.lost: list[str] = []
        self.back = 0
        self.healed: list[tuple[int, int]] = []  # (agent, states that it sent again)
        self.totals: list = [None, None]
        self.ended: list[BaseException | None] = [None, None]
        self.breaks = self.carried = 0


def through(
    counts: Sequence[int], rounds: int = ROUNDS, length: int = M, lag: int | None = None,
    run: Callable[[Transport, list[float]], None] | None = None, lag_of_1: int | None = None,
) -> Outcome:  # fmt: skip
    """Two agents, 1 dialling 0 through a wire that breaks, swap states for some rounds, or do what `run` says."""
    outcome, endpoints = Outcome(), dict[int, str]()
    ready = threading.Barrier(3, timeout=20)

    def swap(transport: Transport, heard: list[float]) -> None:
        me = transport.identity.agent
        for i in range(rounds):
            heard += [float(v[-1]) for v in transport.exchange(i, np.full(length, 100 * me + i, "f4")).values()]

    def be(k: int) -> None:
        with Transport(
            replace(IDENTITY, agent=k, length=length), [Link(1 - k, k == 1, True, True)],
            lag=lag_of_1 if k else lag, must=True,
            patience=Patience(5.0, 30.0), lost=lambda link, why: outcome.lost.append(why),
            back=lambda link: setattr(outcome, "back", outcome.back + 1),
            healed=lambda link, seconds, resent: outcome.healed.append((k, resent)),
        ) as transport:  # fmt: skip
            try:
                endpoints[k] = transport.bind("tcp://127.0.0.1:*")
                ready.wait()
                ready.wait()
                transport.join({0: wire_.endpoint, 1: endpoints[1]}, 20.0)
                (run or swap)(transport, outcome.heard[k])
                transport.farewell()
            except (DifnetError, AssertionError) as error:
                outcome.ended[k] = error
            outcome.totals[k] = transport.totals()

    agents = [threading.Thread(target=be, args=(k,)) for k in range(2)]
    for agent in agents:
        agent.start()
    ready.wait()
    wire_ = Wire(int(endpoints[0].rpartition(":")[2]), counts)
    wire_.start()
    ready.wait()
    for agent in agents:
        agent.join(60)
        assert not agent.is_alive(), "an agent hangs"
    wire_.is_over = True
    wire_.join(20)
    outcome.breaks, outcome.carried = wire_.breaks, wire_.carried
    return outcome


def assert_as_if_nothing_had_happened(outcome: Outcome, rounds: int = ROUNDS) -> None:
    assert outcome.ended == [None, None]
    assert outcome.heard == [[100.0 + i for i in range(rounds)], [float(i) for i in range(rounds)]]
    assert outcome.lost == [] and outcome.back == 0
    for totals in outcome.totals:
        counters = totals["counters"]
        assert counters["missed"] == counters["refused"] == counters["late"] == 0
        assert counters["states"] - counters["resent"] == rounds  # each was told once, however often it was sent


def cuts_of_all(step: int) -> Iterator[int]:
    """Byte counts from the first byte of the greeting to the last one of the goodbye."""
    whole = through([]).carried
    assert 500 < whole < 4000
    yield from range(0, whole, step)


def test_a_cut_after_any_byte_of_handshake_rounds_and_goodbye_changes_nothing():
    """Every 37th byte here; the slow one below takes more of them."""
    for count in cuts_of_all(37):
        outcome = through([count])
        assert_as_if_nothing_had_happened(outcome)
        assert outcome.breaks == 1, count


@pytest.mark.slow
def test_a_cut_after_every_ninth_byte_changes_nothing():
    for count in cuts_of_all(9):
        assert_as_if_nothing_had_happened(through([count]))


@pytest.mark.parametrize("lag", [None, 1])
def test_a_connection_that_breaks_again_and_again_in_the_middle_of_a_state_loses_none(lag):
    """States of 400 kB, so that every cut is within one, or within the handshake that would mend the cut before."""
    counts = [300_000, 90, 1_000_000, 250, 500, 1_300_000, 1, 900_000, 700_000, 150_000, 480, 850_000, 1_100_000]
    outcome = through(counts, rounds=12, length=100_000, lag=lag, lag_of_1=lag)
    assert outcome.lost == [] and outcome.ended == [None, None]
    least = len(counts) if lag is None else len(counts) // 2  # out of step, not every state is sent
    assert outcome.breaks >= least and outcome.healed and sum(resent for _, resent in outcome.healed) > 0
    if lag is None:
        assert_as_if_nothing_had_happened(outcome, 12)
    for k, totals in enumerate(outcome.totals):
        resent = totals["counters"]["resent"]
        assert totals["counters"]["payload_bytes"] == totals["counters"]["states"] * 400_000
        assert resent == totals["sent"][str(1 - k)]["resent"] <= sum(n for who, n in outcome.healed if who == k)


def test_a_hub_and_its_client_do_not_lose_a_call_or_its_answer():
    """The client has nothing to tell unless it is called; cut in calls, in answers and in the last word."""

    def run(transport: Transport, heard: list[float]) -> None:
        if transport.identity.agent == 0:
            for i in range(6):
                transport.tell(i, np.full(1000, i, "f4"), [1])
                heard += [float(v[0]) for v in transport.hear(i, [1], 1).values()]
            return transport.tell(6, np.full(1000, 6, "f4"), [1], last=True)
        last = -1
        while not transport.newest(0)[1]:
            [w] = transport.hear(last + 1).values()
            last = transport.newest(0)[0]
            heard.append(float(w[0]))
            if not transport.newest(0)[1]:
                transport.tell(last, w + 100)

    for counts in ([3000, 700, 2500, 6000, 5000, 4100], [5500, 5500, 5500, 5500, 5500], [9000, 9001, 9002]):
        outcome = through(counts, length=1000, run=run, lag_of_1=0)
        assert outcome.ended == [None, None] and outcome.breaks == len(counts) and outcome.lost == []
        assert outcome.heard == [[100.0 + i for i in range(6)], [float(i) for i in range(7)]]


def test_a_cut_while_one_end_computes_a_long_step_is_mended_by_its_helper_thread():
    """The step is longer than the grace: whoever waits for it meanwhile has nothing to complain of."""

    def run(transport: Transport, heard: list[float]) -> None:
        me = transport.identity.agent
        for i in range(2):
            if i == 1 and me == 0:
                assert not threading.Event().wait(2.5)  # the long step
            heard += [float(v[0]) for v in transport.exchange(i, np.full(1000, 100 * me + i, "f4")).values()]

    outcome = through([10_500], length=1000, run=run)
    assert outcome.heard == [[100.0, 101.0], [0.0, 1.0]] and outcome.lost == [] and outcome.breaks == 1


def test_a_cut_while_one_end_is_stopped_is_mended_when_it_goes_on(monkeypatch):
    """Neither its loop nor its helper thread gets at the sockets for half a second, as if it were stopped."""
    monkeypatch.setattr(mending, "GRACE_S", 20.0)

    def run(transport: Transport, heard: list[float]) -> None:
        me = transport.identity.agent
        for i in range(ROUNDS):
            if i == 1 and me == 0:
                with transport._lock:
                    assert not threading.Event().wait(0.5)
            heard += [float(v[0]) for v in transport.exchange(i, np.full(1000, 100 * me + i, "f4")).values()]

    outcome = through([10_500], length=1000, run=run)  # within the first state of round 1
    assert_as_if_nothing_had_happened(outcome)
    assert outcome.breaks == 1 and outcome.healed


def test_a_connection_that_never_carries_a_state_is_given_up(monkeypatch):
    """Every one breaks within the first state: rounds do not wait for it for ever."""
    monkeypatch.setattr(mending, "MOST_CUTS", 5)
    outcome = through([3000] * 40, rounds=1, length=100_000)
    assert outcome.ended == [None, None] and "the connection broke" in outcome.lost
    assert 5 <= outcome.breaks < 40 and outcome.totals[0]["counters"]["missed"] == 1


def test_who_does_not_come_back_in_time_is_left_behind_and_his_round_ends(met):  # noqa: F811
    """Nothing is known of where it listens, so nothing but the time says so."""
    transport, fake, lost = met
    fake.socket.close()
    assert transport.exchange(0, PHI) == {}
    assert lost == ["the connection broke"] and transport.counters.missed == 1


def test_who_is_dead_is_refused_at_once_and_not_waited_for(met, monkeypatch):  # noqa: F811
    """A port at which nobody listens any more; the time allowed would last longer than this test."""
    monkeypatch.setattr(mending, "GRACE_S", 600.0)
    transport, fake, lost = met
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport._links[1].endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        fake.socket.close()
        until(lambda: transport.service(0.02) or transport._links[1].cut_at, "the notice", 10)
        for _ in range(20):
            transport.service(0.02)
        assert lost == []
    until(lambda: transport.service(0.02) or lost, "the loss", 10)
    assert lost == ["the connection broke"]


def test_the_registrys_word_ends_the_waiting(met, monkeypatch):  # noqa: F811
    monkeypatch.setattr(mending, "GRACE_S", 600.0)
    transport, fake, lost = met
    fake.socket.close()
    until(lambda: transport.service(0.02) or transport._links[1].cut_at, "the notice", 10)
    transport.gone(1)
    transport.service(0.02)
    assert lost == ["the connection broke"]


def resume(fake: Fake, **otherwise) -> None:
    fake.say("resume", **(replace(IDENTITY, agent=1).greeting() | {"epoch": 1, "attempt": 2, "lacks": 1} | otherwise))


def test_nobody_takes_a_connection_over_that_stands_nor_another_epoch_or_process(met, folder):  # noqa: F811
    """While it stands it is to come again; what never was cannot go on."""
    transport, fake, lost = met
    stranger = Fake(f"ipc://{folder}/0")
    for wrong, what in (({}, "an edge"), ({"epoch": 2, "attempt": 3}, "an epoch"),
                        ({"incarnation": 1, "attempt": 4}, "an epoch"), ({"run": "another"}, "run")):  # fmt: skip
        refused = transport.counters.refused
        resume(stranger, **wrong)
        until(lambda before=refused: transport.service(0.02) or transport.counters.refused > before, "a refusal", 10)
        assert stranger.hear("reject")[0].fields["what"] == what
    stranger.socket.close()
    fake.say("state", (PHI + 1).tobytes(), epoch=1, round=0)
    assert transport.exchange(0, PHI)[1].tolist() == (PHI + 1).tolist() and lost == []


def test_what_one_end_lacks_is_sent_again_and_no_more(met, folder):  # noqa: F811
    """By hand: the neighbour has heard round 0 and not round 1; what it had said and we had read counts once."""
    transport, fake, lost = met
    for i in range(2):
        fake.say("state", (PHI + i).tobytes(), epoch=1, round=i)
        assert transport.exchange(i, PHI + 10 * i)[1].tolist() == (PHI + i).tolist()
    fake.socket.close()
    until(lambda: transport.service(0.02) or transport._links[1].cut_at, "the notice", 10)
    again = Fake(f"ipc://{folder}/0")
    resume(again, lacks=2)
    until(lambda: transport.service(0.02) or transport._links[1].cut_at is None, "the mending", 10)
    assert again.hear("resumed")[0].fields == {"epoch": 1, "lacks": 3}
    header, body = again.hear("state", "last")
    assert header == wire.Header("state", {"epoch": 1, "round": 1}) and body == (PHI + 10).tobytes()
    again.say("state", (PHI + 1).tobytes(), epoch=1, round=1)  # it was heard
    again.say("state", (PHI + 2).tobytes(), epoch=1, round=2)
    assert transport.exchange(2, PHI + 20)[1].tolist() == (PHI + 2).tolist()
    assert again.hear("state")[0].fields["round"] == 2
    assert transport.counters.resent == 1 and transport.counters.missed == 0 and lost == []
    again.socket.close()


def test_a_knock_tells_who_has_ended_from_who_is_busy_and_says_nothing_of_what_it_does_not_know(tmp_path):
    def answer(endpoint: str) -> bool:
        knock = Knock(endpoint)
        told = [knock.is_refused(n * 1.0) for n in range(50)]
        knock.close()
        return any(told)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        assert not answer(endpoint)  # nobody accepts, and yet it is listened to
    assert answer(endpoint)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{tmp_path}/3")
        assert answer(f"ipc://{tmp_path}/3")  # its path is left, as that of a killed process
        bound.listen(1)
        assert not answer(f"ipc://{tmp_path}/3")
    assert not answer(f"ipc://{tmp_path}/nobody") and not answer("")
