"""What is led through the proxy comes out as the harm has it, and unharmed where there is none."""

import os
import socket
import time

import pytest

from difnet.exchange.proxy import NONE, Harm, Proxy
from difnet.system.tampering import PROXY, REAL, break_connections, is_taken, take_over, undo
from tests.conftest import until

EDGE = frozenset((1, 3))


class Led:
    """A connection from agent 1, which is this process, to agent 3, through a proxy."""

    def __init__(self, folder) -> None:
        self.path = f"{folder}/3"
        self.agent = socket.socket(socket.AF_UNIX)
        self.agent.bind(self.path)
        self.agent.listen(4)
        self.proxy = Proxy(lambda pid: 1 if pid == os.getpid() else None)
        self.deed = take_over(self.path, self.proxy.listener(3, self.path))
        self.near, self.far = self.dial()

    def dial(self) -> tuple[socket.socket, socket.socket]:
        near = socket.socket(socket.AF_UNIX)
        near.connect(self.path)
        self.agent.setblocking(False)

        def accepted() -> socket.socket | None:
            self.proxy.turn(0.001)
            try:
                return self.agent.accept()[0]
            except BlockingIOError:
                return None

        far = until(accepted, "the connection", 10)
        near.setblocking(False)
        far.setblocking(False)
        return near, far

    def heard(self, at: socket.socket, size: int) -> bytes:
        """So many bytes, or fewer if the connection ends."""
        got = bytearray()

        def enough() -> bool:
            self.proxy.turn(0.001)
            try:
                piece = at.recv(size - len(got))
            except BlockingIOError:
                return False
            got.extend(piece)
            return not piece or len(got) == size

        until(enough, "what was sent", 10)
        return bytes(got)

    def close(self) -> None:
        self.proxy.__exit__()
        for each in (self.near, self.far, self.agent):
            each.close()


@pytest.fixture
def led(tmp_path):
    led = Led(tmp_path)
    yield led
    led.close()


def test_what_is_not_harmed_passes_both_ways_also_more_than_a_socket_holds(led):
    sent = os.urandom(3_000_000)
    done, got = 0, bytearray()
    while len(got) < len(sent):
        try:
            done += led.near.send(sent[done : done + 2**20]) if done < len(sent) else 0
        except BlockingIOError:
            pass
        led.proxy.turn(0.001)
        try:
            got += led.far.recv(2**20)
        except BlockingIOError:
            pass
    assert bytes(got) == sent
    led.far.send(b"answer")
    assert led.heard(led.near, 6) == b"answer"
    assert led.proxy.led() == {EDGE}


def test_what_is_delayed_comes_later_and_in_order_and_what_follows_does_not_overtake_it(led):
    led.proxy.harm({EDGE: Harm(delay_s=0.1)})
    began = time.monotonic()
    led.near.send(b"first")
    led.proxy.turn(0.01)
    led.proxy.harm({EDGE: NONE})
    led.near.send(b"second")
    assert led.heard(led.far, 11) == b"firstsecond"
    assert time.monotonic() - began >= 0.1


def test_silence_holds_everything_back_and_loses_nothing(led):
    led.proxy.harm({EDGE: Harm(is_silent=True)})
    led.near.send(b"held")
    for _ in range(20):
        led.proxy.turn(0.001)
    with pytest.raises(BlockingIOError):
        led.far.recv(4)
    led.proxy.harm({EDGE: NONE})
    assert led.heard(led.far, 4) == b"held"


def test_a_cut_ends_the_connection_at_both_ends_and_every_new_one_until_it_is_over(led):
    led.proxy.harm({EDGE: Harm(cut_after=0)})
    assert led.heard(led.near, 1) == led.heard(led.far, 1) == b""
    with socket.socket(socket.AF_UNIX) as again:
        again.connect(led.path)
        again.setblocking(False)
        assert led.heard(again, 1) == b""
    led.proxy.harm({EDGE: NONE})
    near, far = led.dial()
    with near, far:
        near.send(b"back")
        assert led.heard(far, 4) == b"back"


def test_a_cut_after_some_bytes_lets_these_pass(led):
    led.proxy.harm({EDGE: Harm(cut_after=4)})
    led.near.send(b"four")
    assert led.heard(led.far, 8) == b"four"


def test_garbled_pieces_have_their_length_and_other_bytes(led):
    led.proxy.harm({EDGE: Harm(share=1.0)})
    led.near.send(bytes(100))
    assert sorted(led.heard(led.far, 100)) == [0] * 84 + [255] * 16


def test_other_edges_pass_unharmed(led):
    led.proxy.harm({frozenset((2, 3)): Harm(is_silent=True)})
    led.near.send(b"as ever")
    assert led.heard(led.far, 7) == b"as ever"


def test_who_was_taken_over_listens_again_afterwards_and_nothing_is_left(led, tmp_path):
    assert is_taken(led.path)
    undo(led.deed)
    assert os.listdir(tmp_path) == ["3"] and not is_taken(led.path)
    with socket.socket(socket.AF_UNIX) as direct:
        direct.connect(led.path)
        led.agent.accept()[0].close()


def test_a_new_process_that_took_its_path_back_keeps_it(led, tmp_path):
    os.unlink(led.path)
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(led.path)
        born = os.stat(led.path).st_ino
        assert not is_taken(led.path)
        undo(led.deed)
        assert os.listdir(tmp_path) == ["3"] and os.stat(led.path).st_ino == born


def test_a_new_process_can_be_taken_over_as_well(led, tmp_path):
    os.unlink(led.path)
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(led.path)
        successor.listen(1)
        take_over(led.path, led.proxy.listener(3, led.path))
        assert is_taken(led.path) and sorted(os.listdir(tmp_path)) == ["3", f"3{PROXY}", f"3{REAL}"]


def test_connections_are_broken_from_outside_and_those_of_others_are_not(tmp_path):
    """A socket of ours stands for one of another process's: the way there is the same."""
    path = f"{tmp_path}/3"
    with socket.socket(socket.AF_UNIX) as agent, socket.socket(socket.AF_UNIX) as dialer:
        agent.bind(path)
        agent.listen(1)
        dialer.connect(path)
        with agent.accept()[0] as accepted:
            assert break_connections(os.getpid(), path, {os.getpid() + 1}) == 0
            assert break_connections(os.getpid(), path + "0", {os.getpid()}) == 0
            assert break_connections(os.getpid(), path, {os.getpid()}) >= 1
            assert dialer.recv(1) == accepted.recv(1) == b""
