"""Writes run folders as the recorder would, from events alone, without running anything.

The disagreement is that of a real diffusion over a ring (quadratic losses, noisy gradients), so the curves look alive.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from difnet.events import (
    AgentLost,
    Evaluated,
    Event,
    NeighbourLost,
    Note,
    Progress,
    Pulse,
    Ready,
    RunEnded,
    RunStarted,
    Validated,
)  # fmt: skip

CONFIG = """\
topology = "{topology}"
strategy = "{strategy}"
iterations = {iterations}
eval_every = {eval_every}
outer_lr = {outer_lr}
seed = {seed}
runs = "runs"

[algorithm]
name = "dif-maml"

[algorithm.options]
"""


def ring(agents: int) -> np.ndarray:
    """The Metropolis combination matrix of a ring."""
    shift = np.roll(np.eye(agents), 1, axis=0)
    return (np.eye(agents) + shift + shift.T) / 3


def events(
    agents: int = 40, *, run: str = "", folder: str = "", iterations: int = 1000, eval_every: int = 50, seed: int = 0,
    strategy: str = "diffusion", outer_lr: float = 0.02, lost: int | None = None, state: str = "done",
) -> Iterator[Event]:  # fmt: skip
    """The network-level stream of one run; with `lost`, that agent is killed half-way and its neighbours go on."""
    rng = np.random.default_rng(seed)
    A = np.eye(agents) if strategy == "noncooperative" else ring(agents)
    rate = float(np.sort(np.abs(np.linalg.eigvals(A)))[-2])
    run = run or f"ring{agents}_{strategy}_s{seed}"
    yield Note("starting the forkserver")
    yield RunStarted(
        run=run, command="launch", folder=folder or f"runs/{run}", topology=f"ring{agents}", agents=agents,
        edges=agents, mixing_rate=rate, doubly_stochastic=True, strategy=strategy, algorithm="dif-maml",
        task="sinusoid", model="mlp", iterations=iterations, outer_lr=outer_lr, seed=seed,
        started_at="2026-11-20T14:03:22+00:00",
    )  # fmt: skip
    yield Note(f"{agents - 3}/{agents} agents ready", 2.1)
    yield Ready(3.04, "aot", 1761)
    w, aims = rng.normal(size=(agents, 8)), rng.normal(scale=0.6, size=(agents, 8))
    last: Validated | None = None
    for i in range(iterations + 1):
        if i % eval_every == 0:
            last = _validated(i, w, strategy, rng, gone=lost if i > iterations // 2 else None)
            yield last
            yield _pulse(i, agents - (lost is not None and i > iterations // 2), rng)
        if lost is not None and i == iterations // 2:
            yield AgentLost(lost, "killed by SIGKILL", i, "Traceback\nMemoryError: no room\n")
            for k in ((lost - 1) % agents, (lost + 1) % agents):
                yield NeighbourLost(k, lost, i, i - 1, "silent for 3.0 s")
        w = A.T @ (w - outer_lr * (w - aims + rng.normal(scale=0.3, size=w.shape)))
    assert last is not None
    yield RunEnded(state, summary(run, folder, agents, iterations, seed, strategy, rate, last, lost, state))


def _validated(i: int, w: np.ndarray, strategy: str, rng: np.random.Generator, gone: int | None) -> Validated:
    distances = ((w - w.mean(axis=0)) ** 2).sum(axis=1)
    fit = 0.5 if strategy == "noncooperative" else 0.0

    def statistics(level: float) -> dict[str, float]:
        over_agents = level * (1 + 0.1 * np.abs(rng.normal(size=len(w))))
        return {"mean": over_agents.mean(), "median": float(np.median(over_agents)), "worst": over_agents.max()}

    return Validated(
        i, i / 115, float(distances.mean()), {str(k): float(d) for k, d in enumerate(distances) if k != gone},
        before=statistics(3.4 + np.exp(-i / 200)),
        after={"1": statistics(0.9 + fit + 3 * np.exp(-i / 180)), "10": statistics(0.3 + fit + 3 * np.exp(-i / 120))},
    )  # fmt: skip


def _pulse(i: int, alive: int, rng: np.random.Generator) -> Pulse:
    sent = 2 * alive * i
    return Pulse(
        seconds=i / 115, iteration=i, rounds_per_s=115 + float(rng.normal()), training_loss=0.9,
        payload_bytes=sent * 7044, wire_bytes=sent * 7110, messages=sent, pss_mb=17.24, alive=alive, missed=0,
    )  # fmt: skip


def summary(
    run: str, folder: str, agents: int, iterations: int, seed: int, strategy: str, rate: float,
    last: Validated, lost: int | None, state: str,
) -> dict[str, Any]:  # fmt: skip
    """What run.json holds."""
    return {
        "schema": 1, "run": run, "command": "launch", "algorithm": "dif-maml", "task": "sinusoid",
        "topology": f"ring{agents}", "strategy": strategy, "agents": agents, "seed": seed, "place": "local",
        "engine": "aot", "iterations": iterations, "state": state, "seconds": iterations / 115, "ready_s": 3.04,
        "rounds_per_s": 115.2, "cpu_s_per_agent_round": 423e-6, "pss_mb_per_agent": 17.24, "mixing_rate": rate,
        "doubly_stochastic": True, "consensus_error": last.disagreement,
        "loss": {"before": last.before, "after": last.after},
        "bytes": {"payload": 563_520_000, "wire": 568_800_000, "messages": 80_000}, "flops": None,
        "energy": {"joules": 182.4, "source": "CPU time × 10 W per core", "quality": "estimated"},
        "communication": {"seconds": 4.8539, "joules": 9.7078, "quality": "modelled"},
        "missed_exchanges": 0, "one_sided_exchanges": 0, "lost_agents": [] if lost is None else [lost],
        "folder": folder or f"runs/{run}",
    }  # fmt: skip


def write_events(folder: Path, stream: Iterable[Event]) -> None:
    """events.jsonl of a run that is on its way."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(event.to_dict()) + "\n" for event in stream)
    (folder / "events.jsonl").write_text("".join(lines), encoding="utf-8")


def write(folder: Path, agents: int = 40, **options: Any) -> Path:
    """A whole folder of a finished run; `options` as for `events`."""
    from safetensors.numpy import save_file

    options.setdefault("run", folder.name)
    stream = list(events(agents, folder=str(folder), **options))
    write_events(folder, stream)
    started = next(e for e in stream if isinstance(e, RunStarted))
    ended = stream[-1]
    assert isinstance(ended, RunEnded)
    (folder / "run.json").write_text(json.dumps(ended.summary), encoding="utf-8")
    values = {n: getattr(started, n) for n in ("topology", "strategy", "iterations", "outer_lr", "seed")}
    config = CONFIG.format(**values, eval_every=options.get("eval_every", 50))
    (folder / "config.toml").write_text(config, encoding="utf-8")
    (folder / "topology.json").write_text(json.dumps(_topology(started)), encoding="utf-8")
    environment = {"python": "3.11.9", "torch": "2.13.0", "cpu": {"model": "any", "cores": 2}}
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    launch_model = np.random.default_rng([started.seed, len(started.strategy)]).normal(size=1761).astype("float32")
    save_file({"w": launch_model}, folder / "launch-model.safetensors")
    for k in range(min(agents, 3)):
        _write_agent(folder, k, started.iterations)
    return folder


def _topology(started: RunStarted) -> dict[str, Any]:
    K = started.agents
    return {
        "name": started.topology, "nodes": list(range(K)), "edges": [[k, (k + 1) % K] for k in range(K)],
        "directed": False, "A": ring(K).tolist(), "mixing_rate": started.mixing_rate, "rule": "metropolis",
        "hub": None,
    }  # fmt: skip


def _write_agent(folder: Path, k: int, iterations: int) -> None:
    own = folder / "agents" / f"{k:03d}"
    own.mkdir(parents=True)
    records: list[Event] = []
    for i in range(0, iterations + 1, 100):
        records += [
            Progress(k, i, 1 / (1 + i), 0.0004 * i, None, 14_088 * i, 14_220 * i, 2 * i, 0, 0),
            Evaluated(k, i, 4.0, {"1": 1.5, "10": 0.5}),
        ]
    (own / "metrics.jsonl").write_text("".join(json.dumps(r.to_dict()) + "\n" for r in records), encoding="utf-8")
