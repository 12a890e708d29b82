"""How good is the launch model on tasks that had no part in training? Scored once, when a run is over."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from difnet.maths.evaluate import Measure, evaluate, query_samples
from difnet.meta import Tasks
from difnet.record.costs import Target
from difnet.record.final_scores import ScoredModel
from difnet.record.tally import ModelAt
from difnet.system.progress import report_progress
from difnet.workload import Workload

TOGETHER = 50  # tasks whose courses are computed in one call


def score_models(
    workload: Workload, models: Mapping[str, ModelAt], tasks: Tasks | Sequence[Tasks] | None = None,
    measure: Measure | None = None,
) -> list[ScoredModel]:  # fmt: skip
    """The figures of each model on every test task, after 0, 1, … up to the most inner steps of a validation.

    A client held out for testing adapts on its support set alone, and is scored on its query set.

    Args: `tasks`, others than the run's own test tasks; `measure`, other figures than the workload's.
    """
    if tasks is None:
        tasks = workload.test_tasks() if workload.has_tests else []
    if not models or not len(tasks):
        return []
    samples = query_samples(tasks).numpy()
    steps = range(1, max(workload.config.eval_steps) + 1)
    batches = list(_batches(tasks))
    scored = []
    for model, held in models.items():
        w = torch.from_numpy(held.w.copy()).to(workload.config.device)
        fit, each, figures = workload.algorithm.fit, workload.model.each, []
        for batch in batches:
            with torch.no_grad():
                figures.append(evaluate(measure or workload.measure, fit, w, batch, steps, each))
            report_progress(f"testing the {model}", sum(map(len, figures)), len(samples))
        scored.append(ScoredModel(model, held.iteration, torch.cat(figures).cpu().numpy().astype(np.float64), samples))
    return scored


def score_for_all(workload: Workload, models: Mapping[str, ModelAt]) -> list[ScoredModel]:
    """The figures of each model on every test task; where data stays with its owners, by each of those who test."""
    if not workload.is_owned:
        return score_models(workload, models)
    return [one for k in workload.judges["test"] for one in score_with_own(workload, models, k)]


def score_with_own(workload: Workload, models: Mapping[str, ModelAt], k: int) -> list[ScoredModel]:
    """The figures of each model on the test tasks of agent k, from its own data."""
    tasks = workload.test_tasks(k) if workload.config.test_tasks else []
    return [scored._replace(owner=k) for scored in score_models(workload, models, tasks)]


def check_target(workload: Workload) -> None:
    """Raises: ConfigError, if the run's target is a figure that no validation will tell."""
    config = workload.config
    if config.target:
        has_accuracy = getattr(workload.family, "accuracy", None) is not None
        Target.parse(config.target).check(config.eval_steps, has_accuracy=has_accuracy)


def _batches(tasks: Tasks | Sequence[Tasks]) -> Iterable[Tasks | Sequence[Tasks]]:
    if not isinstance(tasks, Tasks):
        return [[task] for task in tasks]
    cut = [[t.split(TOGETHER) for t in batch] for batch in tasks]
    return [Tasks((sx, sy), (qx, qy)) for sx, sy, qx, qy in zip(*cut[0], *cut[1], strict=True)]
