"""Which runs repeat one experiment, what is it called, and how far did all of them get? Pure, of runs as read."""

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import Any

import numpy as np

from difnet.record.comparing import flatten
from difnet.record.costs import Target
from difnet.record.events import LAUNCH_MODEL
from difnet.record.files import TaskScore
from difnet.record.formatting import number_text, steps_text
from difnet.record.run import Run

INCIDENTAL = ("seed", "name", "runs")  # config fields in which repetitions of one experiment may differ
MEASURING = ("eval_every", "measure_every", "eval_tasks", "test_tasks", "engine")  # told where nothing else tells apart
Experiments = dict[str, list[Run]]


# What is it called


def grouped(runs: Iterable[Run]) -> Experiments:
    """Repetitions of one experiment, which differ in nothing but their seed, under a label such as "diffusion, ring40".

    With a server the label names the algorithm, as in "fedmeta meta-sgd, star10", since there the strategy is not used.
    Experiments that would bear the same label say what else differs between them.
    """
    groups: Experiments = {}
    for run in runs:
        identity = {n.removesuffix(".name"): v for n, v in flatten(run.config).items() if n not in INCIDENTAL}
        identity |= {n: run.fact(n) for n in ("strategy", "topology", "algorithm", "task")}
        identity["label"] = f"{_method(identity) if run.served else identity['strategy']}, {identity['topology']}"
        groups.setdefault(json.dumps(identity, sort_keys=True, default=str), []).append(run)
    identities = [json.loads(key) for key in groups]
    for untold in (MEASURING, ()):
        labels = [", ".join([i["label"], *_telling(i, identities, untold)]) for i in identities]
        if len(set(labels)) == len(labels):
            break
    return dict(zip(labels, groups.values(), strict=True))


def _method(identity: Mapping[str, Any]) -> str:
    """An algorithm as papers name it: with those of its options that are words, iMAML with its two counts.

    >>> _method({"algorithm": "fedmeta", "algorithm.options.inner": "meta-sgd", "algorithm.options.clip": 1.0})
    'fedmeta meta-sgd'
    >>> _method({"algorithm": "imaml", "iterations": 50, "inner_steps": 500})
    'iMAML-50-500'
    """
    if identity["algorithm"] == "imaml" and {"iterations", "inner_steps"} <= identity.keys():
        return f"iMAML-{identity['iterations']}-{identity['inner_steps']}"
    words = [v for n, v in identity.items() if n.startswith("algorithm.options.") and isinstance(v, str)]
    return " ".join([str(identity["algorithm"]), *words])


def _telling(
    identity: Mapping[str, Any], identities: Iterable[Mapping[str, Any]], untold: Sequence[str]
) -> list[str]:
    """What tells an experiment from the others of the same label."""
    alike = [i for i in identities if i["label"] == identity["label"]]
    names = sorted({n for i in alike for n in i})
    told = [n for n in names if n not in untold and len({json.dumps(i.get(n)) for i in alike}) > 1]
    return [f"{n} {identity.get(n, 'unknown')}" for n in told]


def seeds_text(runs: Sequence[Run], told: str = "mean ± s.d.") -> str:
    """Over what an experiment's figures were taken: "seed 3", or "mean ± s.d. of 3 seeds"."""
    seeds = list(dict.fromkeys(str(run.fact("seed")) for run in runs))
    again = "" if len(seeds) == len(runs) else f" in {len(runs)} runs"
    return f"seed {seeds[0]}{again}" if len(seeds) == 1 else f"{told} of {len(seeds)} seeds{again}"


# How far did they get


def steps_validated(runs: Sequence[Run], what: str = "loss") -> list[str]:
    """After how many inner steps every one of these runs was validated, the fewest first.

    Args: `what` is "loss" or "accuracy", of which the one without adaptation, "0", is left out.
    """
    return _common({s for v in run.validations for s in (v.after if what == "loss" else v.accuracy)} for run in runs)


def steps_tested(runs: Sequence[Run], what: str = "loss") -> list[str]:
    """After how many inner steps the launch model of every one of these runs was tested, the fewest first."""
    return _common({s.steps for s in run.scores if s.model == LAUNCH_MODEL and _kept(s, what)} for run in runs)


def _common(tested: Iterable[set[str]]) -> list[str]:
    each = list(tested)
    return sorted(set.intersection(*each) - {"0"}, key=int) if each else []


def _kept(score: TaskScore, what: str) -> bool:
    return what == "loss" or bool(np.isfinite(score.accuracy))


def scores(run: Run, what: str, steps: str, model: str = LAUNCH_MODEL) -> np.ndarray:
    """The losses or accuracies of one run's test tasks or clients, (tasks,); empty where it was not tested so."""
    rows = [s for s in run.scores if (s.model, s.steps) == (model, steps) and _kept(s, what)]
    return np.array([getattr(s, what) for s in rows], dtype=float)


def accurate(runs: Iterable[Run]) -> list[Run]:
    """The runs whose validations tell an accuracy."""
    return [run for run in runs if any(v.accuracy for v in run.validations)]


def spent(run: Run) -> dict[str, Any]:
    """What a run had spent at its last validation, under the names of `record.costs`; {} where nothing is known."""
    return run.validations[-1].spent if run.validations else {}


def common_target(runs: Sequence[Run]) -> Target | None:
    """A target that each of these runs reached: the worst of their best validations, rounded to three digits.

    Accuracy where every run has one, else loss, after the most inner steps that all were validated with, or after
    fewer where all runs had reached it before their first iteration; None where they have no validation in common. It
    is rounded to the easier side, so that the run that gave it still reaches it.
    """
    what = "accuracy" if len(accurate(runs)) == len(runs) else "loss"
    found = [t for steps in reversed(steps_validated(runs, what)) if (t := _worst_of_best(runs, what, steps))]
    learnt = (t for t in found if not all(t.reached(run.validations[0]) for run in runs))
    return next(learnt, found[0] if found else None)


def _worst_of_best(runs: Sequence[Run], what: str, steps: str) -> Target | None:
    any_value = Target(what, steps, 0.0)
    each = [[f for v in run.validations if (f := any_value.figure(v)) is not None] for run in runs]
    if not all(each):
        return None
    worst = min(map(max, each)) if what == "accuracy" else max(map(min, each))
    easier = Context(prec=3, rounding=ROUND_FLOOR if what == "accuracy" else ROUND_CEILING)
    return Target(what, steps, float(easier.create_decimal_from_float(worst)))


def target_text(target: Target) -> str:
    """A target in words.

    >>> target_text(Target("loss", "10", 0.5)), target_text(Target("accuracy", None, 0.74))
    ('loss ≤ 0.5 after 10 inner steps', 'accuracy ≥ 0.74 after the most inner steps')
    """
    stage = "before adaptation" if target.steps == "0" else steps_text(target.steps or "the most")
    return f"{target.what} {'≥' if target.what == 'accuracy' else '≤'} {number_text(target.value)} {stage}"
