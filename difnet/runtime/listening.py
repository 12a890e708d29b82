"""What does a launcher do while its network lives? It listens, records, and notices who is gone, in one loop."""

import signal
import time
from typing import Any

from difnet.config import RunConfig
from difnet.errors import AgentLost, CheckpointError, DifnetError
from difnet.exchange.hosts_seen import SILENCE_S, HostSeen
from difnet.exchange.registry import Registry, Told
from difnet.places import Place, agents_text
from difnet.record import events, succession
from difnet.record.events import Event, Finished
from difnet.record.pieces import pieces
from difnet.record.recorder import Recorder
from difnet.record.succession import Succession
from difnet.runtime import final_test, preparation
from difnet.runtime.owners import Owners
from difnet.runtime.pace import Pace
from difnet.runtime.quorum import Quorum
from difnet.runtime.receipts import Receipts
from difnet.runtime.standstill import Standstill
from difnet.runtime.takeover import Legacy
from difnet.system.lifetime import how_it_ended, say_alive

PULSE_S, SAY_S, LAST_WORDS_S = 1.0, 0.5, 1.0
STOP_S = 10.0  # how long agents that are asked to stop are waited for
AWAY_S = 3.0  # a turn of the loop that takes longer: it is we who were stopped


class Launch:
    """The loop of one launch: listen, record, and notice who is gone."""

    def __init__(
        self, config: RunConfig, recorder: Recorder, registry: Registry, hosts: Place, stop: list[int],
        first: int | None = None, legacy: Legacy | None = None,
    ) -> None:  # fmt: skip
        self._legacy = legacy  # what another launcher would need, where hosts may outlive this one
        self._is_heir = False  # whether the network was another launcher's
        self._first = first  # the iteration after which a run that goes on is to begin, if somebody said so
        self._pace: Pace | None = None  # of checkpoints, from the start on, where time decides
        self.config, self.recorder, self.registry, self.hosts, self._stop = config, recorder, registry, hosts, stop
        self._exited: set[int] = set()
        self._prepared: dict[str, dict[str, Any]] = {}  # by host
        self._failure: DifnetError | None = None
        self._heard_at = time.monotonic()
        self._told_at: dict[int, float] = {}  # agent -> when it was last heard
        self._said_at, self._said = 0.0, ""
        self._test = final_test.FinalTest(recorder, registry)
        self._receipts = Receipts(recorder.tally.waiting)
        self._deaths: dict[int, int] = {}  # agent -> its processes whose end another launcher has recorded
        self._reason = ""  # why the run ended before its agents did
        self._ended_by = ""  # why all are to end after the same iteration though nobody asked for it
        self._turned_at = time.monotonic()
        self._patient_until: float | None = None  # with those that were asked to stop
        self._standstill: Standstill | None = None  # from the start on
        self._quorum = Quorum(config.quorum, config.return_s)
        self._owners = Owners(recorder, registry, config.step_timeout_s)
        self._agents = recorder.topology.agents + config.hold_out.count

    def until_done(self) -> dict[str, Any]:
        """Serve the network until every agent has ended; returns the summary."""
        leaving_since, next_pulse = None, 0.0
        if self.recorder.has_begun and not self._is_heir:
            self.registry.begin(0)
        while len(self._exited) < self._agents:
            for kind, body, tensors in self.registry.listen(0.1):
                if kind not in ("beat", "mark"):  # they say that somebody is there, and not that anything goes on
                    self._heard_at = time.monotonic()
                self._take(kind, body, tensors)
            say_alive()
            self._say_who_is_ready()
            self._say_what_was_refused()
            for agent, said in self._receipts.due():
                self.registry.recorded(agent, said)
            if self._legacy:
                self._legacy.keep(self.registry, self.recorder)
            now = time.monotonic()
            self._forgive(now)
            self._owners.turn(self._exited)
            self._lose_silent_hosts(now)
            if self._stop and self._has_stopped(now):
                break
            if self._ended_by or self.recorder.target_reached:
                self.registry.stop()
            if self.registry.started and now >= next_pulse:
                next_pulse = now + PULSE_S
                self.recorder.pulse()
                self._look_for_quorum(now)
                self._say_who_is_waited_for(now)
                self._ask_for_checkpoint(now)
            if self.hosts.poll() is not None:  # what it said last may still be on its way
                leaving_since = leaving_since or now
            if self._failure or (leaving_since and now - leaving_since > LAST_WORDS_S):
                break
            if reason := self._out_of_patience(now):
                self._give_up(reason)
                break
        return self._end()

    def take_over(self, told: Succession, silent_s: float, heard: list[Told]) -> None:
        """Go on with the network of a launcher that died, of which something was heard."""
        recorder = self.recorder
        self._deaths, self._is_heir, g = recorder.take_over(told.facts, silent_s), True, recorder.tally
        self._exited = {*g.finished, *told.members["gone"]}
        self._told_at = dict.fromkeys(range(self._agents), time.monotonic())
        self._owners.begin()
        if g.lost and self.config.on_failure == "stop":
            self._ended_by = f"agent {min(g.lost)} was lost, and on_failure is stop"
        for each in heard:
            self._take(*each)

    def _notice_old_stop(self, event: Event) -> None:
        """Agents may have been asked to stop by a launcher that died over it: then all are to end, and it is said."""
        is_ours = self._stop or self._ended_by or self.recorder.target_reached
        if self._is_heir and isinstance(event, Finished) and event.state == "stopped" and not is_ours:
            self._ended_by = "its agents were being stopped when the launcher before this one died"

    def _has_stopped(self, now: float) -> bool:
        """After an interrupt: whether whoever is left is not waited for."""
        if self._patient_until is None:
            self._patient_until = now + STOP_S
            self.recorder.note("stopping: agents end after the same iteration; again to kill")
            self.registry.stop()
            self._owners.let_go()
        if len(self._stop) > 1 or not self.registry.started:
            return True
        if now > self._patient_until:
            left = [k for k in self.recorder.tally.alive if k not in self._exited]
            self.recorder.note(f"agents {agents_text(left)} did not stop within {STOP_S:.0f} s and are killed; what "
                               f"was recorded of them is kept")  # fmt: skip
        return now > self._patient_until

    def _give_up(self, reason: str) -> None:
        """Wait no longer: an error before the start, and after it the reason of a run that failed."""
        if self.registry.started:
            self.recorder.note(reason)
            self._reason = reason
        else:
            self._failure = DifnetError(reason)

    def _forgive(self, now: float) -> None:
        """Whoever could not be heard while we were stopped ourselves was not silent."""
        if now - self._turned_at > AWAY_S:
            self._heard_at = now
            self._told_at = dict.fromkeys(self._told_at, now)
            for host in self.registry.hosts.values():
                host.heard_at = now
        self._turned_at = now

    def _take(self, kind: str, body: dict[str, Any], tensors: list[Any]) -> None:
        if kind in events.KINDS:
            self._told_at[body["agent"]] = self._heard_at
            self.recorder.record(event := events.from_dict({"event": kind, **body}), tensors)
            self._notice_old_stop(event)
        elif kind == "note":
            if not self.recorder.has_noted(body["text"]):
                self.recorder.note(body["text"])
        elif kind == "beat":
            self.recorder.meters.heard(body["machine"], body["agents"], body["energy"])
        elif kind == "log":
            self.recorder.prints.take(body["agent"], body["text"])
        elif kind == "doing" and self._standstill:
            self._standstill.heard(body["agent"], body["step_s"])
        elif kind == "prepared":
            self._prepared[body["host"]] = body
            self._agree()
        elif kind in final_test.KINDS:
            by = self._test if body["agent"] is None else self._owners
            by.take(kind, body, tensors)
        elif kind == "mark":
            self._receipts.asked(body["agent"], body["said"])
        elif kind == "adopted":
            self.recorder.tally.lost.pop(body["agent"], None)
            self._told_at[body["agent"]] = self._heard_at
        elif kind == "failed":
            host = f"host {body['host']}: " if self.config.place != "local" else ""
            self._failure = DifnetError(f"{host}{body['reason']}")
            self._failure.exit_code = body["exit_code"]
        elif kind == "replaced":
            self._replaced(body["host"], body["incarnations"])
        elif kind == "exited":
            self.registry.forget(body["agent"], body["incarnation"], for_good=not body["returns"])
            if body["incarnation"] < self._deaths.get(body["agent"], 0):  # it was recorded, and is told again
                self._exited |= set() if body["returns"] else {body["agent"]}
            elif body["returns"]:
                told = f"{body['status']}; a new process takes its place"
                self.recorder.lose([body["agent"]], told, body["log_tail"], body["incarnation"])
            else:
                self._exit(body["agent"], body["status"], body["log_tail"])

    def _replaced(self, host: str, incarnations: dict[int, int]) -> None:
        """A host has ended without a word, and was started again: its agents are lost until new ones are there."""
        self._exited -= incarnations.keys()
        for k, incarnation in incarnations.items():
            if k not in self.recorder.tally.lost:
                self.recorder.lose([k], f"its host ended; {host} takes its place", incarnation=incarnation)

    def _exit(self, agent: int, status: str, log_tail: str) -> None:
        self._exited.add(agent)
        if not self.registry.started:
            last = f":\n{log_tail}" if log_tail else ""
            self._failure = self._failure or AgentLost(f"agent {agent} ended before the start ({status}){last}")
            return
        finished = self.recorder.tally.finished.get(agent)
        if (finished is None or finished.state == "failed") and not self._owners.has_let_go(agent):
            self.recorder.lose([agent], status, log_tail)
            if self.config.on_failure == "stop":
                self._ended_by = self._ended_by or f"agent {agent} was lost ({status}), and on_failure is stop"

    def _agree(self) -> None:
        """A run that goes on: after which iteration, once it is known of everybody what checkpoints there are."""
        past, recorder = self.recorder.past, self.recorder
        found = preparation.checkpoints(self._prepared, self._agents)
        if past is None or recorder.has_begun or found is None:
            return
        try:
            first = past.agree(found, self._first)
        except CheckpointError as error:
            self._failure = error
            return
        recorder.resume(first)
        self.registry.begin(first)

    def _ask_for_checkpoint(self, now: float) -> None:
        """Where time decides: have everybody write one of the same iteration."""
        if self.config.checkpoint_every is not None:
            return
        g = self.recorder.tally
        self._pace = (self._pace or Pace(self.config.checkpoint_s, now)).after(self.recorder.checkpointed, now)
        furthest = max(map(g.reached, g.alive), default=0)
        if iteration := self._pace.ask(now, g.iteration, furthest, self.recorder.rounds_per_s):
            self.registry.save(iteration)

    def _look_for_quorum(self, now: float) -> None:
        """Have all end when too few have been together for too long; where nobody has neighbours, all who live are."""
        if self._quorum.needed and not self._ended_by:
            g, edges = self.recorder.tally, self.recorder.topology.edges
            together = max(map(len, pieces(g.alive, edges, g.apart.keys())), default=0) if edges else len(g.alive)
            if warning := self._quorum.look(together, now):
                self.recorder.note(warning)
            self._ended_by = self._quorum.reason

    def _say_who_is_ready(self) -> None:
        registry, recorder = self.registry, self.recorder
        if registry.started and recorder.ready_s is None:
            recorder.ready(preparation.facts(self._prepared))
            self._owners.begin()
        elif not registry.started and time.monotonic() - self._said_at > SAY_S:
            self._said_at = time.monotonic()
            wanted = self.config.hosts_expected
            hosts = f"{len(registry.hosts)}/{wanted} hosts, " if wanted else ""
            here = f"{hosts}{registry.registered}/{self._agents} agents here, {registry.joined} connected"
            if here != self._said and (registry.hosts if wanted else registry.registered):
                self._said, self._heard_at = here, self._said_at
                recorder.note(here)

    def _say_who_is_waited_for(self, now: float) -> None:
        self._standstill = self._standstill or Standstill(now)
        if self._standstill.is_time_to_ask(self.recorder.tally.iteration, now):
            self.registry.ask_where()
        if told := self._standstill.told(now):
            self.recorder.note(told)

    def _lose_silent_hosts(self, now: float) -> None:
        """A host that was lost without a word takes its agents with it."""
        for host in [h for h in self.registry.hosts.values() if h.is_silent()]:
            left = [k for k in host.agents if k not in self._exited]
            if left and all(now - self._told_at.get(k, 0.0) > SILENCE_S for k in left):
                for k in left:
                    self._exit(k, f"its host {host.name} fell silent", "")

    def _out_of_patience(self, now: float) -> str | None:
        """Why we wait no longer, if so."""
        silent, left_behind = now - self._heard_at, self._left_behind(now)
        if left_behind:
            return f"gave up on {left_behind}: left behind by their neighbours and silent, and everybody else has ended"
        if not self.registry.started and silent > self.config.ready_timeout_s:
            return f"gave up: {self._said or 'no agent here'}, and nothing new for {silent:.0f} s"
        if silent > self.config.step_timeout_s + self.config.silence_s + 60:
            return f"gave up: no agent was heard for {silent:.0f} s"
        return None

    def _left_behind(self, now: float) -> list[int]:
        """The agents that are left when nobody but frozen ones is, given that their neighbours noticed it too.

        Who has finished and has not ended yet is still there: it waits to be told that all it said is recorded.
        """
        left = set(self.recorder.tally.alive) - self._exited
        frozen = {l for _, l in self.recorder.tally.apart} - self.recorder.tally.finished.keys()
        quiet = all(now - self._told_at.get(k, 0.0) > self.config.silence_s + 2 for k in left)
        return sorted(left) if left and left <= frozen and quiet else []

    def _turn(self) -> None:
        """Listen once while models are tested."""
        for told in self.registry.listen(0.1):
            self._heard_at = time.monotonic()
            self._take(*told)
        self._forgive(time.monotonic())

    def _why_untested(self, host: HostSeen, asked_at: float) -> str:
        silent_s = time.monotonic() - max(self._heard_at, asked_at)
        if self._stop:
            return f"stopped by {signal.Signals(self._stop[0]).name}"
        if ended := self._how_hosts_ended():
            return f"the host {host.name} ended: {ended}"
        if host.is_silent() or silent_s > self.config.step_timeout_s:
            return f"nothing was heard of the host {host.name} for {silent_s:.0f} s"
        return ""

    def _say_what_was_refused(self, over: bool = False) -> None:
        self.recorder.refused_control = self.registry.refused
        if news := self.registry.refusals.news(over):
            self.recorder.note(news)

    def _end(self) -> dict[str, Any]:
        if not (self._stop or self._failure):
            self._lose_the_missing()
        if not (self._stop or self._failure or self._reason or self._owners.are_there):
            self._test.run(self._turn, self._why_untested)
            self._turned_at = time.monotonic()
        self.registry.end()
        self.hosts.stop(at_once=bool(self._stop) and self.registry.started)
        self._say_what_was_refused(over=True)
        g = self.recorder.tally
        some_ended_well = any(event.state != "failed" for event in g.finished.values())
        apart = g.stayed_apart()
        failed = self._failure or len(g.lost) > self.config.max_lost or not some_ended_well or apart or self._ended_by
        stopped_by = signal.Signals(self._stop[0]).name if self._stop and not self._failure else ""
        state = "stopped" if stopped_by else "failed" if failed else "done"
        reason = stopped_by or str(self._failure or self._ended_by or self._reason or apart)
        if not self.recorder.has_begun:
            raise self._failure or DifnetError(f"it did not go on ({reason}): {self.recorder.folder} is as it was")
        summary = self.recorder.finish(state, reason, self._test.untested or self._owners.untested)
        succession.remove(self.recorder.folder)
        if self._failure:
            raise self._failure
        return summary

    def _lose_the_missing(self) -> None:
        """Say of whoever has not finished what became of it: left behind and never back, or gone with its host."""
        g, ended = self.recorder.tally, self._how_hosts_ended()
        if not self.registry.started:
            self._failure = DifnetError(f"the run could not start: its host ended while it prepared it: {ended}")
            return
        left_behind = {l: f"left behind by its neighbours: {e.reason}" for (_, l), e in g.apart.items()}
        missing = sorted(set(g.alive) - g.finished.keys())
        for k in [k for k in missing if k in left_behind]:
            self.recorder.lose([k], left_behind[k])
        if with_host := [k for k in missing if k not in left_behind]:
            status, _, _ = ended.partition(";")
            self.recorder.lose(with_host, f"ended with its host{status and f' ({status})'}")
            self._reason = self._reason or (ended and f"the host of agents {agents_text(with_host)} ended: {ended}")

    def _how_hosts_ended(self) -> str:
        """How the hosts ended and what they printed last, if they have ended by themselves."""
        status = self.hosts.poll()
        if status is None:
            return ""
        last = self.hosts.logs().strip()
        return how_it_ended(status) + (f"; it printed last:\n{last}" if last else "; it printed nothing")
