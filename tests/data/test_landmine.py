"""Landmine detection: small MATLAB files written here by SciPy, and the real one against its description."""

import numpy as np
import pytest

from difnet.data.landmine import FILE, read
from difnet.errors import EnvironmentLacks
from difnet.tasks.landmine import landmine
from tests.data.files import refused, scrambled

FEATURES = [np.arange(27.0).reshape(3, 9), -np.arange(18.0).reshape(2, 9)]
LABELS = [np.array([[0], [1], [0]], np.uint8), np.array([[1], [1]], np.uint8)]


def write(place, features, labels, **more):
    def cells(arrays):
        row = np.empty((1, len(arrays)), object)
        row[0, :] = arrays
        return row

    path = place / FILE
    pytest.importorskip("scipy.io").savemat(path, {"feature": cells(features), "label": cells(labels)} | more,
                                            do_compression=True)  # fmt: skip
    return path


def test_a_field_is_a_group_in_the_order_of_the_file(tmp_path):
    write(tmp_path, FEATURES, LABELS)
    table = read(tmp_path)
    assert list(table.names) == ["field-1", "field-2"] and table.sizes.tolist() == [3, 2]
    np.testing.assert_array_equal(table.inputs, np.concatenate(FEATURES).astype(np.float32))
    assert table.targets.tolist() == [0, 1, 0, 1, 1]
    assert table.inputs.dtype == np.float32 and table.targets.dtype == np.int64


@pytest.mark.parametrize("spoil", [lambda whole: b"", lambda whole: whole[:100], lambda whole: whole[:-40],
                                   lambda whole: b"<html>no such page</html>" * 40, scrambled],
                         ids=["empty", "cut in its head", "cut off", "foreign", "scrambled"])  # fmt: skip
def test_a_broken_file_is_named_and_nothing_is_kept(tmp_path, spoil):
    path = write(tmp_path, FEATURES, LABELS)
    path.write_bytes(spoil(path.read_bytes()))
    refused(lambda: read(tmp_path), path, "difnet data get landmine")


@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        (FEATURES, LABELS[:1], "2 cells in 'feature', 1 in 'label'"), ([], [], "0 cells"),
        ([FEATURES[0][:, :8], FEATURES[1]], LABELS, "cell 1: features (3, 8)"),
        (FEATURES, [LABELS[0], LABELS[0]], "cell 2: features (2, 9) and labels (3, 1)"),
        (FEATURES, [LABELS[0], LABELS[1] * 7], "cell 2, row 1: label 7"),
        ([FEATURES[0] * np.nan, FEATURES[1]], LABELS, "cell 1: not all features are finite"),
        (["text", FEATURES[1]], LABELS, "cell 1: features"),
    ],
)
def test_cells_that_are_no_task_are_refused_with_their_number(tmp_path, features, labels, said):
    path = write(tmp_path, features, labels)
    refused(lambda: read(tmp_path), path, said)


def test_another_matlab_file_is_refused(tmp_path):
    path = tmp_path / FILE
    pytest.importorskip("scipy.io").savemat(path, {"x": np.eye(3)})
    refused(lambda: read(tmp_path), path, "no cells called 'feature'")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(EnvironmentLacks, match=FILE):
        read(tmp_path)


def test_the_published_file_has_the_counts_of_its_description(real_data):
    """29 tasks, 14820 samples, 445 to 690 a task, 15 to 48 of them positive."""
    table = read(real_data("landmine") / "landmine")
    positive = [int(table.targets[table.rows(g)].sum()) for g in range(table.groups)]
    assert table.groups == 29 and table.inputs.shape == (14820, 9)
    assert (table.sizes.min(), table.sizes.max(), min(positive), max(positive)) == (445, 690, 15, 48)


def test_its_fields_are_clients_of_logistic_regression(real_data):
    family = landmine(agents=4, shots=5, queries=5, data_dir=str(real_data("landmine")))
    (x, y), _ = family.draw(0, 2, np.random.default_rng(0))
    assert x.shape == (2, 5, 9) and set(y.unique().tolist()) <= {0, 1}
    assert [len(family.held_out(part)) for part in ("validation", "test")] == [3, 3]
    assert family.model_words == {"inputs": 9, "outputs": 2} and family.default_model == "logistic"
