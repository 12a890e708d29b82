"""Writes run folders as the recorder would, from events alone, without running anything.

The disagreement is that of a real diffusion over a ring (quadratic losses, noisy gradients), so the curves look alive.
With `server`, agent 0 is the hub of a star and the only one measured.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from difnet.record.events import (
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
    Tested,
    Validated,
)  # fmt: skip

CONFIG = """\
topology = "{topology}"
strategy = "{strategy}"
iterations = {iterations}
eval_every = {eval_every}
outer_lr = {outer_lr}
inner_steps = {inner_steps}
seed = {seed}
runs = "runs"

[algorithm]
name = "{algorithm}"

[algorithm.options]
{algorithm_options}
"""
LAUNCH_MODEL, LOCAL_AVERAGE = "launch model", "average of the local models"
STEPS = 10  # models are tested after 0 to so many inner steps


class Kind(NamedTuple):
    """What sort of run it is, beyond a network that diffuses a regression."""

    algorithm: str = "dif-maml"
    options: str = ""  # of the algorithm, as TOML
    inner_steps: int = 1
    server: bool = False  # a star whose hub serves
    accuracies: bool = False  # classification
    tested: bool = True  # whether there are test.csv and Tested
    offline: bool = False  # whether the average of the local models is tested as well
    speed: float = 1.0  # how fast it learns
    flops: float | None = None  # of a step; None: unknown
    target: str | None = None
    abandoned: int = 0  # rounds
    late: int = 0  # answers


PLAIN = Kind()


def ring(agents: int) -> np.ndarray:
    """The Metropolis combination matrix of a ring."""
    shift = np.roll(np.eye(agents), 1, axis=0)
    return (np.eye(agents) + shift + shift.T) / 3


def star(agents: int) -> np.ndarray:
    """The Metropolis combination matrix of a star whose hub is agent 0."""
    A = np.diag([1 / agents] + [1 - 1 / agents] * (agents - 1))
    A[0, 1:] = A[1:, 0] = 1 / agents
    return A


def events(
    agents: int = 40, *, run: str = "", folder: str = "", iterations: int = 1000, eval_every: int = 50, seed: int = 0,
    strategy: str = "diffusion", outer_lr: float = 0.02, lost: int | None = None, state: str = "done",
    kind: Kind = PLAIN,
) -> Iterator[Event]:  # fmt: skip
    """The network-level stream of one run; with `lost`, that agent is killed half-way and its neighbours go on."""
    rng = np.random.default_rng(seed)
    A = np.eye(agents) if strategy == "noncooperative" else (star if kind.server else ring)(agents)
    rate = float(np.sort(np.abs(np.linalg.eigvals(A)))[-2])
    topology = f"{'star' if kind.server else 'ring'}{agents}"
    run = run or f"{topology}_{strategy}_s{seed}"
    started = RunStarted(
        run=run, command="launch", folder=folder or f"runs/{run}", topology=topology, agents=agents,
        edges=agents - kind.server, mixing_rate=rate, doubly_stochastic=not kind.server, strategy=strategy,
        algorithm=kind.algorithm, task="femnist" if kind.accuracies else "sinusoid", model="mlp",
        iterations=iterations, outer_lr=outer_lr, seed=seed, started_at="2026-11-20T14:03:22+00:00",
    )  # fmt: skip
    yield Note("starting the forkserver")
    yield started
    yield Note(f"{agents - 3}/{agents} agents ready", 2.1)
    yield Ready(3.04, "aot", 1761, 0 if kind.server else None, 0.0 if kind.server else rate)
    w, aims = rng.normal(size=(agents, 8)), rng.normal(scale=0.6, size=(agents, 8))
    seen: list[Validated] = []
    for i in range(iterations + 1):
        if i % eval_every == 0:
            seen.append(_validated(i, w, strategy, rng, lost if i > iterations // 2 else None, kind))
            yield seen[-1]
            yield _pulse(i, agents - (lost is not None and i > iterations // 2), rng)
        if lost is not None and i == iterations // 2:
            yield AgentLost(lost, "killed by SIGKILL", i, "Traceback\nMemoryError: no room\n")
            for k in ((lost - 1) % agents, (lost + 1) % agents):
                yield NeighbourLost(k, lost, i, i - 1, "silent for 3.0 s")
        w = A.T @ (w - outer_lr * (w - aims + rng.normal(scale=0.3, size=w.shape)))
    tests = [_tested(model, rows, iterations) for model, rows in scored(started, kind).items()]
    yield from tests
    yield RunEnded(state, summary(started, seen, tests, lost, state, kind))


def _validated(
    i: int, w: np.ndarray, strategy: str, rng: np.random.Generator, gone: int | None, kind: Kind
) -> Validated:  # fmt: skip
    distances = ((w - w.mean(axis=0)) ** 2).sum(axis=1)
    fit = 0.5 if strategy == "noncooperative" else 0.0
    measured = {0: 0.0} if kind.server else {k: float(d) for k, d in enumerate(distances) if k != gone}

    def statistics(level: float) -> dict[str, float]:
        over_agents = level * (1 + 0.1 * np.abs(rng.normal(size=len(measured))))
        return {"mean": over_agents.mean(), "median": float(np.median(over_agents)), "worst": over_agents.max()}

    def fallen(halved: int) -> float:
        return float(3 * np.exp(-i * kind.speed / halved))

    levels = {"0": 3.4 + fallen(200) / 3, "1": 0.9 + fit + fallen(180), "10": 0.3 + fit + fallen(120)}
    told = {steps: statistics(level) for steps, level in levels.items()}
    right = {n: {"mean": float(np.exp(-s["mean"] / 2)), "median": float(np.exp(-s["median"] / 2)),
                 "worst": float(np.exp(-s["worst"] / 2))} for n, s in told.items()}  # fmt: skip
    return Validated(
        i, i / 115, 0.0 if kind.server else float(distances.mean()), {str(k): d for k, d in measured.items()},
        before=told.pop("0"), after=told, accuracy=right if kind.accuracies else {},
        spent=_spent(i, len(w), strategy, kind),
    )  # fmt: skip


def _spent(i: int, agents: int, strategy: str, kind: Kind) -> dict[str, float | None]:
    uploads = i * (0 if strategy == "noncooperative" else agents - 1 if kind.server else 2 * agents)
    steps = i * (agents - kind.server)
    return {
        "payload_bytes": uploads * 7044 * (1 + kind.server), "uploads": uploads, "steps": steps,
        "flops": kind.flops and kind.flops * steps, "communication_s": i * 4.8539, "cpu_s": steps * 423e-6,
        "communication_joules": uploads * 9.7078, "joules": steps * 423e-5, "seconds": i / 115,
    }  # fmt: skip


def _pulse(i: int, alive: int, rng: np.random.Generator) -> Pulse:
    sent = 2 * alive * i
    return Pulse(
        seconds=i / 115, iteration=i, rounds_per_s=115 + float(rng.normal()), training_loss=0.9,
        payload_bytes=sent * 7044, wire_bytes=sent * 7110, messages=sent, pss_mb=17.24, alive=alive, missed=0,
    )  # fmt: skip


Row = tuple[str, int, int, float, float | None]  # task, samples, steps, loss, accuracy


def scored(started: RunStarted, kind: Kind) -> dict[str, list[Row]]:
    """What each model scored: a row per test task (client) and number of inner steps."""
    if not kind.tested:
        return {}
    rng = np.random.default_rng([7, started.seed, len(kind.algorithm), len(started.strategy)])
    models = {LAUNCH_MODEL: 1 / kind.speed} | ({LOCAL_AVERAGE: 3.0} if kind.offline else {})
    return {model: [row for task in range(60) for row in _task_rows(task, level, rng, kind)]
            for model, level in models.items()}  # fmt: skip


def _task_rows(task: int, level: float, rng: np.random.Generator, kind: Kind) -> Iterator[Row]:
    samples = int(rng.integers(8, 40)) if kind.accuracies else 10
    hardness = level * rng.gamma(2.0, 0.3)
    for steps in range(STEPS + 1):
        loss = hardness * (0.15 + np.exp(-0.4 * steps))
        right = int(rng.binomial(samples, np.exp(-loss))) / samples
        yield (f"client {task:03d}" if kind.accuracies else str(task), samples, steps, float(loss),
               right if kind.accuracies else None)  # fmt: skip


def _tested(model: str, rows: list[Row], iteration: int) -> Tested:
    loss, accuracy = {}, {}
    for n in range(STEPS + 1):
        told = [row for row in rows if row[2] == n]
        losses = np.array([row[3] for row in told])
        loss[str(n)] = {"mean": losses.mean(), "median": float(np.median(losses)), "std": losses.std(ddof=1),
                        "worst": losses.max(), "best": losses.min()}  # fmt: skip
        right = np.array([row[4] for row in told if row[4] is not None])
        if len(right):
            weights, low_to_high = [row[1] for row in told], np.sort(right)
            accuracy[str(n)] = {
                "micro": float(np.average(right, weights=weights)), "macro": right.mean(), "std": right.std(ddof=1),
                "worst_10_percent": low_to_high[: len(right) // 10].mean(), "best": right.max(), "worst": right.min(),
                "best_decile": float(np.quantile(right, 0.9)), "worst_decile": float(np.quantile(right, 0.1)),
            }  # fmt: skip
    return Tested(model, iteration, len(rows) // (STEPS + 1), loss, accuracy)


def summary(
    started: RunStarted, seen: list[Validated], tests: list[Tested], lost: int | None, state: str, kind: Kind
) -> dict[str, Any]:
    """What run.json holds."""
    s, first, last, iterations = started, seen[0], seen[-1], started.iterations
    described = {n: getattr(s, n) for n in ("run", "command", "algorithm", "task", "topology", "strategy", "agents",
                                            "seed", "iterations", "folder")}  # fmt: skip
    accuracy = {"before": last.accuracy.get("0"), "after": {n: a for n, a in last.accuracy.items() if n != "0"}}
    return described | {
        "schema": 1, "place": "local", "engine": "aot", "state": state, "seconds": iterations / 115, "ready_s": 3.04,
        "rounds_per_s": 115.2, "cpu_s_per_agent_round": 423e-6, "pss_mb_per_agent": 17.24,
        "mixing_rate": 0.0 if kind.server else s.mixing_rate, "doubly_stochastic": s.doubly_stochastic,
        "consensus_error": last.disagreement,
        "loss": {"before": last.before, "after": last.after, "first": {"before": first.before, "after": first.after}},
        "accuracy": accuracy if kind.accuracies else None,
        "test": {t.model: {"iteration": t.iteration, "tasks": t.tasks, "loss": t.loss, "accuracy": t.accuracy}
                 for t in tests},
        "target": {"asked": kind.target, "reached": False, "iteration": None} if kind.target else None,
        "server": {"clients": s.agents - 1, "per_round": s.agents - 1, "abandoned_rounds": kind.abandoned,
                   "late": kind.late, "hub_share": 0.12} if kind.server else None,
        "bytes": {"payload": 563_520_000, "wire": 568_800_000, "messages": 80_000, "up": 280_000_000,
                  "down": 283_520_000},
        "flops": last.spent["flops"],
        "energy": {"joules": 182.4, "source": "CPU time × 10 W per core", "quality": "estimated"},
        "communication": {"seconds": last.spent["communication_s"], "joules": last.spent["communication_joules"],
                          "quality": "modelled", "uploads": last.spent["uploads"]},
        "missed_exchanges": 0, "one_sided_exchanges": 0, "lost_agents": [] if lost is None else [lost],
        "lost_records": 0, "unwritten": [],
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
    kind = options.get("kind", PLAIN)
    config = CONFIG.format(**values, eval_every=options.get("eval_every", 50), algorithm=kind.algorithm,
                           algorithm_options=kind.options, inner_steps=kind.inner_steps)  # fmt: skip
    (folder / "config.toml").write_text(config, encoding="utf-8")
    (folder / "topology.json").write_text(json.dumps(_topology(started)), encoding="utf-8")
    _write_test(folder / "test.csv", scored(started, kind))
    environment = {"python": "3.11.9", "torch": "2.13.0", "cpu": {"model": "any", "cores": 2}}
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    launch_model = np.random.default_rng([started.seed, len(started.strategy)]).normal(size=1761).astype("float32")
    save_file({"w": launch_model}, folder / "launch-model.safetensors")
    for k in range(min(agents, 3)):
        _write_agent(folder, k, started.iterations)
    return folder


def _write_test(path: Path, tests: dict[str, list[Row]]) -> None:
    if tests:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["model", "task", "samples", "steps", "loss", "accuracy"])
            writer.writerows([model, *row] for model, rows in tests.items() for row in rows)


def _topology(started: RunStarted) -> dict[str, Any]:
    K, hub = started.agents, 0 if started.topology.startswith("star") else None
    return {
        "name": started.topology, "nodes": list(range(K)), "directed": False, "rule": "metropolis", "hub": hub,
        "A": (ring if hub is None else star)(K).tolist(), "mixing_rate": started.mixing_rate,
        "edges": [[k, (k + 1) % K] for k in range(K)] if hub is None else [[0, k] for k in range(1, K)],
    }  # fmt: skip


def _write_agent(folder: Path, k: int, iterations: int) -> None:
    own = folder / "agents" / f"{k:03d}"
    own.mkdir(parents=True)
    records: list[Event] = []
    for i in range(0, iterations + 1, 100):
        sent = {"payload_bytes": 14_088 * i, "steps": i, "uploads": 2 * i}
        counted = {"wire_bytes": 14_220 * i, "messages": 2 * i, "missed": 0, "refused": 0, "peak_bytes": None}
        records += [
            Progress(k, i, 1 / (1 + i), 0.0004 * i, None, figures={"residual": 1 / (1 + i)}, **sent, **counted),  # type: ignore[arg-type]
            Evaluated(k, i, **sent, before=4.0, after={"1": 1.5, "10": 0.5}, accuracy={}),
        ]
    (own / "metrics.jsonl").write_text("".join(json.dumps(r.to_dict()) + "\n" for r in records), encoding="utf-8")
