"""A hub and its clients as real processes, compared with the simulator, with centralised learning and with sums."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from difnet.cli import main
from difnet.config import load
from difnet.runtime.simulation import simulate
from difnet.system.machine import torch_settings
from difnet.workload import TaskStream, Workload
from difnet.workload.building import build
from tests.conftest import Result, events

M = 1761  # parameters of the sinusoids' own model
SMALL = ("--iterations", "8", "--tasks", "2", "--eval-every", "4", "--eval-tasks", "4", "--engine", "eager",
         "--set", "test_tasks=0")  # fmt: skip
STAR = ("--topology", "star_graph(n=3)", *SMALL)
RING = ("--topology", "cycle_graph(n=4)", *SMALL)


def tensors(summary: dict) -> dict[str, dict[str, np.ndarray]]:
    """All that the agents of a run ended with, and its launch model, by file."""
    folder = Path(summary["folder"])
    return {str(p.relative_to(folder)): load_file(p) for p in sorted(folder.rglob("*.safetensors"))
            if p.name.startswith(("state-", "launch-model"))}  # fmt: skip


def launch_model(summary: dict) -> np.ndarray:
    """The model that a run ended with."""
    return tensors(summary)["launch-model.safetensors"]["w"]


def spent(summary: dict) -> list[dict]:
    """What each validation says was spent, as far as it does not depend on the machine."""
    told = [json.loads(line) for line in Path(summary["folder"], "events.jsonl").read_text().splitlines()]
    names = ("payload_bytes", "uploads", "steps", "communication_s", "communication_joules")
    return [{"iteration": e["iteration"]} | {name: e["spent"][name] for name in names} for e in told
            if e["event"] == "Validated"]  # fmt: skip


def again(summary: dict, folder: Path, **otherwise: object) -> dict:
    """The same run in the simulator."""
    return simulate(load(Path(summary["folder"]) / "config.toml", {"runs": str(folder / "simulated"), **otherwise}))


def assert_same(network: dict, simulated: dict) -> None:
    """To the last bit: models, optimisers' states, what was spent; after the same number of rounds."""
    there, here = tensors(network), tensors(simulated)
    assert list(there) == list(here) and len(there) == network["agents"] + 1
    for file in there:
        assert list(there[file]) == list(here[file])
        for name, tensor in there[file].items():
            assert tensor.tobytes() == here[file][name].tobytes(), (file, name)
    assert spent(network) == spent(simulated) and len(spent(network)) == 3
    for name in ("server", "communication", "offline", "loss", "test", "bytes"):
        assert known_to_both(network[name]) == known_to_both(simulated[name])


def known_to_both(part: dict | None) -> dict:
    """Without what only a machine's clock and wire can tell."""
    return {name: value for name, value in (part or {}).items() if name not in ("hub_share", "wire", "messages")}


def algorithm(name: str, *pairs: str) -> tuple[str, ...]:
    """The words of an algorithm, and settings."""
    return ("--algorithm", name, *(word for pair in pairs for word in ("--set", pair)))


slow = pytest.mark.slow
BY_SAMPLES = ("server.sampling=samples", "server.aggregation=samples", "task.clients=20")


@pytest.mark.parametrize(("words", "uploads"), [
    pytest.param((*STAR, *algorithm("fedmeta", "algorithm.inner=meta-sgd", "server.clients=2")), 16, marks=slow),
    pytest.param((*STAR, *algorithm("fedprox", "server.fraction=0.6", *BY_SAMPLES), "--task", "synthetic",
                  "--local-steps", "3"), 16, marks=slow),
    pytest.param((*STAR, *algorithm("imaml", "algorithm.weight=20.0"), "--inner-steps", "2"), 24,
                 marks=slow),
    pytest.param((*RING, *algorithm("meta-backward", "offline_steps=5")), 4 * 2 * 9, marks=slow),
    pytest.param((*STAR, *algorithm("fedmeta"), "--optimizer", "yogi"), 24, marks=slow),
    pytest.param((*STAR, *algorithm("fedmeta"), "--order", "1", "--inner-steps", "2"), 24, marks=slow),
    pytest.param((*STAR, *algorithm("fedmeta", "algorithm.inner=reptile")), 24, marks=slow),
    pytest.param((*STAR, *algorithm("fedmeta", "algorithm.inner=anil", "algorithm.clip=0.1")), 24, marks=slow),
    pytest.param((*STAR, *algorithm("fedavg", "offline_steps=5"), "--init", "separate"), 27, marks=slow),
    pytest.param((*STAR, *algorithm("fedavg", "algorithm.server=adam", "algorithm.server_lr=0.1")), 24, marks=slow),
    pytest.param((*STAR, *algorithm("per-fedavg", "server.clients=1", "transport=tcp"), "--local-steps", "2"), 8,
                 marks=slow),
    pytest.param((*STAR, *algorithm("dsgd")), 6 * 8, marks=slow),
    pytest.param((*STAR, *algorithm("dif-maml")), 6 * 8, marks=slow),
    pytest.param((*RING, *algorithm("fedavg"), "--local-steps", "2"), 8 * 8, marks=slow),
    pytest.param((*RING, *algorithm("dsgd"), "--optimizer", "momentum"), 8 * 8, marks=slow),
], ids=lambda value: " ".join(w.strip("-") for w in value if w not in SMALL)[9:79] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_run_of_processes_ends_in_the_same_bits_as_the_simulator(difnet, tmp_path, words, uploads):
    """Every algorithm, on a star and where it may be on a ring; and as many messages as rounds and clients make."""
    done = difnet("launch", *words, "--json")
    assert done.status == 0, done.err
    network = done.json()
    assert_same(network, again(network, tmp_path))
    assert network["communication"]["uploads"] == uploads
    assert network["loss"]["after"] != network["loss"]["first"]["after"]


@pytest.mark.slow
def test_meta_backward_begins_with_what_its_agents_learnt_alone_and_tests_the_plain_average_beside(difnet, tmp_path):
    """The offline start is recorded, agent by agent; the network's first model is the mean of the local ones."""
    done = difnet("launch", *STAR, *algorithm("meta-backward", "offline_steps=20", "offline_lr=0.01", "test_tasks=6"),
                  "--json")  # fmt: skip
    assert done.status == 0, done.err
    network = done.json()
    assert_same(network, again(network, tmp_path))
    offline = network["offline"]
    assert (offline["steps"], offline["epsilon_asked"]) == (20, 0.0)
    alone = [json.loads(line) for k in (1, 2, 3)
             for line in (tmp_path / f"runs/latest/agents/{k:03d}/metrics.jsonl").read_text().splitlines()
             if json.loads(line)["event"] == "TrainedAlone"]  # fmt: skip
    assert [(told["agent"], told["steps"]) for told in alone] == [(1, 20), (2, 20), (3, 20)]
    for name in ("loss", "gradient_norm"):
        figures = [told[name] for told in alone]
        assert offline[name]["mean"] == pytest.approx(np.mean(figures)) and offline[name]["worst"] == max(figures) > 0
    learnt, average = network["test"]["launch model"], network["test"]["average of the local models"]
    assert (learnt["iteration"], average["iteration"], learnt["tasks"]) == (8, 0, 6)
    assert learnt["loss"]["0"] != average["loss"]["0"]
    assert network["bytes"]["up"] == 9 * 3 * 4 * M == network["bytes"]["down"]


# --- a star on which everybody takes part is centralised learning ---------------------------------------------------


def plain_maml(workload: Workload, iterations: int) -> torch.Tensor:
    """Centralised MAML by autograd: each step along the mean slope over the tasks of all clients."""
    config, w = workload.config, workload.first_launch_model(0)
    streams = [TaskStream(workload, k) for k in workload.clients]
    for i in range(iterations):
        w = w.requires_grad_()
        total = torch.zeros((), dtype=w.dtype)
        for tasks in (stream(i) for stream in streams):
            for sx, sy, qx, qy in zip(*tasks.support, *tasks.query, strict=True):
                [slope] = torch.autograd.grad(workload.loss(w, (sx, sy)), w, create_graph=True)
                total = total + workload.loss(w - config.inner_lr * slope, (qx, qy))
        [gradient] = torch.autograd.grad(total / (len(streams) * config.tasks), w)
        w = (w - config.outer_lr * gradient).detach()
    return w


@pytest.mark.parametrize(("command", "dtype", "close"), [
    pytest.param("launch", "float64", 1e-12, marks=slow), ("simulate", "float32", 1e-6),
    pytest.param("launch", "float32", 1e-6, marks=slow),
])  # fmt: skip
def test_fedmeta_with_all_clients_and_sgd_is_centralised_maml_and_dif_maml_with_uniform_weights(
    difnet, tmp_path, command, dtype, close
):
    """A star, of processes or simulated, a complete graph with A = 11'/K, and plain autograd come to one model.

    Client k + 1 of the star draws what agent k of the complete graph draws.
    """
    words = {"iterations": 8, "tasks": 2, "eval_every": 4, "eval_tasks": 4, "test_tasks": 0, "engine": "eager",
             "optimizer": "sgd", "outer_lr": 0.05, "inner_lr": 0.02, "dtype": dtype, "seed": 3}  # fmt: skip
    served = {**words, "topology": "star_graph(n=4)", "algorithm": "fedmeta"}
    star = simulate(load(settings={**served, "runs": str(tmp_path / "star")}))
    strategy = "fully-connected" if dtype == "float64" else "centralised"
    central = simulate(load(settings={**words, "topology": "complete_graph(n=4)", "strategy": strategy,
                                      "runs": str(tmp_path / "central")}))  # fmt: skip
    workload = build(load(settings=served), 5, 0)
    with torch_settings(), torch.enable_grad():
        by_hand = plain_maml(workload, 8).numpy()
    learnt = launch_model(star)
    if command == "launch":
        done = difnet("launch", "--json", *(w for name, value in served.items() for w in ("--set", f"{name}={value}")))
        assert done.status == 0, done.err
        assert launch_model(done.json()).tobytes() == learnt.tobytes()
    assert learnt.dtype == np.dtype(dtype) and abs(learnt - workload.first_launch_model(0).numpy()).max() > 0.01
    assert abs(learnt - launch_model(central)).max() < close
    assert abs(learnt - by_hand).max() < close


def everything(workload: Workload, k: int) -> list[torch.Tensor]:
    """All inputs of each training client of agent k, in the workload's type."""
    family = workload.family
    cuts = [np.concatenate(family._cut(int(client))) for client in family._hands[workload.client(k)]]
    return [family._take(rows)[0].to(workload.dtype) for rows in cuts]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_fedavg_is_a_plain_loop_over_its_clients_rows(tmp_path, optimizer):
    """Clients of fifty samples and minibatches of fifty: every local step is on all of a client's rows, by torch.optim.

    So it is only if a minibatch is drawn of all samples alike, whatever others take for support.
    """
    config = load(settings={
        "topology": "star_graph(n=3)", "algorithm": "fedavg", "task.name": "synthetic", "task.most": 50,
        "task.clients": 5, "task.shares": [0.6, 0.2, 0.2], "task.support": 0.2, "shots": 20, "queries": 30, "tasks": 1,
        "iterations": 4, "local_steps": 3, "optimizer": optimizer, "outer_lr": 0.05, "dtype": "float64",
        "engine": "eager", "test_tasks": 0, "runs": str(tmp_path),
    })  # fmt: skip
    workload = build(config, 4, 0)
    family, hub = workload.family, workload.first_launch_model(0)
    data = [family._take(np.concatenate(family._cut(int(family._hands[client][0])))) for client in range(3)]
    assert [len(y) for _, y in data] == [50, 50, 50]
    begun = hub
    for _ in range(4):
        ends = []
        for x, y in data:
            w = hub.clone().requires_grad_()
            by_torch = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]([w], lr=0.05)
            for _ in range(3):
                by_torch.zero_grad()
                workload.loss(w, (x.double(), y)).backward()
                by_torch.step()
            ends.append(w.detach())
        hub = sum(ends) / 3
    assert abs(hub - begun).max() > 0.05
    np.testing.assert_allclose(launch_model(simulate(config)), hub.numpy(), rtol=0, atol=1e-12)


def test_answers_by_samples_are_meant_as_by_hand(tmp_path):
    """One round of FedAvg on Synthetic: each agent's step by autograd on its samples, then numpy's average.

    An agent's weight is what the five clients have that it drew from, each told by its samples, and not what all have
    whose data lies with it.
    """
    config = load(settings={
        "topology": "star_graph(n=3)", "algorithm": "fedavg", "task": "synthetic", "server.aggregation": "samples",
        "iterations": 1, "optimizer": "sgd", "outer_lr": 0.5, "dtype": "float64", "engine": "eager", "test_tasks": 0,
        "runs": str(tmp_path),
    })  # fmt: skip
    workload = build(config, 4, 0)
    w = workload.first_launch_model(0)
    ends, samples = [], []
    for k in (1, 2, 3):
        (sx, sy), (qx, qy) = TaskStream(workload, k)(0)
        x, y = torch.cat([sx, qx], 1).flatten(0, 1), torch.cat([sy, qy], 1).flatten(0, 1)
        v = w.clone().requires_grad_()
        [slope] = torch.autograd.grad(workload.loss(v, (x, y)), v)
        ends.append((w - 0.5 * slope).numpy())
        sizes = {x.numpy().tobytes(): len(batch) for batch in everything(workload, k) for x in batch}
        samples.append(np.mean([sizes[task[0].numpy().tobytes()] for task in sx]))
        assert samples[-1] < workload.family.samples(k - 1) / 5
    got = launch_model(simulate(config))
    np.testing.assert_allclose(got, np.average(ends, axis=0, weights=samples), rtol=0, atol=1e-14)
    assert len(set(samples)) == 3 and abs(got - np.mean(ends, axis=0)).max() > 1e-4


# --- what a run says it cost ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_documented_star_costs_what_the_closed_form_says_and_every_count_of_its_bytes_agrees(difnet, tmp_path):
    """10 rounds of 3 clients: 30 uploads of 32 * 1761 bits at B log2(5) and 2 W; a last call more goes down.

    The summary, edges.csv and the agents' own last words count the same bytes.
    """
    done = difnet("launch", "--topology", "star_graph(n=3)", "--algorithm", "fedmeta", "--iterations", "10", "--json",
                  "--engine", "eager")  # fmt: skip
    assert done.status == 0, done.err
    summary, folder = done.json(), tmp_path / "runs" / "latest"
    on_air = summary["communication"]
    assert round(on_air["joules"], 3) == 291.234 == round(30 * 2 * 32 * M / (5000 * np.log2(5)), 3)
    assert on_air["seconds"] == pytest.approx(on_air["joules"] / 2 / 3) and on_air["quality"] == "modelled"
    server = {name: figure for name, figure in summary["server"].items() if name != "hub_share"}
    assert server == {"hub": 0, "clients": 3, "per_round": 3.0, "abandoned_rounds": 0, "late": 0}
    up, down = 10 * 3 * 4 * M, 11 * 3 * 4 * M
    told = summary["bytes"]
    assert (told["up"], told["down"], told["payload"]) == (up, down, up + down)
    with (folder / "edges.csv").open() as file:
        edges = [{name: int(cell) for name, cell in row.items()} for row in csv.DictReader(file)]
    assert [(e["from"], e["to"], e["payload_bytes"]) for e in edges] == [
        *((0, k, down // 3) for k in (1, 2, 3)), *((k, 0, up // 3) for k in (1, 2, 3))]  # fmt: skip
    words = [[json.loads(line) for line in (folder / f"agents/{k:03d}/metrics.jsonl").read_text().splitlines()]
             for k in range(4)]  # fmt: skip
    last = [[word for word in its if word["event"] == "Progress"][-1] for its in words]
    for name in ("payload", "wire", "messages"):
        total, name = told[name], name if name == "messages" else f"{name}_bytes"
        assert total == sum(e[name] for e in edges) == sum(p[name] for p in last)
        assert [sum(e[name] for e in edges if e["from"] == k) for k in range(4)] == [p[name] for p in last]
    assert last[0]["heard_payload_bytes"] == up
    assert [p["heard_payload_bytes"] for p in last[1:]] == [down // 3] * 3 and told["wire"] > told["payload"]
    assert not any(log.read_text() for log in folder.glob("agents/*/log.txt"))  # nobody had anything to complain of
    assert [v["spent"]["payload_bytes"] for v in events(tmp_path, "Validated")] == [0, 2 * up]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Result]:
    """Run `difnet simulate ARGUMENTS...` within this process, which spares it from loading torch again."""

    def run(*arguments: str) -> Result:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["difnet", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Result(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.mark.slow
@pytest.mark.parametrize("command", ["launch", "simulate"])
def test_a_run_stops_at_its_target_and_says_what_it_had_spent(difnet, here, tmp_path, command):
    """Long before its last iteration, with exit status 0; what it had spent is that of the first such validation."""
    words = ("--topology", "star_graph(n=2)", *algorithm("fedmeta", "test_tasks=0"), "--engine", "eager",
             "--iterations", "100000", "--eval-every", "5", "--eval-tasks", "8", "--tasks", "2", "--outer-lr", "0.01")
    done = (difnet if command == "launch" else here)(command, *words, "--target", "loss@10=3.5", "--json")
    assert done.status == 0, done.err
    summary = done.json()
    target = summary["target"]
    reached = [v for v in events(tmp_path, "Validated") if v["after"]["10"]["mean"] <= 3.5]
    assert (summary["state"], target["asked"], target["reached"]) == ("done", "loss@10=3.5", True)
    assert target["iteration"] == reached[0]["iteration"] > 0 and target["uploads"] == 2 * target["iteration"]
    assert {name: target[name] for name in reached[0]["spent"]} == reached[0]["spent"]
    assert target["iteration"] <= summary["iterations"] < 100000
    assert command == "launch" or summary["iterations"] == target["iteration"]


@pytest.mark.parametrize("command", [pytest.param("launch", marks=slow), "simulate"])
def test_a_run_that_misses_its_target_is_done_and_says_so_by_its_exit_status(difnet, here, command):
    words = (*STAR, "--algorithm", "fedmeta", "--target", "loss=0.001", "--json")
    done = (difnet if command == "launch" else here)(command, *words)
    assert done.status == 4 and "without reaching loss=0.001" in done.err
    assert done.json()["state"] == "done" and done.json()["iterations"] == 8
    assert done.json()["target"] == {"asked": "loss=0.001", "reached": False}
