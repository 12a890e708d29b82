"""What should somebody know who gets a launch model and nothing else? Its model card, as Markdown. Pure."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import nn

from difnet.after_training.own_model import facts, is_fitted, schema_of
from difnet.launch_models import LaunchModel, rates_beside
from difnet.maths.scores import interval
from difnet.record.events import LAUNCH_MODEL
from difnet.record.files import TaskScore
from difnet.record.formatting import markdown, number_text
from difnet.record.run import Run

CARD = "MODEL.md"
READERS = {
    "safetensors": 'from difnet.launch_models import read\n\nmodel = read("{file}").module()',
    "torch": 'import torch\n\nmodel.load_state_dict(torch.load("{file}", weights_only=True))  # of the network below',
    "onnx": 'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{file}")\n'
            '[prediction] = session.run(None, {{"x": x}})',
}  # fmt: skip
OF_TABLES = {
    "safetensors": "```console\ndifnet predict {file} NEW.csv\n```",
    "torch": '```python\nimport torch\n\nprogram = torch.export.load("{file}").module()\nprediction = program(x)\n```',
    "onnx": "```python\n" + READERS["onnx"] + "\n```",
}  # of task table: x are raw rows
TO_BE_FITTED = "```console\ndifnet fit {file} --support ROWS.csv -o mine.safetensors\n```"
ADAPT = """\
import torch

for _ in range({steps}):  # x, y: the support set, somebody's own few samples
    loss = torch.nn.functional.{loss}(model(x), y)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        {update}"""
FIXED = "for p, g in zip(model.parameters(), gradients):\n            p -= {rate} * g"
LEARNT = "for (name, p), g in zip(model.named_parameters(), gradients):\n            p -= rates[name] * g"


def digest(learnt: LaunchModel) -> str:
    """What tells one launch model from another: of its values and what scales them, 16 hexadecimal digits."""
    scaling = learnt.about.get("fitted", {}).get("scaling")
    scaled = json.dumps(scaling).encode() if scaling else b""
    return hashlib.sha256(learnt.state.numpy().tobytes() + scaled).hexdigest()[:16]


def is_card_of(text: str, learnt: LaunchModel) -> bool:
    """Whether a card is that of this very launch model."""
    return f"`{digest(learnt)}`" in text


def model_card(learnt: LaunchModel, module: nn.Module, run: Run | None, files: Mapping[str, str]) -> str:
    """The model card.

    Args: `run`, where it is at hand, tells how it was trained and tested; `files`, the exported ones by format.
    """
    about = learnt.about
    task, algorithm = (markdown(about[of]["name"]) for of in ("task", "algorithm"))
    parts = [
        f"# A launch model for {task}",
        f"Trained by difnet with the algorithm {algorithm}, to be fitted to a new task in a few gradient steps on a "
        f"few samples. Unfitted it is of little use: it is where fitting begins. Values `{digest(learnt)}`.",
        "## How it was trained", _table(_training(learnt, module, run)),
        *(["## How good it is", _figures(run)] if run is not None and run.scores else []),
        *_rows_of(learnt),
        "## Use", *_use(learnt, files),
        "## Fit it to a task", *_adapt(learnt, module, files),
        "## Limits", _limits(learnt), "## The network", f"```text\n{module}\n```",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _training(learnt: LaunchModel, module: nn.Module, run: Run | None) -> dict[str, str]:
    about = learnt.about
    told = {
        "model": _plugin(learnt.model.model_dump()), "parameters": f"{len(learnt.w)}, {learnt.w.dtype}",
        "task": _plugin(about["task"]), "algorithm": _plugin(about["algorithm"]),
        "inner steps": f"{about['inner_steps']} in training, rate {_rate(learnt)}",
        "iterations": str(about["iteration"]),
    }  # fmt: skip
    if run is not None:
        packages = {k: v for k, v in run.environment.items() if k in ("torch", "python")}
        agents, strategy = run.topology.get("agents"), run.config.get("strategy")
        told |= {"network": f"{run.fact('topology')}, {agents} agents, {strategy}",
                 "outer step": f"{run.config.get('optimizer')}, rate {run.config.get('outer_lr')}",
                 "seed": str(run.config.get("seed")), "run": f"{run.fact('run')}, {run.state}",
                 "trained with": ", ".join(f"{k} {v}" for k, v in packages.items())}  # fmt: skip
    if (done := about.get("fitted")) is not None:
        told["fitted since"] = f"{done['steps']} inner steps on {done['samples']['support']} samples of somebody's own"
    if licence := licence_of(about["task"]["name"]):
        told["data"] = licence
    with suppress(PackageNotFoundError):  # a checkout on the path, never installed
        told["exported by"] = f"difnet {version('difnet')}"
    return {name: value for name, value in told.items() if value}


def licence_of(task: str) -> str:
    """What is known of the licence of a task family's data; "" where nothing is, or it has none."""
    from difnet.data.sources import SOURCES

    told = [f"{s.title}; {s.owner}; licence: {s.licence}" for s in SOURCES.values() if task in s.families]
    return " / ".join(told)


def _figures(run: Run) -> str:
    """A table of what the run's own test tasks said, with the 95 % confidence of a mean over tasks."""
    scores = [score for score in run.scores if score.model == LAUNCH_MODEL]
    lines = ["| inner steps | loss | accuracy |", "|---|---|---|"]
    for steps, same in groupby(sorted(scores, key=lambda s: int(s.steps)), key=lambda s: s.steps):
        rows: list[TaskScore] = list(same)
        told = (_mean([getattr(row, name) for row in rows]) for name in ("loss", "accuracy"))
        lines.append(f"| {steps} | {' | '.join(told)} |")
    tasks = len({score.task for score in scores})
    lines += ["", f"Means over {tasks} unseen tasks, ± the half width of the 95 % confidence interval."]
    return "\n".join(lines)


def _mean(values: list[float]) -> str:
    if any(value != value for value in values):
        return "–"
    mean, half = interval(values)
    return number_text(mean) + ("" if half is None else f" ± {number_text(half)}")


def _rows_of(learnt: LaunchModel) -> list[str]:
    """What a model of tables takes and gives."""
    if (schema := schema_of(learnt)) is None:
        return []
    told = facts(schema)
    lines = ["| column of x | name | kind | a cell is |", "|---|---|---|---|"]
    lines += [f"| {n} | {markdown(column['name'])} | {column['kind']} | {markdown(column['cells'])} |"
              for n, column in enumerate(told["columns"])]  # fmt: skip
    gives = "\n".join(f"- {n}: {markdown(output)}" for n, output in enumerate(told["outputs"]))
    own = is_fitted(learnt) and schema.scale == "support"
    scaled = "x are raw rows, float32; torch and onnx hold the constants by which they are scaled."
    scaled += " These are mean and spread of the rows that it was fitted to: whoever has a file knows them." * own
    if not own and schema.scale == "support":
        scaled = "It was fitted to nobody's rows yet, by which numbers are scaled; so only safetensors can be had."
    return ["## What goes in and comes out", scaled, "\n".join(lines), f"The columns of a prediction:\n\n{gives}"]


def _use(learnt: LaunchModel, files: Mapping[str, str]) -> list[str]:
    if schema_of(learnt) is not None:
        use = OF_TABLES if is_fitted(learnt) else OF_TABLES | {"safetensors": TO_BE_FITTED}
        return [use[name].format(file=file) for name, file in sorted(files.items())]
    blocks = [f"```python\n{READERS[name].format(file=file)}\n```" for name, file in sorted(files.items())]
    if learnt.rates is None:
        return blocks
    beside = sorted({rates_beside(Path(file)).name for file in files.values()})
    return [*blocks, f"The inner rates that were learnt with it, one for each value, are in {', '.join(beside)}."]


def _adapt(learnt: LaunchModel, module: nn.Module, files: Mapping[str, str]) -> list[str]:
    if schema_of(learnt) is not None:
        return ["`difnet fit FILE.safetensors --support ROWS.csv --steps 5 -o mine.safetensors`, with a table that has "
                "these columns and the target: it is scaled by its own rows, as it was in training."]  # fmt: skip
    update = FIXED.format(rate=learnt.about["inner_lr"]) if learnt.rates is None else LEARNT
    last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1:]
    loss = "cross_entropy" if last and last[0].out_features > 1 else "mse_loss"
    code = ADAPT.format(steps=learnt.about["inner_steps"], loss=loss, update=update)
    beside = rates_beside(Path(next(iter(files.values())))).name
    first = [f'```python\nfrom safetensors.torch import load_file\n\nrates = load_file("{beside}")\n```']
    anil = learnt.about["algorithm"].get("options", {}).get("inner") == "anil"
    only = ["In training, inner steps moved the last layer alone (ANIL): do so here, by skipping the other parameters."]
    say = "`difnet fit FILE.safetensors --support samples.csv --steps 5 -o mine.safetensors`, or by hand:"
    return [say, *(only if anil else []), *(first if learnt.rates is not None else []), f"```python\n{code}\n```"]


def _limits(learnt: LaunchModel) -> str:
    told = ["- The figures hold for tasks like those of training; nothing is known of others.",
            "- Fitted to few samples it can be confidently wrong: keep some samples back, and look."]  # fmt: skip
    if learnt.caution:
        told.append(f"- Caution: {learnt.caution}.")
    if learnt.about["transductive"]:
        told.append("- Evaluation is transductive: batch normalisation takes the statistics of the batch at hand, so "
                    "a prediction depends on the other samples of its batch, and figures on their number.")  # fmt: skip
    return "\n".join(told)


def _rate(learnt: LaunchModel) -> str:
    return str(learnt.about["inner_lr"]) if learnt.rates is None else "learnt, one for each parameter"


def _plugin(told: Mapping[str, Any]) -> str:
    options = ", ".join(f"{name} {value}" for name, value in told.get("options", {}).items() if name != "schema")
    return told["name"] + (f" ({options})" if options else "")


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {markdown(value)} |" for name, value in rows.items())])
