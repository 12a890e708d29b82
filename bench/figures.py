"""What the measurements share: figures with their spread, the machine they were taken on, commands with a deadline."""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SEED = 0

Figure = dict[str, float]  # median, min, max over so many runs
Row = dict[str, Any]  # column -> text, number or figure
Document = dict[str, Any]


def figure(values: Sequence[float], scale: float = 1.0) -> Figure:
    """The median of several runs, and how far they spread."""
    scaled = [scale * v for v in values]
    return {"median": statistics.median(scaled), "min": min(scaled), "max": max(scaled), "runs": len(scaled)}


def ratio(above: Sequence[float], below: Sequence[float]) -> Figure:
    """The median of the ratios of pairs, each pair measured one right after the other."""
    return figure([a / b for a, b in zip(above, below, strict=True)])


def document(rows: list[Row], ratios: dict[str, Figure], notes: list[str]) -> Document:
    """What a measurement returns: a table, ratios within one run, and what a reader must know."""
    return {"rows": rows, "ratios": ratios, "notes": notes}


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def main(
    measure: Callable[[argparse.Namespace], Document], add_words: Callable[..., Any] = lambda parser: None
) -> None:
    """Run one measurement as a script: a table, or with --json one document, on stdout."""
    script = Path(sys.argv[0])
    question = (sys.modules["__main__"].__doc__ or "").strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repetitions")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    add_words(parser)
    words = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if parent := os.environ.get("DIFNET_BENCH_PARENT"):
        from difnet.system.lifetime import die_with_parent

        die_with_parent(int(parent), signal.SIGTERM)
    about = {"name": script.stem, "question": question, "quick": words.quick, "machine": machine(), "seed": SEED}
    with scratch() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)  # torch leaves an empty folder behind where it is not told
        measured = about | measure(words)
    if words.json:
        print(json.dumps(measured))
    else:
        from difnet.cli.bench import show

        show(measured)


def machine() -> dict[str, Any]:
    """Where and when."""
    import torch
    import zmq

    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "cores": os.cpu_count(), "processor": _processor(),
        "python": platform.python_version(), "torch": torch.__version__, "libzmq": zmq.zmq_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def command(words: Sequence[object], timeout_s: float) -> dict[str, Any]:
    """Run a command of this interpreter; returns the JSON document on its stdout.

    Raises: SystemExit with what it said on stderr, if it fails or is not done in time; it is ended then.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, stderr=errors,
                                   stdin=subprocess.DEVNULL, text=True)  # fmt: skip
        try:
            out, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            sys.exit(f"not done in {timeout_s:.0f} s: {' '.join(map(str, words))}")
        finally:
            end(process)
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"exit status {process.returncode}: {' '.join(map(str, words))}\n{errors.read()[-2000:]}")
    return json.loads(out)


def end(process: subprocess.Popen) -> None:
    """Ask a process to end, then end it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def bare(agents: int, iterations: int) -> dict[str, Any]:
    """The yardstick's figures."""
    return command([HERE / "bare_eager.py", "--agents", agents, "--iterations", iterations], 300)


def launched(agents: int, iterations: int, *more: str) -> dict[str, Any]:
    """The summary of `difnet launch` on a ring, or where `more` says otherwise.

    `cpu_s_per_agent_round`, and `cpu_s_per_round` of each agent, are without what an agent's start takes.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as runs:
        words = ["--topology", f"cycle_graph(n={agents})", "--iterations", iterations, "--seed", SEED]
        summary = command(["-m", "difnet", "launch", *words, "--runs", runs, "--json", "--quiet", *more], 600)
        used = list(_progress(Path(summary["folder"])))
    rounds = [last["iteration"] - first["iteration"] for first, last in used]
    cpu_s = [last["cpu_s"] - first["cpu_s"] for first, last in used]
    return summary | {
        "cpu_s_per_agent_round": sum(cpu_s) / sum(rounds) if sum(rounds) else summary["cpu_s_per_agent_round"],
        "cpu_s_per_round": [spent / max(done, 1) for spent, done in zip(cpu_s, rounds, strict=True)],
    }


def _progress(folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each agent's first and last report of progress."""
    for metrics in sorted(folder.glob("agents/*/metrics.jsonl")):
        told = [event for event in map(json.loads, metrics.read_text().splitlines()) if event["event"] == "Progress"]
        if told:
            yield told[0], told[-1]


@contextmanager
def scratch() -> Iterator[Path]:
    """A private folder; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield Path(folder)
