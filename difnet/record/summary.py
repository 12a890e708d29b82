"""What did a run come to? The figures of `run.json`, under the names that scripts may rely on. Pure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from difnet.config import RunConfig
from difnet.maths.channel import charge
from difnet.record.events import Tested
from difnet.record.tally import Tally
from difnet.record.verdicts import over_agents
from difnet.topology import Topology

SCHEMA = 2
MOST_LOSSES, MOST_TAIL = 50, 2000  # that are told with how they ended, and characters of each one's last lines


class Facts(NamedTuple):
    """What is known as soon as the agents are ready."""

    engine: str
    parameters: int  # M, of the model
    length: int  # L, values in a message
    flops: int | None  # of one adapt step of one agent
    server: int | None  # the hub that serves
    model: dict[str, Any]  # by name, with every option
    pieces: list[Any]  # [name, shape] of its parameters, in the order of the flat vector
    carriers: list[Any]  # the agents that keep something of their own from one iteration to the next
    transductive: bool  # a prediction depends on the other samples of its batch
    manifest: dict[str, Any] | None  # who has what data; None where the task family has no data of its own
    judges: dict[str, Any]  # "validation" and "test": the agents that test with data of their own; {}: nobody has any
    environment: dict[str, Any]
    ready_s: float = 0.0


def summarise(
    about: dict[str, Any], config: RunConfig, topology: Topology, g: Tally, facts: Facts | None,
    tested: Sequence[Tested], energy: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The summary; what is unknown is None.

    Args: `about` the run: run, command, state, seconds, folder, target, refused_control.
    """
    seconds = about["seconds"]
    steps = g.total("steps")
    agent_rounds = steps / config.local_steps
    pulse = g.pulse(seconds)
    peaks = [p.peak_bytes for p in g.progress.values() if p.peak_bytes]
    on_wire = about["command"] == "launch"
    return {
        "schema": SCHEMA, **{name: about[name] for name in ("run", "command", "state", "seconds", "folder")},
        "algorithm": config.algorithm.name, "strategy": config.strategy, "task": config.task.name,
        "topology": topology.name, "weights": topology.rule, "agents": topology.agents, "seed": config.seed,
        "place": config.place if on_wire else None, "engine": facts.engine if facts else None,
        "iterations": g.iteration, "ready_s": facts.ready_s if facts else None,
        "rounds_per_s": g.iteration / seconds if seconds > 0 else None,
        "cpu_s_per_agent_round": g.cpu_s / agent_rounds if agent_rounds else None,
        "pss_mb_per_agent": pulse.pss_mb, "peak_mb_per_agent": sum(peaks) / len(peaks) / 2**20 if peaks else None,
        "mixing_rate": topology.mixing_rate, "doubly_stochastic": topology.doubly_stochastic,
        **_figures(g), "test": {t.model: _test(t, config) for t in tested}, "target": about["target"],
        "bytes": _bytes(g, on_wire), "flops": facts.flops * steps if facts and facts.flops else None,
        "reported": g.figures(),
        "energy": energy, "communication": _communication(config, topology, g, facts),
        "transductive": facts.transductive if facts else None,
        "server": _server(config, g, facts, seconds), "offline": _offline(config, g),
        "missed_exchanges": pulse.missed, "refused_messages": g.total("refused"),
        "refused_control": about["refused_control"],
        "one_sided_exchanges": g.one_sided_exchanges(), "lost_agents": sorted(g.lost), "losses": _losses(g),
        "healed_links": g.healed, "resent_exchanges": g.resent,
        "returned_agents": sorted(g.returned),
        "edges_apart": sorted({(min(e), max(e)) for e in g.apart if not g.lost.keys() & e}),
    }  # fmt: skip


def _figures(g: Tally) -> dict[str, Any]:
    """Consensus error, loss and accuracy at the last validation, and at the first."""
    if not g.validations:
        return {"consensus_error": None, "loss": {"before": None, "after": {}, "first": None}, "accuracy": None}
    first, last = g.validations[0], g.validations[-1]

    def accuracy(by_steps: dict[str, Any]) -> dict[str, Any]:
        return {"before": by_steps["0"], "after": {n: a for n, a in by_steps.items() if n != "0"}}

    return {
        "consensus_error": last.disagreement,
        "loss": {"before": last.before, "after": last.after, "first": {"before": first.before, "after": first.after}},
        "accuracy": accuracy(last.accuracy) | {"first": accuracy(first.accuracy)} if last.accuracy else None,
    }  # fmt: skip


def _test(tested: Tested, config: RunConfig) -> dict[str, Any]:
    """A model's scores, after as many inner steps as it was validated with; test.csv has them after every step."""
    told = ["0", *map(str, config.eval_steps)]
    agents = {} if tested.agents is None else {"agents": tested.agents}
    return {"iteration": tested.iteration, "tasks": tested.tasks, **agents,
            **{what: {n: scores for n, scores in by_steps.items() if n in told}
               for what, by_steps in (("loss", tested.loss), ("accuracy", tested.accuracy))}}  # fmt: skip


def _bytes(g: Tally, on_wire: bool) -> dict[str, int | None]:
    """What travelled; up and down are towards the hub that serves and from it."""
    down = g.progress[g.server].payload_bytes if g.server in g.progress else None
    payload = g.total("payload_bytes")
    return {"payload": payload, "wire": g.total("wire_bytes") if on_wire else None, "messages": g.total("messages"),
            "up": None if down is None else payload - down, "down": down}  # fmt: skip


def _communication(config: RunConfig, topology: Topology, g: Tally, facts: Facts | None) -> dict[str, Any]:
    """What the messages would take on the modelled channel."""
    if facts is None:
        return {"seconds": None, "joules": None, "uploads": None, "quality": "modelled"}
    uploads, rounds = g.total("uploads"), g.iteration + bool(g.alone)
    took = charge(uploads, rounds, busiest(topology, g), facts.length, config.communication,
                  is_served=g.server is not None)  # fmt: skip
    return {"seconds": took.seconds, "joules": took.joules, "uploads": uploads, "quality": "modelled"}


def busiest(topology: Topology, g: Tally) -> int:
    """The messages that the busiest agent sends in a round; a hub's are not counted."""
    return 1 if g.server is not None else max(len(topology.tells(k)) for k in range(topology.agents))


def _server(config: RunConfig, g: Tally, facts: Facts | None, seconds: float) -> dict[str, Any] | None:
    """How a hub ran its rounds; `hub_share` is its processor time, of the time of the run."""
    if facts is None or facts.server not in g.progress:
        return None
    hub = g.progress[facts.server]
    clients = g.agents - 1
    return {"hub": facts.server, "clients": clients, "per_round": hub.answered / (hub.iteration or 1),
            "abandoned_rounds": hub.abandoned, "late": hub.late,
            "hub_share": hub.cpu_s / seconds if seconds > 0 else None}  # fmt: skip


def _losses(g: Tally) -> list[dict[str, Any]]:
    """How the first lost agents ended, and the last that each printed; `lost_agents` names all of them."""
    return [{"agent": e.agent, "iteration": e.iteration, "status": e.status, "log_tail": e.log_tail[-MOST_TAIL:]}
            for e in list(g.lost.values())[:MOST_LOSSES]]  # fmt: skip


def _offline(config: RunConfig, g: Tally) -> dict[str, Any] | None:
    """How each agent trained alone: until what gradient norm, which stands for the epsilon of its optimality."""
    told = list(g.alone.values())
    if not told:
        return None
    return {"epsilon_asked": config.offline_epsilon, "steps": max(t.steps for t in told),
            "gradient_norm": over_agents([t.gradient_norm for t in told]),
            "loss": over_agents([t.loss for t in told])}  # fmt: skip
