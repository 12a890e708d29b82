"""Links between agents, two at a time: real sockets, one end sometimes a fake that speaks the protocol by hand."""

import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zmq

from difnet.errors import DifnetError, Diverged
from difnet.exchange import wire
from difnet.exchange.links import Link
from difnet.exchange.sockets import DIALLING, LISTENING, Sockets, options
from difnet.exchange.transport import Identity, Patience, Transport
from tests.conftest import until

M = 5
IDENTITY = Identity(0, 0, "run", "graph", "weights", "model", "float32", M)
PHI = np.arange(M, dtype="f4")


def at(transport: Transport, folder: Path) -> str:
    """Let a transport listen in a folder; where."""
    return transport.bind(f"ipc://{folder}/{transport.identity.agent}")


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A short path: a socket's has at most 107 bytes."""
    import shutil
    import tempfile

    path = Path(tempfile.mkdtemp())
    yield path
    shutil.rmtree(path)


def pair(
    folder: Path, run: Callable[[Transport], object], patience: Patience = Patience(5.0, 30.0),  # noqa: B008
    lag: int | None = None, ways: tuple[bool, bool] = (True, True),
) -> list:  # fmt: skip
    """Agents 0 and 1, joined, each running `run` in a thread of its own; what each returned, or raised.

    `ways` says whether 0 hears 1, and 1 hears 0.
    """
    results: list = [None, None]
    listening = threading.Barrier(2, timeout=20)

    def be(k: int) -> None:
        link = Link(1 - k, k == 1, ways[k], ways[1 - k])
        with Transport(replace(IDENTITY, agent=k), [link], patience=patience, lag=lag) as transport:
            try:
                at(transport, folder)
                listening.wait()
                transport.join({1 - k: f"ipc://{folder}/{1 - k}"}, 10.0)
                results[k] = run(transport)
                transport.farewell()
            except DifnetError as error:
                results[k] = error

    threads = [threading.Thread(target=be, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
        assert not thread.is_alive(), "an agent hangs"
    return results


class Fake:
    """A neighbour that dials agent 0 and says what it is told to."""

    def __init__(self, endpoint: str) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(endpoint)

    def say(self, kind: str, body: bytes = b"", **fields) -> None:
        self.socket.send_multipart([wire.pack(kind, **fields), body])

    def hear(self, *kinds: str) -> tuple[wire.Header, bytes]:
        """The next message of one of these kinds."""
        while self.socket.poll(5000):
            header, body = self.socket.recv_multipart()
            if (read := wire.unpack(header)).kind in kinds:
                return read, body
        raise AssertionError(f"heard none of {kinds}")

    def greet(self, **otherwise) -> None:
        fresh = {"epoch": 0, "attempt": 1, "round": 0}
        self.say("hello", **(replace(IDENTITY, agent=1).greeting() | fresh | otherwise))


@pytest.fixture
def met(folder: Path) -> Iterator[tuple[Transport, Fake, list[str]]]:
    """Agent 0 joined to a fake neighbour 1; and the list of reasons for which it leaves neighbours behind."""
    lost: list[str] = []
    link = Link(1, False, True, True)
    with Transport(IDENTITY, [link], patience=Patience(1.0, 5.0), lost=lambda link, why: lost.append(why)) as transport:
        fake = Fake(at(transport, folder))
        joining = threading.Thread(target=transport.join, args=({}, 10.0))
        joining.start()
        fake.greet()
        header, _ = fake.hear("welcome")
        fake.say("joined", **header.fields)
        joining.join(10)
        yield transport, fake, lost
        fake.socket.close()


def test_the_sockets_have_the_options_of_the_table(folder):
    """Read back from the sockets themselves."""
    sockets = Sockets(7044)
    sockets.bind(f"ipc://{folder}/0")
    sockets.dial(1, f"ipc://{folder}/1")
    try:
        for socket, extra in ((sockets._router, LISTENING), (sockets._dealers[1], DIALLING)):
            for option, value in {**options(7044), **extra}.items():
                if option != zmq.ROUTER_MANDATORY:  # libzmq lets nobody read that one: the next test shows it
                    assert socket.getsockopt(option) == value, option
        assert options(10)[zmq.MAXMSGSIZE] >= 4096 and options(2**25)[zmq.MAXMSGSIZE] == 2**25 + 1024
        assert sockets.send(b"nobody", [b"header", b""]).value == "gone"
        assert sockets.send(1, [b"header", b""]).value == "full"  # not connected: nothing waits for a newborn
    finally:
        sockets.close()


class Relay(threading.Thread):
    """A wire between one dialler and one listener that counts the bytes it carries, each way.

    What is sent after one end has closed is still read from the other, so that nothing is left uncounted.
    """

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._server, self._port, self.carried = socket.create_server(("127.0.0.1", 0)), port, [0, 0]
        self._server.settimeout(20)
        self.endpoint = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"

    def run(self) -> None:
        """Carry until both ends have closed."""
        with self._server, selectors.DefaultSelector() as open_ends:
            dialler, _ = self._server.accept()
            with dialler, socket.create_connection(("127.0.0.1", self._port), timeout=20) as listener:
                for way, (source, target) in enumerate([(listener, dialler), (dialler, listener)]):
                    open_ends.register(source, selectors.EVENT_READ, (way, target))
                while open_ends.get_map():
                    for key, _ in open_ends.select(20):
                        way, target = key.data
                        if not self._carry(key.fileobj, way, target):
                            open_ends.unregister(key.fileobj)

    def _carry(self, source: socket.socket, way: int, target: socket.socket) -> bool:
        try:
            chunk = source.recv(65536)
        except ConnectionError:
            return False
        self.carried[way] += len(chunk)
        try:
            target.sendall(chunk)
        except OSError:
            pass  # the other end has closed already
        return bool(chunk)


@pytest.mark.parametrize("length", [5, 63, 64, 2000, 2**15])
def test_the_bytes_that_are_counted_are_the_bytes_on_the_wire_less_its_framing(length):
    """Read off a real TCP connection, each way: 107 bytes to begin with, then 4 or 11 beyond each message's own.

    ZMTP 3: a greeting of 64 bytes; a READY command of 43, which are 2 of framing, 6 of "READY" with its length, 22 of
    Socket-Type (both DEALER and ROUTER have six letters) and 13 of an empty Identity. Then each of a message's two
    frames, the header and the state, has flags of 1 byte and a size of 1, or of 8 where the frame is longer than 255.
    """
    totals: list = [None, None]
    long_frames = 7 * (length * 4 > 255)
    ready, endpoints = threading.Barrier(3, timeout=20), {}

    def be(k: int) -> None:
        identity = replace(IDENTITY, agent=k, length=length)
        with Transport(identity, [Link(1 - k, k == 1, True, True)], patience=Patience(20.0, 30.0)) as transport:
            endpoints[k] = transport.bind("tcp://127.0.0.1:*")
            ready.wait()  # both listen
            ready.wait()  # so does the relay between them
            transport.join({0: relay.endpoint}, 20.0)
            for i in range(20):
                transport.exchange(i, np.full(length, i, "f4"))
            transport.farewell()
        totals[k] = transport.counters

    agents = [threading.Thread(target=be, args=(k,)) for k in range(2)]
    for agent in agents:
        agent.start()
    ready.wait()
    relay = Relay(int(endpoints[0].rpartition(":")[2]))
    relay.start()
    ready.wait()
    for thread in (*agents, relay):
        thread.join(40)
        assert not thread.is_alive(), "an agent or the wire hangs"
    for k, sent in enumerate(totals):
        assert sent.states == 20 and sent.payload_bytes == 20 * length * 4 < sent.wire_bytes
        assert relay.carried[k] == 64 + 43 + sent.wire_bytes + 4 * sent.messages + long_frames * sent.states


def test_two_agents_swap_states_round_by_round(folder):
    def run(transport: Transport) -> list[float]:
        me = transport.identity.agent
        return [float(transport.exchange(i, PHI + 10 * me + i)[1 - me][0]) for i in range(50)]

    assert pair(folder, run) == [[10.0 + i for i in range(50)], [float(i) for i in range(50)]]


def test_big_states_travel_without_a_copy_and_unharmed(folder):
    """A megabyte each way, thirty times: what arrives is what was handed over, not what came after."""
    big = replace(IDENTITY, length=2**18)
    results: list = [None, None]
    listening = threading.Barrier(2, timeout=20)

    def be(k: int) -> None:
        with Transport(replace(big, agent=k), [Link(1 - k, k == 1, True, True)], patience=Patience()) as transport:
            at(transport, folder)
            listening.wait()
            transport.join({1 - k: f"ipc://{folder}/{1 - k}"}, 10.0)
            heard = [transport.exchange(i, np.full(2**18, i + k, "f4"))[1 - k] for i in range(30)]
            results[k] = [(float(h.min()), float(h.max())) for h in heard]
            transport.farewell()

    threads = [threading.Thread(target=be, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert results == [[(i + 1.0, i + 1.0) for i in range(30)], [(float(i), float(i)) for i in range(30)]]


def test_a_one_way_edge_carries_states_one_way_and_the_pace_both_ways(folder):
    """The one that is only heard cannot run ahead: its rounds are answered with empty states."""

    def run(transport: Transport) -> tuple[int, int]:
        heard = [transport.exchange(i, PHI) for i in range(20)]
        return sum(len(h) for h in heard), transport.counters.payload_bytes

    assert pair(folder, run, ways=(True, False)) == [(20, 0), (0, 20 * M * 4)]


def test_asynchronous_rounds_take_the_newest_and_never_an_older_than_allowed(folder):
    """Agent 1 is held up before every round by agent 0's event: agent 0 is never more than two rounds ahead."""
    ahead: list[int] = []
    done = [0, 0]

    def run(transport: Transport) -> int:
        me = transport.identity.agent
        for i in range(60):
            transport.exchange(i, PHI + i)
            done[me] = i
            ahead.append(abs(done[0] - done[1]))
        return done[me]

    assert pair(folder, run, lag=2) == [59, 59]
    assert max(ahead) <= 4  # two rounds of lag, and one round under way at each end


@pytest.mark.parametrize("name", ["run", "topology", "weights", "model", "dtype", "length", "protocol"])
def test_a_mismatch_is_refused_with_both_values_named(folder, name):
    """The dialling end hears what is expected and what it has; it does not try for ever."""
    other = {"length": 7, "dtype": "float64", "protocol": "3.0"}.get(name, "another")
    with Transport(IDENTITY, [Link(1, False, True, True)], patience=Patience()) as transport:
        fake = Fake(at(transport, folder))
        fake.greet(**{name: other})
        until(lambda: transport.service(0.05) or transport.counters.refused, "the hello", 10)
        header, _ = fake.hear("reject")
        fake.socket.close()
        expected = str(IDENTITY.greeting()[name])
        assert header.fields == {"what": name, "expected": expected, "got": str(other)}
        assert transport.counters.refused == 1


def test_the_refused_end_stops_and_says_both_values(folder):
    results: list[str] = []
    with Transport(IDENTITY, [Link(1, False, True, True)], patience=Patience()) as listener:
        endpoint = at(listener, folder)

        def be() -> None:
            stranger = replace(IDENTITY, agent=1, weights="other")
            with Transport(stranger, [Link(0, True, True, True)], patience=Patience()) as dialler:
                try:
                    dialler.join({0: endpoint}, 10.0)
                except DifnetError as error:
                    results.append(str(error))

        thread = threading.Thread(target=be)
        thread.start()
        while thread.is_alive():
            listener.service(0.05)
    [said] = results
    assert "agent 0 refuses agent 1" in said and "weights" in said and "'other'" in said and "'weights'" in said


def test_nobody_waits_for_ever_for_a_neighbour_that_is_not_there(folder):
    with Transport(IDENTITY, [Link(1, True, True, True)], patience=Patience()) as transport:
        with pytest.raises(DifnetError, match=r"waited 0 s in vain for its neighbours \{1: 'ipc://"):
            transport.join({1: f"ipc://{folder}/nobody"}, 0.2)


def test_what_does_not_belong_into_a_round_is_refused_and_counted(met):
    """Another epoch, a round too early, a wrong length, not a number, garbage, a replay: no round takes any of them."""
    transport, fake, lost = met
    good, bad = (PHI + 1).tobytes(), np.full(M, np.nan, "f4").tobytes()
    for epoch, round_, body in [(2, 0, good), (1, 2, good), (1, 0, good[:-4]), (1, 0, bad)]:
        fake.say("state", body, epoch=epoch, round=round_)
    fake.socket.send_multipart([b"\xff" * 40, b""])
    fake.socket.send_multipart([wire.pack("seen")])
    fake.say("welcome", epoch=1, round=0)
    fake.say("state", good, epoch=1, round=0)
    fake.say("state", (PHI + 9).tobytes(), epoch=1, round=0)  # a replay
    fake.say("state", good, epoch=1, round=1)
    assert transport.exchange(0, PHI)[1].tolist() == (PHI + 1).tolist()
    assert transport.exchange(1, PHI)[1].tolist() == (PHI + 1).tolist()
    assert transport.counters.refused == 8 and lost == []


def test_strangers_cannot_speak_for_a_neighbour(met, folder):
    """A second connection that claims to be agent 1 is refused, whatever it says."""
    transport, fake, lost = met
    stranger = Fake(f"ipc://{folder}/0")
    stranger.greet()
    stranger.say("state", (PHI + 9).tobytes(), epoch=1, round=0)
    stranger.say("bye", reason="done")
    fake.say("state", (PHI + 1).tobytes(), epoch=1, round=0)
    assert transport.exchange(0, PHI)[1].tolist() == (PHI + 1).tolist()
    until(lambda: transport.service(0.05) or transport.counters.refused == 3, "three refusals", 10)
    stranger.socket.close()
    assert lost == []


def test_a_silent_neighbour_is_left_behind_in_time_and_told(met):
    transport, fake, lost = met
    assert transport.exchange(0, PHI) == {}
    [reason] = lost
    assert reason.startswith("silent for 1.") and transport.lost == [1] and transport.counters.missed == 1
    assert "left behind" in fake.hear("bye")[0].fields["reason"]


@pytest.mark.slow
def test_a_neighbour_that_waits_is_not_late(met):
    """As long as it beats it is waited for: three seconds here, with a patience of one."""
    transport, fake, lost = met
    beats = [0]

    def beat() -> None:
        while beats[0] < 12:
            fake.hear("beat")
            fake.say("beat", phase="waiting", age_ms=0, told=0)
            beats[0] += 1
        fake.say("state", PHI.tobytes(), epoch=1, round=0)

    beating = threading.Thread(target=beat)
    beating.start()
    assert list(transport.exchange(0, PHI)) == [1]
    beating.join(10)
    assert lost == [] and beats[0] == 12


def test_a_neighbour_stuck_in_one_step_is_left_behind(met):
    """Its beats flow and say how long the step lasts already."""
    transport, fake, lost = met
    fake.say("beat", phase="computing", age_ms=6000, told=0)
    assert transport.exchange(0, PHI) == {}
    assert lost == ["in one step for 6 s"]


def test_a_neighbour_that_ends_its_process_is_noticed_by_sending(met):
    transport, fake, lost = met
    fake.socket.close()
    assert transport.exchange(0, PHI) == {}
    assert lost == ["the connection broke"]


def test_beats_flow_while_a_long_step_computes(folder):
    """One end computes for longer than the other end's patience, without touching its sockets."""

    def run(transport: Transport) -> int:
        if transport.identity.agent == 0:
            threading.Event().wait(1.5)  # the long step
        return len(transport.exchange(0, PHI))

    assert pair(folder, run, patience=Patience(silence_s=0.8, step_s=30.0)) == [1, 1]


def test_a_state_that_is_not_finite_never_leaves(met):
    transport, _, _ = met
    with pytest.raises(Diverged, match=r"iteration 0.*--outer-lr"):
        transport.exchange(0, np.full(M, np.inf, "f4"))
    assert transport.counters.payload_bytes == 0


def returning(
    folder: Path, transport_of_0: Transport, heard_of_1: list, done: threading.Event
) -> threading.Thread:
    """Agent 1 as a new process: it joins, says where the network is, and swaps one state with agent 0."""

    def be() -> None:
        with Transport(replace(IDENTITY, agent=1, incarnation=1), [Link(0, True, True, True)],
                       patience=Patience(5.0, 30.0)) as transport:  # fmt: skip
            at(transport, folder)
            transport.join({0: f"ipc://{folder}/0"}, 10.0)
            back = transport.returned(10.0)
            assert back is not None
            heard_of_1.extend([back.round, back.states[0].tolist(),
                               transport.exchange(back.round, PHI + 100)[0].tolist()])  # fmt: skip
            transport.farewell()
        done.set()

    thread = threading.Thread(target=be)
    thread.start()
    return thread


def test_a_new_process_of_a_neighbour_joins_where_the_others_are_and_is_given_what_they_have(met, folder):
    """The first one breaks off in round 3; its successor is told round and state, and both use the edge from there."""
    transport, fake, lost = met
    for i in range(3):
        fake.say("state", (PHI + 1).tobytes(), epoch=1, round=i)
        assert list(transport.exchange(i, PHI + i)) == [1]
    fake.socket.close()
    assert transport.exchange(3, PHI + 3) == {} and lost == ["the connection broke"]
    transport.offer(PHI + 3)
    heard_of_1: list = []
    done = threading.Event()
    thread = returning(folder, transport, heard_of_1, done)
    assert transport.await_return(10.0) and transport.returned(10.0) is None  # it is where it is: nothing to catch up
    assert transport.exchange(4, PHI + 4)[1].tolist() == (PHI + 100).tolist()
    until(lambda: transport.service(0.02) or done.is_set(), "its goodbye", 10)
    thread.join(10)
    assert heard_of_1 == [4, (PHI + 3).tolist(), (PHI + 4).tolist()]
    assert transport.counters.refused == 0 and transport.lost == []


def test_whoever_was_left_behind_comes_back_in_a_new_epoch_and_both_use_the_edge_from_the_same_round(folder):
    """Agent 0 takes agent 1 for dead while that one holds still, goes on alone for some rounds, and waits for nobody.

    Agent 1 notices nothing of its own silence; it comes back to the round that agent 0 is in, and is given its state.
    """
    silent, ahead, results = threading.Event(), threading.Event(), {}
    patience = Patience(0.8, 30.0)
    listening = threading.Barrier(2, timeout=20)

    def be(k: int) -> None:
        back: list[int] = []
        with Transport(replace(IDENTITY, agent=k), [Link(1 - k, k == 1, True, True)], patience=patience,
                       back=lambda link: back.append(link.first)) as transport:  # fmt: skip
            at(transport, folder)
            listening.wait()
            transport.join({1 - k: f"ipc://{folder}/{1 - k}"}, 10.0)
            assert list(transport.exchange(0, PHI + k)) == [1 - k]
            if k == 1:
                with transport._lock:  # neither the loop nor the helper thread gets at the sockets: as if stopped
                    silent.set()
                    assert ahead.wait(20)
                transport.offer(PHI + 1)
                for i in range(1, 4):  # what agent 0 had told it before is still there to be heard
                    transport.exchange(i, PHI + 1)
                    if came := transport.returned(10.0):
                        break
                assert came is not None
                results["came back to"] = came.round, came.states[0].tolist()
                first = came.round
            else:
                assert silent.wait(20)
                alone = [len(transport.exchange(i, PHI)) for i in range(1, 5)]
                transport.offer(PHI + 50)
                assert sum(alone) == 0 and transport.lost == [1]
                ahead.set()
                assert transport.await_return(10.0)
                first = 5
            heard = [transport.exchange(i, PHI + i)[1 - k][0] for i in range(first, first + 5)]
            results[k] = first, [float(h) for h in heard], back
            transport.farewell()

    threads = [threading.Thread(target=be, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
        assert not thread.is_alive(), "an agent hangs"
    assert results["came back to"] == (5, (PHI + 50).tolist())
    assert results[0] == results[1] == (5, [5.0, 6.0, 7.0, 8.0, 9.0], [5])


def test_a_neighbour_that_beats_and_says_it_has_told_is_left_behind(met):
    """Its beats flow, they claim the round was told, and the state never comes: that wait has an end as well."""
    transport, fake, lost = met
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.2):
            fake.say("beat", phase="waiting", age_ms=0, told=1)

    beating = threading.Thread(target=beat)
    beating.start()
    assert transport.exchange(0, PHI) == {}
    over.set()
    beating.join(10)
    assert lost == ["it says that it has told round 0, and nothing came"]


def test_a_client_that_is_not_called_waits_as_long_as_its_hub_beats(folder):
    """The hub tells rounds to others; that is no reason to leave it behind, however long it lasts."""
    lost: list[str] = []
    with Transport(IDENTITY, [Link(1, False, True, True)], patience=Patience(0.6, 0.2), lag=0,
                   lost=lambda link, why: lost.append(why)) as client:  # fmt: skip
        hub = Fake(at(client, folder))
        joining = threading.Thread(target=client.join, args=({}, 10.0))
        joining.start()
        hub.greet()
        hub.say("joined", **hub.hear("welcome")[0].fields)
        joining.join(10)

        def serve() -> None:
            for told in range(1, 12):
                hub.hear("beat")
                hub.say("beat", phase="waiting", age_ms=0, told=told)
            hub.say("state", (PHI + 2).tobytes(), epoch=1, round=11)

        serving = threading.Thread(target=serve)
        serving.start()
        assert client.hear(0)[1].tolist() == (PHI + 2).tolist() and client.newest(1) == (11, False)
        serving.join(10)
        hub.socket.close()
    assert lost == []


def test_a_client_that_comes_back_waits_for_its_next_call_and_misses_nothing_meanwhile(folder):
    """Its hub is ten rounds further; until the call comes there is nothing to do, and nothing that was expected."""
    with Transport(IDENTITY, [Link(1, False, True, True)], patience=Patience(5.0, 30.0), lag=0) as client:
        hub = Fake(at(client, folder))
        joining = threading.Thread(target=client.join, args=({}, 10.0))
        joining.start()
        hub.greet(round=10)
        hub.say("joined", **hub.hear("welcome")[0].fields)
        joining.join(10)

        def call() -> None:
            hub.hear("beat")
            hub.say("state", (PHI + 3).tobytes(), epoch=1, round=12)

        calling = threading.Thread(target=call)
        calling.start()
        assert client.hear(3)[1].tolist() == (PHI + 3).tolist() and client.newest(1) == (12, False)
        assert client.counters.missed == 0
        calling.join(10)
        hub.socket.close()
