"""What did runs come to, and at what price, in figures? Tables of runs and of experiments, as a report shows them."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from difnet.maths.scores import interval
from difnet.record.comparing import flatten
from difnet.record.costs import Target, to_reach
from difnet.record.events import LAUNCH_MODEL, LOCAL_AVERAGE, OWN_MODELS
from difnet.record.formatting import bytes_text, energy_text, number_text, steps_text, time_text
from difnet.record.run import Run
from difnet.report.experiments import grouped, seeds_text
from difnet.report.page import Block, Paragraph, Table

TEST_FIGURES = {
    "accuracy": {
        "micro": "over all samples", "macro": "mean over clients", "std": "s.d. over clients",
        "worst_10_percent": "mean of the worst 10 %", "worst_decile": "worst decile", "best_decile": "best decile",
    },
    "loss": {"mean": "mean", "median": "median", "std": "s.d. over tasks", "worst": "worst"},
}  # fmt: skip
OVER_AGENTS = {"mean": "mean over agents", "median": "median agent", "worst": "worst agent"}


# Figures as text


def flops_text(count: float | None) -> str:
    """A number of floating-point operations in decimal units.

    >>> flops_text(1.42e12), flops_text(None)
    ('1.42 TFLOP', 'unknown')
    """
    return "unknown" if count is None else bytes_text(count).removesuffix("B") + "FLOP"  # the prefixes are the same


def joules_text(joules: float | None) -> str:
    """An amount of energy.

    >>> joules_text(9.7078), joules_text(34_900.0), joules_text(None)
    ('9.71 J', '34.9 kJ', 'unknown')
    """
    if joules is None or joules < 1000:
        return "unknown" if joules is None else f"{number_text(float(joules))} J"
    return bytes_text(joules).removesuffix("B") + "J"


def qualities(runs: Sequence[Run]) -> str:
    """How good the energy figures of these runs are: "measured", "estimated", "unknown", or all of them that occur."""
    told = sorted({str((run.summary.get("energy") or {}).get("quality") or "quality unknown") for run in runs})
    return ", ".join(told)


def spread(values: Iterable[float | None], show: Callable[[float | None], str] = number_text) -> str:
    """Mean ± standard deviation (n - 1) of what is known; the figure alone where only one is.

    >>> spread([1.0, 2.0, 3.0]), spread([1.5]), spread([None])
    ('2 ± 1', '1.5', 'unknown')
    """
    known = [v for v in values if v is not None]
    if len(known) < 2:
        return show(known[0] if known else None)
    return f"{show(statistics.mean(known))} ± {show(statistics.stdev(known))}"


def confident(values: Iterable[float | None]) -> str:
    """The mean of independent runs ± half the width of its 95 % confidence interval (Student's t); see `spread`.

    >>> confident([1.0, 2.0, 3.0]), confident([1.5]), confident([None])
    ('2 ± 2.48', '1.5', 'unknown')
    """
    known = [v for v in values if v is not None]
    if len(known) < 2:
        return number_text(known[0] if known else None)
    mean, half = interval(known)
    return f"{number_text(mean)} ± {number_text(half)}"


# What ran, and what came out


def what_ran(runs: Sequence[Run]) -> Table:
    """What each run was, and how it ended: a row per run."""

    def row(run: Run) -> tuple[str, ...]:
        facts = {n: run.fact(n) for n in ("command", "topology", "agents", "strategy", "algorithm", "task", "seed")}
        facts["strategy"] = "a server" if run.served else facts["strategy"]
        words = ["unknown" if f is None else str(f) for f in facts.values()]
        rate = "none: a server" if run.served else "unknown" if run.mixing_rate is None else f"{run.mixing_rate:.4f}"
        return (str(run.fact("run")), *words, rate, run.state)

    head = ("run", "command", "topology", "agents", "strategy", "algorithm", "task", "seed", "mixing rate λ₂", "state")
    return Table(head, tuple(row(run) for run in runs))


def number(run: Run, name: str) -> float | None:
    """A figure of a run's summary by its dotted name; None where it is unknown."""
    flat = flatten(run.summary)
    value = flat.get(name, flat.get(name.removesuffix(".mean")))
    return float(value) if isinstance(value, int | float) else None


def _measures(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(heading, summary name) of every figure of the last validation that some run has, before adaptation first.

    A hub is alone, so where all have a server there is nothing but the mean, and no consensus error.
    """
    found: list[tuple[str, str]] = []
    served = all(run.served for run in runs)
    words = ("mean",) if served else ("mean", "median", "worst")
    for measure in ("loss", "accuracy"):
        having = [run.summary[measure] for run in runs if run.summary.get(measure)]
        steps = dict.fromkeys(s for values in having for s in values.get("after") or {})
        stages = [("before adaptation", "before"), *((steps_text(s), f"after.{s}") for s in steps)] if having else []
        found += [(f"{measure} {stage}, {word}", f"{measure}.{path}.{word}")
                  for stage, path in stages for word in words]  # fmt: skip
    return found if served else [*found, ("consensus error", "consensus_error")]


def outcome(runs: Sequence[Run]) -> Table:
    """A row per figure, a column per experiment: the mean over its seeds with the standard deviation."""
    groups = grouped(runs)
    rows = [(name, *(_cell(group, path) for group in groups.values())) for name, path in _measures(runs)]
    heads = [f"{label} ({seeds_text(group)})" for label, group in groups.items()]
    return Table(("last validation", *heads), tuple(rows))


def _cell(runs: Sequence[Run], path: str) -> str:
    """A figure of the summaries; a hub is measured alone, so it has no consensus error to tell."""
    alone = path == "consensus_error" and all(run.served for run in runs)
    return "–" if alone else spread(number(run, path) for run in runs)


def per_run(runs: Sequence[Run]) -> Table:
    """The means of the last validation, a row per run."""
    shown = [measure for measure in _measures(runs) if measure[1].endswith(("mean", "consensus_error"))]
    rows = tuple((str(r.fact("run")), *(_cell([r], path) for _, path in shown)) for r in runs)
    return Table(("run", *(name for name, _ in shown)), rows)


def on_test_tasks(runs: Sequence[Run]) -> list[Block]:
    """A table for each model that was tested, behind what it shows: a row per figure, a column per experiment."""
    blocks: list[Block] = []
    for model in (OWN_MODELS, LAUNCH_MODEL, LOCAL_AVERAGE):
        tested = [run.tests[model] for run in runs if model in run.tests]
        if not tested:
            continue
        groups = {label: group for label, group in grouped(runs).items() if any(model in run.tests for run in group)}
        counts = sorted({test["tasks"] for test in tested})
        blocks.append(Paragraph(
            f"The {model}, tested once on {' or '.join(map(str, counts))} tasks or clients that had no part in "
            "training; of several seeds the mean ± half the width of its 95 % confidence interval (Student's t)."
            f"{_why(model, tested, any(OWN_MODELS in run.tests for run in runs))}"
        ))  # fmt: skip
        rows = [
            (f"{what} {_stage(steps)}, {words}", *(confident(_scored(r, model, what, steps, name) for r in group)
                                                  for group in groups.values()))
            for what, figures in TEST_FIGURES.items() for steps in _told_steps(tested, what)
            for name, words in (OVER_AGENTS if model == OWN_MODELS else figures).items()
        ]  # fmt: skip
        heads = [f"{label} ({seeds_text(group, 'mean and 95 % interval')})" for label, group in groups.items()]
        blocks.append(Table((f"test, {model}", *heads), tuple(rows)))
    return blocks


def _why(model: str, tested: Sequence[dict[str, Any]], some_differ: bool) -> str:
    """What a reader has to know of a mean of models that differ."""
    if model == OWN_MODELS:
        counts = " or ".join(map(str, sorted({test["agents"] for test in tested})))
        return (f" These are networks whose agents ended with models that differ: each of {counts} agents is judged by "
                "its own, on all tasks, because the mean of such models is a model that no agent has.")  # fmt: skip
    if model == LAUNCH_MODEL and some_differ:
        return " Where the agents' own models differ, it is their mean, which no agent has: judge by the table before."
    return ""


def _stage(steps: str) -> str:
    return "before adaptation" if steps == "0" else steps_text(steps)


def _told_steps(tested: Sequence[dict[str, Any]], what: str) -> list[str]:
    """Of all numbers of inner steps none, one and the most."""
    known = {int(steps) for test in tested for steps in test.get(what) or {}}
    return [str(n) for n in sorted(known & {0, 1, max(known, default=0)})]


def _scored(run: Run, model: str, what: str, steps: str, name: str) -> float | None:
    return (((run.tests.get(model) or {}).get(what) or {}).get(steps) or {}).get(name)


# What it cost


def cost_to_reach(runs: Sequence[Run], target: Target) -> Table:
    """A row per experiment: what it had spent when it reached the target, mean ± standard deviation over seeds."""
    shown: list[tuple[str, str, Callable[[float | None], str]]] = [
        ("rounds", "iteration", lambda count: "unknown" if count is None else f"{count:.0f}"),
        ("payload", "payload_bytes", bytes_text), ("FLOPs", "flops", flops_text),
        ("communication energy (modelled)", "communication_joules", joules_text),
        (f"computation energy ({qualities(runs)})", "joules", joules_text), ("time", "seconds", time_text),
    ]  # fmt: skip
    rows = []
    for label, group in grouped(runs).items():
        each = [one for run in group if (one := to_reach(run.validations, *target))]
        cells = [spread([one.get(name) for one in each], show) for _, name, show in shown]
        if not each:
            cells = ["not reached", *["–"] * (len(shown) - 1)]
        elif len(each) < len(group):
            cells[0] = f"{cells[0]} ({len(each)} of {len(group)} reached it)"
        rows.append((f"{label} ({seeds_text(group)})", *cells))
    return Table(("experiment", *(name for name, _, _ in shown)), tuple(rows))


def cost(runs: Sequence[Run]) -> Table:
    """What each run took from its first iteration to its end: a row per run."""

    def row(run: Run) -> tuple[str, ...]:
        return (
            str(run.fact("run")), time_text(number(run, "seconds")), number_text(number(run, "rounds_per_s")),
            bytes_text(number(run, "bytes.payload")), bytes_text(number(run, "bytes.wire")),
            flops_text(number(run, "flops")), time_text(number(run, "communication.seconds")),
            joules_text(number(run, "communication.joules")), number_text(number(run, "pss_mb_per_agent")),
            energy_text(run.summary.get("energy")),
        )  # fmt: skip

    head = ("run", "time", "rounds/s", "payload", "wire", "FLOPs", "communication time", "communication energy",
            "MB per agent (PSS)", "energy")  # fmt: skip
    return Table(head, tuple(row(run) for run in runs))


def service(runs: Sequence[Run]) -> list[Table]:
    """What the servers did, a row per run that had one."""

    def row(run: Run) -> tuple[str, ...]:
        told = [number(run, f"server.{name}") for name in ("clients", "per_round", "abandoned_rounds", "late")]
        counts = ["unknown" if count is None else f"{count:.4g}" for count in told]
        return str(run.fact("run")), *counts, *(bytes_text(number(run, f"bytes.{way}")) for way in ("up", "down"))

    head = ("run", "clients", "clients per round", "abandoned rounds", "late answers", "payload up", "payload down")
    served = [run for run in runs if run.served]
    return [Table(head, tuple(row(run) for run in served))] if served else []
