"""Raw rows as a model's inputs, against numpy by hand: who scales whom, and what becomes of a gap."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from difnet.maths.scaling import Constants, Layout, constants, in_unit, inputs, scaled

NUMBERS = Layout((0, 0, 0), (False, False, False))


def by_hand(support: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """As StandardScaler and then SimpleImputer of the mean do it, column by column, in float64."""
    out = np.zeros(rows.shape)
    for j in range(rows.shape[1]):
        known = support[:, j][~np.isnan(support[:, j])].astype(np.float64)
        if len(known):
            spread = known.std() if known.min() < known.max() else 1.0
            out[:, j] = np.where(np.isnan(rows[:, j]), 0, (rows[:, j].astype(np.float64) - known.mean()) / spread)
    return out


@given(st.integers(0, 10_000), st.integers(2, 9), st.floats(0, 0.5))
def test_numbers_are_scaled_by_the_mean_and_spread_of_the_support_alone(seed, n, gaps):
    rng = np.random.default_rng(seed)
    support, query = (rng.normal(50, 9, (m, 3)).astype(np.float32) for m in (n, 4))
    for rows in (support, query):
        rows[rng.random(rows.shape) < gaps] = np.nan
    by = constants(torch.from_numpy(support))
    for rows in (support, query):
        made = inputs(torch.from_numpy(rows), by, NUMBERS).numpy()
        known = ~np.isnan(support).all(0)  # of others nothing is known: they come to 0
        np.testing.assert_allclose(made[:, known], by_hand(support, rows)[:, known], rtol=1e-3, atol=1e-3)
        assert (abs(made[:, ~known]) < 1e-30).all()


def test_each_of_many_tasks_is_scaled_by_its_own_support_rows():
    raw = torch.randn(4, 2, 6, 3, generator=torch.Generator().manual_seed(0)) * 7 + 3
    made = inputs(raw, constants(raw), NUMBERS)
    assert made.shape == (4, 2, 6, 3)
    for a in range(4):
        for b in range(2):
            np.testing.assert_allclose(made[a, b], by_hand(raw[a, b].numpy(), raw[a, b].numpy()), rtol=1e-4, atol=1e-5)
    changed = raw.clone()
    changed[1, 0] += 100
    again = inputs(changed, constants(changed), NUMBERS)
    others = [(a, b) for a in range(4) for b in range(2) if (a, b) != (1, 0)]
    assert all(torch.equal(again[a, b], made[a, b]) for a, b in others)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.1, -20_000.3, 1e30])
def test_a_constant_column_is_centred_and_not_divided_whatever_its_size(value):
    """Also where its mean, rounded, is not quite its value: a spread of rounding errors divides nothing."""
    support = torch.full((7, 1), value)
    by = constants(support)
    assert float(by.scale) == 1.0
    assert float(inputs(support, by, Layout((0,), (False,))).abs().max()) <= 2**-22 * abs(value)


def test_days_of_a_week_in_2026_are_told_apart():
    """Days since 1970 are about 20000; they differ by one, and are no constant."""
    made = inputs(days := torch.arange(20_454.0, 20_461.0)[:, None], constants(days), Layout((0,), (False,)))
    np.testing.assert_allclose(made.ravel(), (np.arange(7) - 3) / 2, atol=1e-3)


def test_a_category_is_one_input_for_each_word_and_a_gap_none():
    raw = torch.tensor([[2.0], [torch.nan], [0.0]])
    made = inputs(raw, constants(raw), Layout((3,), (True,)))
    assert made.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]]


def test_constants_that_are_given_hold_for_every_task_alike():
    raw = torch.arange(12.0).reshape(2, 3, 2)
    made = inputs(raw, Constants(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])), Layout((0, 0), (False, False)))
    np.testing.assert_allclose(made, (raw.numpy() - [1, 2]) / [2, 4])


def test_targets_come_back_in_their_own_unit():
    y = torch.tensor([[[3.0], [5.0], [9.0]], [[1.0], [1.0], [1.0]]])
    by = constants(y)
    small = scaled(y, by)
    np.testing.assert_allclose(small[0].ravel(), (np.array([3, 5, 9]) - 17 / 3) / np.std([3, 5, 9]), rtol=1e-6)
    torch.testing.assert_close(in_unit(small, by), y)


def test_scaling_can_be_mapped_and_differentiated():
    """What a family makes of tasks may be made within a traced function too; a gap spoils no gradient."""
    raw = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    raw[:, 1, 1] = torch.nan

    def total(x):
        return inputs(x, constants(x), NUMBERS).square().sum()

    gradient = torch.func.vmap(torch.func.grad(total))(raw)
    assert gradient[~raw.isnan()].isfinite().all()
    torch.testing.assert_close(torch.func.vmap(lambda x: inputs(x, constants(x), NUMBERS))(raw),
                               inputs(raw, constants(raw), NUMBERS))  # fmt: skip
