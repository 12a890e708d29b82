"""How does a launch model do on the tables of owners who had no part in it, one by one and together?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difnet import catalog
from difnet.config import HoldOut, RunConfig
from difnet.errors import ConfigError
from difnet.launch_models import LaunchModel
from difnet.maths.evaluate import Measure
from difnet.maths.scores import interval
from difnet.meta import Batch
from difnet.record.tally import ModelAt
from difnet.runtime.testing import score_models
from difnet.tasks import is_owned
from difnet.workload import Workload
from difnet.workload.building import Own, make_family


def others_of(learnt: LaunchModel, asked: RunConfig, data: Path | None, part: str) -> list[str]:
    """The clients in `data`; [] for a family that has its own tasks.

    Raises: ConfigError, if `data` is missing, or given where the family has no use for it.
    """
    if "data" not in catalog.taken("tasks", asked.task.name, {"data": None}) and data is None:
        return []
    if data is None:
        raise ConfigError(f"{learnt.path} is of task {asked.task.name!r}, which has the data of nobody: say --data DIR "
                          f"with tables of owners who had no part in it")  # fmt: skip
    if part != "test":
        raise ConfigError(f"--part {part} is of a run's own clients, and --data names others; leave one away")
    family = make_family(asked.model_copy(update={"hold_out": HoldOut(test=1)}), 1, Own(data, [0]))
    assert is_owned(family), "who takes `data` is"
    return list(family.owners[0])


def of_owners(workload: Workload, held: Mapping[str, ModelAt], clients: Sequence[str]) -> dict[str, Any]:
    """The figures of each model on each owner's tasks.

    Returns: "rows", of each model and number of inner steps the mean over owners of their own means with the half width
        of its 95 % confidence interval, the median and the worst; "owners", the same means one by one.
    """
    names, measure = figures_of(workload)
    each = {client: score_models(workload, held, workload.test_tasks(k), measure)
            for client, k in zip(clients, workload.judges["test"], strict=True)}  # fmt: skip
    rows, owners = [], []
    for n, model in enumerate(held):
        for steps in (0, *workload.config.eval_steps):
            means = {client: scored[n].figures[:, steps].mean(0) for client, scored in each.items()}
            owners += [{"model": model, "steps": steps, "owner": client,
                        **dict(zip(names, own.tolist(), strict=True))} for client, own in means.items()]  # fmt: skip
            columns = zip(names, np.stack([*means.values()]).T, strict=True)
            rows.append({"model": model, "steps": steps, **{name: _figure(name, own) for name, own in columns}})
    return {"rows": rows, "owners": owners}


def figures_of(workload: Workload) -> tuple[list[str], Measure]:
    """What is told of a model: loss, accuracy where the family has one, and what else it counts."""
    more = getattr(workload.family, "metrics", {})
    names = ["loss", *(["accuracy"] if hasattr(workload.family, "accuracy") else []), *more]

    def measure(w: Tensor, batch: Batch) -> Tensor:
        figures, prediction = workload.measure(w, batch), workload.model(workload.algorithm.model(w), batch[0])
        return torch.cat([figures, *(metric(prediction, batch[1]).to(figures)[None] for metric in more.values())])

    return names, measure if more else workload.measure


def _figure(name: str, own: np.ndarray) -> dict[str, float | None]:
    mean, half = interval(own)
    worst = own.min() if name == "accuracy" else own.max()
    return {"mean": mean, "half_width": half, "median": float(np.median(own)), "worst": float(worst)}
