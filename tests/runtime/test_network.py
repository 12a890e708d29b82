"""Real processes and sockets, compared with the simulator and with what a user was promised."""

import json
import subprocess
import time
import tomllib
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from difnet.config import load
from difnet.record import comparing, finding
from difnet.runtime.simulation import simulate

SMALL = ("--iterations", "30", "--tasks", "2", "--eval-every", "15", "--eval-tasks", "8", "--engine", "eager",
         "--set", "test_tasks=8")  # fmt: skip


def states(folder: str) -> dict[str, np.ndarray]:
    """Every agent's final launch model."""
    return {str(p.parent.name): load_file(p)["w"] for p in sorted(Path(folder).glob("agents/*/state-*.safetensors"))}


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("--topology", "ring6", "--optimizer", "adam"), marks=pytest.mark.slow),
        pytest.param(("--topology", "ring6", "--optimizer", "sgd", "--outer-lr", "0.05", "--dtype", "float64"),
                     marks=pytest.mark.slow),
        ("--topology", "paper6", "--optimizer", "adam", "--weights", "averaging", "--init", "separate"),
        pytest.param(("--topology", "paper6", "--optimizer", "sgd", "--set", "transport=tcp"), marks=pytest.mark.slow),
        pytest.param(("--topology", "ring6", "--strategy", "cta", "--local-steps", "3"), marks=pytest.mark.slow),
        pytest.param(("--topology", "ring6", "--strategy", "fully-connected"), marks=pytest.mark.slow),
        pytest.param(("--topology", "complete_graph(n=5)", "--combine", "trim:1"), marks=pytest.mark.slow),
        pytest.param(("--topology", "paper6", "--combine", "clip", "--init", "separate"), marks=pytest.mark.slow),
        pytest.param(("--topology", "ring6", "--strategy", "centralised"), marks=pytest.mark.slow),
        pytest.param(("--topology", "paper6", "--strategy", "noncooperative"), marks=pytest.mark.slow),
        pytest.param(("--topology", "cycle_graph(n=5, directed=True)", "--set", "algorithm.inner=reptile"),
                     marks=pytest.mark.slow),
        pytest.param(("--topology", "star_graph(n=4)", "--set", "algorithm.inner=anil", "--inner-steps", "2"),
                     marks=pytest.mark.slow),
    ],
    ids=lambda words: "-".join(word.strip("-").split("(")[0] for word in words)[:60],
)
def test_the_network_ends_in_the_same_bits_as_the_exact_simulator(difnet, tmp_path, words):
    """Same seed, same machine: every agent's final launch model is equal to the last bit."""
    network = difnet("launch", *words, *SMALL, "--json")
    assert network.status == 0, network.err
    simulated = simulate(load(Path(network.json()["folder"]) / "config.toml", {"runs": str(tmp_path / "simulated")}))
    there, here = states(network.json()["folder"]), states(simulated["folder"])
    assert list(there) == list(here) and len(there) == network.json()["agents"]
    for k in there:
        assert np.array_equal(there[k].view(np.uint8), here[k].view(np.uint8)), k
    moved = network.json()["loss"]
    assert moved["after"] != moved["first"]["after"]


@pytest.mark.slow
def test_compiled_kernels_carry_the_same_bits_from_process_to_process(difnet):
    """The kernel that is compiled ahead of time gives an agent process and the simulator equal bits."""
    words = ("--topology", "ring6", "--iterations", "20", "--eval-tasks", "8", "--engine", "aot", "--json",
             "--set", "model.name=mlp", "--set", "model.hidden=[8]")  # fmt: skip
    network, simulated = difnet("launch", *words, timeout_s=400), difnet("simulate", *words)
    assert (network.status, simulated.status) == (0, 0), network.err + simulated.err
    assert network.json()["engine"] == simulated.json()["engine"] == "aot"
    there, here = states(network.json()["folder"]), states(simulated.json()["folder"])
    assert all(np.array_equal(there[k], here[k]) for k in here)


@pytest.mark.slow
def test_every_agent_is_a_process_of_its_own(running, tmp_path):
    """Forty agents are forty processes, none of them the launcher or the host."""
    from tests.conftest import agents_of, events, until

    launcher = running("launch", "--topology", "ring40", "--iterations", "100000", "--engine", "eager", "--tasks", "1",
                       "--eval-tasks", "4", "--quiet")  # fmt: skip
    until(lambda: events(tmp_path, "Ready"), "the start")
    pids = agents_of(launcher.pid)
    assert len(set(pids.values()) - {launcher.pid}) == 40
    assert all(psutil.Process(pid).num_threads() >= 2 for pid in pids.values())
    launcher.terminate()
    assert launcher.wait(30) == 143


@pytest.mark.slow
def test_a_run_leaves_the_folder_that_was_promised(difnet, tmp_path):
    """Plain files, readable by other people's readers; the summary has the names that scripts rely on."""
    done = difnet("launch", "--topology", "ring6", *SMALL, "--json", "--seed", "3")
    assert done.status == 0, done.err
    summary, folder = done.json(), tmp_path / "runs" / "latest"
    assert json.loads((folder / "run.json").read_text()) == summary
    names = {
        "schema", "run", "command", "algorithm", "task", "topology", "agents", "seed", "place", "engine", "iterations",
        "state", "seconds", "ready_s", "rounds_per_s", "cpu_s_per_agent_round", "pss_mb_per_agent", "mixing_rate",
        "doubly_stochastic", "consensus_error", "loss", "accuracy", "bytes", "flops", "energy", "communication",
        "missed_exchanges", "one_sided_exchanges", "lost_agents", "folder",
    }  # fmt: skip
    assert names <= summary.keys()
    assert summary["state"] == "done" and summary["iterations"] == 30 and summary["agents"] == 6
    assert summary["mixing_rate"] == pytest.approx(2 / 3) and summary["consensus_error"] > 0
    assert summary["bytes"]["payload"] == 6 * 2 * 30 * 1761 * 4
    assert summary["bytes"]["payload"] < summary["bytes"]["wire"] < 1.01 * summary["bytes"]["payload"]
    assert summary["energy"]["quality"] in ("measured", "estimated") and summary["energy"]["source"]
    assert tomllib.loads((folder / "config.toml").read_text())["seed"] == 3
    for name in ("topology.json", "environment.json"):
        json.loads((folder / name).read_text())
    state = load_file(folder / "agents" / "005" / "state-000030.safetensors")
    assert state["w"].shape == (1761,) and state["optimizer.2"] == 30
    centroid = np.mean([w.astype(np.float64) for w in states(folder).values()], axis=0)
    np.testing.assert_allclose(load_file(folder / "launch-model.safetensors")["w"], centroid, rtol=1e-6, atol=1e-7)
    kinds = [json.loads(line)["event"] for line in (folder / "events.jsonl").read_text().splitlines()]
    assert kinds[0] == "RunStarted" and kinds[-1] == "RunEnded" and kinds.count("Validated") == 3
    metrics = (folder / "agents" / "003" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["event"] for line in metrics} == {"Progress", "Evaluated", "Edge", "Finished"}


@pytest.mark.slow
def test_a_run_is_repeated_by_its_own_configuration(tmp_path):
    """A run's config.toml ends in the same launch model, in another folder."""
    words = {"topology": "paper6", "iterations": 30, "tasks": 2, "eval_tasks": 8, "engine": "eager", "seed": 5}
    first = simulate(load(settings={**words, "runs": str(tmp_path)}))
    again = simulate(load(Path(first["folder"]) / "config.toml"))
    assert again["folder"] != first["folder"]
    a, b = (load_file(Path(s["folder"]) / "launch-model.safetensors")["w"] for s in (first, again))
    assert np.array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("staleness", [0, 3])
def test_asynchronous_rounds_learn_and_stay_within_their_bound(difnet, staleness):
    """No agent waits for a neighbour that is within the bound; everybody does all iterations."""
    words = ("--topology", "ring6", "--mode", "async", "--iterations", "150", "--engine", "eager", "--eval-tasks", "16")
    done = difnet("launch", *words, "--staleness", str(staleness), "--outer-lr", "0.01", "--json")
    assert done.status == 0, done.err
    summary = done.json()
    assert summary["iterations"] == 150 and not summary["lost_agents"]
    assert summary["loss"]["after"]["1"]["mean"] < 0.9 * summary["loss"]["first"]["after"]["1"]["mean"]
    if staleness == 0:
        assert summary["missed_exchanges"] == 0


@pytest.mark.slow
def test_agents_in_the_foreground_join_a_network(tmp_path):
    """`difnet agent K` is an agent like any other: two of them find each other through a registry."""
    import sys

    from difnet import __version__
    from difnet.exchange.registry import Registry
    from difnet.record.events import KINDS
    from difnet.topology.networks import load as load_topology
    from tests.conftest import environment

    config = load(settings={"topology": "path_graph(n=2)", "iterations": 10, "engine": "eager", "eval_tasks": 4})
    topology = load_topology(config.topology)
    run = {"run": "foreground", "life": "foreground", "version": __version__,
           "config": config.model_dump(exclude_none=True),
           "topology": topology.to_dict(), "hashes": topology.hashes(), "id": "f", "folder": "",
           "resumes": False}  # fmt: skip
    neighbours = {0: [1], 1: [0]}
    with Registry("tcp://127.0.0.1:*", "secret", neighbours) as registry:
        registry.run = run
        registry.begin(0)
        agents = [
            subprocess.Popen([sys.executable, "-m", "difnet", "agent", str(k), "--registry", registry.endpoint],
                             env=environment(DIFNET_TOKEN="secret"))
            for k in neighbours
        ]
        finished = set()
        deadline = time.monotonic() + 60
        while any(agent.poll() is None for agent in agents) and time.monotonic() < deadline:
            for kind, body, _ in registry.listen(0.1):
                assert kind in KINDS or kind in ("note", "prepared", "exited", "mark")
                if kind == "Finished":
                    finished.add((body["agent"], body["iteration"], body["state"]))
        assert finished == {(k, 10, "done") for k in neighbours}
        assert [agent.wait(20) for agent in agents] == [0, 0]


@pytest.mark.slow
def test_steps_on_another_device_are_begun_after_the_fork_and_end_in_the_same_bits(difnet, tmp_path):
    """The processor by another name stands for a device: states are mixed and sent here, and computed there."""
    for device in ("cpu", "cpu:0"):
        done = difnet("launch", "--topology", "star_graph(n=3)", "--algorithm", "fedmeta", "--iterations", "6",
                      "--tasks", "2", "--eval-tasks", "3", "--engine", "eager", "--device", device, "--name", device)
        assert done.status == 0, done.err
    here, there = (finding.load(tmp_path / "runs" / device) for device in ("cpu", "cpu:0"))
    assert comparing.same_bits(here, there) and [s.loss for s in here.scores] == [s.loss for s in there.scores] != []
