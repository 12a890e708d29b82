"""The control plane: it introduces agents to each other, starts them together, and then only listens.

No state is ever exchanged through here. Agents and hosts talk to it; if it dies, they end or go on, they never wait for
it without a deadline.

    agent -> register {agent, incarnation, endpoint}     -> peers {neighbour: endpoint}
    agent -> joined                                      -> go, when all have joined
    agent -> event {…} + tensors                         -> (to the recorder)
             stop                                        -> agent: at {iteration} -> until {iteration}
             where                                       -> agent: doing {step_s}
    agent -> leave                                       -> left: all that it said is recorded
             moved {agent, endpoint}, gone {agent}       -> its neighbours, when it begins anew or never will
    host  -> configuration? {agents, name, version}      -> run {…}, or refused {reason}
             prepared {…}, beat {name, …} (-> beat), log {agent, text}, exited {agent, status, log_tail}
             score {models} + tensors                    -> host: scored {…} + tensors
"""

import hmac
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import zmq

from difnet.errors import EnvironmentLacks, WireError
from difnet.exchange.sockets import dual, readable
from difnet.exchange.wire import natural_number, pack_control, unpack_control
from difnet.record import events

STOP_ANSWER_S = 5.0
FAREWELL_MS = 1000  # for the last words to hosts on other machines
HOST_SILENCE_S = 15.0  # a host unheard for so long is not asked for anything


class Message(NamedTuple):
    """What somebody told the registry."""

    sender: bytes
    kind: str
    body: dict[str, Any]
    tensors: list[np.ndarray]


@dataclass(slots=True)
class HostSeen:
    """A host as it told of itself."""

    name: str
    agents: list[int]
    sender: bytes
    heard_at: float
    supervises: bool = False  # its agents are there

    def is_silent(self) -> bool:
        """Whether its beats have stopped."""
        return self.supervises and time.monotonic() - self.heard_at > HOST_SILENCE_S


class Registry:
    """The launcher's end; use as a context manager.

    `run` is what a host is told when it asks, its "run" and "version" among it.

    Args: `token`, a secret that every message must carry; `neighbours`, agent -> whom it must be connected to.
    Raises: EnvironmentLacks, if it cannot listen there.
    """

    def __init__(self, endpoint: str, token: str, neighbours: dict[int, list[int]]) -> None:
        self.run: dict[str, Any] = {}
        self._token, self._neighbours = token, neighbours
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.RCVHWM, 10_000)
        self._router.setsockopt(zmq.MAXMSGSIZE, 2**31)
        dual(self._router, endpoint)
        try:
            self._router.bind(endpoint)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise EnvironmentLacks(
                f"cannot listen for agents at {endpoint}: {error.strerror.lower()}. Another launcher may be there, or "
                f"this machine has no such address; give another one with --registry tcp://HOST:PORT"
            ) from error
        self.endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._agents: dict[int, bytes] = {}  # agent -> its connection
        self._endpoints: dict[int, str] = {}
        self._incarnations: dict[int, int] = {}
        self._joined: set[int] = set()
        self.hosts: dict[str, HostSeen] = {}  # by name
        self._at: dict[int, int] = {}  # agent -> the iteration it was in when asked to stop
        self._stopping_since: float | None = None
        self.started = False
        self.refused = 0

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *exception: object) -> None:
        self._context.destroy(linger=FAREWELL_MS)

    @property
    def registered(self) -> int:
        """How many agents are known."""
        return len(self._endpoints)

    @property
    def joined(self) -> int:
        """How many agents are connected to all their neighbours."""
        return len(self._joined)

    def listen(self, timeout_s: float) -> Iterator[tuple[str, dict[str, Any], list[np.ndarray]]]:
        """Serve what has arrived; yields (kind, body, tensors) of what is not the registry's own affair."""
        if self._router.poll(int(timeout_s * 1000) + 1):
            while readable(self._router):
                try:
                    message = self._read(self._router.recv_multipart())
                    yield from self._serve(message)
                except WireError:
                    self.refused += 1
        self._settle_stop()

    def stop(self) -> None:
        """Ask all agents to end after the same iteration."""
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            self._tell_agents("stop", {})

    def ask_where(self) -> None:
        """Ask all agents how long the step that they compute has lasted; one that waits for others says None."""
        self._tell_agents("where", {})

    def score(self, models: dict[str, Any], tensors: Sequence[np.ndarray]) -> HostSeen | None:
        """Ask a host that is there to test models, whose parameters are the tensors. Returns that host, if any."""
        host = next((h for h in self.hosts.values() if h.supervises and not h.is_silent()), None)
        if host is not None:
            self._send(host.sender, "score", {"models": models}, tensors)
        return host

    def end(self) -> None:
        """Tell the hosts that the run is over: they end whoever is left."""
        for host in self.hosts.values():
            self._send(host.sender, "end", {})

    def forget(self, agent: int, incarnation: int, for_good: bool) -> None:
        """An agent's process is gone, perhaps for good: nobody waits for its answer any more."""
        if self._incarnations.get(agent) == incarnation:
            self._agents.pop(agent, None)
        if for_good:
            self._tell_agents("gone", {"agent": agent}, self._neighbours[agent])

    def _read(self, frames: list[bytes]) -> Message:
        if len(frames) < 2:
            raise WireError("a control message without a header")
        kind, body, tensors = unpack_control(frames[1:])
        token = body.pop("token", "")
        if not isinstance(token, str) or not hmac.compare_digest(token.encode(), self._token.encode()):
            if kind == "configuration?":  # somebody who may have mistyped it waits for an answer
                self._send(frames[0], "refused", {"reason": "the token is another one than this run's; "
                                                  "set DIFNET_TOKEN to what the launcher told"})  # fmt: skip
            raise WireError("a control message without this run's token")
        if body.pop("of", self.run.get("run")) != self.run.get("run"):  # of one that had the same token
            raise WireError("a control message of another run")
        return Message(frames[0], kind, body, tensors)

    def _serve(self, message: Message) -> Iterator[tuple[str, dict[str, Any], list[np.ndarray]]]:
        sender, kind, body, tensors = message
        if kind in events.KINDS and (agent := natural_number(body, "agent")) in self._agents:
            self._agents[agent] = sender  # its connection may be a new one
        if kind == "configuration?":
            self._introduce(sender, body)
        elif kind == "beat":
            if host := self.hosts.get(str(body.get("name"))):
                host.sender, host.heard_at, host.supervises = sender, time.monotonic(), True
                self._send(sender, "beat", {"started": self.started and self._stopping_since is None})
                yield kind, body | {"agents": host.agents}, tensors
        elif kind == "register":
            agent, incarnation = natural_number(body, "agent"), natural_number(body, "incarnation")
            self._register(sender, agent, incarnation, str(body.get("endpoint", "")))
        elif kind == "joined":
            self._join(natural_number(body, "agent"))
        elif kind == "leave":
            self._send(sender, "left", {})
        elif kind == "at":
            self._at[natural_number(body, "agent")] = natural_number(body, "iteration")
        else:
            yield kind, body, tensors

    def _introduce(self, sender: bytes, body: dict[str, Any]) -> None:
        """Tell a host what to run, or why it may not take part."""
        name, agents, run = str(body.get("name")), body.get("agents"), self.run["run"]
        if not isinstance(agents, list) or not all(type(k) is int for k in agents):
            raise WireError("a host's agents are not a list of numbers")
        elsewhere = {k: h.name for h in self.hosts.values() if h.name != name for k in h.agents}
        last, wrong = len(self._neighbours) - 1, ""
        if body.get("run") not in (None, run):
            wrong = f"it serves run {run!r}, and this host was started for {body['run']!r}; leave --run-id away or wait"
        elif body.get("version") != self.run["version"]:
            wrong = (f"the launcher is difnet {self.run['version']}, this host is {body.get('version')}; install the "
                     f"same version on both")  # fmt: skip
        elif outside := sorted(set(agents) - self._neighbours.keys()):
            wrong = f"there is no agent {outside[0]}: this run has agents 0 to {last}; give others with --agents"
        elif here := sorted(self._endpoints.keys() & set(agents)):
            wrong = f"agent {here[0]} takes part already, and one that has died cannot come back into the same run"
        elif taken := sorted(elsewhere.keys() & set(agents)):
            wrong = f"agent {taken[0]} is at host {elsewhere[taken[0]]!r} already; give others with --agents"
        if wrong:
            self._send(sender, "refused", {"reason": wrong})
            return
        self.hosts[name] = HostSeen(name, agents, sender, time.monotonic())
        self._send(sender, "run", self.run)

    def _register(self, sender: bytes, agent: int, incarnation: int, endpoint: str) -> None:
        is_new = incarnation > self._incarnations.get(agent, -1)
        if agent not in self._neighbours or not is_new:
            last = len(self._neighbours) - 1
            taken = "it is registered already" if agent in self._neighbours else f"agents are 0 to {last}"
            self._send(sender, "refused", {"reason": f"agent {agent}: {taken}"})
            return
        if self.started and self._stopping_since is not None:
            self._send(sender, "refused", {"reason": f"agent {agent} comes back too late: the run is ending"})
            return
        self._agents[agent], self._endpoints[agent], self._incarnations[agent] = sender, endpoint, incarnation
        if self.started:
            self._tell_agents("moved", {"agent": agent, "endpoint": endpoint}, self._neighbours[agent])
            self._introduce_neighbours(agent)
        elif len(self._endpoints) == len(self._neighbours):
            for k in self._neighbours:
                self._introduce_neighbours(k)

    def _introduce_neighbours(self, k: int) -> None:
        endpoints = {str(l): self._endpoints[l] for l in self._neighbours[k]}
        self._send(self._agents[k], "peers", {"endpoints": endpoints})

    def _join(self, agent: int) -> None:
        self._joined.add(agent)
        if len(self._joined) == len(self._neighbours) and not self.started:
            self.started = True
            self._tell_agents("go", {})

    def _settle_stop(self) -> None:
        """Once every agent has said where it is (or had time to), all end after the furthest one's next iteration."""
        if self._stopping_since is None or not self._at:
            return
        if self._at.keys() >= self._agents.keys() or time.monotonic() - self._stopping_since > STOP_ANSWER_S:
            self._tell_agents("until", {"iteration": max(self._at.values()) + 1})
            self._stopping_since = float("inf")

    def _tell_agents(self, kind: str, body: dict[str, Any], of: Iterable[int] | None = None) -> None:
        for agent, sender in self._agents.items():
            if of is None or agent in of:
                self._send(sender, kind, body)

    def _send(self, to: bytes, kind: str, body: dict[str, Any], tensors: Sequence[np.ndarray] = ()) -> None:
        try:
            self._router.send_multipart([to, *pack_control(kind, body, tensors)], zmq.NOBLOCK)
        except zmq.ZMQError:
            pass  # whoever it was has gone; who is gone is known from elsewhere


