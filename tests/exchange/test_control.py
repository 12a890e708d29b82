"""What an agent tells the registry is not lost because that does not listen for a while."""

import pytest
import zmq

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
