"""What an agent tells the registry is not lost because that does not listen for a while."""

import numpy as np
import pytest
import zmq

from difnet.exchange import control as control_module
from difnet.exchange.control import Control
from difnet.exchange.registry import Registry
from tests.conftest import until


@pytest.fixture
def cramped(monkeypatch):
    """A registry that does not read, and an agent's end with room for three messages (more are on their way)."""
    monkeypatch.setattr(zmq.Context, "socket", _cramped(zmq.Context.socket))
    with Registry("tcp://127.0.0.1:*", "secret", {0: []}) as registry, Control(registry.endpoint, "secret") as control:
        yield registry, control


def _cramped(socket):
    def make(self, kind, **options):
        made = socket(self, kind, **options)
        made.setsockopt(zmq.SNDBUF, 4096)
        made.setsockopt(zmq.RCVBUF, 4096)
        set_option = made.setsockopt

        def fewer(option, value):
            set_option(option, min(value, 3) if option in (zmq.SNDHWM, zmq.RCVHWM) else value)

        made.setsockopt = fewer
        return made

    return make


def test_what_finds_no_room_is_kept_in_order_but_for_prints_and_beats(cramped):
    registry, control = cramped
    prints = 0
    while control.say("log", {"agent": 0, "text": "x" * 5000}):
        prints += 1
    assert 0 < prints < 5000
    assert all(control.say("note", {"text": str(n)}) for n in range(50))
    assert not control.say("log", {"agent": 0, "text": "dropped"}) and not control.say("beat", {"name": "here"})
    assert control.say("failed", {"reason": "the last word", "exit_code": 1, "host": "here"})
    heard = []

    def listen():
        control.hear(0.0)
        heard.extend(registry.listen(0.001))
        return heard[-1:] and heard[-1][0] == "failed"

    until(listen, "the last word", 20)
    assert [body["text"] for kind, body, _ in heard if kind == "note"] == [*map(str, range(50))]
    assert sum(kind == "log" for kind, *_ in heard) == prints


def test_measurements_that_nobody_takes_are_bounded_and_counted_and_the_end_is_not(cramped, monkeypatch):
    """Of two megabytes one is kept; how an agent ended comes after it, with a word of what is missing."""
    registry, _ = cramped
    monkeypatch.setattr(control_module, "MOST_KEPT", 2**20)
    registry.run = {"run": "sines", "life": "sines", "config": {"iterations": 9, "dtype": "float32"},
                    "topology": {"hub": None}}  # fmt: skip
    w, body = np.zeros(2**14, np.float32), {"agent": 0, "iteration": 1}
    with Control(registry.endpoint, "secret", who="agent 0") as agent:
        agent.say("register", {"agent": 0, "incarnation": 0, "endpoint": "tcp://127.0.0.1:1", "pid": 1})
        told = [agent.say("Snapshot", body, (w,)) for _ in range(40)]
        agent.say("failed", {"reason": "the last word", "exit_code": 1, "host": "here"})
        heard = []

        def listen():
            agent.hear(0.0)
            heard.extend(registry.listen(0.001))
            return [body["text"] for kind, body, _ in heard if kind == "note"]

        [note] = until(listen, "a word of what is missing", 20)
    assert 16 <= sum(told) <= 24 and sum(told[-10:]) <= 2  # 64 kB each: a megabyte, and what left on its way
    assert note.startswith(f"agent 0: {40 - sum(told)} measurements are missing")
    kinds = [kind for kind, *_ in heard]
    assert kinds.index("failed") < kinds.index("note")
