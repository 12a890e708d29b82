"""Agents that ended with models that differ are judged by their own ones, and not by a mean that nobody has."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file

from difnet.cli import group
from difnet.config import load
from difnet.record.events import LAUNCH_MODEL, OWN_MODELS
from difnet.record.finding import load as read_run
from difnet.record.tally import MOST_OWN, ModelAt
from difnet.report.tables import on_test_tasks
from difnet.runtime.simulation import simulate
from difnet.topology import networks
from difnet.workload.building import build

SMALL = {"topology": "ring6", "iterations": 40, "tasks": 2, "eval_every": 10, "eval_tasks": 4, "eval_steps": [1, 3],
         "test_tasks": 7, "engine": "eager", "dtype": "float64", "outer_lr": 0.02, "seed": 2}  # fmt: skip


def rows_of(summary: dict) -> dict[tuple[int, int], float]:
    """test-agents.csv: (agent, inner steps) -> loss."""
    with Path(summary["folder"], "test-agents.csv").open() as file:
        return {(int(row["agent"]), int(row["steps"])): float(row["loss"]) for row in csv.DictReader(file)}


def by_hand(summary: dict, w: np.ndarray, steps: int) -> float:
    """The mean loss of a model on the run's test tasks after so many gradient steps, by autograd, task by task."""
    config = load(Path(summary["folder"]) / "config.toml")
    workload = build(config, networks.load(config.topology).agents)
    losses = []
    for sx, sy, qx, qy in zip(*(t for batch in workload.test_tasks() for t in batch), strict=True):
        theta = torch.from_numpy(w).requires_grad_()
        for _ in range(steps):
            [slope] = torch.autograd.grad(workload.loss(theta, (sx, sy)), theta)
            theta = (theta - config.inner_lr * slope).detach().requires_grad_()
        losses.append(workload.loss(theta, (qx, qy)).item())
    return float(np.mean(losses))


def own_models(summary: dict) -> dict[int, np.ndarray]:
    """What each agent ended with."""
    folders = sorted(Path(summary["folder"], "agents").iterdir())
    return {int(f.name): load_file(next(f.glob("state-*.safetensors")))["w"] for f in folders}


def test_agents_alone_are_tested_each_by_its_own_model(tmp_path):
    """Every figure of every agent by autograd; together their mean, median and worst; the centroid's beside them."""
    summary = simulate(load(settings={**SMALL, "strategy": "noncooperative", "runs": str(tmp_path)}))
    own, told = summary["test"][OWN_MODELS], rows_of(summary)
    assert own["agents"] == 6 and own["tasks"] == 7 and sorted({k for k, _ in told}) == [*range(6)]
    for steps in (0, 1, 3):
        want = [by_hand(summary, w, steps) for w in own_models(summary).values()]
        assert [told[k, steps] for k in range(6)] == pytest.approx(want, rel=1e-10)
        figures = {"mean": np.mean(want), "median": np.median(want), "worst": max(want)}
        assert own["loss"][str(steps)] == pytest.approx(figures, rel=1e-10)
    middle = np.mean([*own_models(summary).values()], axis=0)
    assert summary["test"][LAUNCH_MODEL]["loss"]["3"]["mean"] == pytest.approx(by_hand(summary, middle, 3), rel=1e-10)
    assert summary["test"][LAUNCH_MODEL]["loss"]["3"]["mean"] != pytest.approx(own["loss"]["3"]["mean"], rel=1e-3)


def test_the_best_validations_own_models_are_tested_where_that_is_the_launch_model(tmp_path):
    """With steps so long that the best validation is not the last, its models are those of a shorter run."""
    words = {**SMALL, "strategy": "noncooperative", "launch_model": "best", "outer_lr": 0.1, "optimizer": "adam"}
    summary = simulate(load(settings={**words, "runs": str(tmp_path)}))
    best = summary["test"][OWN_MODELS]["iteration"]
    assert best < 40, "choose another seed: here the last validation is the best"
    shorter = simulate(load(settings={**words, "runs": str(tmp_path), "iterations": max(best, 1), "eval_every": 10,
                                      "launch_model": "last"}))  # fmt: skip
    assert rows_of(summary) == pytest.approx(rows_of(shorter), rel=1e-12)


@pytest.mark.parametrize("strategy", ["fully-connected", "centralised"])
def test_agents_that_agree_are_tested_by_their_one_model(strategy, tmp_path):
    summary = simulate(load(settings={**SMALL, "strategy": strategy, "runs": str(tmp_path)}))
    assert list(summary["test"]) == [LAUNCH_MODEL] and not Path(summary["folder"], "test-agents.csv").exists()


def test_a_report_puts_the_agents_own_models_first_and_says_why(tmp_path):
    runs = [read_run(simulate(load(settings={**SMALL, "strategy": s, "runs": str(tmp_path)}))["folder"])
            for s in ("noncooperative", "fully-connected")]  # fmt: skip
    why, own, caution, centroid = on_test_tasks(runs)
    assert "no agent has" in why.text and "judge by the table before" in caution.text
    assert own.head[1:] == ("noncooperative, ring6 (seed 2)",) and len(centroid.head) == 3
    assert {row[0].rpartition(", ")[2] for row in own.rows} == {"mean over agents", "median agent", "worst agent"}
    assert [block.text for block in on_test_tasks(runs[1:])[:1]] != [why.text]
    assert "judge by" not in on_test_tasks(runs[1:])[0].text


def test_an_older_run_that_was_called_centralised_is_told_as_what_it_was(tmp_path):
    """Its folder has A = 11'/K of six agents; one of today, under the same name, has one learner."""
    summary = simulate(load(settings={**SMALL, "strategy": "fully-connected", "runs": str(tmp_path)}))
    folder = Path(summary["folder"])
    for file in ("run.json", "config.toml", "topology.json", "events.jsonl"):
        (folder / file).write_text((folder / file).read_text().replace("fully-connected", "centralised"))
    assert "centralised" in (folder / "run.json").read_text()
    assert read_run(folder).fact("strategy") == "fully-connected"
    today = simulate(load(settings={**SMALL, "strategy": "centralised", "runs": str(tmp_path)}))
    assert read_run(today["folder"]).fact("strategy") == "centralised"


def test_of_very_many_agents_some_evenly_spread_ones_are_tested():
    own = {k: np.array([float(k), 1.0]) for k in range(1000)}
    chosen = [*ModelAt(5, np.array([499.5, 1.0]), own).that_differ()]
    assert len(chosen) == MOST_OWN and chosen[0] == 0 and chosen[-1] == 999
    assert set(np.diff(chosen)) == {10, 11}


@pytest.mark.parametrize(("strategy", "cautious"), [("noncooperative", True), ("diffusion", False)])
def test_who_uses_a_mean_of_models_that_disagree_is_told_so(strategy, cautious, tmp_path):
    """In evaluate, fit and export, also of a file that has left its folder; and on its model card."""
    summary = simulate(load(settings={**SMALL, "strategy": strategy, "runs": str(tmp_path)}))
    out = tmp_path / "gone" / "model.safetensors"
    out.parent.mkdir()
    done = [CliRunner().invoke(group, [*words]) for words in (
        ("evaluate", summary["folder"], "--tasks", "3", "--steps", "1", "--json"),
        ("export", summary["folder"], "--format", "safetensors", "-o", str(out)),
        ("evaluate", str(out), "--tasks", "3", "--steps", "1", "--json"))]  # fmt: skip
    assert [one.exit_code for one in done] == [0, 0, 0], [one.output for one in done]
    assert all(("is the mean of 6 agents' models that differ" in one.stderr) == cautious for one in done)
    [card] = out.parent.glob("*.md")
    assert ("Caution: this launch model is the mean of 6" in card.read_text()) == cautious


@pytest.mark.slow
def test_processes_and_the_simulator_test_the_same_models(difnet, tmp_path):
    words = {**SMALL, "strategy": "noncooperative"}
    flags = [word for key, value in words.items() for word in ("--set", f"{key}={value}")]
    network = difnet("launch", *flags, "--json")
    assert network.status == 0, network.err
    simulated = simulate(load(settings={**words, "runs": str(tmp_path / "simulated")}))
    assert network.json()["test"] == simulated["test"] and rows_of(network.json()) == rows_of(simulated)
