"""iMAML: its solver against numpy, its inner problem and its gradient against closed forms and finite differences."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import mse_loss

from difnet.algorithms import State
from difnet.algorithms.imaml import imaml as factory
from difnet.errors import ConfigError
from difnet.maths.flat import FlatModel, flatten
from difnet.maths.implicit import conjugate_gradient, imaml, proximal
from difnet.meta import Tasks, fit, maml

T, M = 3, 4


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape))


def symmetric(eigenvalues: list[float], seed: int = 0) -> np.ndarray:
    """A full matrix with these eigenvalues."""
    Q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2))
    return Q @ np.diag(eigenvalues) @ Q.T


def quadratic(w, batch):
    """(w - c)' H (w - c) / 2; the batch holds H and c in place of samples."""
    H, c = batch
    return 0.5 * torch.dot(w - c, H @ (w - c))


def quadratics(*spectra: list[float]) -> Tasks:
    """One task for each support spectrum; its query loss is another quadratic, with another centre."""
    count, size = len(spectra), len(spectra[0])
    H = torch.from_numpy(np.stack([symmetric(spectrum, seed) for seed, spectrum in enumerate(spectra)]))
    root = numbers(count, size, size, seed=1)
    return Tasks((H, numbers(count, size)), (root @ root.mT, numbers(count, size, seed=2)))


CONVEX = ([0.2, 0.5, 1.0, 3.0], [0.0, 0.1, 2.0, 2.5], [1.0, 1.0, 1.5, 4.0])


def by_hand(w: Tensor, tasks: Tasks, weight: float, damping: float = 0.0) -> tuple[np.ndarray, float]:
    """The exact proximal point and the exact solution of the system, by numpy.linalg.solve; means over tasks."""
    xs, losses = [], []
    for H, c, Hq, cq in zip(*(t.numpy() for batch in tasks for t in batch), strict=True):
        phi = np.linalg.solve(H + weight * np.eye(len(c)), H @ c + weight * w.numpy())
        xs.append(np.linalg.solve((1 + damping) * np.eye(len(c)) + H / weight, Hq @ (phi - cq)))
        losses.append((phi - cq) @ Hq @ (phi - cq) / 2)
    return np.mean(xs, axis=0), np.mean(losses)


def close(got: Tensor, want, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(got, torch.as_tensor(want), rtol=tolerance, atol=tolerance)


# --- conjugate gradients -------------------------------------------------------------------------------------------


def solve(A: np.ndarray, b: Tensor, steps: int):
    matrix = torch.from_numpy(np.asarray(A)).to(b.dtype)
    return conjugate_gradient(lambda v: matrix @ v, b, steps=steps)


@pytest.mark.parametrize("eigenvalues", [[3.0] * 8, [1.0] * 5 + [9.0] * 3, [0.5, 0.5, 2.0, 2.0, 2.0, 7.0, 7.0, 7.0]])
def test_as_many_steps_as_distinct_eigenvalues_solve_the_system_and_one_less_does_not(eigenvalues):
    A, b, distinct = symmetric(eigenvalues), numbers(8), len(set(eigenvalues))
    want = torch.from_numpy(np.linalg.solve(A, b.numpy()))
    close(solve(A, b, distinct).x, want)
    assert (solve(A, b, distinct - 1).x - want).norm() > 0.01


def test_the_residual_it_carries_is_that_of_its_solution():
    A, b = symmetric([0.1, 0.5, 1.0, 2.0, 5.0, 9.0]), numbers(6)
    for steps in range(5):
        solution = solve(A, b, steps)
        want = np.linalg.norm(b.numpy() - A @ solution.x.numpy())
        assert solution.residual_norm.item() == pytest.approx(want, rel=1e-9)
        assert not solution.negative_curvature


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
@pytest.mark.parametrize("eigenvalues", [[0.3, 0.3, 0.3, 2.0, 2.0], [0.3] * 5])
def test_steps_beyond_the_solution_change_nothing(dtype, scale, eigenvalues):
    """Nor do they divide by a vanished residual, or take a curvature that underflows for none."""
    A, b = symmetric(eigenvalues), (scale * numbers(5)).to(dtype)
    far = solve(A, b, 60)
    assert not far.negative_curvature
    want = torch.from_numpy(np.linalg.solve(A, b.double().numpy()))
    assert (far.x.double() - want).norm() < 50 * torch.finfo(dtype).eps * want.norm()


def test_a_right_hand_side_of_zero_is_solved_by_zero():
    solution = solve(symmetric([1.0, 2.0, 3.0]), torch.zeros(3, dtype=torch.float64), 4)
    assert torch.equal(solution.x, torch.zeros(3, dtype=torch.float64))
    assert solution.residual_norm == 0 and not solution.negative_curvature


def test_it_stops_before_a_direction_of_negative_curvature_with_what_it_has():
    """By hand: b'Ab = 7 and b'b = 5, so x = 5/7 b; the next direction, (30, 120) / 49, has a curvature below zero."""
    b, A = torch.tensor([2.0, 1.0], dtype=torch.float64), np.diag([2.0, -1.0])
    close(solve(A, b, 1).x, 5 / 7 * b)
    assert not solve(A, b, 1).negative_curvature
    for steps in (2, 3, 20):
        close(solve(A, b, steps).x, 5 / 7 * b)
        assert solve(A, b, steps).negative_curvature


def test_where_it_stops_the_solution_still_leads_downhill():
    """b'x > 0 of every indefinite system that allows a first step, and x'Ax / 2 - b'x is below that of x = 0."""
    stopped = 0
    for seed in range(30):
        A, b = symmetric([-2.0, -0.5, 1.0, 2.0, 4.0, 9.0], seed), numbers(6, seed=seed)
        solution = solve(A, b, 6)
        x = solution.x.numpy()
        if x.any():
            stopped += bool(solution.negative_curvature)
            assert b.numpy() @ x > 0 and x @ A @ x / 2 - b.numpy() @ x < 0
    assert stopped > 10


@pytest.mark.parametrize("A", [-np.eye(3), np.zeros((3, 3))], ids=["negative", "none"])
def test_without_any_curvature_to_go_by_it_stays_at_zero_and_says_so(A):
    solution = solve(A, numbers(3), 5)
    assert torch.equal(solution.x, torch.zeros(3, dtype=torch.float64)) and solution.negative_curvature
    assert solution.residual_norm.item() == pytest.approx(np.linalg.norm(numbers(3).numpy()))


def test_each_system_of_a_batch_stops_for_itself():
    """Mapped over systems: one solved in one step, one that needs three, one of negative curvature."""
    A = torch.from_numpy(np.stack([symmetric(e) for e in ([2.0] * 3, [1.0, 2.0, 3.0], [1.0, 1.0, -9.0])]))
    b = numbers(3, 3)
    together = vmap(lambda A, b: conjugate_gradient(lambda v: A @ v, b, steps=3))(A, b)
    for k in range(3):
        for one, of_many in zip(solve(A[k].numpy(), b[k], 3), together, strict=True):
            torch.testing.assert_close(of_many[k], one, rtol=1e-12, atol=1e-12)
    assert together.negative_curvature.tolist() == [False, False, True]


# --- the inner problem ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_proximal_descent_on_a_quadratic_has_the_closed_form(steps):
    """phi_J = phi* + (I - a (H + weight I))^J (w - phi*)."""
    H, c, w, weight, rate = symmetric([0.2, 0.5, 1.0, 3.0]), numbers(M, seed=3), numbers(M), 2.0, 0.1
    inner = H + weight * np.eye(M)
    best = np.linalg.solve(inner, H @ c.numpy() + weight * w.numpy())
    want = best + np.linalg.matrix_power(np.eye(M) - rate * inner, steps) @ (w.numpy() - best)
    close(proximal(quadratic, w, (torch.from_numpy(H), c), weight=weight, inner_lr=rate, steps=steps), want)


# --- the meta-gradient ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_on_quadratics_it_is_the_exact_implicit_gradient(weight, damping):
    """x = (I + H / weight + damping I)^-1 grad Q at the exact proximal point."""
    w, tasks = numbers(M), quadratics(*CONVEX)
    x, info = imaml(quadratic, w, tasks, weight=weight, inner_lr=1 / (weight + 3), inner_steps=300, cg_steps=M,
                    damping=damping)  # fmt: skip
    want, want_loss = by_hand(w, tasks, weight, damping)
    close(x, want, 1e-10)
    close(info["loss"], want_loss, 1e-10)
    assert info["proximal_residual"] < 1e-10 and info["cg_residual"] < 1e-9 and info["negative_curvature"] == 0


def test_it_is_the_derivative_of_the_query_loss_through_the_true_proximal_map():
    """A small tanh network, central differences of w -> Q(argmin of the inner problem at w): no formula is shared."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
    model, w = FlatModel(net), flatten(net, torch.float64)

    def loss(w, batch):
        return mse_loss(model(w, batch[0]), batch[1])

    tasks = Tasks((numbers(2, 6, 1), numbers(2, 6, 1, seed=1)), (numbers(2, 5, 1, seed=2), numbers(2, 5, 1, seed=3)))
    inner = {"weight": 2.0, "inner_lr": 0.2, "inner_steps": 200}
    x, info = imaml(loss, w, tasks, cg_steps=2 * model.size, **inner)
    assert info["proximal_residual"] < 1e-12 and info["negative_curvature"] == 0

    def after_solving(u: Tensor) -> Tensor:
        def one(task: Tasks) -> Tensor:
            phi = proximal(loss, u, task.support, weight=2.0, inner_lr=0.2, steps=200)
            return loss(phi, task.query)

        return vmap(one)(tasks).mean()

    step = 1e-5 * torch.eye(model.size, dtype=torch.float64)
    slopes = (vmap(after_solving)(w + step) - vmap(after_solving)(w - step)) / 2e-5
    assert (x - slopes).abs().max() < 1e-8 * slopes.abs().max()
    first_order, _ = maml(loss, w, tasks, inner_lr=0.2, inner_steps=1, order=1)
    assert (first_order - slopes).abs().max() > 0.1 * slopes.abs().max()


def test_under_an_infinite_weight_it_is_fomaml():
    """One inner step begins at w, where the proximal term has no slope: phi is MAML's theta, I + H / weight is I."""
    w, tasks = numbers(M), quadratics(*CONVEX)
    x, info = imaml(quadratic, w, tasks, weight=1e13, inner_lr=0.05, inner_steps=1, cg_steps=5)
    want, want_loss = maml(quadratic, w, tasks, inner_lr=0.05, inner_steps=1, order=1)
    close(x, want, 1e-11)
    close(info["loss"], want_loss)
    near, _ = imaml(quadratic, w, tasks, weight=1.0, inner_lr=0.05, inner_steps=1, cg_steps=5)
    assert (near - want).norm() > 0.1 * want.norm()


def test_the_proximal_residual_is_the_slope_that_is_left():
    """Zero steps leave w, where the proximal term has no slope: ||H (w - c)||."""
    w, tasks = numbers(M), quadratics(*CONVEX)
    _, info = imaml(quadratic, w, tasks, weight=2.0, inner_lr=0.1, inner_steps=0, cg_steps=2)
    H, c = (t.numpy() for t in tasks.support)
    close(info["proximal_residual"], np.mean([np.linalg.norm(H[t] @ (w.numpy() - c[t])) for t in range(T)]))


def test_tasks_of_negative_curvature_are_counted_and_have_no_say():
    """I + H / 2 of H = -5 I is -1.5 I, so the second task's x is 0; the other one's is its own alone, halved."""
    w, tasks = numbers(M), quadratics([0.5] * M, [-5.0] * M)
    options = {"weight": 2.0, "inner_lr": 0.05, "inner_steps": 3, "cg_steps": M}
    x, info = imaml(quadratic, w, tasks, **options)
    assert info["negative_curvature"] == 1
    alone, info = imaml(quadratic, w, Tasks(*(tuple(t[:1] for t in batch) for batch in tasks)), **options)
    assert info["negative_curvature"] == 0
    close(x, alone / 2)
    damped, info = imaml(quadratic, w, tasks, **options, damping=2.0)
    assert info["negative_curvature"] == 0 and (damped - x).norm() > 0.01


# --- the algorithm -------------------------------------------------------------------------------------------------


SMALL = {"inner_lr": 0.05, "inner_steps": 3, "outer_lr": 0.1, "optimizer": "sgd", "cg_steps": 3}


def network():
    return FlatModel(nn.Linear(M - 1, 1))


def test_what_travels_is_the_gradient_and_the_hub_steps_along_the_mean():
    algorithm, w = factory(network(), quadratic, **SMALL, weight=3.0, damping=0.4, clip=0.5), numbers(M)
    clients = [quadratics(*CONVEX[:2]), quadratics(*CONVEX[1:])]
    gradients = []
    for tasks in clients:
        before = algorithm.init(w)
        state, info = algorithm.adapt(before, tasks)
        want, _ = imaml(quadratic, w, tasks, weight=3.0, inner_lr=0.05, inner_steps=3, cg_steps=3, damping=0.4)
        assert torch.equal(state.phi, want) and torch.equal(state.w, w) and next(iter(info)) == "loss"
        gradients.append(state.phi)
    assert algorithm.needs_hub and algorithm.server is not None
    mean = torch.stack(gradients).mean(0)
    after = algorithm.server.step(algorithm.server.init(w), mean)
    assert mean.norm() > 0.5
    close(after.w, w.numpy() - 0.1 * 0.5 * mean.numpy() / np.linalg.norm(mean.numpy()))
    assert torch.equal(algorithm.combine(state, after.w).w, after.w)


def test_rounds_of_the_hub_lead_to_the_minimiser_of_the_whole():
    """The mean query loss at the proximal points is a quadratic in w, whose minimiser numpy finds.

    Support Hessians are I, so one inner step of 1 / (weight + 1) solves the inner problem.
    """
    support, centres = quadratics(*[[1.0] * M] * T)
    query = torch.from_numpy(np.stack([symmetric([2.0, 2.5, 3.0, 4.0], seed=t) for t in range(T)]))
    tasks = Tasks(support, (query, centres[1]))
    algorithm = factory(network(), quadratic, inner_lr=1 / 3, inner_steps=1, outer_lr=0.7, optimizer="sgd", cg_steps=2)
    at_zero, _ = by_hand(torch.zeros(M), tasks, 2.0)
    slopes = np.stack([by_hand(e, tasks, 2.0)[0] - at_zero for e in torch.eye(M, dtype=torch.float64)], axis=1)
    hub = algorithm.server.init(torch.zeros(M, dtype=torch.float64))
    for _ in range(30):
        state, _ = algorithm.adapt(algorithm.init(hub.w), tasks)
        hub = algorithm.server.step(hub, state.phi)
    close(hub.w, np.linalg.solve(slopes, -at_zero), 1e-10)


@pytest.mark.slow
def test_a_trace_and_a_map_over_agents_compute_what_the_code_says():
    """On other values than it was traced with, a task of negative curvature among them."""
    algorithm = factory(network(), quadratic, **SMALL)

    def adapt(w, *tensors):
        state, info = algorithm.adapt(State(w, w, ()), Tasks(tensors[:2], tensors[2:]))
        assert torch.is_tensor(state.phi)
        return [state.phi, *info.values()]

    agents = [quadratics(*CONVEX), quadratics([1.0] * M, [-5.0] * M, [0.5] * M)]
    inputs = [[numbers(M, seed=k), *tasks.support, *tasks.query] for k, tasks in enumerate(agents)]
    plain = [adapt(*given) for given in inputs]
    assert [outcome[-1].item() for outcome in plain] == [0, 1]
    traced = make_fx(adapt)(*inputs[0])
    mapped = vmap(adapt)(*(torch.stack(pair) for pair in zip(*inputs, strict=True)))
    for k in range(2):
        for got in (traced(*inputs[k]), [values[k] for values in mapped]):
            for mine, theirs in zip(got, plain[k], strict=True):
                close(mine, theirs)


def test_a_new_task_is_fitted_by_plain_gradient_steps():
    """As the paper fine-tunes: no proximal term."""
    algorithm, w = factory(network(), quadratic, **SMALL), numbers(M)
    support = tuple(t[0] for t in quadratics(*CONVEX).support)
    got = algorithm.fit(w, support, 4)
    close(got, fit(quadratic, w, support, inner_lr=0.05, inner_steps=4))
    close(algorithm.fit(w, support, 1), w - 0.05 * grad(quadratic)(w, support))


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"weight": -1.0}, {"weight": float("nan")}, {"damping": -0.1},
                                     {"cg_steps": 0}, {"cg_steps": 2.5}, {"clip": 0.0}])  # fmt: skip
def test_options_out_of_range_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        factory(network(), quadratic, **options)
