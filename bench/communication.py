"""How many rounds a second does the exchange alone allow, and how near is that to raw ZeroMQ?

Real forked processes on a ring swap states of 1761 float32 values and compute nothing. The transport of difnet (joined
and watched links, checked messages, deadlines) and raw PUSH/PULL of the yardstick take turns.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import figures
import numpy as np
from bare_eager import Ring
from figures import figure, ratio, say
from forked import forked, rate, timed

from difnet.exchange.links import links_of
from difnet.exchange.transport import Identity, Patience, Transport
from difnet.topology import Topology
from difnet.topology.networks import load

VALUES = 1761


def measure(words: argparse.Namespace) -> figures.Document:
    """Both in turn, several times."""
    rows, ratios = [], {}
    for K in [40] if words.quick else [6, 40, 100]:
        rounds, times = (40_000 // K, 7) if not words.quick else (200, 1)
        ring = load(f"cycle_graph(n={K})")
        ours, raw = [], []
        for n in range(times):
            ours.append(
                run(K, rounds, lambda k, f, start, ring=ring, n=rounds: through_transport(k, ring, n, f, start))
            )
            raw.append(run(K, rounds, lambda k, f, start, K=K, n=rounds: through_raw_sockets(k, K, n, f, start)))
            say(f"communication: {K} agents, pair {n + 1}: {ours[-1]['rounds_per_s']:.0f} and raw "
                f"{raw[-1]['rounds_per_s']:.0f} rounds/s")  # fmt: skip
        rows += [row(f"difnet's transport, ring of {K}", ours), row(f"raw PUSH/PULL, ring of {K}", raw)]
        ratios[f"difnet's rounds/s to raw PUSH/PULL's, {K} agents"] = ratio(
            [r["rounds_per_s"] for r in ours], [r["rounds_per_s"] for r in raw]
        )
    return figures.document(rows, ratios, ["Nothing is computed or mixed; a state is 7044 bytes; sockets are ipc."])


def run(K: int, rounds: int, work: Callable) -> dict[str, float]:
    """One ring of processes in a folder of its own."""
    with figures.scratch() as folder:
        return rate(rounds, forked(K, lambda k, start: work(k, folder, start)))


def through_transport(k: int, ring: Topology, rounds: int, folder: Path, wait_for_start: Callable) -> dict:
    """One agent on difnet's transport."""
    phi = np.linspace(-1, 1, VALUES, dtype="f4")
    identity = Identity(k, 0, "bench", "ring", "metropolis", "none", "float32", VALUES)
    with Transport(identity, links_of(k, ring), patience=Patience(30.0, 60.0)) as transport:
        transport.bind(f"ipc://{folder}/{k}")
        transport.join({l: f"ipc://{folder}/{l}" for l in ring.hears(k)}, 60.0)
        wait_for_start()

        def swap() -> None:
            for i in range(rounds):
                assert len(transport.exchange(i, phi)) == 2

        report = timed(swap)
        transport.farewell()
    return report


def through_raw_sockets(k: int, K: int, rounds: int, folder: Path, wait_for_start: Callable) -> dict:
    """One agent on raw PUSH/PULL."""
    phi, ring = np.linspace(-1, 1, VALUES, dtype="f4"), Ring(k, K, folder)
    wait_for_start()

    def swap() -> None:
        for i in range(rounds):
            assert len(ring.exchange(i, phi)) == 2

    report = timed(swap)
    ring.context.destroy(linger=60_000)
    return report


def row(what: str, runs: list[dict]) -> figures.Row:
    """One line of the table."""
    return {
        "what": what,
        "rounds/s": figure([r["rounds_per_s"] for r in runs]),
        "CPU per agent-round, µs": figure([r["cpu_s_per_agent_round"] for r in runs], 1e6),
    }


if __name__ == "__main__":
    figures.main(measure)
