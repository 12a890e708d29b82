"""The control plane: it introduces agents to each other, starts them together, and then only listens.

No state is ever exchanged through here. Agents and hosts talk to it; if it dies, they end or go on, they never wait for
it without a deadline.

    agent -> register {agent, incarnation, endpoint}     -> peers {neighbour: endpoint}
    agent -> joined                                      -> go, when all have joined
    agent -> event {…} + tensors                         -> (to the recorder)
             stop                                        -> agent: at {iteration} -> until {iteration}
             where                                       -> agent: doing {step_s}
    agent -> leave                                       -> left: all that it said is recorded; or stay, to test more
             score {part, models} + tensors              -> agent: Judged {…}, or scored {…}
             mark {said}                                 -> recorded {said}: so many of its words are; hosts too
             (anything, to a launcher's successor)       -> who: it registers again, and says again what may be lost
             moved {agent, endpoint}, gone {agent}       -> its neighbours, when it begins anew or never will
    host  -> configuration? {agents, name, version}      -> run {…}, or refused {reason}
             prepared {…}, beat {name, …} (-> beat), log {agent, text}, exited {agent, status, log_tail}
             score {models} + tensors                    -> host: scored {…} + tensors, all scored, or not scored

A message to the registry is [token, document, tensors…]. A stranger's is dropped after a look at its token, and never
parsed; what a known one may hold is in `vocabulary`.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import zmq

from difnet.errors import EnvironmentLacks, WireError
from difnet.exchange.agreement import Agreement
from difnet.exchange.hosts_seen import DEAD_S, HostSeen, HostsSeen
from difnet.exchange.inbox import MOST_FRAMES, Inbox
from difnet.exchange.members import SELDOM, Introduced, Members
from difnet.exchange.refusals import Refusals, advice
from difnet.exchange.sockets import dual
from difnet.exchange.vocabulary import TO_REGISTRY, EarlierLife, Known, read
from difnet.exchange.wire import FRAME_LIMIT, kind_of, pack_control

FAREWELL_MS = 1000  # for the last words to hosts on other machines
MOST_READ, TURN_S = 1000, 0.1  # in one turn: who calls `listen` has deadlines of its own
Told = tuple[str, dict[str, Any], list[np.ndarray]]  # kind, body, tensors


class Message(NamedTuple):
    """What somebody told the registry."""

    sender: bytes
    kind: str
    body: dict[str, Any]
    tensors: list[np.ndarray]


class Registry:
    """The launcher's end; use as a context manager.

    `run` is what a host is told when it asks, its "run" and "version" among it. `refusals` tell what was dropped.
    Agents are introduced to each other once it is said with which iteration they begin: `begin`.

    Args: `token`, a secret that every message must carry; `neighbours`, agent -> whom it must be connected to.
    Raises: EnvironmentLacks, if it cannot listen there.
    """

    def __init__(self, endpoint: str, token: str, neighbours: dict[int, list[int]]) -> None:
        self._neighbours = neighbours
        self._run, self._known = dict[str, Any](), Known(neighbours)
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._inbox = Inbox(self._router, token)
        self._router.setsockopt(zmq.MAXMSGSIZE, FRAME_LIMIT + 1024)
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
        self.members = Members()
        self._first: int | None = None  # the iteration that all begin with, once that is known
        self._prepared, self._joined = set[int](), set[int]()  # agents whose hosts are, and that are connected
        self._leaving: list[bytes] = []  # agents that wait to hear that all they said is recorded
        self._asking: dict[bytes, tuple[float, dict[str, Any]]] = {}  # hosts that wait for an answer, since when
        self._ending = Agreement()
        self.keeps_them = False  # whether agents stay after their last iteration, to test what came out
        self.is_undecided = False  # whether the network of a launcher that died is looked for: no host begins then
        self.started = False
        self.refusals = Refusals()

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *exception: object) -> None:
        self._context.destroy(linger=FAREWELL_MS)

    @property
    def run(self) -> dict[str, Any]:
        """What a host is told when it asks."""
        return self._run

    @run.setter
    def run(self, run: dict[str, Any]) -> None:
        self._run, self._known = run, Known.of(self._neighbours, run)

    @property
    def hosts(self) -> HostsSeen:
        """The hosts that were let in."""
        return self.members.hosts

    @property
    def refused(self) -> int:
        """How many messages were dropped."""
        return self.refusals.count

    @property
    def registered(self) -> int:
        """How many agents are known."""
        return len(self.members.agents)

    @property
    def joined(self) -> int:
        """How many agents are connected to all their neighbours."""
        return len(self._joined)

    def listen(self, timeout_s: float) -> Iterator[Told]:
        """Serve what has arrived; yields (kind, body, tensors) of what is not the registry's own affair.

        In one turn no more than MOST_READ messages, for TURN_S: whatever floods it, the caller's own work goes on.
        """
        if self._router.poll(int(timeout_s * 1000) + 1):
            left, until = MOST_READ, time.monotonic() + TURN_S
            while left and time.monotonic() < until and self._inbox.has_more():
                if self._inbox.unread:
                    self._inbox.skip(until)
                    continue
                left -= 1
                sender, frames = self._inbox.receive()
                try:
                    message = self._read(sender, frames)
                    if self.members.is_nameless(sender, message.kind):
                        if self.members.is_time_to_ask(sender):
                            self._send(sender, "who", {})
                    else:
                        yield from self._serve(message)
                except EarlierLife as error:
                    self._send(sender, "end", {})
                    self.refusals.add(self._name(sender, frames), str(error))
                except WireError as error:
                    self.refusals.add(self._name(sender, frames), str(error))
        if not self.is_undecided:
            yield from self._answer_those_who_wait()
        if iteration := self._ending.settle(self._agents.keys()):
            self._tell_agents("until", {"iteration": iteration})

    def begin(self, first: int) -> None:
        """All agents begin after so many iterations: 0, or those that they have checkpoints of."""
        self._first = first
        self._introduce_all()

    def inherit(self, members: dict[str, Any], first: int, length: int) -> None:
        """Begin with the members of a registry that is no more, which had started; a launch model has so many values.
        """
        self.members.take(members)
        self._first, self._known.length, self.started = first, length, True

    def disown(self) -> None:
        """Nobody of that network is there any more: begin with none."""
        self.members, self._first, self._known.length, self.started = Members(), None, None, False

    def recorded(self, agent: int, said: int) -> None:
        """Tell an agent that so many of its words are recorded: it need keep them no longer."""
        if agent in self._agents:
            self._send(self._agents[agent], "recorded", {"said": said})

    def save(self, iteration: int) -> None:
        """Ask all agents for a checkpoint after this iteration."""
        self._tell_agents("save", {"iteration": iteration})

    def stop(self) -> None:
        """Ask all agents to end after the same iteration."""
        if self._ending.ask():
            self._tell_agents("stop", {})

    def ask_where(self) -> None:
        """Ask all agents how long the step that they compute has lasted; one that waits for others says None."""
        self._tell_agents("where", {})

    def score(self, models: dict[str, int], tensors: Sequence[np.ndarray]) -> HostSeen | None:
        """Ask a host that is there to test models, whose parameters are the tensors. Returns that host, if any."""
        host = next((h for h in self.hosts.values() if h.supervises and not h.is_silent()), None)
        if host is not None:
            self._known.asked |= {(None, model) for model in models}
            self._send(host.sender, "score", {"models": models, "part": "test"}, tensors)
        return host

    def ask_owners(self, part: str, agents: Collection[int], models: dict[str, int], w: Sequence[np.ndarray]) -> None:
        """Have agents test models with their own data for "validation" or "test"; `w` are the models' parameters."""
        self._known.asked |= {(agent, model) for agent in agents for model in models}
        self._tell_agents("score", {"models": models, "part": part}, agents, w)

    def let_go(self) -> None:
        """Nobody has to stay any longer."""
        if self.keeps_them:
            self.keeps_them = False
            self._tell_agents("left", {})

    def end(self) -> None:
        """Tell the hosts that the run is over: they end whoever is left."""
        for host in self.hosts.values():
            self._send(host.sender, "end", {})

    def forget(self, agent: int, incarnation: int, for_good: bool) -> None:
        """An agent's process is gone, perhaps for good: nobody waits for its answer any more."""
        if self.members.forget(agent, incarnation, for_good):
            self._agents.pop(agent, None)
        if for_good:
            self._tell_agents("gone", {"agent": agent}, self._neighbours[agent])

    def _read(self, sender: bytes, frames: list[bytes]) -> Message:
        """A message of somebody who is known, in its kind's shape."""
        if not self._inbox.is_known(frames):
            if reason := advice(frames, str(self.run.get("version"))):
                self._send(sender, "refused", {"reason": reason})
            raise WireError("without this run's token")
        if self._inbox.unread:
            raise WireError(f"more than {MOST_FRAMES} frames")
        try:
            kind, body, tensors = read(TO_REGISTRY, frames[1:], self._known)
        except WireError as error:
            if kind_of(frames[1]) == "configuration?":  # who asks so waits for an answer
                self._send(sender, "refused", {"reason": f"it was not understood ({error}); install the same version "
                                                         f"on both, which is {self.run['version']} here"})  # fmt: skip
            raise
        message = Message(sender, kind, body, tensors)
        if not self.members.is_nameless(sender, kind):
            self.members.check_speaker(sender, kind, body)
            self._known.learn(kind, body)
        return message

    def _adopt(self, sender: bytes, agent: int) -> None:
        """Tell an agent that another launcher introduced whatever it may have missed since."""
        self._connect(agent, sender)
        self._introduce_neighbours(agent)
        for l in self.members.gone.intersection(self._neighbours[agent]):
            self._send(sender, "gone", {"agent": l})
        if self._ending.is_asked:
            self._send(sender, "stop", {})
        if self._ending.until is not None:
            self._send(sender, "until", {"iteration": self._ending.until})

    def _name(self, sender: bytes, frames: list[bytes]) -> str:
        """Whose message it was, as far as we know."""
        if not self._inbox.is_known(frames):
            return "a stranger"
        if sender in self.members.voices:
            return f"agent {self.members.voices[sender]}"
        host = self.hosts.of(sender)
        return f"host {host.name!r}" if host else "somebody who knows the token"

    def _serve(self, message: Message) -> Iterator[Told]:
        sender, kind, body, tensors = message
        if kind not in (*SELDOM, "register") and (agent := body.get("agent")) in self._agents:
            self._connect(agent, sender)  # its connection may be a new one
        if kind == "configuration?":
            yield from self._introduce(sender, body)
        elif kind == "beat":
            if host := self.hosts.get(body["name"]):
                host.sender, host.heard_at, host.supervises = sender, time.monotonic(), True
                self.members.host_heard(host.name)
                self._send(sender, "beat", {"started": self.started and not self._ending.is_asked})
                yield kind, body | {"agents": host.agents}, tensors
        elif kind == "register":
            one = Introduced(body["incarnation"], body["endpoint"], body["pid"])
            yield from self._register(sender, body["agent"], one)
        elif kind == "joined":
            self._joined.add(body["agent"])
            self._start()
        elif kind == "leave":
            self._leaving.append(sender)
        elif kind == "mark" and (agent := self.members.voices.get(sender)) is not None:
            yield kind, body | {"agent": agent}, tensors
        elif kind == "mark":
            if not self.is_undecided:  # a host's: all that it said was handed on, and is recorded
                self._send(sender, "recorded", body)
        elif kind == "at":
            self._ending.heard(body["agent"], body["iteration"])
        else:
            if kind == "prepared":
                self._prepared.update(body["agents"])
            yield kind, body, tensors
            self._start()  # when the launcher knows what was prepared

    def _connect(self, agent: int, sender: bytes) -> None:
        if self._agents.get(agent) != sender:
            self.members.voices.pop(self._agents.get(agent, b""), None)
            self._agents[agent], self.members.voices[sender] = sender, agent

    def _introduce(self, sender: bytes, body: dict[str, Any]) -> Iterator[Told]:
        """Tell a host what to run, or why it may not take part; or let it wait until it is known whether it may."""
        name, agents = body["name"], body["agents"]
        if self.is_undecided:
            self._asking[sender] = time.monotonic(), body
            return
        if wrong := self.hosts.objection(body, self.run, self._neighbours, self.started) or self._too_late(agents):
            self._send(sender, "refused", {"reason": wrong})
            return
        before, incarnations = self.hosts.before(agents), dict[str, int]()
        if before and self.members.agents.keys() & set(agents):
            if time.monotonic() - before.heard_at < DEAD_S:
                self._asking.setdefault(sender, (time.monotonic(), body))
                return
            last = self.members.here(agents)
            incarnations = {str(k): incarnation + 1 for k, incarnation in last.items()}
            del self.hosts[before.name]
            self.members.host_heard(before.name)
            yield "replaced", {"host": name, "incarnations": last}, []
        self.hosts[name], self.members.is_changed = HostSeen(name, agents, sender, time.monotonic()), True
        self._send(sender, "run", self.run | {"incarnations": incarnations})

    def _too_late(self, agents: list[int]) -> str:
        """Why no further process can be one of these agents, if one was there already; "" if it can."""
        here, gone = (sorted(those & set(agents)) for those in (self.members.agents.keys(), self.members.gone))
        may_return = self.started and not self._ending.is_asked and self.run["config"]["on_failure"] == "restart"
        if gone or (here and not (may_return and self.hosts.before(agents))):
            return f"agent {(gone or here)[0]} takes part already, or has ended for good, and cannot come back"
        return ""

    def _answer_those_who_wait(self) -> Iterator[Told]:
        """Agents that leave, once what they said is recorded; and hosts that were started again, once it is known that
        those before them are gone, or that they are not."""
        while self._leaving:
            self._send(self._leaving.pop(), "stay" if self.keeps_them else "left", {})
        for sender, (since, body) in [*self._asking.items()]:
            before = self.hosts.before(body["agents"])
            if before is None or time.monotonic() - before.heard_at >= DEAD_S:
                del self._asking[sender]
                yield from self._introduce(sender, body)
            elif time.monotonic() - since > 2 * DEAD_S:
                del self._asking[sender]
                self._send(sender, "refused", {"reason": f"agent {body['agents'][0]} is at host {before.name!r}, which "
                                                         f"still beats; give others with --agents"})  # fmt: skip

    def _register(self, sender: bytes, agent: int, one: Introduced) -> Iterator[Told]:
        before = self.members.agents.get(agent)
        is_new = before is None or one.incarnation > before.incarnation
        if self.members.is_known_again(agent, one):
            self._adopt(sender, agent)
            yield "adopted", {"agent": agent}, []
            return
        if agent not in self._neighbours or not is_new:
            last = len(self._neighbours) - 1
            taken = "it is registered already" if agent in self._neighbours else f"agents are 0 to {last}"
            self._send(sender, "refused", {"reason": f"agent {agent}: {taken}"})
            return
        if self.started and self._ending.is_asked:
            self._send(sender, "refused", {"reason": f"agent {agent} comes back too late: the run is ending"})
            return
        self._connect(agent, sender)
        self.members.agents[agent], self.members.is_changed = one, True
        if self.started:
            self._tell_agents("moved", {"agent": agent, "endpoint": one.endpoint}, self._neighbours[agent])
            self._introduce_neighbours(agent)
        else:
            self._introduce_all()

    def _introduce_all(self) -> None:
        if self._first is not None and len(self.members.agents) == len(self._neighbours):
            for k in self._neighbours:
                self._introduce_neighbours(k)

    def _introduce_neighbours(self, k: int) -> None:
        endpoints = {str(l): self.members.agents[l].endpoint for l in self._neighbours[k] if l not in self.members.gone}
        self._send(self._agents[k], "peers", {"endpoints": endpoints, "first": self._first})

    def _start(self) -> None:
        """Begin, once everybody is connected and it is known of everybody what was prepared."""
        if not self.started and len(self._joined & self._prepared) == len(self._neighbours):
            self.started = True
            for host in self.hosts.values():  # first: an agent may die in its first round
                self._send(host.sender, "beat", {"started": True})
            self._tell_agents("go", {})

    def _tell_agents(
        self, kind: str, body: dict[str, Any], of: Collection[int] | None = None, tensors: Sequence[np.ndarray] = ()
    ) -> None:  # fmt: skip
        for agent, sender in self._agents.items():
            if of is None or agent in of:
                self._send(sender, kind, body, tensors)

    def _send(self, to: bytes, kind: str, body: dict[str, Any], tensors: Sequence[np.ndarray] = ()) -> None:
        try:
            self._router.send_multipart([to, *pack_control(kind, body, tensors)], zmq.NOBLOCK)
        except zmq.ZMQError:
            pass  # whoever it was has gone; who is gone is known from elsewhere


