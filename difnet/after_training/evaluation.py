"""How does a trained launch model do on tasks that it has never seen, beside what was not trained?

The tasks may be the run's own test tasks or others: of another family, of data that lies elsewhere, more of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from difnet import config
from difnet.after_training.other_owners import figures_of, of_owners, others_of
from difnet.errors import ConfigError
from difnet.launch_models import LaunchModel
from difnet.maths.evaluate import query_samples
from difnet.maths.flat import FlatModel
from difnet.maths.scores import interval
from difnet.meta import Tasks
from difnet.record import finding
from difnet.record.events import LAUNCH_MODEL
from difnet.record.tally import ModelAt
from difnet.runtime.testing import score_models
from difnet.system.machine import torch_settings
from difnet.workload import Workload
from difnet.workload.building import Own, build, make_algorithm

UNTRAINED = "untrained"
PARTS = ("test", "validation")


@torch_settings()  # as a run tests, for the same bits
def evaluate(
    learnt: LaunchModel, *, data: Path | None = None, part: str = "test", tasks: int = 600,
    steps: Sequence[int] = (1, 5, 10), seed: int | None = None, inner_lr: float | None = None, task: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A launch model fitted to unseen tasks by its own run's algorithm, and what stands beside it.

    Beside it: the first launch model of the same run's seed, fitted alike, and the family's own baselines.

    Of a family whose data stays with its owners, `tasks` are drawn of each owner in `data`, of whose rows a half adapts
    and the other scores; means are over owners.

    Args: `data`, tables of owners who had no part in training; `tasks`, how many; of a family that holds clients out,
        all of these are taken; `steps`, ascending numbers of inner steps; `seed` of the tasks, the run's own unless
        given; `inner_lr`, in place of the run's; `task`, another family; `settings`, other fields of the
        configuration, such as "task.ways".
    Returns: a document for `--json`: "rows" has a row for each model and number of inner steps, and of each figure the
        "mean" over tasks, the "half_width" of its 95 % confidence interval, and for clients, which differ in size, the
        "micro" mean over all samples.
    Raises: ConfigError, if tasks and model do not fit, or a word is wrong; EnvironmentLacks, if the data is not here.
    """
    asked = _config(learnt, tasks, steps, inner_lr, task, settings or {})
    clients = others_of(learnt, asked, data, part)
    workload = _workload(learnt, asked, data, clients)
    first, trained = workload.first_state(workload.clients[0]).w, learnt.carried(workload.length, inner_lr)
    if seed is not None:
        workload = replace(workload, config=workload.config.model_copy(update={"seed": seed}))
    iteration, c = int(learnt.about["iteration"]), workload.config
    held = {LAUNCH_MODEL: ModelAt(iteration, trained.numpy()), UNTRAINED: ModelAt(0, first.cpu().numpy())}
    told = {
        "launch_model": str(learnt.path), "iteration": iteration, "task": c.task.model_dump(), "part": part,
        "seed": c.seed, "level": 0.95, "inner_lr": "learnt" if len(trained) > len(learnt.w) else c.inner_lr,
        "transductive": workload.model.is_transductive,
    }  # fmt: skip
    if clients:
        return {**told, "tasks": tasks, "clients": True, **of_owners(workload, held, clients)}
    unseen = _tasks(workload, part)
    return {**told, "tasks": len(query_samples(unseen)), "clients": not isinstance(unseen, Tasks),
            "rows": [*_rows(workload, held, unseen), *_baselines(workload, unseen)]}  # fmt: skip


def _config(
    learnt: LaunchModel, tasks: int, steps: Sequence[int], inner_lr: float | None, task: str | None,
    settings: Mapping[str, Any],
) -> config.RunConfig:  # fmt: skip
    """The run's configuration, as far as it says how a task is fitted and where unseen ones come from."""
    told = learnt.settings()
    if task is not None and task != told["task"]["name"]:
        told["task"] = {"name": task}
    asked = {"test_tasks": tasks, "eval_tasks": tasks, "eval_steps": list(steps), "tasks": 1}
    rate = {} if inner_lr is None else {"inner_lr": inner_lr}
    return config.load(settings={**told, **asked, **rate, **settings})


def _workload(
    learnt: LaunchModel, asked: config.RunConfig, data: Path | None, clients: Sequence[str]
) -> Workload:
    """The workload on the run's own network; for other tasks, or where nothing is known of it, on the smallest.

    Args: `clients`, other owners with tables in `data`, who have the numbers behind the agents'.
    """
    folder, own = learnt.path.parent, asked.task.name == learnt.about["task"]["name"]
    if own and finding.is_run(folder):
        run = finding.load(folder)
        agents, hub = run.topology["agents"], run.ready.server if run.ready else None
        owners = run.topology.get("owners")
    else:
        chosen = asked.algorithm
        made = make_algorithm(asked, chosen.name, chosen.options, FlatModel(learnt.module()), lambda w, batch: w.sum())
        many = learnt.about["agents"] if own and made.server is None else 1
        agents, hub, owners = (2, 0, None) if made.server is not None else (many, None, None)
    theirs = None
    if clients:
        asked = asked.model_copy(update={"hold_out": config.HoldOut(test=len(clients))})
        theirs, owners = Own(data, range(agents, agents + len(clients))), None
    workload = build(asked, agents, hub, owners, theirs)
    learnt.check_fits(workload.model.signature(), f"the model {workload.choice.name!r}")
    return workload


def _tasks(workload: Workload, part: str) -> Tasks | Sequence[Tasks]:
    if part not in PARTS:
        raise ConfigError(f"part is {part!r}; it must be {' or '.join(PARTS)}")
    unseen = workload.test_tasks() if part == "test" else workload.validation_tasks()
    if not len(query_samples(unseen)):
        raise ConfigError(f"task {workload.config.task.name!r} holds no clients out for {part!r}; try another --part")
    return unseen


def _rows(workload: Workload, held: Mapping[str, ModelAt], unseen: Tasks | Sequence[Tasks]) -> list[dict[str, Any]]:
    names, measure = figures_of(workload)
    rows = []
    for model, _, figures, samples, _ in score_models(workload, held, unseen, measure):
        sizes = None if isinstance(unseen, Tasks) else samples
        for steps in (0, *workload.config.eval_steps):
            columns = zip(names, figures[:, steps].T, strict=True)
            rows.append({"model": model, "steps": steps, **{name: _figure(values, sizes) for name, values in columns}})
    return rows


def _baselines(workload: Workload, unseen: Tasks | Sequence[Tasks]) -> list[dict[str, Any]]:
    """What the family predicts from a client's support set without any training."""
    family, rows = workload.family, []
    scored = {"accuracy": getattr(family, "accuracy", None), **getattr(family, "metrics", {})}
    for name, predict in getattr(family, "baselines", {}).items():
        told = [(predict(task), task.query[1]) for task in _one_by_one(unseen)]
        sizes = None if isinstance(unseen, Tasks) else query_samples(unseen).numpy()
        rows.append({"model": name, "steps": None, **{
            figure: _figure(np.array([float(share(scores, targets)) for scores, targets in told]), sizes)
            for figure, share in scored.items() if share is not None}})  # fmt: skip
    return rows


def _one_by_one(tasks: Tasks | Sequence[Tasks]) -> list[Tasks]:
    if not isinstance(tasks, Tasks):
        return list(tasks)
    (sx, sy), (qx, qy) = tasks
    return [Tasks((a, b), (c, d)) for a, b, c, d in zip(sx, sy, qx, qy, strict=True)]


def _figure(values: np.ndarray, sizes: np.ndarray | None) -> dict[str, float | None]:
    mean, half = interval(values)
    micro = {} if sizes is None else {"micro": float(np.average(values, weights=sizes))}
    return {"mean": mean, "half_width": half, **micro}
