"""After training: a run's launch model tested, fitted, exported and begun from, as somebody else does the next day."""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import difnet
from difnet.maths.evaluate import accuracy_of
from difnet.maths.flat import flatten
from difnet.meta import Tasks
from difnet.record.comparing import same_bits

SHORT = {"engine": "eager", "eval_tasks": 4, "eval_steps": [1, 3], "eval_every": 50, "tasks": 2, "shots": 5}
Difnet = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> difnet.record.run.Run:
    """One short run on sinusoids; nobody writes into its folder."""
    folder = tmp_path_factory.mktemp("runs")
    return difnet.simulate("ring6", iterations=30, test_tasks=20, runs=str(folder), name="trained", **SHORT)


def scores(run: difnet.record.run.Run, model: str = "launch model") -> dict[tuple[int, str], list[float]]:
    """The rows of test.csv, read again: (steps, figure) -> its values, task by task."""
    with (run.folder / "test.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == model]
    return {(int(steps), figure): [float(row[figure]) for row in rows if row["steps"] == steps and row[figure]]
            for steps in {row["steps"] for row in rows} for figure in ("loss", "accuracy", "samples")}  # fmt: skip


def row(document: dict, model: str, steps: int | None) -> dict:
    [found] = [r for r in document["rows"] if (r["model"], r["steps"]) == (model, steps)]
    return found


# The whole way


def test_a_launch_model_goes_from_one_person_to_the_next(trained, command, tmp_path):
    """Copied elsewhere: evaluated, exported with a card, fitted by somebody else, fitted again, begun from."""
    shutil.copytree(trained.folder, tmp_path / "theirs")
    told = command("evaluate", "theirs", "--tasks", 20, "--steps", "1,3", "--json")
    assert told.status == 0, told.err
    assert row(json.loads(told.out), "launch model", 3)["loss"]["half_width"] > 0
    assert "launch model" in command("evaluate", "theirs", "--tasks", 20, "--steps", "1").out
    done = command("export", "theirs", "--format", "safetensors", "-o", "mine/sines.safetensors", "--json")
    assert done.status == 0
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["MODEL.md", "sines.safetensors"]
    card = (tmp_path / "mine" / "MODEL.md").read_text()
    assert all(word in card for word in ("dif-maml", "sinusoid", "ring6, 6 agents", "seed | 0", "20 unseen tasks"))
    shutil.rmtree(tmp_path / "theirs")
    (tmp_path / "few.csv").write_text("x,y\n0,1\n1,2.5\n-2,0.25\n")
    words = ("--support", "few.csv", "--query", "few.csv", "--steps", 3, "--json")
    done = command("fit", "mine/sines.safetensors", *words, "-o", "fitted.safetensors")
    assert done.status == 0, done.err
    figures = json.loads(done.out)["figures"]
    assert figures["support"] == figures["query"]
    assert figures["support"]["after"]["loss"] < figures["support"]["before"]["loss"]
    assert command("evaluate", "fitted.safetensors", "--tasks", 5, "--json").status == 0
    simulate = ("simulate", "--topology", "ring6", "--iterations", 1, "--engine", "eager", "--quiet", "--init")
    assert command(*simulate, "from:fitted.safetensors").status == 0
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]


def test_the_network_of_a_run_is_its_launch_model(trained):
    """The parameters are those of launch-model.safetensors, bit for bit."""
    w = load_file(trained.folder / "launch-model.safetensors")["w"]
    assert torch.equal(flatten(trained.launch_model(), torch.float32), w)
    assert isinstance(trained.launch_model(), torch.nn.Sequential)


# Evaluation


@pytest.mark.parametrize("of", ["folder", "exported"])
def test_evaluating_a_run_on_its_own_test_tasks_repeats_its_test(trained, command, of):
    """The figures of test.csv, task by task, by Student's interval with the t of 19 degrees of freedom, 2.0930."""
    where = trained.folder
    if of == "exported":
        assert command("export", trained.folder, "--format", "safetensors", "-o", "a.safetensors").status == 0
        where = "a.safetensors"
    done = command("evaluate", where, "--tasks", 20, "--steps", "1,3", "--json")
    document, own = json.loads(done.out), scores(trained)
    assert document["tasks"] == 20 and not document["transductive"]
    for steps in (0, 1, 3):
        told = row(document, "launch model", steps)["loss"]
        assert told["mean"] == pytest.approx(fmean(own[steps, "loss"]), rel=1e-12)
        half = 2.0930 * np.std(own[steps, "loss"], ddof=1) / np.sqrt(20)
        assert told["half_width"] == pytest.approx(half, rel=1e-4)


def test_the_untrained_stand_beside_the_trained(trained, command, tmp_path):
    """They score what a run of the same seed scores that has learnt nothing, its outer rate being zero."""
    nothing = difnet.simulate("ring6", iterations=1, test_tasks=20, outer_lr=0.0, strategy="noncooperative",
                              runs=str(tmp_path / "runs"), **SHORT | {"eval_every": 1})  # fmt: skip
    document = json.loads(command("evaluate", trained.folder, "--tasks", 20, "--steps", "1,3", "--json").out)
    for steps in (0, 1, 3):
        wanted = fmean(scores(nothing)[steps, "loss"])
        assert row(document, "untrained", steps)["loss"]["mean"] == pytest.approx(wanted, rel=1e-12)


def test_other_tasks_are_other_figures(trained, command):
    """Another seed, another part, other samples, another rate: each is taken, and zero rate changes nothing."""
    words = ("--tasks", 20, "--steps", "1", "--json")

    def loss(*more: object, steps: int = 0) -> float:
        document = json.loads(command("evaluate", trained.folder, *words, *more).out)
        return row(document, "launch model", steps)["loss"]["mean"]

    usual = loss()
    others = [loss("--seed", 1), loss("--part", "validation"), loss("--shots", 3, "--queries", 50),
              loss("--set", "task.amplitude=[0.1, 0.2]")]  # fmt: skip
    assert len({usual, *others}) == 5
    assert loss("--inner-lr", 0, steps=1) == pytest.approx(usual, rel=1e-6)
    assert others[-1] < usual  # small waves are near to nothing


def test_a_served_run_with_learnt_rates_is_fitted_by_these(command, tmp_path):
    """Its own test again, from the folder and from an exported file with the rates beside it, but not without them."""
    run = difnet.simulate("star_graph(n=2)", iterations=20, test_tasks=8, runs="runs", outer_lr=0.02,
                          algorithm={"name": "fedmeta", "inner": "meta-sgd"}, **SHORT | {"eval_every": 20})  # fmt: skip
    done = command("export", run.folder, "--format", "safetensors", "-o", "a.safetensors", "--json")
    assert [Path(name).name for name in json.loads(done.out)["files"]] == [
        "a.safetensors", "a.inner-lr.safetensors", "MODEL.md"]  # fmt: skip
    assert len(load_file("a.inner-lr.safetensors")["0.weight"].unique()) > 1
    for where in (run.folder, "a.safetensors"):
        document = json.loads(command("evaluate", where, "--tasks", 8, "--steps", "1,3", "--json").out)
        told = row(document, "launch model", 3)["loss"]["mean"]
        assert told == pytest.approx(fmean(scores(run)[3, "loss"]), rel=1e-12)
        assert document["inner_lr"] == "learnt"
    refused = command("evaluate", run.folder, "--inner-lr", 0.1)
    assert refused.status == 2 and "a rate for every parameter was learnt" in refused.err
    Path("a.inner-lr.safetensors").unlink()
    refused = command("evaluate", "a.safetensors")
    assert refused.status == 2 and "lacks the inner rates" in refused.err


class Few:
    """Three clients held out with one, two and four query samples; of each the last of three classes is right."""

    loss = staticmethod(torch.nn.functional.cross_entropy)
    accuracy = staticmethod(accuracy_of)
    default_model = "logistic"
    model_words = {"inputs": 2, "outputs": 3}  # noqa: RUF012
    metrics = {"top 2": lambda p, y: (p.topk(2).indices == y[:, None]).any(1).float().mean()}  # noqa: RUF012
    baselines = {"always one": lambda task: torch.eye(3)[[1] * len(task.query[1])] * 9  # noqa: RUF012
                 + torch.eye(3)[task.query[1]]}  # fmt: skip

    def __init__(self, agents: int, shots: int, queries: int) -> None:
        self.shots, self.queries = shots, queries

    def draw(self, agent: int | None, count: int, rng: np.random.Generator) -> Tasks:
        def some(n: int) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.from_numpy(rng.normal(size=(count, n, 2))), torch.full((count, n), 2)

        return Tasks(some(self.shots), some(self.queries))

    def samples(self, agent: int) -> int:
        return 1

    def held_out(self, part: str) -> Sequence[Tasks]:
        right = {1: [2], 2: [1, 2], 4: [0, 0, 0, 1]}
        return [Tasks((torch.ones(3, 2), torch.tensor([0, 1, 2])), (torch.ones(n, 2), torch.tensor(y)))
                for n, y in right.items()]  # fmt: skip


def test_clients_of_different_sizes_are_counted_both_ways_and_baselines_stand_beside(command, tmp_path):
    """The baseline says class 1: right for 0 of 1, 1 of 2, 1 of 4; its second guess is right everywhere."""
    words = SHORT | {"iterations": 2, "eval_every": 2}
    run = difnet.simulate("ring6", task="tests.after_training.test_commands:Few", runs="runs", **words)
    document = json.loads(command("evaluate", run.folder, "--steps", "1,3", "--json").out)
    always = row(document, "always one", None)
    assert always["accuracy"]["mean"] == pytest.approx((0 + 1 / 2 + 1 / 4) / 3)
    assert always["accuracy"]["micro"] == pytest.approx((0 + 1 + 1) / 7)
    assert always["top 2"]["mean"] == 1
    own = scores(run)
    for steps in (0, 1, 3):
        told = row(document, "launch model", steps)
        micro = np.dot(own[steps, "accuracy"], own[steps, "samples"]) / 7
        assert told["accuracy"]["micro"] == pytest.approx(micro) and document["clients"]
        assert told["accuracy"]["mean"] == pytest.approx(fmean(own[steps, "accuracy"]))
        assert told["top 2"]["mean"] >= told["accuracy"]["mean"]
    assert "always one" in command("evaluate", run.folder).out


def test_an_evaluation_that_depends_on_its_batch_is_said_to(command, tmp_path):
    """Batch normalisation, in a file that a run would write."""
    from difnet.models.conv4 import conv4
    from tests.after_training.test_launch_models import learnt_file

    learnt_file(tmp_path / "a.safetensors", conv4(filters=2), {"name": "conv4", "options": {"filters": 2}})
    assert command("export", "a.safetensors", "--format", "torch", "-o", "a.pt").status == 0
    assert "transductive" in (tmp_path / "MODEL.md").read_text()


# Beginning from a file


@pytest.mark.slow
def test_the_network_and_the_simulator_begin_from_the_same_bits(trained, tmp_path):
    """Where nothing is learnt, both end in what they began from; and else in the same bits."""
    words = {"iterations": 2, "init": f"from:{trained.folder}", "runs": str(tmp_path), **SHORT | {"eval_every": 2}}
    still = {"outer_lr": 0.0, "optimizer": "sgd", "strategy": "noncooperative"}
    for more in (still, {}):
        runs = [run("path_graph(n=2)", **words, **more) for run in (difnet.launch, difnet.simulate)]
        assert [run.state for run in runs] == ["done", "done"] and same_bits(*runs)
        ended = load_file(runs[0].folder / "launch-model.safetensors")["w"]
        begun = load_file(trained.folder / "launch-model.safetensors")["w"]
        assert torch.equal(ended, begun) == (more is still)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["evaluate", "RUN", "--task", "synthetic"], 2, ["'synthetic' and model 'mlp' do not fit"]),
        (["evaluate", "RUN", "--task", "sinusiod"], 2, ["did you mean 'sinusoid'"]),
        (["evaluate", "RUN", "--steps", "5,1"], 2, ["ascending"]),
        (["evaluate", "RUN", "--set", "task.ways=5"], 2, ["does not take these options", "ways"]),
        (["evaluate", "RUN", "--task", "mnist", "--data-dir", "nowhere"], 3, ["nowhere", "mnist"]),
        (["evaluate", "nothing"], 2, ["no run called 'nothing'"]),
        (["evaluate", "nothing.safetensors"], 2, ["there is no launch model in nothing.safetensors"]),
        (["evaluate", "EMPTY"], 2, ["there is no launch model in", "as soon as all agents were tested"]),
        (["fit", "RUN", "--support", "gone.csv", "-o", "a.safetensors"], 3, ["cannot read gone.csv"]),
        (["fit", "RUN", "--support", "bad.csv", "-o", "a.safetensors"], 3, ["bad.csv, line 3, column 'y': 'z'"]),
        (["fit", "RUN", "--support", "bad.csv", "-o", "bad.csv"], 2, ["bad.csv is there already", "--force"]),
        (["export", "RUN", "--format", "torch", "-o", "bad.csv"], 2, ["bad.csv is there already", "--force"]),
        (["export", "RUN", "--format", "pickle"], 2, ["pickle", "safetensors"]),
        (["simulate", "--init", "from:gone"], 2, ["there is no launch model in", "gone"]),
        (["simulate", "--init", "nonsense"], 2, ["none of common, separate and from:PATH"]),
        (["simulate", "--init", "from:RUN", "--set", "model.name=mlp", "--set", "model.hidden=[7]"], 2,
         ["first parameter that differs is '0.weight' of shape (40, 1) in the file"]),
    ],
    ids=lambda value: "-".join(value)[:50] if isinstance(value, list) else None,
)  # fmt: skip
def test_what_cannot_be_is_one_clear_error(trained, command, tmp_path, arguments, status, words):
    """What is wrong, and what would be right; and nothing is left behind."""
    (tmp_path / "bad.csv").write_text("x,y\n1,2\n3,z\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "run.json").write_text("{}")
    given = [str(a).replace("RUN", str(trained.folder)).replace("EMPTY", "empty") for a in arguments]
    done = command(*given, *(["--topology", "ring6"] if given[0] == "simulate" else []))
    assert done.status == status and all(word in done.err for word in words), done.err
    assert "Traceback" not in done.err and len(done.err.splitlines()) <= 5
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "runs") == ["bad.csv", "empty"]


def test_the_run_is_as_it_was(trained):
    """Nothing of the above wrote into the run's folder."""
    assert not (trained.folder / "export").exists()
