"""After training with own tables: fitted by the schema, predicted, exported as what takes raw rows, tested on others.

Oracles are numpy's: a linear model scaled, stepped and read by hand.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from difnet.after_training.export import export
from difnet.after_training.own_model import OwnModel, own_model
from difnet.after_training.personalisation import fit, write
from difnet.after_training.prediction import predict
from difnet.errors import ConfigError, DataError, RunFolderError
from difnet.launch_models import LaunchModel, read
from difnet.maths.flat import FlatModel
from difnet.maths.seeding import data_generator
from difnet.models.mlp import mlp

RATE = 0.1
ILL = {"scale": "support", "target": {"name": "ill", "kind": "classification", "classes": ["no", "yes"]},
       "columns": {"age": {"kind": "number"}, "dose": {"kind": "number", "gaps": True}, "name": {"kind": "ignored"},
                   "since": {"kind": "date"}, "smokes": {"kind": "flag"},
                   "ward": {"kind": "category", "categories": ["north", "south"]}}}  # fmt: skip
COST = {**ILL, "target": {"name": "cost", "kind": "regression", "unit": "EUR"}}
DAYS = np.datetime64("1970-01-01")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def launch_model(path: Path, schema: dict, hidden: tuple[int, ...] = (), **more: object) -> LaunchModel:
    """A file as a run writes it, of random values: a model of 7 inputs, linear unless it has hidden layers."""
    outputs = 2 if schema["target"]["kind"] == "classification" else 1
    options = {"inputs": 7, "outputs": outputs, "hidden": list(hidden)}
    flat = FlatModel(mlp(**options))
    about = {"task": {"name": "table", "options": {"schema": schema}}, "model": {"name": "mlp", "options": options},
             "algorithm": {"name": "dif-maml", "options": {}}, "inner_lr": RATE, "inner_steps": 1, "iteration": 7,
             "agents": 6, "transductive": False, "parameters": flat.signature(), **more}  # fmt: skip
    w = np.random.default_rng(5).normal(size=flat.size).astype(np.float32)
    save_file({"w": w}, path, {name: json.dumps(value) for name, value in about.items()})
    return read(path)


def rows(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Patients: numbers, a gap now and then, two wards, dates."""
    rng = np.random.default_rng(seed)
    made = []
    for n in range(count):
        age, dose = round(rng.normal(50, 10), 1), None if n % 5 == 3 else round(rng.normal(), 2)
        made.append({"age": age, "dose": dose, "name": f"p{n}", "since": DAYS + int(rng.integers(20000, 20400)),
                     "smokes": bool(rng.integers(2)), "ward": ["north", "south"][n % 2],
                     "ill": "yes" if age + 10 * (dose or 0) > 50 else "no", "cost": round(9 + 3 * age, 2)})  # fmt: skip
    return made


def comma(path: Path, table: list[dict], *, drop: tuple[str, ...] = ()) -> Path:
    """As an American would save it."""
    names = [name for name in table[0] if name not in drop]
    lines = [",".join("" if row[name] is None else str(row[name]) for name in names) for row in table]
    path.write_text("\n".join([",".join(names), *lines]) + "\n")
    return path


def german(path: Path, table: list[dict]) -> Path:
    """As a German spreadsheet would: other order of columns, a mark, decimal commas, dates with points, blank lines."""

    def cell(value: object) -> str:
        if isinstance(value, np.datetime64):
            year, month, day = str(value).split("-")
            return f"{day}.{month}.{year}"
        return "NA" if value is None else str(value).replace(".", ",") if isinstance(value, float) else str(value)

    names = sorted(table[0], reverse=True)
    lines = [";".join(cell(row[name]) for name in names) for row in table]
    path.write_text("\ufeff" + "\r\n".join([" ; ".join(names), *lines, ";" * (len(names) - 1)]) + "\r\n", "utf-8")
    return path


def raw(table: list[dict]) -> np.ndarray:
    """Columns age, dose, since, smokes, ward, by hand; float64."""
    return np.array([[row["age"], np.nan if row["dose"] is None else row["dose"], (row["since"] - DAYS).astype(int),
                      row["smokes"], ["north", "south"].index(row["ward"])] for row in table], float)  # fmt: skip


def by_hand(table: list[dict], support: list[dict]) -> np.ndarray:
    """A model's seven inputs: age, dose, whether that is a gap, since, smokes, north, south."""
    own, all_ = raw(support), raw(table)
    mean, std = np.nanmean(own, 0), np.nanstd(own, 0)
    z = (np.where(np.isnan(all_), mean, all_) - mean) / std
    ward = all_[:, 4]
    return np.column_stack([z[:, 0], z[:, 1], np.isnan(all_[:, 1]), z[:, 2], z[:, 3], ward == 0, ward == 1])


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def line_by_hand(w: np.ndarray, x: np.ndarray, y: np.ndarray, steps: int) -> np.ndarray:
    """Gradient descent on the mean square of errors."""
    z = np.column_stack([x, np.ones(len(x))])
    for _ in range(steps):
        w = w - RATE * 2 / len(y) * z.T @ (z @ w - y)
    return w


def classes_by_hand(w: np.ndarray, x: np.ndarray, y: np.ndarray, steps: int) -> np.ndarray:
    """Gradient descent on the cross entropy of two classes: weights (2, 8), the last column the bias."""
    z = np.column_stack([x, np.ones(len(x))])
    for _ in range(steps):
        w = w - RATE * (softmax(z @ w.T) - np.eye(2)[y]).T @ z / len(y)
    return w


# Fitting and predicting


@pytest.mark.parametrize("habit", [comma, german])
def test_regression_is_fitted_and_predicted_as_by_hand_in_the_targets_own_unit(tmp_path, habit):
    learnt, support, new = launch_model(tmp_path / "a.safetensors", COST), rows(12), rows(7, seed=1)
    fitted = fit(learnt, habit(tmp_path / "s.csv", support), steps=4)
    write(fitted.learnt, tmp_path / "m.safetensors")
    cost = np.array([row["cost"] for row in support])
    w = line_by_hand(learnt.w.double().numpy(), by_hand(support, support), (cost - cost.mean()) / cost.std(), 4)
    wanted = np.column_stack([by_hand(new, support), np.ones(7)]) @ w * cost.std() + cost.mean()
    said = predict(read(tmp_path / "m.safetensors"), habit(tmp_path / "new.csv", new), keep=["name", "age"])
    np.testing.assert_allclose(said.columns["predicted cost"], wanted, rtol=1e-4)
    assert said.columns["name"] == [f"p{n}" for n in range(7)]
    assert said.columns["age"] == [f"{row['age']}".replace(".", "," if habit is german else ".") for row in new]


def test_classes_are_fitted_and_predicted_with_their_probabilities_as_by_hand(tmp_path):
    learnt, support, new = launch_model(tmp_path / "a.safetensors", ILL), rows(15), rows(6, seed=2)
    fitted = fit(learnt, comma(tmp_path / "s.csv", support), steps=3)
    w = learnt.w.double().numpy()
    w = np.column_stack([w[:14].reshape(2, 7), w[14:]])
    w = classes_by_hand(w, by_hand(support, support), np.array([row["ill"] == "yes" for row in support], int), 3)
    wanted = softmax(np.column_stack([by_hand(new, support), np.ones(6)]) @ w.T)
    said = predict(fitted.learnt, comma(tmp_path / "new.csv", new, drop=("ill", "cost"))).columns
    assert [*said] == ["predicted ill", "probability no", "probability yes"]
    np.testing.assert_allclose(np.column_stack([said["probability no"], said["probability yes"]]), wanted, rtol=1e-4)
    assert said["predicted ill"] == [["no", "yes"][n] for n in wanted.argmax(1)]


def test_what_is_written_predicts_the_same_bits_when_it_is_read_again_and_after_an_export(tmp_path):
    learnt = launch_model(tmp_path / "a.safetensors", COST, hidden=(5,))
    fitted = fit(learnt, comma(tmp_path / "s.csv", rows(12)), steps=2).learnt
    write(fitted, tmp_path / "m.safetensors")
    export(read(tmp_path / "m.safetensors"), "safetensors", tmp_path / "out" / "n.safetensors")
    new = comma(tmp_path / "new.csv", rows(9, seed=3))
    said = [predict(model, new).columns for model in (fitted, read(tmp_path / "m.safetensors"),
                                                      read(tmp_path / "out" / "n.safetensors"))]  # fmt: skip
    assert said[0] == said[1] == said[2]


def test_constants_of_the_schema_scale_in_the_place_of_the_rows(tmp_path):
    fixed = {"age": (50.0, 20.0), "dose": (0.0, 2.0), "since": (20200.0, 100.0), "smokes": (0.5, 0.5)}
    schema = {**COST, "scale": "constants", "target": {**COST["target"], "center": 200.0, "scale": 50.0},
              "columns": {**COST["columns"], **{name: {**COST["columns"][name], "center": center, "scale": scale}
                                                for name, (center, scale) in fixed.items()}}}  # fmt: skip
    learnt, new = launch_model(tmp_path / "a.safetensors", schema), rows(3, seed=2)
    fitted = fit(learnt, comma(tmp_path / "s.csv", rows(1)), steps=0).learnt
    a = raw(new)
    dose = np.where(np.isnan(a[:, 1]), 0.0, a[:, 1])
    x = np.column_stack([(a[:, 0] - 50) / 20, dose / 2, np.isnan(a[:, 1]), (a[:, 2] - 20200) / 100,
                         (a[:, 3] - 0.5) / 0.5, a[:, 4] == 0, a[:, 4] == 1, np.ones(3)])  # fmt: skip
    wanted = x @ learnt.w.double().numpy() * 50 + 200
    np.testing.assert_allclose(predict(fitted, comma(tmp_path / "n.csv", new)).columns["predicted cost"], wanted,
                               rtol=1e-5)  # fmt: skip
    np.testing.assert_allclose(own_model(learnt)(torch.from_numpy(a).float()).detach()[:, 0], wanted, rtol=1e-5)


def test_of_thirty_rows_nine_are_held_back_and_tell_what_the_written_model_says_of_them(tmp_path):
    """The errors told of both parts are together those of what is predicted for all 30."""
    learnt, table = launch_model(tmp_path / "a.safetensors", COST), rows(30)
    fitted = fit(learnt, comma(tmp_path / "s.csv", table), steps=3)
    done = fitted.learnt.about["fitted"]
    assert done["samples"] == {"support": 21, "held back": 9} and fitted.cautions == []
    said = np.array(predict(fitted.learnt, tmp_path / "s.csv").columns["predicted cost"])
    errors = np.abs(said - [row["cost"] for row in table])
    both = [done["figures"][name]["after"]["absolute error (EUR)"] for name in ("support", "held back")]
    assert (21 * both[0] + 9 * both[1]) / 30 == pytest.approx(errors.mean(), rel=1e-4)
    again = fit(learnt, tmp_path / "s.csv", steps=3).learnt.about["fitted"]
    assert again == done
    assert fit(learnt, tmp_path / "s.csv", steps=3, held_back=0.5).learnt.about["fitted"]["samples"]["held back"] == 15


def test_what_is_held_back_has_no_part_in_the_model(tmp_path):
    """Whatever is written in the targets of those rows: the fitted values stay."""
    learnt, table = launch_model(tmp_path / "a.safetensors", COST), rows(20)
    one = fit(learnt, comma(tmp_path / "s.csv", table), steps=3).learnt
    for n in data_generator(0, 20).permutation(20)[:6]:
        table[n] = {**table[n], "cost": 1e6, "age": 1e6}
    other = fit(learnt, comma(tmp_path / "s.csv", table), steps=3).learnt
    assert torch.equal(one.w, other.w) and one.about["fitted"]["scaling"] == other.about["fitted"]["scaling"]


def test_few_rows_hold_none_back_and_that_is_said_and_a_query_is_taken_instead(tmp_path):
    learnt, support = launch_model(tmp_path / "a.safetensors", ILL), comma(tmp_path / "s.csv", rows(19))
    alone = fit(learnt, support, steps=1)
    assert [*alone.figures] == ["support"] and "none of 19 rows is held back" in alone.cautions[0]
    query = rows(8, seed=4)
    both = fit(learnt, support, comma(tmp_path / "q.csv", query), steps=1)
    assert both.learnt.about["fitted"]["samples"] == {"support": 19, "query": 8} and both.cautions == []
    most = max(("no", "yes"), key=[row["ill"] for row in rows(19)].count)
    assert both.figures["query"]["guess"]["accuracy"] == np.mean([row["ill"] == most for row in query])
    said = predict(both.learnt, tmp_path / "q.csv").columns["predicted ill"]
    right = np.mean([a == row["ill"] for a, row in zip(said, query, strict=True)])
    assert both.figures["query"]["after"]["accuracy"] == pytest.approx(right)


def test_what_of_the_rows_may_surprise_is_said(tmp_path):
    learnt = launch_model(tmp_path / "a.safetensors", ILL)
    table = [{**row, "age": 61.0, "dose": None, "ill": "yes" if n else None} for n, row in enumerate(rows(8))]
    cautions = "\n".join(fit(learnt, comma(tmp_path / "s.csv", table), steps=1).cautions)
    for words in ("1 rows without a target", "'dose' is a gap in all", "'age' is the same in all", "of class 'no'"):
        assert words in cautions
    fitted = fit(learnt, tmp_path / "s.csv", steps=1).learnt
    new = [{**row, "age": 61.0 + 11 * (n == 2), "smokes": None if n == 3 else True} for n, row in enumerate(rows(5))]
    told = "\n".join(predict(fitted, comma(tmp_path / "n.csv", new)).cautions)
    assert "1 of 5 cells of 'age' lie more than 10 standard deviations" in told
    assert "'dose' was a gap in all rows" in told and "'smokes' has 1 gaps" in told


def test_a_row_without_inputs_keeps_its_place_and_an_empty_line_has_none(tmp_path):
    fitted = fit(launch_model(tmp_path / "a.safetensors", ILL), comma(tmp_path / "s.csv", rows(9)), steps=1).learnt
    lines = comma(tmp_path / "n.csv", rows(4)).read_text().splitlines()
    lines[2:2] = [",,lonely,,,,,", ",,,,,,,", ""]
    (tmp_path / "n.csv").write_text("\n".join(lines) + "\n,,,,,,,\n")
    said = predict(fitted, tmp_path / "n.csv", keep=None)
    assert said.columns["name"] == ["p0", "lonely", "p1", "p2", "p3"]
    assert any("1 rows hold gaps alone" in caution for caution in said.cautions)
    pieces = predict(fitted, comma(tmp_path / "m.csv", rows(4))).columns["probability yes"]
    kept = said.columns["probability yes"]
    assert [kept[0], *kept[2:]] == pytest.approx(pieces, rel=1e-6)


def test_parquet_is_predicted_like_text_and_a_long_number_is_kept_to_its_last_digit(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    fitted = fit(launch_model(tmp_path / "a.safetensors", ILL), comma(tmp_path / "s.csv", rows(9)), steps=1).learnt
    table = rows(5, seed=6)
    columns = {name: [row[name].item() if name == "since" else row[name] for row in table] for name in table[0]}
    long = [2**60 + n for n in range(5)]
    parquet.write_table(pyarrow.table({**columns, "id": long}), tmp_path / "n.parquet")
    said = predict(fitted, tmp_path / "n.parquet", keep=["id"]).columns
    assert said.pop("id") == [str(n) for n in long]
    assert said == predict(fitted, comma(tmp_path / "n.csv", table)).columns


# Exporting


@pytest.mark.parametrize("schema", [ILL, COST], ids=["classes", "regression"])
def test_an_exported_program_gives_what_predict_does_for_raw_rows(tmp_path, schema):
    """Without difnet: torch alone reads it; and it says what its columns and outputs are."""
    fitted = fit(launch_model(tmp_path / "a.safetensors", schema, hidden=(5,)), comma(tmp_path / "s.csv", rows(12)),
                 steps=2).learnt  # fmt: skip
    export(fitted, "torch", tmp_path / "m.pt2")
    told = {"difnet.json": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=told).module()
    about = json.loads(told["difnet.json"])
    assert [column["name"] for column in about["columns"]] == ["age", "dose", "since", "smokes", "ward"]
    assert about["columns"][4]["categories"] == ["north", "south"]
    for count in (1, 2, 7):
        table = rows(count, seed=count)
        said = predict(fitted, comma(tmp_path / "n.csv", table)).columns
        got = program(torch.from_numpy(raw(table)).float()).detach().numpy()
        wanted = [v for name, v in said.items() if name not in ("predicted ill",)]
        np.testing.assert_allclose(got, np.array(wanted).T, rtol=1e-6, atol=1e-6)
        assert len(about["outputs"]) == got.shape[1]
    assert about["classes"] == (["no", "yes"] if schema is ILL else [])
    assert about["unit"] == schema["target"].get("unit", "")


@pytest.mark.slow
@pytest.mark.parametrize("schema", [ILL, COST], ids=["classes", "regression"])
def test_an_exported_onnx_network_gives_what_predict_does_for_raw_rows(tmp_path, monkeypatch, schema):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    fitted = fit(launch_model(tmp_path / "a.safetensors", schema, hidden=(5,)), comma(tmp_path / "s.csv", rows(12)),
                 steps=2).learnt  # fmt: skip
    export(fitted, "onnx", tmp_path / "m.onnx")
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == (["no", "yes"] if schema is ILL else [])
    for count in (1, 7):
        table = rows(count, seed=count)
        said = predict(fitted, comma(tmp_path / "n.csv", table)).columns
        [got] = session.run(None, {"x": raw(table).astype(np.float32)})
        wanted = [v for name, v in said.items() if name not in ("predicted ill",)]
        np.testing.assert_allclose(got, np.array(wanted).T, rtol=1e-6, atol=1e-6)


def test_a_card_says_what_goes_in_and_comes_out(tmp_path):
    fitted = fit(launch_model(tmp_path / "a.safetensors", COST), comma(tmp_path / "s.csv", rows(12)), steps=2).learnt
    export(fitted, "torch", tmp_path / "m.pt2")
    card = (tmp_path / "MODEL.md").read_text()
    for words in ("| 4 | ward | category | 0: north, 1: south; NaN: a gap |", "- 0: cost, in EUR", "torch.export.load",
                  "mean and spread of the rows"):  # fmt: skip
        assert words in card
    other = fit(launch_model(tmp_path / "a.safetensors", COST), comma(tmp_path / "s.csv", rows(12, 9)), steps=0).learnt
    same = fit(launch_model(tmp_path / "a.safetensors", COST), comma(tmp_path / "s.csv", rows(12)), steps=0).learnt
    export(same, "torch", tmp_path / "two" / "m.pt2")
    with pytest.raises(ConfigError, match=r"MODEL\.md is there already"):
        export(other, "torch", tmp_path / "two" / "n.pt2")


def test_a_launch_model_that_nobody_fitted_goes_out_as_safetensors_alone(tmp_path):
    learnt = launch_model(tmp_path / "a.safetensors", ILL)
    with pytest.raises(ConfigError, match=r"it was fitted to none\. Fit it first: difnet fit"):
        export(learnt, "torch", tmp_path / "m.pt2")
    export(learnt, "safetensors", tmp_path / "out" / "m.safetensors")
    assert "only safetensors can be had" in (tmp_path / "out" / "MODEL.md").read_text()


def test_constants_that_are_damaged_are_refused(tmp_path):
    fitted = fit(launch_model(tmp_path / "a.safetensors", ILL), comma(tmp_path / "s.csv", rows(9)), steps=1).learnt
    for wrong in ({"center": [0.0], "scale": [1.0]}, {"center": [0.0] * 5, "scale": [0.0] * 5}, {"center": [0.0] * 5}):
        fitted.about["fitted"]["scaling"] = wrong
        with pytest.raises(RunFolderError, match="constants in its metadata are damaged"):
            own_model(fitted)
    assert isinstance(own_model(read(fit_file(tmp_path))), OwnModel)


def fit_file(folder: Path, schema: dict = ILL) -> Path:
    """A fitted model in a file."""
    learnt = launch_model(folder / "launch.safetensors", schema)
    write(fit(learnt, comma(folder / "s.csv", rows(9)), steps=1).learnt, folder / "fitted.safetensors")
    return folder / "fitted.safetensors"


# On the command line


def test_predictions_come_as_csv_and_as_json_lines(command, tmp_path):
    fit_file(tmp_path)
    comma(tmp_path / "new.csv", rows(3, seed=5))
    done = command("predict", "fitted.safetensors", "new.csv", "--keep", "name,age")
    table = list(csv.DictReader(done.out.splitlines()))
    assert done.status == 0 and [row["name"] for row in table] == ["p0", "p1", "p2"]
    assert all(float(row["probability no"]) + float(row["probability yes"]) == pytest.approx(1) for row in table)
    lines = [json.loads(line) for line in command("predict", "fitted.safetensors", "new.csv", "--keep", "name,age",
                                                  "--json").out.splitlines()]  # fmt: skip
    assert [{name: str(value) for name, value in line.items()} for line in lines] == table
    assert command("predict", "fitted.safetensors", "new.csv", "-o", "out.csv", "--keep-all").out == ""
    assert (tmp_path / "out.csv").read_text().startswith("age,dose,name,since,smokes,ward,ill,cost,predicted ill,")
    refused = command("predict", "fitted.safetensors", "new.csv", "-o", "out.csv")
    assert refused.status == 2 and "--force" in refused.err


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (("north", "west"), 3, ["new.csv, line 2, column 'ward': 'west' is none of the 2 categories"]),
        (("age,", "years,"), 3, ["new.csv has no column 'age', which the model's schema has"]),
        (("True", "perhaps"), 3, ["column 'smokes': 'perhaps' is neither yes nor no"]),
        (("p1,", "p1,x"), 3, ["new.csv, line 3, column 'since': 'x", "is no date"]),
        (("name", "predicted ill"), 3, ["'predicted ill', and so has what is predicted"]),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else None,
)  # fmt: skip
def test_what_cannot_be_predicted_is_one_clear_error(command, tmp_path, change, status, words):
    """With file, line, column and the word itself, since nobody but its owner reads it; nothing is written."""
    fit_file(tmp_path)
    path = comma(tmp_path / "new.csv", rows(4, seed=5))
    path.write_text(path.read_text().replace(*change, 1))
    done = command("predict", "fitted.safetensors", "new.csv", "--keep-all", "-o", "out.csv")
    assert done.status == status and all(word in done.err for word in words), done.err
    assert len(done.err.splitlines()) == 1 and not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "launch.safetensors", "s.csv"], ["Fit it first: difnet fit", "--support"]),
        (["predict", "fitted.safetensors", "s.csv", "--keep", "idd"], ["no column 'idd', which is to be kept"]),
        (["predict", "fitted.safetensors", "."], [". is a folder"]),
        (["predict", "fitted.safetensors", "gone.csv"], ["there is no gone.csv"]),
        (["predict", "gone.safetensors", "s.csv"], ["there is no launch model in gone.safetensors"]),
        (["fit", "launch.safetensors", "--support", "s.csv", "--held-back", "0.9", "-o", "x.safetensors"],
         ["--held-back 0.9 of the 9 rows of s.csv leaves 1 to fit to"]),
        (["fit", "launch.safetensors", "--support", "s.csv", "--held-back", "1", "-o", "x.safetensors"],
         ["--held-back is 1.0"]),
        (["fit", "launch.safetensors", "--support", "blind.csv", "-o", "x.safetensors"], ["no column 'ill'"]),
        (["fit", "launch.safetensors", "--support", "one.csv", "-o", "x.safetensors"], ["has 1 row to fit to"]),
        (["evaluate", "launch.safetensors"], ["which has the data of nobody: say --data DIR"]),
        (["evaluate", "launch.safetensors", "--data", "s.csv", "--part", "validation"], ["--part validation"]),
    ],
    ids=lambda value: "-".join(value)[:60],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(command, tmp_path, arguments, words):
    fit_file(tmp_path)
    comma(tmp_path / "blind.csv", rows(9), drop=("ill",))
    comma(tmp_path / "one.csv", rows(1))
    done = command(*arguments)
    assert done.status in (2, 3) and all(word in done.err for word in words), done.err
    assert "Traceback" not in done.err and len(done.err.splitlines()) == 1 and not (tmp_path / "x.safetensors").exists()


# Other owners


def test_a_launch_model_is_tested_on_each_of_other_owners_rows(command, tmp_path):
    """Of a linear model whose rate is nothing: what it says of a half of the rows that the other half has scaled."""
    launch_model(tmp_path / "launch.safetensors", ILL)
    (tmp_path / "others").mkdir()
    for n, name in enumerate(("ash", "birch", "oak")):
        comma(tmp_path / "others" / f"{name}.csv", rows(30, seed=n + 10))
    words = ("evaluate", "launch.safetensors", "--data", "others", "--tasks", 7, "--steps", "1,3", "--json")
    document = json.loads(command(*words).out)
    by = {(row["owner"], row["steps"]): row for row in document["owners"] if row["model"] == "launch model"}
    assert {owner for owner, _ in by} == {"ash", "birch", "oak"} and {steps for _, steps in by} == {0, 1, 3}
    [three] = [row for row in document["rows"] if (row["model"], row["steps"]) == ("launch model", 3)]
    for figure, worst in (("loss", max), ("accuracy", min)):
        own = [by[owner, 3][figure] for owner in ("ash", "birch", "oak")]
        assert three[figure]["mean"] == pytest.approx(np.mean(own)) and three[figure]["worst"] == worst(own)
        assert three[figure]["median"] == np.median(own)
        assert three[figure]["half_width"] == pytest.approx(4.30265 * np.std(own, ddof=1) / np.sqrt(3), rel=1e-4)
    still = json.loads(command(*words, "--inner-lr", 0).out)["owners"]
    assert all(row["loss"] == pytest.approx(by[row["owner"], 0]["loss"], rel=1e-6) for row in still
               if row["model"] == "launch model")  # fmt: skip
    told = command(*words[:-1])
    assert "3 other owners" in told.out and "birch" in told.out and "loss, worst" in told.out
    more = json.loads(command(*words, "--tasks", 8).out)["owners"]
    assert {row["owner"] for row in more} == {"ash", "birch", "oak"}


def test_an_owners_figure_is_its_own_whoever_else_is_tested(command, tmp_path):
    launch_model(tmp_path / "launch.safetensors", COST)
    for folder, names in (("one", "a"), ("two", "ab")):
        (tmp_path / folder).mkdir()
        for name in names:
            comma(tmp_path / folder / f"{name}.csv", rows(30, seed=ord(name)))
    one, two = (json.loads(command("evaluate", "launch.safetensors", "--data", folder, "--tasks", 5, "--json").out)
                for folder in ("one", "two"))  # fmt: skip
    first = [[row for row in d["owners"] if row["owner"] == "a"] for d in (one, two)]
    assert first[0] == first[1] and "absolute error (EUR)" in first[0][0]


def test_data_is_refused_where_a_task_has_its_own(tmp_path):
    from difnet.after_training.evaluation import evaluate

    learnt = launch_model(tmp_path / "a.safetensors", COST)
    about = {**learnt.about, "task": {"name": "sinusoid", "options": {}}}
    with pytest.raises(ConfigError, match="has no use for --data"):
        evaluate(LaunchModel(learnt.path, learnt.w, None, about), data=tmp_path, tasks=5)
    with pytest.raises(DataError, match="holds no table"):
        (tmp_path / "empty").mkdir()
        evaluate(learnt, data=tmp_path / "empty", tasks=5)
