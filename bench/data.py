"""What does an agent hold more in memory when its tasks are real pictures, mapped by all agents of the host?

Forty agents on a ring, on sine waves and on MNIST by writer (which has to be there: `difnet data get mnist`), each with
the task's own network.
"""

import argparse

import figures
from figures import figure, launched, say

from difnet.data.home import home

ROUNDS = 30


def measure(words: argparse.Namespace) -> figures.Document:
    """Each task three times."""
    times, agents = (1, 6) if words.quick else (3, 40)
    rows, held = [], {}
    has_mnist = (home() / "mnist").is_dir()
    for task in ("sinusoid", *(["mnist"] if has_mnist else [])):
        runs = [launched(agents, ROUNDS, "--topology", f"cycle_graph(n={agents})", "--task", task, "--engine", "traced",
                         "--eval-tasks", "5")
                for _ in range(times)]  # fmt: skip
        held[task] = [run["pss_mb_per_agent"] for run in runs]
        rows.append({
            "what": f"{agents} agents, {task}",
            "PSS per agent, MiB": figure(held[task]),
            "peak RSS per agent, MiB": figure([run["peak_mb_per_agent"] for run in runs]),
        })  # fmt: skip
        say(f"data: {task}: {rows[-1]['PSS per agent, MiB']['median']:.1f} MiB per agent")
    if has_mnist:
        more = [mnist - sine for mnist, sine in zip(held["mnist"], held["sinusoid"], strict=True)]
        rows.append({"what": "more on mnist", "PSS per agent, MiB": figure(more)})
    else:
        say(f"data: no MNIST in {home()}; `difnet data get mnist` fetches it")
    notes = ["PSS counts what agents share in parts, and peak RSS as a whole for each."]
    return figures.document(rows, {}, notes)


if __name__ == "__main__":
    figures.main(measure)
