"""How many rounds a second does a ring of real agent processes make, and what does one further agent cost?

`difnet launch` as anybody would call it, and at 40 agents the bare eager script of `bare_eager.py` right after it.
"""

import argparse

import figures
from figures import figure, launched, ratio, say

ITERATIONS = {6: 3000, 40: 1000, 100: 400, 200: 200}
MIB = "PSS per agent, MiB"


def measure(words: argparse.Namespace) -> figures.Document:
    """Each size three times; at 40 agents pairs of launch and yardstick."""
    sizes, times, pairs, share = ([6, 40], 1, 1, 5) if words.quick else (list(ITERATIONS), 3, 5, 1)
    launched(sizes[0], 1)  # compiles what is not in the cache
    runs: dict[int, list[dict]] = {}
    bare: list[dict] = []
    for K in sizes:
        runs[K] = []
        for n in range(pairs if K == 40 else times):
            runs[K].append(launched(K, ITERATIONS[K] // share))
            say(f"rounds: {K} agents, run {n + 1}: {runs[K][-1]['rounds_per_s']:.1f} rounds/s")
            if K == 40:
                bare.append(figures.bare(40, 150 // share))
                say(f"rounds: the bare eager script: {bare[-1]['rounds_per_s']:.1f} rounds/s")
    rows = [row(f"difnet launch, ring of {K}", runs[K]) for K in sizes]
    rows.append(row("bare eager script, ring of 40", bare))
    rates = [[run["rounds_per_s"] for run in some] for some in (runs[40], bare)]
    notes = [
        "A launch also tests every agent on 100 tasks each 200 iterations, records and reports; the yardstick "
        "does nothing but learn.",
        "CPU is that of the agent processes, from an agent's first report to its last.",
    ]
    small, large = sizes[-2:]
    pss = {K: figure([run["pss_mb_per_agent"] for run in runs[K]])["median"] for K in (small, large)}
    further = (large * pss[large] - small * pss[small]) / (large - small)
    notes.append(f"A further agent, from {small} to {large}: {further:.1f} MiB (PSS). Engine: {runs[40][0]['engine']}.")
    lost = {K: [run["lost_agents"] for run in runs[K] if run["lost_agents"]] for K in sizes}
    assert not any(lost.values()), f"agents were lost: {lost}"
    return figures.document(rows, {"difnet to the bare eager script, 40 agents": ratio(*rates)}, notes)


def row(what: str, runs: list[dict]) -> figures.Row:
    """One line of the table."""
    cells: figures.Row = {
        "what": what,
        "rounds/s": figure([run["rounds_per_s"] for run in runs]),
        "CPU per agent-round, µs": figure([run["cpu_s_per_agent_round"] for run in runs], 1e6),
    }
    if "ready_s" in runs[0]:
        cells["ready after, s"] = figure([run["ready_s"] for run in runs])
        cells[MIB] = figure([run["pss_mb_per_agent"] for run in runs])
    return cells


if __name__ == "__main__":
    figures.main(measure)
