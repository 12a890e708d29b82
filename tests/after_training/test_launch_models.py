"""A launch model read back from a file, begun from, fitted and exported: against what was written, and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch import nn

from difnet.after_training.export import export, write_whole
from difnet.after_training.personalisation import fit, read_samples, write
from difnet.config import load
from difnet.errors import ConfigError, DataError, DifnetError, Diverged, EnvironmentLacks, RunFolderError
from difnet.launch_models import read
from difnet.maths.flat import FlatModel
from difnet.models.conv4 import conv4
from difnet.models.mlp import mlp
from difnet.record.files import tensor_bytes
from difnet.workload.building import build

MLP = {"name": "mlp", "options": {"hidden": [5]}}
LINE = {"name": "mlp", "options": {"hidden": [], "inputs": 2}}
META_SGD = {"name": "fedmeta", "options": {"inner": "meta-sgd"}}


def learnt_file(
    path: Path, module: nn.Module, model: dict, *, rates: bool = False, algorithm: dict | None = None, **more: object
) -> dict[str, np.ndarray]:
    """A file as a run writes it, of random values; returns its tensors."""
    flat, rng = FlatModel(module), np.random.default_rng(5)
    tensors = {"w": rng.normal(size=flat.size).astype(np.float32)}
    tensors |= {"inner_lr": rng.uniform(0.01, 0.1, size=flat.size).astype(np.float32)} if rates else {}
    about = {"task": {"name": "sinusoid", "options": {}}, "model": model, "inner_lr": 0.05, "inner_steps": 1,
             "algorithm": algorithm or {"name": "dif-maml", "options": {}}, "iteration": 7, "agents": 6,
             "transductive": flat.is_transductive, "parameters": flat.signature(), **more}  # fmt: skip
    save_file(tensors, path, {name: json.dumps(value) for name, value in about.items()})
    return tensors


def samples_file(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_network_of_a_file_computes_what_the_flat_vector_does(tmp_path):
    """Bit for bit, and in the order of the flat vector."""
    w = learnt_file(tmp_path / "a.safetensors", mlp(hidden=(5,)), MLP)["w"]
    x = torch.linspace(-5, 5, 11)[:, None]
    module = read(tmp_path / "a.safetensors").module()
    assert torch.equal(module(x), FlatModel(mlp(hidden=(5,)))(torch.from_numpy(w), x))
    assert torch.equal(next(module.parameters()).detach().reshape(-1), torch.from_numpy(w[:5]))


def test_a_network_is_built_without_a_change_to_the_random_numbers_of_others(tmp_path):
    learnt_file(tmp_path / "a.safetensors", mlp(hidden=(5,)), MLP)
    before = torch.random.get_rng_state()
    read(tmp_path / "a.safetensors").module()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("rates", [False, True])
def test_an_exported_file_comes_back_with_the_same_bits(tmp_path, rates):
    """Also the rates that were learnt with it, from the file beside it."""
    tensors = learnt_file(tmp_path / "a.safetensors", mlp(hidden=(5,)), MLP, rates=rates, algorithm=META_SGD)
    export(read(tmp_path / "a.safetensors"), "safetensors", tmp_path / "out" / "b.safetensors")
    again = read(tmp_path / "out" / "b.safetensors")
    assert again.w.numpy().tobytes() == tensors["w"].tobytes()
    assert (again.rates is not None) == rates
    assert again.state.numpy().tobytes() == b"".join(t.tobytes() for _, t in sorted(tensors.items(), reverse=True))
    mine = mlp(hidden=(5,))
    assert not any(mine.load_state_dict(load_file(tmp_path / "out" / "b.safetensors")))


def test_an_exported_state_dict_is_read_without_pickle(tmp_path):
    w = learnt_file(tmp_path / "a.safetensors", mlp(hidden=(5,)), MLP)["w"]
    export(read(tmp_path / "a.safetensors"), "torch", tmp_path / "a.pt")
    mine = mlp(hidden=(5,))
    mine.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    assert nn.utils.parameters_to_vector(mine.parameters()).detach().numpy().tobytes() == w.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "model", "shape"),
    [(mlp(hidden=(5,)), MLP, (1,)), (conv4(filters=4), {"name": "conv4", "options": {"filters": 4}}, (1, 28, 28))],
    ids=["mlp", "conv4"],
)  # fmt: skip
def test_an_exported_onnx_network_predicts_what_pytorch_does(tmp_path, monkeypatch, module, model, shape):
    """In another runtime, for any number of samples; a network with batch normalisation by its batch's statistics."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where that runtime leaves a file of its own
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    learnt_file(tmp_path / "a.safetensors", module, model)
    learnt = read(tmp_path / "a.safetensors")
    export(learnt, "onnx", tmp_path / "a.onnx")
    session = runtime.InferenceSession(tmp_path / "a.onnx")
    for count in (1, 3, 7):
        x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))
        [prediction] = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(prediction, learnt.module()(x).detach().numpy(), atol=1e-5, rtol=1e-5)


def test_an_export_that_fails_leaves_nothing(tmp_path):
    """Neither a part of the file nor a scratch file; and what was there stays as it was."""
    (tmp_path / "a.bin").write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(EnvironmentLacks, match=r"a\.bin: No space left"):
        write_whole(tmp_path / "a.bin", fail)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.bin", "old")]


def test_one_card_speaks_of_all_formats_of_one_model_and_of_no_other(tmp_path):
    """A second format joins the card; another model's card is not written over."""
    learnt_file(tmp_path / "a.safetensors", mlp(hidden=(5,)), MLP)
    learnt_file(tmp_path / "b.safetensors", mlp(hidden=(6,)), {"name": "mlp", "options": {"hidden": [6]}})
    out = tmp_path / "out"
    export(read(tmp_path / "a.safetensors"), "torch", out / "m.pt")
    export(read(tmp_path / "a.safetensors"), "safetensors", out / "m.safetensors")
    card = (out / "MODEL.md").read_text()
    assert '"m.pt"' in card and '"m.safetensors"' in card
    with pytest.raises(ConfigError, match=r"MODEL\.md is there already.*--force"):
        export(read(tmp_path / "b.safetensors"), "torch", out / "other.pt")
    assert not (out / "other.pt").exists() and (out / "MODEL.md").read_text() == card
    export(read(tmp_path / "b.safetensors"), "torch", out / "other.pt", force=True)
    assert '"m.pt"' not in (out / "MODEL.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rates", [False, True])
def test_the_code_of_a_card_fits_a_model_as_the_command_does(tmp_path, monkeypatch, rates):
    """Read from the card and run: the same step on the same samples."""
    learnt_file(tmp_path / "a.safetensors", mlp(hidden=(5,)), MLP, rates=rates,
                algorithm=META_SGD if rates else None, inner_steps=3)  # fmt: skip
    learnt = read(tmp_path / "a.safetensors")
    export(learnt, "safetensors", tmp_path / "out" / "m.safetensors")
    blocks = (tmp_path / "out" / "MODEL.md").read_text().split("```python\n")[1:]
    use, *adapt = [block.partition("```")[0] for block in blocks]
    names = {"x": torch.tensor([[0.0], [1.0]]), "y": torch.tensor([[1.0], [3.0]])}
    monkeypatch.chdir(tmp_path / "out")
    for code in (use, *adapt):
        exec(compile(code, "MODEL.md", "exec"), names)
    by_hand = nn.utils.parameters_to_vector(names["model"].parameters()).detach()
    support = samples_file(tmp_path / "s.csv", "x,y", "0,1", "1,3")
    torch.testing.assert_close(fit(learnt, support, steps=3).learnt.w, by_hand)
    assert not torch.equal(by_hand, learnt.w)


# Fitting


def line(w: np.ndarray, X: np.ndarray, y: np.ndarray, steps: int, lr: float) -> tuple[np.ndarray, float, float]:
    """Gradient descent on the mean squared error of X a + b, by its closed form; with the loss before and after."""
    Z = np.column_stack([X, np.ones(len(X))])
    before = np.mean((Z @ w - y) ** 2)
    for _ in range(steps):
        w = w - lr * 2 / len(y) * Z.T @ (Z @ w - y)
    return w, before, np.mean((Z @ w - y) ** 2)


@pytest.mark.parametrize("target", ["y", "Label", "price"])
def test_fitting_a_line_is_gradient_descent_by_hand(tmp_path, target):
    """With the target's column first where its name says so, else last; and figures before and after, on both sets."""
    w = learnt_file(tmp_path / "a.safetensors", mlp(inputs=2, hidden=()), LINE)["w"].astype(float)
    X, y = np.array([[0, 1], [2, -1], [1, 3], [0.5, 0.25]]), np.array([1, 0, 2.5, -1])
    columns = [f"{a},{b},{t}" if target == "price" else f"{t},{a},{b}" for (a, b), t in zip(X, y, strict=True)]
    head = "a,b,price" if target == "price" else f"{target},a,b"
    support = samples_file(tmp_path / "s.csv", head, *columns[:3])
    query = samples_file(tmp_path / "q.csv", head, "", columns[3])
    fitted = fit(read(tmp_path / "a.safetensors"), support, query, steps=4, inner_lr=0.03)
    wanted, before, after = line(w, X[:3], y[:3], 4, 0.03)
    np.testing.assert_allclose(fitted.learnt.w.numpy(), wanted, rtol=1e-4)
    told = fitted.figures["support"]
    assert (told["before"]["loss"], told["after"]["loss"]) == pytest.approx((before, after), rel=1e-4)
    ends = [(X[3] @ v[:2] + v[2] - y[3]) ** 2 for v in (w, wanted)]
    told = fitted.figures["query"]
    assert (told["before"]["loss"], told["after"]["loss"]) == pytest.approx(ends, rel=1e-4)
    assert fitted.learnt.about["fitted"]["samples"] == {"support": 3, "query": 1}


def test_learnt_rates_fit_each_parameter_by_its_own(tmp_path):
    """And are not replaced by a rate that somebody gives."""
    tensors = learnt_file(tmp_path / "a.safetensors", mlp(inputs=2, hidden=()), LINE, rates=True, algorithm=META_SGD)
    support = samples_file(tmp_path / "s.csv", "a,b,y", "0,1,1", "2,-1,0")
    learnt = read(tmp_path / "a.safetensors")
    X, y = np.array([[0, 1.0], [2, -1]]), np.array([1.0, 0])
    w = tensors["w"].astype(float)
    step = line(w, X, y, 1, 1.0)[0] - w
    np.testing.assert_allclose(fit(learnt, support, steps=1).learnt.w, w + tensors["inner_lr"] * step, rtol=1e-4)
    with pytest.raises(ConfigError, match="a rate for every parameter was learnt"):
        fit(learnt, support, steps=1, inner_lr=0.1)


def test_anil_fits_the_last_layer_alone(tmp_path):
    w = learnt_file(tmp_path / "a.safetensors", mlp(hidden=(5,)), MLP,
                    algorithm={"name": "dif-maml", "options": {"inner": "anil"}})["w"]  # fmt: skip
    fitted = fit(read(tmp_path / "a.safetensors"), samples_file(tmp_path / "s.csv", "x,y", "1,2", "-1,0"), steps=3)
    moved = fitted.learnt.w.numpy() != w
    assert not moved[:10].any() and moved[-1]


def test_classes_are_fitted_by_cross_entropy_and_counted(tmp_path):
    """One step on a linear classifier: the gradient by a logit is its probability, less 1 for the class."""
    model = {"name": "logistic", "options": {"inputs": 2, "outputs": 3}}
    w = learnt_file(tmp_path / "a.safetensors", nn.Linear(2, 3), model)["w"].astype(float)
    x, y = np.array([[1, 0], [0, 2.0]]), np.array([2, 0])
    support = samples_file(tmp_path / "s.csv", "a,b,label", "1,0,2", "0,2,0")
    fitted = fit(read(tmp_path / "a.safetensors"), support, steps=1)

    def logits(v: np.ndarray) -> np.ndarray:
        return x @ v[:6].reshape(3, 2).T + v[6:]

    odds = np.exp(logits(w))
    share = odds / odds.sum(1, keepdims=True) - np.eye(3)[y]
    wanted = w - 0.05 * np.concatenate([(share.T @ x / 2).ravel(), share.mean(0)])
    np.testing.assert_allclose(fitted.learnt.w, wanted, rtol=1e-4, atol=1e-6)
    assert fitted.figures["support"]["before"]["accuracy"] == np.mean(logits(w).argmax(1) == y)
    assert fitted.figures["support"]["after"]["accuracy"] == np.mean(logits(wanted).argmax(1) == y)


def test_a_fitted_file_is_a_launch_model_again(tmp_path):
    """With what was done to it; a second fit goes on from there."""
    learnt_file(tmp_path / "a.safetensors", mlp(hidden=(5,)), MLP)
    support = samples_file(tmp_path / "s.csv", "x,y", "0,1", "1,3")
    whole, half = (fit(read(tmp_path / "a.safetensors"), support, steps=steps).learnt for steps in (4, 2))
    write(half, tmp_path / "half.safetensors")
    again = read(tmp_path / "half.safetensors")
    assert again.about["fitted"]["steps"] == 2 and again.w.numpy().tobytes() == half.w.numpy().tobytes()
    torch.testing.assert_close(fit(again, support, steps=2).learnt.w, whole.w)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["x,y", "1,2", "1,two"], r"s\.csv, line 3, column 'y': 'two' is no finite number"),
        (["x,y", "", "nan,2"], r"s\.csv, line 3, column 'x': 'nan'"),
        (["x,y", "1,2,3"], r"s\.csv, line 2: 3 cells, but the header has 2 columns"),
        (["x,z,y", "1,2,3"], r"s\.csv, line 1: 2 columns beside the target 'y', but the model takes 1 inputs"),
        (["x,y"], r"s\.csv has 1 line; expected a header"),
        (["1,2", "3,4"], r"s\.csv, line 1: only numbers"),
        (["x|y", "1|2"], r"s\.csv, line 1: one column, 'x\|y'"),
        (["x;y", "1,5;2", "0.5;1"], r"s\.csv, line 2: a number with a comma, and line 3 has one with a point"),
        (["x;y", "1,000,000;2"], r"s\.csv, line 2, column 'x': '1\.000\.000' is no finite number"),
        (['x,y', '"1,2'], r"s\.csv is no CSV file"),
    ],
)  # fmt: skip
def test_a_wrong_cell_is_named_by_file_line_and_column(tmp_path, lines, said):
    learnt_file(tmp_path / "a.safetensors", mlp(hidden=(5,)), MLP)
    with pytest.raises(DataError, match=said):
        fit(read(tmp_path / "a.safetensors"), samples_file(tmp_path / "s.csv", *lines), steps=1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("lines", [
    ["x;y", "0,5;1", "-2;3,25"], ["x;y", "0.5;1", "-2;3.25"], ["x\ty", "0,5\t1", "", "-2\t3,25", "\t"],
    [" x , y ", "0.5 ,1", "-2, 3.25", " ", ","], ['"x";"y"', '"0,5";"1"', '"-2";"3,25"'],
], ids=str)  # fmt: skip
def test_samples_are_read_as_spreadsheets_save_them(tmp_path, lines, encoding):
    (tmp_path / "s.csv").write_bytes("\r\n".join(lines).encode(encoding))
    read = read_samples(tmp_path / "s.csv")
    assert (read.names, read.target, read.inputs, read.targets) == (["x"], "y", [[0.5], [-2.0]], [1.0, 3.25])


def test_samples_of_another_encoding_are_refused_by_line(tmp_path):
    (tmp_path / "s.csv").write_bytes("Größe;y\n1;2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"s\.csv is no CSV file: line 1 holds the byte 0xf6.*save it as UTF-8"):
        read_samples(tmp_path / "s.csv")


@pytest.mark.parametrize("cell", ["3", "-1", "0.5"])
def test_a_class_that_the_model_has_no_output_for_is_refused(tmp_path, cell):
    model = {"name": "logistic", "options": {"inputs": 2, "outputs": 3}}
    learnt_file(tmp_path / "a.safetensors", nn.Linear(2, 3), model)
    with pytest.raises(DataError, match=rf"line 2, column 'y': {cell} is no class; the model has 3 outputs"):
        fit(read(tmp_path / "a.safetensors"), samples_file(tmp_path / "s.csv", "a,b,y", f"1,1,{cell}"), steps=1)


def test_a_fit_that_runs_away_is_told(tmp_path):
    learnt_file(tmp_path / "a.safetensors", mlp(hidden=(5,)), MLP)
    with pytest.raises(Diverged, match="smaller --inner-lr"):
        fit(read(tmp_path / "a.safetensors"), samples_file(tmp_path / "s.csv", "x,y", "100,1"), steps=60, inner_lr=10)


def test_pictures_are_rows_of_their_pixels(tmp_path):
    """As many columns as pixels; fewer are refused, and the shape is told."""
    model = {"name": "conv4", "options": {"filters": 2, "size": 16, "outputs": 2}}
    learnt_file(tmp_path / "a.safetensors", conv4(size=16, filters=2, outputs=2), model)
    learnt, rng = read(tmp_path / "a.safetensors"), np.random.default_rng(0)
    rows = rng.integers(0, 2, size=(4, 256))
    head = ",".join([*(f"p{n}" for n in range(256)), "y"])
    lines = [",".join(map(str, [*row, n % 2])) for n, row in enumerate(rows)]
    fitted = fit(learnt, samples_file(tmp_path / "s.csv", head, *lines), steps=0)
    x = torch.from_numpy(rows).float().view(4, 1, 16, 16)
    wanted = nn.functional.cross_entropy(learnt.module()(x), torch.tensor([0, 1, 0, 1]))
    assert fitted.figures["support"]["before"]["loss"] == pytest.approx(wanted.item(), rel=1e-5)
    assert fitted.transductive
    with pytest.raises(DataError, match="takes 256 inputs, a picture of 1 x 16 x 16, row by row"):
        fit(learnt, samples_file(tmp_path / "t.csv", "a,y", "1,1"), steps=0)


# Beginning from a file


@pytest.mark.parametrize("rates", [False, True])
def test_a_run_begins_from_the_bits_of_a_file(tmp_path, rates):
    """Each agent alike; and with Meta-SGD from its rates, where it has some."""
    tensors = learnt_file(tmp_path / "a.safetensors", mlp(hidden=(5,)), MLP, rates=rates)
    config = load(settings={"init": f"from:{tmp_path / 'a.safetensors'}", "model": {"name": "mlp", "hidden": [5]},
                            "algorithm": {"name": "fedmeta", "inner": "meta-sgd"}, "inner_lr": 0.02})  # fmt: skip
    workload = build(config, 4, hub=0)
    for k in (0, 3):
        state = workload.first_state(k)
        assert state.w[:16].numpy().tobytes() == tensors["w"].tobytes()
        assert workload.first_launch_model(k).numpy().tobytes() == tensors["w"].tobytes()
        expected = tensors["inner_lr"] if rates else np.full(16, 0.02, dtype=np.float32)
        assert state.w[16:].numpy().tobytes() == expected.tobytes() == state.phi[16:].numpy().tobytes()


def test_an_algorithm_that_learns_no_rates_leaves_those_of_a_file(tmp_path):
    learnt_file(tmp_path / "a.safetensors", mlp(hidden=(5,)), MLP, rates=True)
    config = load(settings={"init": f"from:{tmp_path / 'a.safetensors'}", "model": {"name": "mlp", "hidden": [5]}})
    assert build(config, 2).first_state(0).w.shape == (16,)


def test_a_file_of_another_model_is_refused_by_its_first_parameter_that_differs(tmp_path):
    learnt_file(tmp_path / "a.safetensors", mlp(hidden=(5,)), MLP)
    config = load(settings={"init": f"from:{tmp_path / 'a.safetensors'}", "model": {"name": "mlp", "hidden": [5, 4]}})
    said = r"'2\.weight' of shape \(1, 5\) in the file, and '2\.weight' of shape \(4, 5\)"
    with pytest.raises(ConfigError, match=said):
        build(config, 2)


def test_a_path_to_begin_from_is_made_absolute_and_its_links_followed(tmp_path, monkeypatch):
    """A host runs elsewhere, and runs/latest is another run as soon as this one begins."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "latest").symlink_to("one")
    config = load(settings={"init": "from:latest"})
    assert config.init == f"from:{tmp_path.resolve() / 'one'}"
    assert load(settings={"init": config.init}) == config
    with pytest.raises(ConfigError, match=r"'elsewhere' is none of common, separate and from:PATH"):
        load(settings={"init": "elsewhere"})


# Files that are not what they should be


def damaged(path: Path, how: str) -> None:
    tensors = learnt_file(path, mlp(hidden=(5,)), MLP)
    whole = path.read_bytes()
    if how == "cut":
        path.write_bytes(whole[:-10])
    elif how == "foreign":
        save_file(tensors, path, {"made": "elsewhere"})
    elif how == "text":
        path.write_text("no tensors at all, but long enough to be read as a header")
    elif how == "short":
        learnt_file(path, mlp(hidden=(5,)), MLP, parameters=[["0.weight", [5, 1]]])
    elif how == "infinite":
        path.write_bytes(whole[:-4] + np.float32(np.inf).tobytes())
    elif how == "gone":
        path.unlink()


@pytest.mark.parametrize(
    ("how", "said"),
    [("cut", "damaged"), ("text", "no safetensors file"), ("foreign", "has no 'task' in its metadata"),
     ("short", "w has 16 values, but the parameters that the metadata tells of have 5"),
     ("infinite", "not finite"), ("gone", "there is no launch model")],
)  # fmt: skip
def test_a_damaged_file_is_one_clear_error(tmp_path, how, said):
    damaged(tmp_path / "a.safetensors", how)
    with pytest.raises(RunFolderError, match=said) as caught:
        read(tmp_path / "a.safetensors")
    assert "a.safetensors" in str(caught.value)


@pytest.mark.parametrize("how", ["run", "export", "fit"])
def test_a_flipped_bit_of_a_launch_model_is_noticed(tmp_path, how):
    """Whoever wrote it; a file that has no digest, an older one, is read as it stands."""
    tensors = learnt_file(tmp_path / "old.safetensors", mlp(hidden=(5,)), MLP)
    learnt, path = read(tmp_path / "old.safetensors"), tmp_path / "new.safetensors"
    if how == "run":
        path.write_bytes(tensor_bytes(tensors, {name: json.dumps(value) for name, value in learnt.about.items()}))
    elif how == "export":
        export(learnt, "safetensors", path)
    else:
        write(learnt, path)
    assert torch.equal(read(path).w, learnt.w)
    flipped = bytearray(path.read_bytes())
    flipped[-3] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(RunFolderError, match=r"new\.safetensors is damaged: its values are not those"):
        read(path)


def test_a_model_of_a_module_that_is_not_here_is_refused_by_name(tmp_path):
    learnt_file(tmp_path / "a.safetensors", mlp(hidden=(5,)), {"name": "nowhere_to_be_found:net", "options": {}})
    with pytest.raises(ConfigError, match="cannot import 'nowhere_to_be_found'"):
        read(tmp_path / "a.safetensors").module()


def test_a_model_that_has_changed_since_is_refused(tmp_path):
    learnt_file(tmp_path / "a.safetensors", mlp(hidden=(5,)), {"name": "mlp", "options": {"hidden": [6]}})
    with pytest.raises(DifnetError, match=r"first parameter that differs is '0\.weight' of shape \(5, 1\) in the file"):
        read(tmp_path / "a.safetensors").module()
