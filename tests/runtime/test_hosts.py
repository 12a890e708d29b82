"""How a host finds its launcher, and what each of the two refuses."""

import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import wait

import numpy as np
import pytest

from difnet import __version__
from difnet.errors import DifnetError, EnvironmentLacks
from difnet.exchange import registry as registry_module
from difnet.exchange.addresses import Lookup, advertised, numeric, own, parse, reach
from difnet.exchange.control import Control
from difnet.exchange.links import Identity, Link, Patience
from difnet.exchange.registry import Registry
from difnet.exchange.transport import Transport
from difnet.runtime.child_processes import Children
from difnet.system.energy import Meters, estimate, machine_id
from tests.conftest import events, until

PAIR = {0: [1], 1: [0]}
ME = {"agents": [0], "name": "here", "version": __version__, "run": None}


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry("tcp://127.0.0.1:*", "secret", PAIR) as registry:
        registry.run = {"run": "sines", "life": "sines", "version": __version__, "config": {"on_failure": "restart"},
                        "topology": {"hub": None}, "hashes": {"topology": "", "weights": ""}, "id": "", "folder": "",
                        "resumes": False}  # fmt: skip
        yield registry


def answer(registry: Registry, token: str = "secret", **differently: object) -> dict:
    """What a host hears that asks what to run."""
    with Control(registry.endpoint, token) as control:
        control.say("configuration?", {**ME, **differently})
        heard = until(lambda: [*registry.listen(0.01)] or control.hear(0.0), "an answer", 10)
        return {"kind": heard[0], **heard[1]}


def test_a_host_is_told_what_to_run(registry):
    assert answer(registry) == {"kind": "run", **registry.run, "incarnations": {}}


@pytest.mark.parametrize(("differently", "words"), [
    ({"token": "guess"}, "set DIFNET_TOKEN to what the launcher told"),
    ({"version": "0.0.9"}, "install the same version"),
    ({"run": "cosines"}, "it serves run 'sines', and this host was started for 'cosines'"),
    ({"agents": [1, 2]}, "there is no agent 2: this run has agents 0 to 1"),
])  # fmt: skip
def test_a_host_that_does_not_belong_is_refused_with_the_reason(registry, differently, words):
    assert words in answer(registry, **differently)["reason"]


def test_an_agent_is_at_one_host_only_and_does_not_come_back(registry):
    """The same host may ask again as long as its agents are not there: it may have been restarted."""
    assert [answer(registry)["kind"] for _ in range(2)] == ["run", "run"]
    assert "agent 0 is at host 'here' already" in answer(registry, name="there", agents=[0, 1])["reason"]
    with Control(registry.endpoint, "secret") as control:
        control.say("register", {"agent": 0, "incarnation": 0, "endpoint": "tcp://127.0.0.1:1", "pid": 1})
        until(lambda: [*registry.listen(0.01)] or registry.registered, "a registration", 10)
    assert "agent 0 takes part already" in answer(registry)["reason"]


def test_a_host_that_is_started_again_has_its_answer_when_the_one_before_is_silent(registry, monkeypatch):
    """While that beats it waits, and is refused in the end; else it is told which processes its agents are."""
    monkeypatch.setattr(registry_module, "DEAD_S", 0.3)
    assert answer(registry)["kind"] == "run"
    registry.begin(0)
    with Control(registry.endpoint, "secret") as host, Control(registry.endpoint, "secret") as again:
        for k in (0, 1):
            with Control(registry.endpoint, "secret") as agent:
                agent.say("register", {"agent": k, "incarnation": 2, "endpoint": "tcp://127.0.0.1:1", "pid": 1})
                until(lambda k=k: [*registry.listen(0.01)] or registry.registered == k + 1, "a registration", 10)
        registry.started = True

        def ask(beats: bool) -> tuple:
            again.say("configuration?", ME | {"name": "another name"})
            told = []

            def turn() -> tuple | None:
                if beats:
                    host.say("beat", {"name": "here", "machine": "", "energy": estimate(None)})
                told.extend(t for t in registry.listen(0.02) if t[0] == "replaced")
                return again.hear(0.0)

            return told, *until(turn, "an answer", 10)

        replaced, kind, body = ask(beats=True)
        assert not replaced and kind == "refused" and "is at host 'here', which still beats" in body["reason"]
        replaced, kind, body = ask(beats=False)
        assert replaced == [("replaced", {"host": "another name", "incarnations": {0: 2}}, [])]
        assert kind == "run" and body["incarnations"] == {"0": 3}
        assert [*registry.hosts] == ["another name"]


def test_what_is_left_of_another_run_with_the_same_token_is_not_heard(registry):
    """Containers of a run whose launcher was started anew: neither their events nor their beats belong to this one."""
    with Control(registry.endpoint, "secret", "cosines") as old, Control(registry.endpoint, "secret", "sines") as new:
        assert answer(registry)["kind"] == "run"
        old.say("note", {"text": "left over"})
        old.say("beat", {"name": "here", "machine": "", "energy": estimate(None)})
        until(lambda: [*registry.listen(0.01)] or registry.refused == 2, "both refusals", 10)
        new.say("beat", {"name": "nobody's", "machine": "", "energy": estimate(None)})
        new.say("note", {"text": "at last"})
        heard = until(lambda: [*registry.listen(0.01)], "a note", 10)
    assert [(kind, body) for kind, body, _ in heard] == [("note", {"text": "at last"})]
    assert not registry.hosts["here"].supervises


@pytest.mark.slow
@pytest.mark.parametrize(("endpoint", "reason"), [
    ("tcp://127.0.0.1:{closed}", "connection refused"),
    ("tcp://nobody.invalid:5600", ""),  # each system has words of its own for it
])  # fmt: skip
def test_a_registry_that_is_not_there_ends_a_host_with_the_reason_and_status_3(difnet, endpoint, reason):
    with socket.socket() as closed:  # bound and not listening: nobody else can take the port meanwhile
        closed.bind(("127.0.0.1", 0))
        done = difnet("host", "--agents", "0", "--token", "x", "--patience", "0.3", "--registry",
                      endpoint.format(closed=closed.getsockname()[1]))  # fmt: skip
    assert done.status == 3 and "Traceback" not in done.err
    assert "was not reached within 0 s: " + reason in done.err and "start this host again" in done.err


@pytest.mark.slow
@pytest.mark.parametrize(("words", "said"), [
    (("--agents", "0", "--token", "x", "--registry", "10.0.0.1:5600"), "it looks like tcp://HOST:PORT"),
    (("--agents", "0", "--token", "x", "--registry", "tcp://here:port"), "it looks like tcp://HOST:PORT"),
    (("--agents", "3-1", "--token", "x", "--registry", "tcp://127.0.0.1:1"), "no list of different agents; try 0-19"),
    (("--agents", "0", "--registry", "tcp://127.0.0.1:1"), "DIFNET_TOKEN"),
    (("--token", "x", "--registry", "tcp://127.0.0.1:1"), "DIFNET_AGENTS"),
])  # fmt: skip
def test_a_wrong_word_of_the_contract_costs_one_line(difnet, words, said):
    done = difnet("host", *words, DIFNET_TOKEN="")
    assert done.status == 2 and said in done.err and "Traceback" not in done.err


@pytest.mark.slow
def test_what_listens_there_may_be_no_registry(monkeypatch):
    """Somebody answers the telephone and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        endpoint = reach(f"tcp://127.0.0.1:{mute.getsockname()[1]}", 5.0, print).endpoint
        with Control(endpoint, "secret") as control:
            with pytest.raises(EnvironmentLacks, match="is it a launcher of this run that listens there"):
                control.expect("run", 0.2)


def test_a_port_that_is_taken_is_said_and_no_folder_is_made(difnet, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = difnet("launch", "--topology", "ring6", "--hosts-expected", "2", "--registry", where)
    assert done.status == 3 and "address already in use" in done.err and "--registry tcp://HOST:PORT" in done.err
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_tells_the_commands_and_begins_nothing(difnet, tmp_path):
    done = difnet("launch", "--topology", "ring40", "--hosts-expected", "3", "--dry-run")
    shares = [line.partition("--agents ")[2].split()[0] for line in done.out.splitlines()]
    assert done.status == 0 and shares == ["0-13", "14-26", "27-39"] and not any(tmp_path.iterdir())


def test_hosts_that_are_expected_and_a_place_that_starts_its_own_exclude_each_other(difnet):
    done = difnet("launch", "--topology", "ring6", "--hosts-expected", "2", "--place", "local")
    assert done.status == 2 and "leave one of the two away" in done.err


def test_the_address_to_advertise_is_the_local_end_towards_the_registry(registry):
    reached = reach(registry.endpoint, 5.0, print)
    assert reached == (registry.endpoint, "127.0.0.1")
    assert advertised("tcp://127.0.0.1:41000", "") == "tcp://127.0.0.1:41000"
    assert parse(f"tcp://{own()}:1")[0] == own() != "0.0.0.0"


def test_a_name_that_nobody_answers_for_costs_its_deadline_and_no_more(monkeypatch):
    """The look-up itself goes on in a thread, and stops nobody."""
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(30) and [(2, 1, 6, "", ("127.0.0.1", 0))])
    before = time.monotonic()
    with pytest.raises(TimeoutError, match="nobody answered for the name 'slow'"):
        numeric("tcp://slow:5600", 0.1)
    over.set()
    assert time.monotonic() - before < 20


def test_a_neighbours_name_is_looked_up_again_at_every_redial(monkeypatch):
    """It means nobody at first, then an address where nobody listens, then the neighbour's."""
    answers = iter([OSError("no such name"), "127.0.0.2", "127.0.0.1"])

    def look_up(host, port, **_):
        assert host == "agent-0"
        if isinstance(answer := next(answers), OSError):
            raise answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr("difnet.exchange.neighbours.REDIAL_S", 0.2)
    identity = [Identity(k, 0, "run", "graph", "weights", "model", "float32", 3) for k in (0, 1)]
    with (Transport(identity[0], [Link(1, False, True, True)], patience=Patience()) as listener,
          Transport(identity[1], [Link(0, True, True, True)], patience=Patience()) as dialler):  # fmt: skip
        port = listener.bind("tcp://127.0.0.1:*").rpartition(":")[2]
        joining = threading.Thread(target=listener.join, args=({}, 20.0))
        joining.start()
        dialler.join({0: f"tcp://agent-0:{port}"}, 20.0)
        joining.join(20)
        assert dialler.active == [0] and listener.active == [1] and next(answers, "all asked") == "all asked"


def test_a_name_that_nobody_answers_for_keeps_no_other_link_waiting(monkeypatch):
    """The look-up goes on beside the links: serving them while it hangs takes no longer than they ask for."""
    hangs, asked = threading.Event(), threading.Event()

    def look_up(*_, **__):
        asked.set()
        hangs.wait(20)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    lookup = Lookup("tcp://slow:5600", 20.0)
    assert asked.wait(10) and lookup.answer() is None
    hangs.set()

    def failed() -> bool:
        try:
            return lookup.answer() is not None
        except OSError as error:
            return str(error) == "no such name"

    until(failed, "what the name server says", 10)


def test_a_name_that_never_resolves_is_named_when_patience_ends(monkeypatch):
    def look_up(*_, **__):
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    identity = Identity(1, 0, "run", "graph", "weights", "model", "float32", 3)
    with Transport(identity, [Link(0, True, True, True)], patience=Patience()) as dialler:
        with pytest.raises(DifnetError, match="tcp://agent-0:41000 no such name"):
            dialler.join({0: "tcp://agent-0:41000"}, 0.3)


@pytest.mark.slow
def test_what_an_agent_prints_is_kept_with_the_run_though_its_host_writes_no_file(difnet, tmp_path):
    """Also what is no whole line, and a character that comes in two pieces."""
    (tmp_path / "loud.py").write_text(
        "import os\n"
        "from difnet.tasks.sinusoid import sinusoid\n"
        "def loud(agents, shots, queries):\n"
        "    family = sinusoid(agents, shots, queries)\n"
        "    draw = family.draw\n"
        "    def shout(agent, count, rng):\n"
        "        os.write(1, b'\\xc3')\n"
        "        os.write(1, f'Übung {agent}'.encode()[1:])\n"
        "        return draw(agent, count, rng)\n"
        "    object.__setattr__(family, 'draw', shout)\n"
        "    return family\n"
    )
    done = difnet("launch", "--topology", "path_graph(n=2)", "--task", "loud:loud", "--iterations", "6", "--engine",
                  "eager", "--eval-tasks", "4", "--quiet")  # fmt: skip
    assert done.status == 0, done.err
    for k in (0, 1):
        assert f"Übung {k}" == (tmp_path / f"runs/latest/agents/00{k}/log.txt").read_text()


def test_the_energy_of_machines_without_counters_is_estimated_from_their_own_agents():
    """Agents 0 and 1 here, 2 and 3 on a machine that measures, 4 on one that cannot; two hosts share the second."""
    measured = {"joules": 7.0, "source": "RAPL", "quality": "measured"}
    unknown = {"joules": None, "source": "processor time x 10 W per busy core", "quality": "estimated"}
    meters = Meters()
    meters.heard(machine_id(), [0, 1], unknown)
    meters.heard("second", [2], measured | {"joules": 6.9})
    meters.heard("second", [3], measured)
    meters.heard("third", [4], unknown)
    told = meters.so_far({0: 1.0, 1: 1.0, 2: 100.0, 3: 100.0, 4: 0.5})
    assert told["quality"] == "estimated" and "RAPL" in told["source"]
    own = Meters().so_far({0: 1.0, 1: 1.0})["joules"]
    np.testing.assert_allclose(told["joules"], own + 7.0 + 5.0)


def test_the_energy_of_other_machines_too_is_counted_from_when_all_are_ready():
    measured = {"joules": 400.0, "source": "RAPL", "quality": "measured"}
    meters = Meters()
    meters.heard("second", [1], measured)
    before = meters.begin()
    assert before is not None and before >= 400.0, "what this machine has counted, if it can, comes on top"
    meters.heard("second", [1], measured | {"joules": 433.0})
    meters.heard("third", [2], measured | {"joules": 5.0})  # its meter began after we did
    told = meters.so_far({1: 1.0, 2: 1.0})
    np.testing.assert_allclose(told["joules"], 33.0 + 5.0)


def test_a_folder_with_too_long_a_name_for_sockets_is_said_with_both_ways_out(difnet, tmp_path):
    """A socket's path may have 107 bytes, and a user's folder for temporary files may have more."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    done = difnet("launch", "--topology", "ring6", TMPDIR=str(long))
    assert done.status == 3 and "TMPDIR" in done.err and "--transport tcp" in done.err and "Traceback" not in done.err
    assert not any(long.iterdir()) and not (tmp_path / "runs").exists()


def test_an_agent_that_closes_its_outputs_costs_its_host_nothing():
    """The end of a pipe can be read for ever: it is read once, and the agent is waited for, not watched."""
    told = []
    with Children() as children:
        children.tell = lambda kind, body: told.append((kind, body))

        def close_and_wait(incarnation: int) -> int:
            os.write(1, b"farewell")
            os.closerange(1, 3)
            return signal.pause() or 0

        children.fork(7, close_and_wait)
        until(lambda: children.attend(wait(children.fds, 1.0)) or len(children.fds) == 1, "the pipe's end", 10)
        assert not wait(children.fds, 0.05) and len(children) == 1
    assert told == [("log", {"agent": 7, "text": "farewell"}),
                    ("exited", {"agent": 7, "incarnation": 0, "status": "killed by SIGTERM", "log_tail": "farewell",
                                "returns": False})]  # fmt: skip


@pytest.mark.slow
def test_two_hosts_of_one_machine_may_have_its_one_address(running, monkeypatch):
    """What they are called must not be what they advertise: each has agents of its own."""
    registry = f"tcp://127.{random.randrange(2, 250)}.{random.randrange(250)}.{random.randrange(2, 250)}:5600"
    monkeypatch.setenv("DIFNET_TOKEN", "sesame")
    launcher = running("launch", "--topology", "path_graph(n=2)", "--engine", "eager", "--hosts-expected", "2",
                       "--registry", registry, "--iterations", "5", "--eval-tasks", "2", "--quiet")  # fmt: skip
    hosts = [running("host", "--agents", str(k), "--registry", registry, "--advertise", "localhost") for k in (1, 0)]
    _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, err
    assert [host.wait(20) for host in hosts] == [0, 0]


@pytest.mark.slow
def test_a_host_that_never_comes_ends_the_waiting_with_who_is_missing(running, monkeypatch):
    """Half of the agents are there, and their host is heard every second; that is no progress.

    An address of this machine's loopback that nobody else has taken keeps other tests' launchers apart.
    """
    registry = f"tcp://127.{random.randrange(2, 250)}.{random.randrange(250)}.{random.randrange(2, 250)}:5600"
    monkeypatch.setenv("DIFNET_TOKEN", "sesame")
    launcher = running("launch", "--topology", "path_graph(n=4)", "--engine", "eager", "--hosts-expected", "2",
                       "--registry", registry, "--set", "ready_timeout_s=15", "--quiet")  # fmt: skip
    host = running("host", "--agents", "0-1", "--registry", registry)
    _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 1 and "gave up: 1/2 hosts, 2/4 agents here" in err
    assert host.wait(20) == 1


def test_the_token_is_told_to_the_user_and_stands_in_no_file_of_the_run(running, tmp_path, monkeypatch):
    """Anybody may read a run folder."""
    monkeypatch.delenv("DIFNET_TOKEN", raising=False)
    registry = f"tcp://127.{random.randrange(2, 250)}.{random.randrange(250)}.{random.randrange(2, 250)}:5600"
    launcher = running("launch", "--topology", "path_graph(n=4)", "--hosts-expected", "2", "--registry", registry,
                       "--json")  # fmt: skip
    until(lambda: [e for e in events(tmp_path, "Note") if "DIFNET_TOKEN=…" in e["text"]], "the commands")
    launcher.send_signal(signal.SIGINT)
    _, err = launcher.communicate(timeout=60)
    token = re.findall(r"DIFNET_TOKEN=([0-9a-f]{32}) difnet host", err)[0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]


def test_who_is_left_of_a_run_that_went_on_from_checkpoints_is_told_to_end(registry):
    """It was out of reach when that was decided; one of another run with the same token is only not heard."""
    registry.run = registry.run | {"life": "sines#2"}
    energy = estimate(None)
    where = registry.endpoint
    with Control(where, "secret", "sines#1") as old, Control(where, "secret", "cosines#1") as other:
        for host in (other, old):
            host.say("beat", {"name": "here", "machine": "", "energy": energy})
        until(lambda: [*registry.listen(0.01)] or registry.refused == 2, "both refusals", 10)
        assert until(lambda: old.hear(0.1), "an answer", 10) == ("end", {})
        assert other.hear(0.0) is None


def test_a_registry_that_takes_anothers_place_knows_processes_again_and_no_others(registry):
    """Who has no name there is asked for it, once; the same process is let in, and one that it replaced is not."""
    at = {"agent": 0, "incarnation": 1, "endpoint": "tcp://127.0.0.1:1", "pid": 7}
    registry.inherit({"agents": {"0": [1, at["endpoint"], 7], "1": [0, "tcp://127.0.0.1:2", 8]}, "gone": [],
                      "hosts": {"here": [0, 1]}}, 0, 3)  # fmt: skip
    with Control(registry.endpoint, "secret", "sines") as known, Control(registry.endpoint, "secret", "sines") as old:
        known.introduction = lambda: ("register", at)
        known.say("note", {"text": "said before it was asked"})
        heard = []

        def listen() -> list:
            known.hear(0.0)
            heard.extend(registry.listen(0.01))
            return [kind for kind, *_ in heard if kind == "note"]

        assert len(until(listen, "the note", 10)) == 1
        assert [kind for kind, *_ in heard if kind != "mark"] == ["adopted", "note"]
        for other in (at | {"incarnation": 0}, at | {"agent": 1, "incarnation": 0, "pid": 9}):
            old.say("register", other)
            kind, body = until(lambda: [*registry.listen(0.01)] or old.hear(0.0), "an answer", 10)
            assert kind == "refused" and "it is registered already" in body["reason"]
