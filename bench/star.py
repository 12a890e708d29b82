"""What share of a round is the hub's own work on a star, beside that of its clients?

FedMeta on sine waves, all clients in every round: the hub hears, means and answers as many states as there are clients.
"""

import argparse

import figures
from figures import figure, launched, say

ROUNDS = {10: 1000, 30: 400, 100: 150}


def measure(words: argparse.Namespace) -> figures.Document:
    """Each number of clients three times."""
    clients, times = ([10], 1) if words.quick else (list(ROUNDS), 3)
    rows = []
    for K in clients:
        runs = [on_a_star(K, ROUNDS[K]) for _ in range(times)]
        rows.append({
            "what": f"1 + {K} processes",
            "rounds/s": figure([run["rounds_per_s"] for run in runs]),
            "hub's CPU per round, µs": figure([run["cpu_s_per_round"][0] for run in runs], 1e6),
            "a client's, µs": figure([sum(run["cpu_s_per_round"][1:]) / K for run in runs], 1e6),
            "hub's share of a round": figure([run["cpu_s_per_round"][0] * run["rounds_per_s"] for run in runs]),
            "hub's share of all CPU": figure([run["cpu_s_per_round"][0] / sum(run["cpu_s_per_round"]) for run in runs]),
        })  # fmt: skip
        say(f"star: {K} clients: {rows[-1]['rounds/s']['median']:.1f} rounds/s")
    notes = [
        "The hub's share of a round is its processor time, of the time a round takes: below 1 it waits for clients.",
        "The clients share the cores here; with a core for each, a round would last as long as a client's own work and "
        "the hub's together.",
    ]
    return figures.document(rows, {}, notes)


def on_a_star(clients: int, rounds: int) -> dict:
    """The summary of one run."""
    return launched(clients + 1, rounds, "--topology", f"star_graph(n={clients})", "--algorithm", "fedmeta")


if __name__ == "__main__":
    figures.main(measure)
