"""Whatever arrives on the control plane: it is acted upon exactly, or dropped, counted and said; nobody ends of it."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import psutil
import pytest
import zmq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from difnet import __version__
from difnet.config import load
from difnet.errors import ConfigError, WireError
from difnet.exchange import registry as registry_module
from difnet.exchange import vocabulary, wire
from difnet.exchange.control import Control
from difnet.exchange.refusals import SAY_AGAIN_S, Refusals
from difnet.exchange.registry import MOST_READ, Registry
from difnet.exchange.vocabulary import FROM_REGISTRY, TO_REGISTRY, Known
from difnet.record import comparing, events, finding
from difnet.record.recorder import Recorder
from difnet.runtime.listening import Launch
from difnet.runtime.preparation import facts
from difnet.topology.networks import load as load_topology
from tests.conftest import until
from tests.exchange.test_wire import ANYTHING

TOKEN, M = "secret", 3
CONFIG = load(settings={"topology": "path_graph(n=2)", "iterations": 10, "eval_steps": [1, 2]})
TOPOLOGY = load_topology(CONFIG.topology)
RUN = {"run": "sines", "life": "sines", "version": __version__, "config": CONFIG.model_dump(exclude_none=True),
       "topology": TOPOLOGY.to_dict(), "hashes": TOPOLOGY.hashes(), "id": "0f", "folder": "",
       "resumes": False}  # fmt: skip
W, FACTS = np.ones(M, "f4"), {
    "engine": "eager", "flops": None, "parameters": M, "length": M, "server": None, "model": {"name": "logistic"},
    "pieces": [["w", [M]]], "carriers": [0, 1], "transductive": False, "manifest": None, "judges": {}}  # fmt: skip
ENERGY = {"joules": None, "source": "nothing", "quality": "unknown"}
SCORED = (np.ones(2 * 3 * 1, "f8"), np.ones(2, "f4"))

HONEST: dict[str, tuple[dict[str, Any], tuple[np.ndarray, ...]]] = {  # what agent 0 and its host may say
    "configuration?": ({"agents": [0, 1], "name": "here", "version": __version__, "run": None}, ()),
    "prepared": ({"host": "here", "agents": [0, 1], "environment": {"cores": 2}, "facts": FACTS,
                  "checkpoints": {}}, ()),
    "note": ({"text": "compiling"}, ()),
    "register": ({"agent": 0, "incarnation": 0, "endpoint": "tcp://127.0.0.1:41000", "pid": 7}, ()),
    "joined": ({"agent": 0}, ()),
    "mark": ({"said": 3}, ()),
    "Progress": (events.Progress(0, 3, 0.5, 1.5, None, 3, {"gap": 0.1}, 2**20, 12, 40, 3, 3, 0, 0).to_dict(), ()),
    "Snapshot": (events.Snapshot(0, 4).to_dict(), (W,)),
    "Evaluated": (events.Evaluated(0, 5, 12, 5, 5, 1.0, {"1": 0.5, "2": 0.4}, {}).to_dict(), (W,)),
    "NeighbourLost": (events.NeighbourLost(0, 1, 4, -1, "silent").to_dict(), ()),
    "NeighbourBack": (events.NeighbourBack(0, 1, 4, 6, 2).to_dict(), ()),
    "LinkHealed": (events.LinkHealed(0, 1, 4, 1, 0.05, 1).to_dict(), ()),
    "AgentReturned": (events.AgentReturned(0, 0, 6, 2, "its own model").to_dict(), ()),
    "TrainedAlone": (events.TrainedAlone(0, 5, 0.5, 0.01).to_dict(), ()),
    "Saved": (events.Saved(0, 8, 0.1, 999).to_dict(), ()),
    "Edge": (events.Edge(0, 1, 12, 40, 3, 10, 1, -1, 2).to_dict(), ()),
    "Finished": (events.Finished(0, 10, "done").to_dict(), (W, W, np.ones(1, "f4"))),
    "at": ({"agent": 0, "iteration": 10}, ()),
    "doing": ({"agent": 0, "step_s": None}, ()),
    "leave": ({}, ()),
    "beat": ({"name": "here", "machine": "elsewhere", "energy": ENERGY}, ()),
    "log": ({"agent": 0, "text": "hello\n"}, ()),
    "Submitted": (events.Submitted(0, 5, 12, 5, 5).to_dict(), (W,)),
    "Judged": (events.Judged(0, 5, 1.0, {"1": 0.5, "2": 0.4}, {}).to_dict(), ()),
    "scored": ({"agent": None, "model": "launch model", "iteration": 10, "shape": [2, 3, 1]}, SCORED),
    "all scored": ({"agent": None}, ()),
    "not scored": ({"agent": None, "reason": "it crashed"}, ()),
    "exited": ({"agent": 0, "incarnation": 0, "status": "exit status 0", "log_tail": "", "returns": False}, ()),
    "failed": ({"reason": "no data", "exit_code": 3, "host": "here"}, ()),
}  # fmt: skip
for body, _ in HONEST.values():
    body.pop("event", None)


class Network:
    """A launch of two agents, with a real registry and recorder, and whoever speaks to it."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self.registry = registry
        config, place = CONFIG.model_copy(update={"runs": str(folder)}), SimpleNamespace(poll=lambda: None)
        self.recorder = Recorder(config, TOPOLOGY, "launch", lambda event: None)
        self.launch = Launch(config, self.recorder, registry, place, [])

    def hear(self) -> None:
        for message in self.registry.listen(0.01):
            self.launch._take(*message)


class Talker:
    """A connection that says what it is told to, in order."""

    def __init__(self, registry: Registry, token: str = TOKEN) -> None:
        self.token = token.encode()
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(registry.endpoint)

    def __enter__(self) -> "Talker":
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def say(self, kind: str, body: dict[str, Any], tensors: tuple[np.ndarray, ...] = ()) -> None:
        self.send(*wire.pack_control(kind, body, tensors))

    def send(self, *frames: Any) -> None:
        self.socket.send_multipart([self.token, *frames])

    def hears(self, kind: str, pump: Callable[[], Any]) -> dict[str, Any]:
        """The next answer of a kind."""
        def answer() -> dict[str, Any] | None:
            pump()
            if self.socket.poll(0):
                heard, body, _ = wire.unpack_control(self.socket.recv_multipart())
                return {"kind": heard, **body} if heard == kind else None
            return None

        return until(answer, f"an answer {kind!r}", 20)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry("tcp://127.0.0.1:*", TOKEN, {0: [1], 1: [0]}) as registry:
        registry.run = RUN
        yield registry


@pytest.fixture
def network(registry: Registry, tmp_path: Path) -> Network:
    return Network(registry, tmp_path)


@pytest.fixture
def agent(network: Network) -> Iterator[Talker]:
    """Agent 0 of a run that has begun, at host "here"; agent 1 has a connection of its own."""
    registry = network.registry
    with Talker(registry) as host, Talker(registry) as zero, Talker(registry) as one:
        for kind in ("configuration?", "prepared"):
            host.say(kind, HONEST[kind][0])
        host.hears("run", network.hear)
        for agent, talker in enumerate((zero, one)):
            talker.say("register", HONEST["register"][0] | {"agent": agent})
            talker.say("joined", {"agent": agent})
        zero.hears("go", network.hear)
        network.recorder.ready(facts(network.launch._prepared))
        assert not registry.refused
        yield zero


def known() -> Known:
    """What a registry knows once it has heard `prepared`, and asked for a test."""
    known = Known.of({0: [1], 1: [0]}, RUN)
    known.length, known.asked = M, {(None, "launch model"), (0, "launch model")}
    return known


def test_the_honest_examples_are_of_every_kind():
    assert HONEST.keys() == TO_REGISTRY.keys()
    assert set(events.KINDS) & TO_REGISTRY.keys() == {
        kind.__name__ for kind in events.KINDS.values() if "agent" in [f.name for f in fields(kind)]} - {"AgentLost"}


@pytest.mark.parametrize("kind", HONEST)
def test_what_is_honest_is_read_as_it_was_said(kind):
    body, tensors = HONEST[kind]
    read = vocabulary.read(TO_REGISTRY, wire.pack_control(kind, body, tensors), known())
    assert read[:2] == (kind, body) and [t.tolist() for t in read[2]] == [t.tolist() for t in tensors]


@pytest.mark.parametrize("kind", HONEST)
def test_a_field_too_few_or_too_many_or_a_tensor_is_refused(kind):
    body, tensors = HONEST[kind]
    wrong = [({k: v for k, v in body.items() if k != name}, tensors) for name in body]
    wrong += [(body | {"more": 1}, tensors)]
    wrong += [(body, tensors[:-1])] if tensors and kind != "Finished" else [(body, ())] if tensors else [(body, (W,))]
    for told in wrong:
        with pytest.raises(WireError, match=kind.replace("?", "[?]")):
            vocabulary.read(TO_REGISTRY, wire.pack_control(kind, *told), known())


HOSTILE = {
    "an agent that does not exist": ("Progress", {"agent": 2}),
    "agent 10^6 in a log": ("log", {"agent": 10**6}),
    "an agent below 0": ("exited", {"agent": -1}),
    "true for an agent": ("Progress", {"agent": True}),
    "an iteration after the last": ("Snapshot", {"iteration": 11}),
    "a test after other steps": ("Evaluated", {"after": {"1": 0.5}}),
    "a test without numbers": ("Evaluated", {"after": {"1": 0.5, "2": None}}),
    "an end in no known state": ("Finished", {"state": "fine"}),
    "a text for a loss": ("Progress", {"loss": "0.5"}),
    "figures in figures": ("Progress", {"figures": {"gap": {"gap": 1.0}}}),
    "another length of the model": ("prepared", {"facts": FACTS | {"length": M + 1}}),
    "a server without a star": ("prepared", {"facts": FACTS | {"server": 1}}),
    "facts without a length": ("prepared", {"facts": {k: v for k, v in FACTS.items() if k != "length"}}),
    "no agents": ("prepared", {"agents": []}),
    "an agent twice": ("prepared", {"agents": [0, 0]}),
    "bytes in an environment": ("prepared", {"environment": {"cores": b""}}),
    "checkpoints of a stranger": ("prepared", {"checkpoints": {"2": [10]}}),
    "checkpoints of nobody": ("prepared", {"checkpoints": {"x": [10]}}),
    "a checkpoint of a long number": ("prepared", {"checkpoints": {"9" * 5000: [10]}}),
    "a checkpoint after no number of iterations": ("prepared", {"checkpoints": {"0": [-1]}}),
    "an endpoint that nobody can dial": ("register", {"endpoint": "tcp://127.0.0.1"}),
    "an endpoint with a control character": ("register", {"endpoint": "tcp://a\0b:5600"}),
    "a shape of the wrong size": ("scored", {"shape": [4, 3, 1]}),
    "a shape of two": ("scored", {"shape": [2, 3]}),
    "a shape whose product wraps": ("scored", {"shape": [2**62, 3, 1]}),
    "a model that nobody asked for": ("scored", {"model": "3"}),
    "energy without joules": ("beat", {"energy": {}}),
    "an exit status that none is": ("failed", {"exit_code": 256}),
    "what is left of another run": ("note", {"of": "cosines"}),
}


@pytest.mark.parametrize(("kind", "otherwise"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_does_not_fit_is_refused_with_what_is_wrong(kind, otherwise):
    body, tensors = HONEST[kind]
    with pytest.raises(WireError, match=kind):
        vocabulary.read(TO_REGISTRY, wire.pack_control(kind, body | otherwise, tensors), known())


@pytest.mark.parametrize(("kind", "tensors"), [
    ("Snapshot", (np.ones(M - 1, "f4"),)), ("Snapshot", (np.ones(M, "f8"),)), ("Finished", ()),
    ("Finished", (np.ones(1, "f4"), W)), ("Evaluated", (W, W)), ("scored", (SCORED[1], SCORED[0])),
])  # fmt: skip
def test_tensors_of_another_number_type_or_length_are_refused(kind, tensors):
    with pytest.raises(WireError, match=kind):
        vocabulary.read(TO_REGISTRY, wire.pack_control(kind, HONEST[kind][0], tensors), known())


def test_a_longer_tensor_takes_several_frames_none_of_which_is_long():
    long = np.arange(wire.FRAME_LIMIT // 4 + 1, dtype="f4")
    frames = wire.pack_control("Finished", HONEST["Finished"][0], [long, W])
    assert len(frames) == 4 and max(map(len, frames)) == wire.FRAME_LIMIT
    _, _, tensors = wire.unpack_control([bytes(frame) for frame in frames])
    assert [t.tobytes() for t in tensors] == [long.tobytes(), W.tobytes()]
    for wrong in (frames[:-1], [*frames, b""], [frames[0], frames[2], frames[1], frames[3]]):
        with pytest.raises(WireError):
            wire.unpack_control([bytes(frame) for frame in wrong])


@st.composite
def garbled(draw):
    """An honest message of which something is otherwise: a field, what lies within one, a tensor, a byte."""
    kind = draw(st.sampled_from(sorted(HONEST)))
    body, tensors = HONEST[kind]
    body = dict(body)
    how = draw(st.sampled_from(["field", "within", "tensors", "announced", "byte", "kind"]))
    if how == "kind":
        return wire.pack_control(draw(st.sampled_from(sorted(HONEST)) | st.text(max_size=5)), body, tensors)
    if how == "field" and body:
        body[draw(st.sampled_from(sorted(body)))] = draw(ANYTHING)
    elif how == "within" and (inner := [name for name, value in body.items() if type(value) is dict and value]):
        name = draw(st.sampled_from(inner))
        body[name] = body[name] | {draw(st.sampled_from(sorted(body[name]))): draw(ANYTHING)}
    elif how == "tensors":
        lengths = draw(st.lists(st.integers(0, 7), max_size=4))
        tensors = tuple(np.ones(n, draw(st.sampled_from(["f4", "f8"]))) for n in lengths)
    frames = [bytes(frame) for frame in wire.pack_control(kind, body, tensors)]
    if how == "announced":
        frames[0] = wire.pack_document(kind, body | {"carries": draw(ANYTHING)})
    if how == "byte":
        place, byte = draw(st.integers(0, len(frames[0]) - 1)), draw(st.binary(max_size=1))
        frames[0] = frames[0][:place] + byte + frames[0][place + 1 :]
    return frames


@settings(max_examples=300)
@given(frames=garbled())
@example(frames=[])
@example(frames=[b""])
@example(frames=[b"\x92\xbf"])
def test_a_garbled_message_fits_or_is_a_wire_error(frames):
    for words in (TO_REGISTRY, FROM_REGISTRY):
        try:
            vocabulary.read(words, frames, known())
        except WireError as error:
            assert str(error).isprintable() and len(str(error)) < 1000


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=garbled())
def test_a_launcher_acts_on_what_fits_and_nothing_ends_it(network, agent, frames):
    """Through real sockets, into a real recorder; whoever says it knows the token, and is agent 0."""
    agent.send(*frames)
    agent.say("leave", {})
    agent.hears("left", network.hear)
    network.recorder.pulse()


def test_what_nobody_can_act_upon_leaves_a_run_that_ends_well(network, agent):
    """Everything hostile, then everything honest."""
    for kind, otherwise in HOSTILE.values():
        agent.say(kind, HONEST[kind][0] | otherwise, HONEST[kind][1])
    until(lambda: network.hear() or network.registry.refused == len(HOSTILE), "every refusal", 20)
    for kind in ("Progress", "Evaluated", "Edge", "Finished"):
        agent.say(kind, *HONEST[kind])
    agent.say("leave", {})
    agent.hears("left", network.hear)
    network.launch._say_what_was_refused(over=True)
    summary = network.recorder.finish("done")
    assert summary["refused_control"] == len(HOSTILE) == network.registry.refused
    assert network.recorder.tally.finished.keys() == {0} and not network.launch._failure


def test_nobody_speaks_for_another(network, agent):
    """Agent 0 for agent 1; a host for an agent that is elsewhere; somebody for whoever has not registered."""
    registry = network.registry
    agent.say("Progress", HONEST["Progress"][0] | {"agent": 1})
    agent.say("log", HONEST["log"][0])
    agent.say("prepared", HONEST["prepared"][0] | {"agents": [1]})
    until(lambda: network.hear() or registry.refused == 3, "three refusals", 20)
    assert "agent 0" in registry.refusals.news()
    assert not network.recorder.tally.progress and network.launch._prepared["here"]["agents"] == [0, 1]


def test_nobody_starts_before_it_is_known_what_was_prepared(registry):
    with Talker(registry) as host, Talker(registry) as zero:
        host.say("configuration?", HONEST["configuration?"][0])
        host.hears("run", lambda: [*registry.listen(0.01)])
        for agent in (0, 1):
            with Talker(registry) as talker:
                talker.say("register", HONEST["register"][0] | {"agent": agent})
                talker.say("joined", {"agent": agent})
                until(lambda k=agent: [*registry.listen(0.01)] or registry.joined == k + 1, "joining", 20)
        assert not registry.started
        host.say("prepared", HONEST["prepared"][0])
        until(lambda: [*registry.listen(0.01)] and registry.started, "the start", 20)
        zero.say("leave", {})


# --- strangers ------------------------------------------------------------------------------------------------------


def test_what_a_stranger_sends_is_never_parsed(registry, monkeypatch):
    """Not even when it is short, and in the right shape."""
    def parse(*arguments: object, **words: object) -> None:
        raise AssertionError("somebody looked into a stranger's document")

    monkeypatch.setattr(wire.msgpack, "unpackb", parse)
    documents = [b"\x92\xa4note\x81\xa4text" + b"\x81\xa1a" * 1000, wire.pack_document("note", {"text": "x"}), b"",
                 b"\xff"]  # fmt: skip
    with Talker(registry, "guess") as stranger, Talker(registry, "") as nobody:
        for document in documents:
            stranger.send(document)
            nobody.send(document)
            nobody.socket.send(document)
        until(lambda: [*registry.listen(0.01)] or registry.refused == 3 * len(documents), "every refusal", 20)
    assert "from a stranger: without this run's token" in registry.refusals.news()


def test_a_document_longer_than_its_kind_may_be_is_not_parsed(registry, monkeypatch):
    """Of those who know the token neither; what they print may be longer, and a host's facts longest."""
    parsed = []
    monkeypatch.setattr(wire.msgpack, "unpackb", lambda frame, **words: parsed.append(frame) or ["leave", {}])
    for kind, word in TO_REGISTRY.items():
        with pytest.raises(WireError, match="at most"):
            vocabulary.read(TO_REGISTRY, [wire.pack_document(kind, {}) + bytes(word.limit)], known())
    assert not parsed


def test_a_host_with_another_token_or_older_manners_is_told_so(registry):
    """Before, a host's token was in its document, which was the first frame; and the answer is as it was."""
    asked = HONEST["configuration?"][0]
    with Talker(registry, "guess") as mistaken, Talker(registry) as old, Talker(registry) as strange:
        mistaken.say("configuration?", asked)
        old.socket.send(wire.pack_document("configuration?", {**asked, "token": TOKEN, "version": "0.0.1"}))
        strange.say("configuration?", asked | {"colour": "red"})
        for talker, words in ((mistaken, "set DIFNET_TOKEN"), (old, "this host is older; install the same version"),
                              (strange, "install the same version on both")):  # fmt: skip
            assert words in talker.hears("refused", lambda: [*registry.listen(0.01)])["reason"]


def test_a_turn_is_bounded_whatever_waits(registry, monkeypatch):
    """So that signals, pulses and deadlines have theirs; and whoever else speaks is heard between strangers."""
    monkeypatch.setattr(registry_module, "TURN_S", 60.0)
    with Talker(registry, "guess") as stranger, Talker(registry) as agent:
        over = threading.Event()

        def flood() -> None:
            while not over.is_set():
                if stranger.socket.poll(10, zmq.POLLOUT):
                    stranger.send(b"x")

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            agent.say("note", {"text": "I am here"})
            heard: list[Any] = []
            most = 0

            def turn() -> bool:
                nonlocal most
                before = registry.refused
                heard.extend(registry.listen(0.01))
                most = max(most, registry.refused - before)
                return registry.refused > 2 * MOST_READ and bool(heard)

            until(turn, "the note, and many refusals", 60)
        finally:
            over.set()
            thread.join()
    assert [(kind, body) for kind, body, _ in heard] == [("note", {"text": "I am here"})] and most <= MOST_READ


def test_a_message_of_many_frames_takes_many_turns(registry, monkeypatch):
    """Each frame costs two bytes to send: whoever has more than any of us may send is skipped, a turn at a time."""
    now = iter(range(10**9))
    monkeypatch.setattr(registry_module, "TURN_S", 100)  # looks at the clock
    with Talker(registry, "guess") as stranger, Talker(registry) as known, Talker(registry) as agent:
        stranger.send(*[b""] * 5000)
        known.send(wire.pack_document("leave", {}), *[b""] * 15_000)
        until(lambda: stranger.socket.poll(0, zmq.POLLOUT) and registry._router.poll(1000), "the messages", 20)
        turns = 0
        with monkeypatch.context() as clock:
            clock.setattr(registry_module, "time", SimpleNamespace(monotonic=lambda: next(now)))
            while registry.refused < 2 or registry._inbox.unread:
                [*registry.listen(0.01)]
                turns += 1
        assert turns > 50
        agent.say("note", {"text": "at last"})
        assert until(lambda: [*registry.listen(0.01)], "a note", 20)[0][1] == {"text": "at last"}
    assert registry.refused == 2


def test_refusals_are_said_once_then_seldom_and_all_of_them_when_it_is_over(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(registry_module.time, "monotonic", lambda: now[0])
    refusals = Refusals()
    assert refusals.news() == ""
    refusals.add("agent 3", "Progress: loss is 'x', not a number")
    assert refusals.news() == (
        "refused a message from agent 3: Progress: loss is 'x', not a number; it was dropped (1 so far)")
    for n in range(5):
        refusals.add("a stranger", f"number {n}")
    assert refusals.news() == ""
    now[0] += SAY_AGAIN_S
    assert refusals.news() == "refused 5 messages, the latest from a stranger: number 4; they were dropped (6 so far)"
    refusals.add("a stranger", "again")
    assert refusals.news() == "" and "7 so far" in refusals.news(over=True) and refusals.news(over=True) == ""


KINDS_HEARD = sorted(FROM_REGISTRY.keys() - {"recorded", "who"})


# --- the other end --------------------------------------------------------------------------------------------------


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(st.binary(max_size=40) | st.tuples(st.sampled_from(KINDS_HEARD), ANYTHING
                          | st.dictionaries(st.sampled_from(["endpoints", "iteration", "reason"]), ANYTHING))
                          .map(msgpack.packb), max_size=3))  # fmt: skip
def test_an_agent_hears_what_fits_and_drops_everything_else(documents):
    """But for the two kinds that its end of the control plane answers by itself."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as false:
        false.setsockopt(zmq.LINGER, 0)
        port = false.bind_to_random_port("tcp://127.0.0.1")
        with Control(f"tcp://127.0.0.1:{port}", TOKEN) as control:
            for document in documents:
                false.send(document)
            false.send_multipart(wire.pack_control("until", {"iteration": 10**6}, []))
            heard: list[str] = []
            while (10**6) not in [*heard[-1:]]:
                message = control.hear(20.0)
                assert message is not None
                heard.append(message[1].get("iteration", message[0]))
            assert len(heard) + control.refused == len(documents) + 1


@pytest.mark.parametrize(("kind", "body"), [
    ("peers", {"endpoints": {"one": "tcp://127.0.0.1:1"}}), ("peers", {"endpoints": {"1": "nowhere"}}), ("until", {}),
    ("until", {"iteration": None}), ("run", {"run": "sines"}), ("score", {"models": {"launch model": 10}}),
    ("refused", {}), ("no such kind", {}),
])  # fmt: skip
def test_an_agent_says_once_what_it_dropped(kind, body, capsys):
    with zmq.Context() as context, context.socket(zmq.DEALER) as false:
        false.setsockopt(zmq.LINGER, 0)
        port = false.bind_to_random_port("tcp://127.0.0.1")
        with Control(f"tcp://127.0.0.1:{port}", TOKEN) as control:
            for told in [(kind, body)] * 2 + [("refused", {"reason": "it is over"})]:
                false.send_multipart(wire.pack_control(*told, []))
            with pytest.raises(ConfigError, match="it is over"):
                control.expect("left", 20)
            assert control.refused == 2
    assert capsys.readouterr().out.count("dropped a message of the registry") == 1


# --- a whole run ----------------------------------------------------------------------------------------------------


def _listening(launcher: int) -> str:
    """Where a launcher's registry listens, or ""."""
    ports = [c.laddr.port for c in psutil.Process(launcher).net_connections() if c.status == psutil.CONN_LISTEN]
    return f"tcp://127.0.0.1:{ports[0]}" if ports else ""


@pytest.mark.slow
def test_a_launch_under_a_flood_ends_done_with_the_same_bits(difnet, running, tmp_path, monkeypatch):
    """A stranger floods it with short and with large documents, and somebody with its token says everything wrong."""
    words = ("launch", "--topology", "path_graph(n=3)", "--iterations", "200", "--engine", "eager", "--eval-tasks", "4",
             "--json", "--eval-every", "50")  # fmt: skip
    quiet = difnet(*words, "--name", "quiet")
    assert quiet.status == 0, quiet.err
    monkeypatch.setenv("DIFNET_TOKEN", TOKEN)
    launcher = running(*words, "--name", "flooded", "--transport", "tcp")
    endpoint = until(lambda: _listening(launcher.pid), "a registry")
    where, over = SimpleNamespace(endpoint=endpoint), threading.Event()
    large = b"\x92\xa4note\x81\xa1a\xdd\x00\x36\x00\x00" + b"\x80" * 0x360000

    def flood(token: str, messages: list[list[bytes]]) -> None:
        with Talker(where, token) as talker:
            talker.socket.setsockopt(zmq.SNDHWM, 100)
            while not over.is_set():
                for frames in messages:
                    if talker.socket.poll(10, zmq.POLLOUT):
                        talker.send(*frames)

    wrong = [[bytes(frame) for frame in wire.pack_control(kind, body | {"more": 1}, tensors)]
             for kind, (body, tensors) in HONEST.items()]  # fmt: skip
    floods = [threading.Thread(target=flood, args=told)
              for told in (("guess", [[b"x"]]), ("guess", [[large]]), (TOKEN, wrong))]  # fmt: skip
    for thread in floods:
        thread.start()
    try:
        out, err = launcher.communicate(timeout=300)
    finally:
        over.set()
        for thread in floods:
            thread.join(30)
    assert launcher.returncode == 0, err
    told = json.loads(out)
    assert told["state"] == "done" and told["refused_control"] > 0 and not told["lost_agents"]
    assert f"they were dropped ({told['refused_control']} so far)" in err
    assert comparing.same_bits(*(finding.load(tmp_path / "runs" / name) for name in ("quiet", "flooded")))
