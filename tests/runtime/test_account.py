"""What a run reports of its algorithm is a mean over every step of every agent, whenever it was told."""

import pytest

from difnet import catalog
from difnet.config import load
from difnet.runtime import simulation

SMALL = {"iterations": 7, "tasks": 2, "eval_every": 3, "eval_tasks": 2, "eval_steps": [1], "test_tasks": 0,
         "engine": "eager", "offline_steps": 3}  # fmt: skip


def words(name: str) -> dict:
    return SMALL | {"algorithm": name, "topology": "star_graph(n=3)", "seed": 4}


@pytest.mark.parametrize("progress_s", [0.0, 1e9], ids=["told after every iteration", "told at validations"])
@pytest.mark.parametrize("name", ["imaml", "dsgd", "meta-backward"])
def test_what_is_reported_is_the_mean_over_all_steps(name, progress_s, tmp_path, monkeypatch):
    """Summed here beside it, step by step; each validation after several steps, and one at the end after one."""
    told: list[dict[str, list[float]]] = []
    exact = simulation.exact

    def watched(workload, kernels):
        adapt = exact(workload, kernels)

        def watch(state, step, rows):
            state, info = adapt(state, step, rows)
            told.append({name: figures.tolist() for name, figures in info.items()})
            return state, info

        return watch

    monkeypatch.setattr(simulation, "exact", watched)
    monkeypatch.setattr(simulation, "PROGRESS_S", progress_s)
    summary = simulation.simulate(load(settings={**words(name), "runs": str(tmp_path)}))
    every = {figure: [x for step in told for x in step[figure]] for figure in told[0] if figure != "loss"}
    assert every and len(set(next(iter(every.values())))) > 3, "figures that never change would prove nothing"
    assert summary["reported"] == pytest.approx({figure: sum(xs) / len(xs) for figure, xs in every.items()}, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", catalog.names("algorithms"))
def test_processes_and_the_simulator_report_the_same(name, difnet, tmp_path):
    flags = [word for key, value in words(name).items() for word in ("--set", f"{key}={value!r}".replace("'", '"'))]
    network = difnet("launch", *flags, "--json")
    assert network.status == 0, network.err
    simulated = simulation.simulate(load(settings={**words(name), "runs": str(tmp_path / "simulated")}))
    assert network.json()["reported"] == pytest.approx(simulated["reported"], rel=1e-9)
