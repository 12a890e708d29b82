"""Whole networks whose links are cut again and again, wherever a byte may be, end in the bits of the simulator."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests.conftest import events

pytestmark = pytest.mark.slow

WORDS = ("--engine", "eager", "--tasks", "1", "--eval-tasks", "2", "--set", "test_tasks=0", "--iterations", "30",
         "--eval-every", "30", "--task", "mine:mine", "--quiet")  # fmt: skip
CUTTING = """
# whoever dials a neighbour does so through a relay of its own, which cuts each connection after so many bytes
import random, selectors, socket, threading
from difnet.exchange.sockets import Sockets
from difnet.tasks.sinusoid import Sinusoid

dial, relays = Sockets.dial, {}

class Relay(threading.Thread):
    def __init__(self, endpoint):
        super().__init__(daemon=True)
        self.to, self.server = int(endpoint.rpartition(":")[2]), socket.create_server(("127.0.0.1", 0))
        self.endpoint, self.rng = f"tcp://127.0.0.1:{self.server.getsockname()[1]}", random.Random(self.to)

    def run(self):
        while True:
            near, _ = self.server.accept()
            left = self.rng.randrange(1, 40_000)
            try:
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                near.close()
                continue
            with near, far, selectors.DefaultSelector() as ends:
                ends.register(near, selectors.EVENT_READ, far)
                ends.register(far, selectors.EVENT_READ, near)
                while left:
                    for key, _ in ends.select():
                        try:
                            piece = key.fileobj.recv(min(left, 65536)) if left else b""
                            key.data.sendall(piece)
                        except OSError:
                            piece = b""
                        left = left - len(piece) if piece else 0

def through(self, neighbour, endpoint):
    if endpoint not in relays:
        relays[endpoint] = Relay(endpoint)
        relays[endpoint].start()
    dial(self, neighbour, relays[endpoint].endpoint)

def mine(agents, shots, queries):
    Sockets.dial = through
    return Sinusoid(agents, shots, queries, (1.0, 2.0), (0.0, 1.0))
"""


def model(tmp_path: Path, name: str) -> np.ndarray:
    return safetensors.numpy.load_file(tmp_path / "runs" / name / "launch-model.safetensors")["w"]


@pytest.mark.parametrize(("graph", "words"), [
    ("ring6", ()),
    ("star10", ("--algorithm", "fedmeta")),
    ("star10", ("--algorithm", "fedavg", "--set", "server.clients=4")),
    ("directed-ring10", ()),
])  # fmt: skip
def test_links_that_are_cut_dozens_of_times_change_no_bit(difnet, tmp_path, graph, words):
    """A state has 7 kB and a connection 20 kB on the average, so every round of some link is hit; none is missed."""
    (tmp_path / "mine.py").write_text(CUTTING)
    words = ("--topology", graph, *WORDS, *words)
    cut = difnet("launch", *words, "--set", "transport=tcp", "--name", "cut")
    assert cut.status == 0, cut.err
    lost, healed = (events(tmp_path, kind) for kind in ("NeighbourLost", "LinkHealed"))
    assert difnet("simulate", *words, "--name", "simulated").status == 0
    assert np.array_equal(model(tmp_path, "cut"), model(tmp_path, "simulated"))
    summary = json.loads((tmp_path / "runs/cut/run.json").read_text())
    assert summary["missed_exchanges"] == summary["one_sided_exchanges"] == 0
    assert summary["healed_links"] > 60 and summary["resent_exchanges"] > 30
    assert lost == [] and len(healed) == summary["healed_links"] and {e["epoch"] for e in healed} == {1}
    checked = difnet("check", "cut")
    assert checked.status == 0 and "sent again, as connections broke and came back" in checked.out
