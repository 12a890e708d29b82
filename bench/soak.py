"""Does anything grow? `python bench/soak.py [ROUNDS]` runs a ring of 12 and prints what its processes hold as it goes.

Memory is the proportional set size of an agent, mean over the agents, after each tenth of the rounds but the last; the
line below says by how much it has changed since the second, when all that is made once had been made.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

WAIT_S, LOOKS = 1800.0, 9


def main(rounds: int) -> None:
    words = ["--topology", "cycle_graph(n=12)", "--iterations", str(rounds), "--eval-every", str(rounds // 10)]
    print("| iteration | PSS of an agent, MiB | of the launcher | descriptors of an agent | of the launcher | threads "
          "|\n|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.Popen([sys.executable, "-m", "difnet", "launch", *words, "--quiet"], cwd=folder)
        record, held = Path(folder, "runs/latest/events.jsonl"), list[float]()
        deadline = time.monotonic() + WAIT_S
        while run.poll() is None and time.monotonic() < deadline and len(held) < LOOKS:
            time.sleep(0.05)
            lines = record.read_text().splitlines() if record.exists() else []
            done = [json.loads(line)["iteration"] for line in lines if line.startswith('{"event": "Validated"')]
            if len(done) - 1 > len(held):
                held.append(look(run.pid, done[-1]))
        run.wait(WAIT_S)
        ended = json.loads((record.parent / "run.json").read_text())
    print(f"\n{ended['state']}, {ended['iterations']} iterations, {ended['rounds_per_s']:.1f} rounds/s; an agent's "
          f"memory since the second look: {held[-1] - held[1]:+.2f} MiB")  # fmt: skip


def look(launcher: int, iteration: int) -> float:
    """Print what the processes hold now. Returns the mean memory of an agent."""
    parent = psutil.Process(launcher)
    agents = [agent for host in parent.children() for agent in host.children()]
    pss = sum(agent.memory_full_info().pss for agent in agents) / len(agents) / 2**20
    print(f"| {iteration} | {pss:.2f} | {parent.memory_full_info().pss / 2**20:.1f} | "
          f"{max(agent.num_fds() for agent in agents)} | {parent.num_fds()} | "
          f"{max(agent.num_threads() for agent in agents)} |", flush=True)  # fmt: skip
    return float(pss)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 20_000)
