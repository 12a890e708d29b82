"""What do the test tasks say of the models that came out? Figures of every task in, events and tables out. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from difnet.maths.scores import accuracy_scores, loss_scores
from difnet.record.events import LAUNCH_MODEL, OWN_MODELS, Tested
from difnet.record.files import finite_or_none
from difnet.record.verdicts import over_agents

Rows = Iterable[Sequence[Any]]


class ScoredModel(NamedTuple):
    """A model's figures on each test task: after 0, 1, …, S inner steps."""

    model: str
    iteration: int
    figures: np.ndarray  # (T, 1 + S, F): the loss, and the accuracy where there is one
    samples: np.ndarray  # (T,): query samples of each task
    owner: int | None = None  # the agent whose own tasks they are; None: they are nobody's


def of_all_owners(scored: Sequence[ScoredModel]) -> list[ScoredModel]:
    """Each model's figures on the tasks of all owners, in the order of these."""
    together = []
    for model in dict.fromkeys(one.model for one in scored):
        of_it = sorted((one for one in scored if one.model == model), key=lambda one: one.owner or 0)
        figures, samples = np.concatenate([o.figures for o in of_it]), np.concatenate([o.samples for o in of_it])
        together.append(ScoredModel(model, of_it[0].iteration, figures, samples))
    return together


def over_tasks(scored: ScoredModel) -> np.ndarray:
    """One model's figures over all tasks, (1 + S, F): the mean loss, and the accuracy over all samples."""
    loss, accuracy = scored.figures[:, :, :1], scored.figures[:, :, 1:]
    return np.concatenate([loss.mean(axis=0), np.average(accuracy, axis=0, weights=scored.samples)], axis=1)


class Outcome(NamedTuple):
    """What is recorded of a test."""

    events: list[Tested]
    tables: dict[str, tuple[Sequence[str], Rows]]  # file -> its head and its rows


def told_of(scored: Sequence[ScoredModel]) -> Outcome:
    """Task by task in test.csv, and together; of agents' own models, each under its agent's number, agent by agent in
    test-agents.csv; of owners with data of their own also owner by owner, in test-owners.csv."""
    tables: dict[str, tuple[Sequence[str], Rows]] = {}
    if any(one.owner is not None for one in scored):
        of_it = sorted((one for one in scored if one.model == LAUNCH_MODEL), key=lambda one: one.owner or 0)
        tables["test-owners.csv"] = ("agent", "samples", "steps", "loss", "accuracy"), (
            (one.owner, int(one.samples.sum()), n, *_both(row))
            for one in of_it for n, row in enumerate(over_tasks(one).tolist())
        )  # fmt: skip
        scored = of_all_owners(scored)
    own = {int(one.model): one for one in scored if one.model.isdecimal()}
    models = [one for one in scored if not one.model.isdecimal()]
    events = [_tested(one) for one in models]
    if own:
        means = {k: over_tasks(one) for k, one in own.items()}
        events.append(_own_tested(own, means))
        tables["test-agents.csv"] = ("agent", "steps", "loss", "accuracy"), (
            (k, n, *_both(row)) for k, course in means.items() for n, row in enumerate(course.tolist()))
    tables["test.csv"] = ("model", "task", "samples", "steps", "loss", "accuracy"), (
        (one.model, task, int(one.samples[task]), n, *_both(row))
        for one in models for task, course in enumerate(one.figures.tolist()) for n, row in enumerate(course)
    )  # fmt: skip
    return Outcome(events, tables)


def _both(row: Sequence[float]) -> Sequence[Any]:
    """Loss and accuracy, or nothing where there is none."""
    return [*row, *[""] * (2 - len(row))]


def _tested(one: ScoredModel) -> Tested:
    steps = [str(n) for n in range(one.figures.shape[1])]
    losses, *accuracies = (dict(zip(steps, columns, strict=True)) for columns in one.figures.transpose(2, 1, 0))
    return Tested(
        one.model, one.iteration, len(one.figures),
        {n: finite_or_none(loss_scores(column)) for n, column in losses.items()},
        {n: accuracy_scores(column, one.samples) for each in accuracies for n, column in each.items()},
    )  # fmt: skip


def _own_tested(own: Mapping[int, ScoredModel], means: Mapping[int, np.ndarray]) -> Tested:
    """How the agents' own models did: each by its mean over all tasks, and its accuracy over all samples."""
    one = next(iter(own.values()))
    losses, *accuracies = (
        {str(n): finite_or_none(over_agents(by_agent.tolist(), worst)) for n, by_agent in enumerate(by_steps)}
        for by_steps, worst in zip(np.stack([*means.values()]).transpose(2, 1, 0), (max, min), strict=False)
    )
    return Tested(OWN_MODELS, one.iteration, len(one.figures), losses, accuracies[0] if accuracies else {}, len(own))
