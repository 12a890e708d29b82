"""`difnet.launch` and `difnet.simulate` with data of one's own, from Python: the same bits, and nothing left of it."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import difnet
from difnet.data.laying_out import OBJECTS
from difnet.errors import ConfigError, DataError
from tests.conftest import REPOSITORY, environment, until
from tests.runtime.test_owners import everything, figures, same_states

SMALL = {"iterations": 6, "eval_every": 3, "eval_tasks": 2, "test_tasks": 2, "tasks": 1, "shots": 3, "queries": 3,
         "engine": "traced", "inner_lr": 0.1}  # fmt: skip
PLANTED = 31337.5  # a number of one sample


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """Where temporary folders go: a short path, since sockets lie there."""
    folder = Path(os.environ["TMPDIR"])
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path / "cache"))
    return folder


def samples(k: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(k)
    x = rng.normal(size=(40, 2)).astype(np.float32)
    x[5, 0] = PLANTED
    return x, (x @ rng.normal(size=2) > 0).astype(np.int64)


def names() -> list[str]:
    return [f"client-{k}" for k in range(6)]


def arrays(tmp_path: Path):
    return difnet.tasks.arrays({name: samples(k) for k, name in enumerate(names())})


def data_sets(tmp_path: Path):
    return difnet.tasks.from_datasets({name: TensorDataset(*map(torch.from_numpy, samples(k)))
                                       for k, name in enumerate(names())})  # fmt: skip


def columns(tmp_path: Path):
    frames = {}
    for k, name in enumerate(names()):
        x, y = samples(k)
        frames[name] = {"a": x[:, 0], "b": x[:, 1], "ill": np.where(y, "yes", "no")}
    return difnet.tasks.table(frames, target="ill")


def frames(tmp_path: Path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    made = pandas.concat([pandas.DataFrame({"a": samples(k)[0][:, 0], "ill": samples(k)[1], "who": name})
                          for k, name in enumerate(names())])  # fmt: skip
    return difnet.tasks.table(made, target="ill", client="who")


def pictures(tmp_path: Path, **words):
    for k, name in enumerate(names()):
        for word in ("bolt", "gear") if not words else (f"{name}-a", f"{name}-b", f"{name}-c"):
            folder = tmp_path / "pics" / name / word
            folder.mkdir(parents=True, exist_ok=True)
            for n in range(10):
                pixels = np.random.default_rng([k, n]).integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(pixels).save(folder / f"{n}.png")
    return difnet.tasks.images(tmp_path / "pics", size=8, **words)


def episodes_of_pictures(tmp_path: Path):
    return pictures(tmp_path, ways=2)


def episodes(tmp_path: Path):
    x = np.random.default_rng(0).normal(size=(120, 2)).astype(np.float32)
    return difnet.tasks.episodes_from(TensorDataset(torch.from_numpy(x), torch.arange(120) % 15), ways=2, shots=3)


KINDS = [arrays, data_sets, columns, frames, pictures, episodes_of_pictures, episodes]


def model_of(kind) -> dict:
    return {"model": {"name": "conv4", "filters": 2}} if "pictures" in kind.__name__ else {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_processes_end_in_the_simulators_bits_and_a_run_holds_nothing_of_the_data(kind, tmp_path, place):
    task, words = kind(tmp_path), {**SMALL, **model_of(kind)}
    simulated = difnet.simulate("ring6", task=task, **words, runs=str(tmp_path / "s"))
    launched = difnet.launch("ring6", task=task, **words, runs=str(tmp_path / "l"))
    assert launched.state == simulated.state == "done", launched.summary.get("reason")
    assert figures(launched.summary) == figures(simulated.summary)
    assert [v[0] for v in figures(launched.summary)[3]] == [0, 3, 6]
    same_states(launched.folder, simulated.folder)
    assert list(place.iterdir()) == []
    traces = [str(PLANTED).encode(), *(np.array(PLANTED, kind).tobytes() for kind in ("<f4", "<f8")),
              OBJECTS.encode(), b"pics"]  # fmt: skip
    told = everything(launched.folder) | everything(simulated.folder)
    assert not [file for file, content in told.items() for trace in traces if trace in content]


def test_data_sets_end_in_the_bits_of_their_arrays(tmp_path):
    runs = [difnet.simulate("ring6", task=kind(tmp_path), **SMALL, runs=str(tmp_path / kind.__name__))
            for kind in (arrays, data_sets)]  # fmt: skip
    same_states(runs[0].folder, runs[1].folder)


def test_after_an_error_nothing_is_left_and_no_run_is_begun(tmp_path, place):
    few = difnet.tasks.arrays({"ash": samples(0)})
    with pytest.raises(ConfigError, match="1 clients for 6 agents"):
        difnet.simulate("ring6", task=few, **SMALL, runs=str(tmp_path / "runs"))
    odd = difnet.tasks.from_datasets({name: [(object(), 1)] * 20 for name in names()})
    with pytest.raises(DataError, match=r"client 'client-0', item 0, x is of type object"):
        difnet.launch("ring6", task=odd, **SMALL, runs=str(tmp_path / "runs"))
    assert list(place.iterdir()) == [] and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("words", "said"), [
    ({"data": "clients"}, "data is given beside a task that has its own"),
    ({"place": "compose"}, "objects of this process, which hosts elsewhere"),
    ({"hosts_expected": 2}, "objects of this process, which hosts elsewhere"),
    ({"iteration": 3}, "no such field; did you mean 'iterations'"),
], ids=str)  # fmt: skip
def test_words_that_do_not_go_with_objects_are_refused_before_anything_is_written(tmp_path, place, words, said):
    written = []
    task = difnet.tasks.OwnTask("arrays", {}, write=written.append)
    with pytest.raises(ConfigError, match=said):
        difnet.launch("ring6", task=task, **words)
    assert written == []


def test_a_task_that_is_none_is_refused_with_what_would_be_one():
    with pytest.raises(ConfigError, match=r"task is a TensorDataset; .* difnet.tasks"):
        difnet.simulate("ring6", task=TensorDataset(torch.zeros(3, 1)))


def test_importing_difnet_imports_no_torch_until_tasks_are_asked_for():
    program = ("import sys, difnet\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
               "difnet.tasks.table('clients', target='ill')\nimport difnet.tasks.table_\n"
               "assert callable(difnet.tasks.table) and 'torch' in sys.modules")
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, env=environment(), check=True, timeout=60)


@pytest.mark.slow
def test_what_a_killed_launch_left_is_swept_by_the_next(tmp_path, place):
    """As in a notebook: without a guard around what a script does."""
    program = ("import difnet, numpy as np\n"
               "x, y = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2\n"
               "task = difnet.tasks.arrays({k: (x, y) for k in range(6)})\n"
               "difnet.launch('ring6', task=task, engine='eager', iterations=ITERATIONS, eval_tasks=2, name='it')")
    env = environment(TMPDIR=str(place))
    killed = subprocess.Popen([sys.executable, "-c", program.replace("ITERATIONS", "1000000")], cwd=tmp_path, env=env)
    try:
        until(lambda: (tmp_path / "runs" / "it" / "events.jsonl").exists() and list(place.glob(f"{OBJECTS}*")), "a run")
    finally:
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait(30)
    assert len(list(place.glob(f"{OBJECTS}*"))) == 1
    again = program.replace("ITERATIONS", "2").replace("'it'", "'again'")
    subprocess.run([sys.executable, "-c", again], cwd=tmp_path, env=env, check=True, timeout=90)
    assert list(place.glob(f"{OBJECTS}*")) == []
