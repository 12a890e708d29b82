"""The directions of Meta-SGD, Per-FedAvg and plain training against answers found another way."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.nn.functional import mse_loss

from difnet.errors import ConfigError
from difnet.meta import Tasks, difference_product, hessian_product, maml, meta_sgd, per_fedavg, pooled
from tests.maths.test_meta import (
    M,
    T,
    apart,
    least_squares,
    numbers,
    points,
    quadratic,
    quadratics,
    regression_by_hand,
    regressions,
    smooth_net,
    unrolled,
)

RATES = np.array([0.01, 0.02, 0.08, 0.0])


# --- Meta-SGD ------------------------------------------------------------------------------------------------------


def by_autograd(loss, w: Tensor, rates: Tensor, tasks: Tasks, J: int) -> tuple[Tensor, Tensor]:
    """Both gradients of the mean query loss, by reverse mode through the whole inner loop."""
    with torch.enable_grad():
        theta_0, alpha = w.clone().requires_grad_(), rates.clone().requires_grad_()
        total = torch.zeros((), dtype=w.dtype)
        for sx, sy, qx, qy in zip(*tasks.support, *tasks.query, strict=True):
            theta = theta_0
            for _ in range(J):
                theta = theta - alpha * torch.autograd.grad(loss(theta, (sx, sy)), theta, create_graph=True)[0]
            total = total + loss(theta, (qx, qy))
        by_w, by_rates = torch.autograd.grad(total / len(tasks.support[0]), (theta_0, alpha))
    return by_w, by_rates


def rates_by_hand(w: Tensor, tasks: Tasks, J: int, *, wrong_order: bool = False) -> np.ndarray:
    """Least squares, forwards: d theta_{j+1} / d alpha = (I - D H) d theta_j / d alpha - diag(H theta_j - b).

    In the wrong order the same is written with (I - H D).
    """
    gradients = []
    for X, y, Xq, yq in zip(*(t.numpy() for batch in tasks for t in batch), strict=True):
        H, b, D = 2 * X.T @ X / len(y), 2 * X.T @ y / len(y), np.diag(RATES)
        theta, by_rates = w.numpy(), np.zeros((M, M))
        for _ in range(J):
            step = np.eye(M) - (H @ D if wrong_order else D @ H)
            by_rates = step @ by_rates - np.diag(H @ theta - b)
            theta = theta - D @ (H @ theta - b)
        gradients.append(by_rates.T @ (2 * Xq.T @ (Xq @ theta - yq) / len(yq)))
    return np.mean(gradients, axis=0)


@pytest.mark.parametrize("J", [1, 3])
def test_meta_sgd_has_the_closed_form_on_linear_regression_and_the_wrong_order_has_not(J):
    """The rates act before the Hessian on the way back: (I - H diag(rates)) v, not (I - diag(rates) H) v."""
    w, tasks = numbers(M), regressions()
    by_w, by_rates, loss = meta_sgd(least_squares, w, torch.from_numpy(RATES), tasks, inner_steps=J)
    want, want_loss = regression_by_hand(w, tasks, RATES, J)
    assert apart(by_w, want) < 1e-12 and abs(loss - want_loss) < 1e-12 * want_loss
    assert apart(by_rates, rates_by_hand(w, tasks, J)) < 1e-12
    assert apart(by_w, regression_by_hand(w, tasks, RATES, J, wrong_order=True)[0]) > 1e-3
    if J > 1:  # with one step no Hessian enters the gradient by the rates
        assert apart(by_rates, rates_by_hand(w, tasks, J, wrong_order=True)) > 1e-3


def test_both_gradients_of_meta_sgd_are_slopes_of_the_query_loss():
    """Central differences on a tanh net, three inner steps, no two rates alike."""
    model, w, loss = smooth_net(nn.Tanh)
    rates, tasks, epsilon = 0.05 + 0.1 * numbers(model.size, seed=4).abs(), points(), 1e-6

    def objective(u: Tensor, alpha: Tensor) -> float:
        total = 0.0
        for sx, sy, qx, qy in zip(*tasks.support, *tasks.query, strict=True):
            theta = u
            for _ in range(3):
                theta = theta - alpha * jacobian(lambda v, sx=sx, sy=sy: loss(v, (sx, sy)), theta)
            total += loss(theta, (qx, qy)).item()
        return total / T

    ways = epsilon * torch.eye(model.size, dtype=w.dtype)
    by_w, by_rates, query_loss = meta_sgd(loss, w, rates, tasks, inner_steps=3)
    assert abs(query_loss - objective(w, rates)) < 1e-14
    for n, e in enumerate(ways):
        assert abs(by_w[n] - (objective(w + e, rates) - objective(w - e, rates)) / (2 * epsilon)) < 1e-9
        assert abs(by_rates[n] - (objective(w, rates + e) - objective(w, rates - e)) / (2 * epsilon)) < 1e-9


@pytest.mark.parametrize("order", [1, 2])
def test_meta_sgd_at_equal_rates_moves_the_model_as_maml_does(order):
    _, w, loss = smooth_net(nn.Tanh)
    g, query_loss = maml(loss, w, points(), inner_lr=0.1, inner_steps=3, order=order)
    by_w, by_rates, same_loss = meta_sgd(loss, w, torch.full_like(w, 0.1), points(), inner_steps=3, order=order)
    assert apart(by_w, g) < 1e-14 and same_loss == query_loss
    assert by_rates.abs().max() > 1e-3


def test_first_order_meta_sgd_leaves_out_the_hessian_in_both_gradients():
    """By the rates it is -(sum of the steps' gradients) * grad Q(theta_J) = (theta_J - w) / rates * grad Q(theta_J)."""
    model, w, loss = smooth_net(nn.Tanh)
    rates, want_w, want_rates = 0.05 + 0.1 * numbers(model.size, seed=4).abs(), [], []
    for sx, sy, qx, qy in zip(*points().support, *points().query, strict=True):
        theta = w
        for _ in range(3):
            theta = theta - rates * jacobian(lambda v, sx=sx, sy=sy: loss(v, (sx, sy)), theta)
        want_w.append(jacobian(lambda v, qx=qx, qy=qy: loss(v, (qx, qy)), theta))
        want_rates.append((theta - w) / rates * want_w[-1])
    first = meta_sgd(loss, w, rates, points(), inner_steps=3, order=1)
    second = meta_sgd(loss, w, rates, points(), inner_steps=3, order=2)
    for n, want in enumerate((want_w, want_rates)):
        assert apart(first[n], sum(want) / T) < 1e-12
        assert apart(second[n], first[n]) > 1e-3
    assert first[2] == second[2]


# --- Per-FedAvg ----------------------------------------------------------------------------------------------------


def per_fedavg_by_hand(w: Tensor, rate: float, *, first_order: bool) -> tuple[np.ndarray, float]:
    """Least squares, by numpy: of five query samples the first two are D', the other three D''."""
    directions, losses = [], []
    for X, y, Xq, yq in zip(*(t.numpy() for batch in regressions() for t in batch), strict=True):
        theta = w.numpy() - rate * 2 * X.T @ (X @ w.numpy() - y) / len(y)
        v = Xq[:2].T @ (Xq[:2] @ theta - yq[:2])
        H = 2 * Xq[2:].T @ Xq[2:] / 3
        directions.append(v if first_order else v - rate * H @ v)
        losses.append(((Xq[:2] @ theta - yq[:2]) ** 2).mean())
    return np.mean(directions, axis=0), np.mean(losses)


@pytest.mark.parametrize("product", [None, hessian_product, partial(difference_product, d=0.5)],
                         ids=["first order", "exact", "differences"])  # fmt: skip
def test_per_fedavg_has_the_closed_form_on_linear_regression(product):
    """Each of the three batches in its own place. On a quadratic, differences of the gradient are exact for any d."""
    w = numbers(M)
    v, loss = per_fedavg(least_squares, w, regressions(), inner_lr=0.05, product=product)
    want, want_loss = per_fedavg_by_hand(w, 0.05, first_order=product is None)
    assert apart(v, want) < 1e-12 and abs(loss - want_loss) < 1e-12 * want_loss
    assert apart(v, per_fedavg_by_hand(w, 0.05, first_order=product is not None)[0]) > 1e-3


def test_per_fedavg_takes_its_hessian_at_the_launch_model_and_on_the_second_half():
    """On a tanh net, with the dense Hessian of reverse mode; at theta, or on D or D', it would be another vector."""
    _, w, loss = smooth_net(nn.Tanh)
    want = []
    for sx, sy, qx, qy in zip(*points().support, *points().query, strict=True):
        theta = w - 0.3 * jacobian(lambda u, sx=sx, sy=sy: loss(u, (sx, sy)), w)
        v = jacobian(lambda u, qx=qx, qy=qy: loss(u, (qx[:2], qy[:2])), theta)
        want.append(v - 0.3 * hessian(lambda u, qx=qx, qy=qy: loss(u, (qx[2:], qy[2:])), w) @ v)
    got, _ = per_fedavg(loss, w, points(), inner_lr=0.3, product=hessian_product)
    assert apart(got, sum(want) / T) < 1e-13


def test_per_fedavg_is_maml_where_the_third_batch_is_the_first():
    model, w, loss = smooth_net(nn.Tanh)
    (sx, sy), (qx, qy) = points()
    qx, qy = torch.cat([qx, qx[:, :1]], 1), torch.cat([qy, qy[:, :1]], 1)  # as many as in the support set
    tasks = Tasks((sx, sy), (torch.cat([qx, sx], 1), torch.cat([qy, sy], 1)))
    got, _ = per_fedavg(loss, w, tasks, inner_lr=0.3, product=hessian_product)
    want = unrolled(model, mse_loss, w, Tasks((sx, sy), (qx, qy)), rate=0.3, J=1)
    assert apart(got, want) < 1e-13


def test_the_error_of_the_hessian_free_form_falls_like_the_square_of_d():
    """On a tanh net: halving d quarters the error, down to nothing."""
    _, w, loss = smooth_net(nn.Tanh)
    exact, _ = per_fedavg(loss, w, points(), inner_lr=0.3, product=hessian_product)

    def error(d: float) -> float:
        return apart(per_fedavg(loss, w, points(), inner_lr=0.3, product=partial(difference_product, d=d))[0], exact)

    errors = [error(d) for d in (0.08, 0.04, 0.02)]
    assert all(3.9 < a / b < 4.1 for a, b in pairwise(errors))
    assert errors[-1] > 1e-4 and error(1e-5) < 3e-9
    assert apart(per_fedavg(loss, w, points(), inner_lr=0.3)[0], exact) > 1e-2


def test_a_difference_product_with_a_quadratic_is_its_matrix_whatever_d():
    _, H, c = quadratics()
    for d in (1e-3, 10.0):
        got = difference_product(quadratic, numbers(M), (H[0], c[0]), numbers(M, seed=3), d=d)
        assert apart(got, H[0] @ numbers(M, seed=3)) < 1e-11


@pytest.mark.parametrize("length", [1e-6, 1e-4, 1.0, 100.0])
def test_a_difference_product_in_single_precision_does_not_depend_on_the_length_of_its_vector(length):
    """With steps of d v a vector of length 1e-4 was 14 to 33 % off: d v was lost in the last digits of w."""
    _, w, loss = smooth_net(nn.Tanh)
    x, y = (t[0] for t in points().query)
    v = torch.nn.functional.normalize(numbers(len(w), seed=5), dim=0) * length
    got = difference_product(loss, w.float(), (x.float(), y.float()), v.float())
    assert apart(got.double(), hessian_product(loss, w, (x, y), v)) < 2e-4
    assert torch.equal(difference_product(loss, w, (x, y), torch.zeros_like(v)), torch.zeros_like(v))


def test_a_query_set_of_one_sample_cannot_be_cut_in_two():
    tasks = Tasks(regressions().support, (numbers(T, 1, M), numbers(T, 1)))
    with pytest.raises(ConfigError, match="a set has 1 sample; it must have 2 or more"):
        per_fedavg(least_squares, numbers(M), tasks, inner_lr=0.1)


# --- plain loss ----------------------------------------------------------------------------------------------------


def test_the_pooled_gradient_is_that_of_all_samples_together():
    """7 support and 5 query samples of each task count alike: the mean of two means is another number."""
    w, ((X, y), (Xq, yq)) = numbers(M), regressions()
    A, b = np.concatenate([X, Xq], 1).reshape(-1, M), np.concatenate([y, yq], 1).reshape(-1)
    g, loss = pooled(least_squares, w, regressions())
    error = A @ w.numpy() - b
    assert apart(g, 2 * A.T @ error / len(b)) < 1e-13 and abs(loss - (error**2).mean()) < 1e-13
    halves = [least_squares(w, (X.flatten(0, 1), y.flatten())), least_squares(w, (Xq.flatten(0, 1), yq.flatten()))]
    assert abs(sum(halves) / 2 - loss) > 1e-2
