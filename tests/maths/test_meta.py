"""Meta-gradients against answers found another way: closed forms, finite differences, unrolled autograd."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import cross_entropy, mse_loss

from difnet.algorithms.dif_maml import dif_maml
from difnet.errors import ConfigError
from difnet.maths.evaluate import evaluate
from difnet.maths.flat import FlatModel, flatten
from difnet.meta import Tasks, fit, hessian_product, maml, reptile
from difnet.tasks.sinusoid import sinusoid

T, M = 3, 4  # tasks, parameters of the closed forms


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape))


def apart(got: Tensor, want: Tensor | np.ndarray) -> float:
    """The largest difference, of the largest value."""
    want = torch.as_tensor(want)
    return float((got - want).abs().max() / want.abs().max())


# --- losses whose meta-gradients are known -------------------------------------------------------------------------


def least_squares(w, batch):
    X, y = batch
    return ((X @ w - y) ** 2).mean()


def quadratic(w, batch):
    """(w - c)' H (w - c) / 2; the batch holds H and c in place of samples."""
    H, c = batch
    return 0.5 * torch.dot(w - c, H @ (w - c))


def linear(w, batch):
    return (batch[0] @ w).mean()


def regressions() -> Tasks:
    return Tasks((numbers(T, 7, M), numbers(T, 7)), (numbers(T, 5, M, seed=1), numbers(T, 5, seed=1)))


def quadratics() -> tuple[Tasks, Tensor, Tensor]:
    root, c = numbers(T, M, M), numbers(T, M)
    H = root @ root.mT / M + 0.1 * torch.eye(M)
    return Tasks((H, c), (H, c)), H, c


def regression_by_hand(w, tasks: Tasks, rate: np.ndarray, J: int, *, wrong_order: bool = False):
    """theta_J = w* + (I - D H)^J (w - w*), so the gradient is ((I - D H)^J)' grad Q(theta_J), with D = diag(rate)."""
    gradients, losses = [], []
    for X, y, Xq, yq in zip(*(t.numpy() for batch in tasks for t in batch), strict=True):
        H, D = 2 * X.T @ X / len(y), np.diag(rate)
        best = np.linalg.solve(H, 2 * X.T @ y / len(y))
        step = np.linalg.matrix_power(np.eye(len(w)) - D @ H, J)
        theta = best + step @ (w.numpy() - best)
        back = step if wrong_order else step.T
        gradients.append(back @ (2 * Xq.T @ (Xq @ theta - yq) / len(yq)))
        losses.append(((Xq @ theta - yq) ** 2).mean())
    return np.mean(gradients, axis=0), np.mean(losses)


@pytest.mark.parametrize("J", [1, 2, 5])
def test_linear_regression_has_the_closed_form(J):
    """Least squares: the whole inner loop is one matrix, so gradient and loss are known exactly."""
    w, tasks = numbers(M), regressions()
    g, loss = maml(least_squares, w, tasks, inner_lr=0.05, inner_steps=J)
    want, want_loss = regression_by_hand(w, tasks, np.full(M, 0.05), J)
    assert apart(g, want) < 1e-12 and abs(loss - want_loss) < 1e-12 * want_loss


@pytest.mark.parametrize("J", [1, 5])
def test_a_rate_for_each_parameter_acts_before_the_hessian_on_the_way_back(J):
    """Meta-SGD's order, (I - H diag(alpha)); the other order, (I - diag(alpha) H), is another vector."""
    w, tasks, rate = numbers(M), regressions(), np.array([0.01, 0.02, 0.08, 0.0])
    g, _ = maml(least_squares, w, tasks, inner_lr=torch.from_numpy(rate), inner_steps=J)
    right, _ = regression_by_hand(w, tasks, rate, J)
    wrong, _ = regression_by_hand(w, tasks, rate, J, wrong_order=True)
    assert apart(g, right) < 1e-12
    assert apart(g, wrong) > 1e-3


def test_no_inner_step_gives_the_gradient_of_the_query_loss():
    w, tasks = numbers(M), regressions()
    g, _ = maml(least_squares, w, tasks, inner_lr=0.05, inner_steps=0)
    want, _ = regression_by_hand(w, tasks, np.full(M, 0.05), 0)
    assert apart(g, want) < 1e-12


@pytest.mark.parametrize("J", [1, 5])
def test_quadratics_have_the_gradient_and_the_minimiser_of_the_closed_form(J):
    """The objective is quadratic with matrices M_t = (I - a H_t)^J H_t (I - a H_t)^J around the c_t."""
    tasks, H, c = quadratics()
    P = torch.linalg.matrix_power(torch.eye(M) - 0.1 * H, J)
    Ms = P @ H @ P
    w = numbers(M, seed=2)
    g, _ = maml(quadratic, w, tasks, inner_lr=0.1, inner_steps=J)
    assert apart(g, (Ms @ (w - c)[..., None])[..., 0].mean(0)) < 1e-12
    best = torch.linalg.solve(Ms.sum(0), (Ms @ c[..., None])[..., 0].sum(0))
    g, _ = maml(quadratic, best, tasks, inner_lr=0.1, inner_steps=J)
    assert g.abs().max() < 1e-12


@pytest.mark.parametrize("J", [1, 5])
def test_reptile_points_along_what_the_inner_steps_contract(J):
    """w - theta_J = (I - (I - a H)^J)(w - c) on a quadratic."""
    tasks, H, c = quadratics()
    w = numbers(M, seed=2)
    P = torch.linalg.matrix_power(torch.eye(M) - 0.1 * H, J)
    gap = (w - c)[..., None]
    direction, loss = reptile(quadratic, w, tasks, inner_lr=0.1, inner_steps=J)
    assert apart(direction, (gap - P @ gap)[..., 0].mean(0)) < 1e-12
    after = P @ gap
    assert abs(loss - (after.mT @ H @ after).mean() / 2) < 1e-12


def test_the_hessian_product_of_a_quadratic_is_its_matrix():
    _, H, c = quadratics()
    v = numbers(M, seed=3)
    assert apart(hessian_product(quadratic, numbers(M), (H[0], c[0]), v), H[0] @ v) < 1e-14


# --- networks, against derivatives found another way ---------------------------------------------------------------


def network(module: nn.Module, loss=mse_loss):
    model = FlatModel(module.double())
    return model, flatten(module, torch.float64), lambda w, batch: loss(model(w, batch[0]), batch[1])


def smooth_net(activation: type[nn.Module]):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network(nn.Sequential(nn.Linear(2, 4), activation(), nn.Linear(4, 3), activation(), nn.Linear(3, 1)))


def norm_net(norm: type[nn.Module]):
    """Layers between which the normalisation has weights of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = norm(4, track_running_stats=False) if norm is nn.BatchNorm1d else norm(4)
        return network(nn.Sequential(nn.Linear(2, 4), layer, nn.Tanh(), nn.Linear(4, 1)))


def conv_net():
    """A small CNN with batch normalisation by batch statistics alone, on 6 x 6 images of three classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(2, track_running_stats=False)
        block = [nn.Conv2d(1, 2, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)]
        return network(nn.Sequential(*block, nn.Flatten(), nn.Linear(18, 3)), cross_entropy)


def points() -> Tasks:
    return Tasks((numbers(T, 6, 2), numbers(T, 6, 1)), (numbers(T, 5, 2, seed=1), numbers(T, 5, 1, seed=1)))


def images() -> Tasks:
    labels = torch.arange(6).expand(2, 6) % 3
    return Tasks((numbers(2, 6, 1, 6, 6), labels), (numbers(2, 6, 1, 6, 6, seed=1), labels))


def unrolled(model: FlatModel, loss, w: Tensor, tasks: Tasks, *, rate: float, J: int, adapted=lambda name: True):
    """MAML by reverse mode through the whole inner loop, task after task, parameter by parameter: no flat vector."""
    gradients = []
    with torch.enable_grad():
        for sx, sy, qx, qy in zip(*tasks.support, *tasks.query, strict=True):
            first = {name: p.clone().requires_grad_() for name, p in model.unflatten(w).items()}
            now = dict(first)
            for _ in range(J):
                moving = [name for name in now if adapted(name)]
                support_loss = loss(functional_call(model.module, now, (sx,)), sy)
                steps = torch.autograd.grad(support_loss, [now[name] for name in moving], create_graph=True)
                now |= {name: now[name] - rate * step for name, step in zip(moving, steps, strict=True)}
            query_loss = loss(functional_call(model.module, now, (qx,)), qy)
            gradients.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(query_loss, list(first.values()))]))
    return torch.stack(gradients).mean(0)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Softplus])
@pytest.mark.parametrize("J", [1, 3])
def test_the_meta_gradient_is_the_slope_of_the_objective(activation, J):
    """Central differences of the query loss after the inner steps, each inner gradient by plain autograd."""
    model, w, loss = smooth_net(activation)
    tasks, epsilon = points(), 1e-6

    def objective(u: Tensor) -> float:
        total = 0.0
        for sx, sy, qx, qy in zip(*tasks.support, *tasks.query, strict=True):
            theta = u
            for _ in range(J):
                with torch.enable_grad():
                    leaf = theta.clone().requires_grad_()
                    theta = theta - 0.1 * torch.autograd.grad(loss(leaf, (sx, sy)), leaf)[0]
            total += loss(theta, (qx, qy)).item()
        return total / T

    ways = epsilon * torch.eye(model.size, dtype=w.dtype)
    slopes = [(objective(w + e) - objective(w - e)) / (2 * epsilon) for e in ways]
    g, query_loss = maml(loss, w, tasks, inner_lr=0.1, inner_steps=J)
    assert (g - torch.tensor(slopes, dtype=w.dtype)).abs().max() < 1e-9
    assert abs(query_loss - objective(w)) < 1e-14


@pytest.mark.parametrize(("net", "draw", "functional"), [
    (lambda: smooth_net(nn.ReLU), points, mse_loss), (lambda: norm_net(nn.BatchNorm1d), points, mse_loss),
    (lambda: norm_net(nn.LayerNorm), points, mse_loss), (conv_net, images, cross_entropy),
], ids=["mlp", "batch normalisation", "layer normalisation", "cnn with batch normalisation"])  # fmt: skip
@pytest.mark.parametrize("J", [1, 5])
def test_the_adjoint_form_is_autograd_through_the_unrolled_inner_loop(net, draw, functional, J):
    """Batch and layer normalisation are where PyTorch's grad(vmap(grad)) is silently wrong (seen with 2.13)."""
    model, w, loss = net()
    want = unrolled(model, functional, w, draw(), rate=0.1, J=J)
    g, _ = maml(loss, w, draw(), inner_lr=0.1, inner_steps=J)
    assert apart(g, want) < 1e-13
    algorithm = dif_maml(model, loss, inner_lr=0.1, inner_steps=J, outer_lr=1.0, optimizer="sgd")
    assert apart(w - algorithm.adapt(algorithm.init(w), draw())[0].phi, want) < 1e-13


@pytest.mark.parametrize("J", [1, 5])
def test_anil_moves_the_head_alone_and_still_differentiates_through_it(J):
    """The mask times the rate is a vector inner rate; the answer is autograd with inner steps on the last layer."""
    model, w, loss = smooth_net(nn.Tanh)
    last = model.pieces[-1].name.rpartition(".")[0]
    want = unrolled(model, mse_loss, w, points(), rate=0.3, J=J, adapted=lambda name: name.startswith(last + "."))
    g, _ = maml(loss, w, points(), inner_lr=0.3 * model.head(), inner_steps=J)
    assert apart(g, want) < 1e-13
    algorithm = dif_maml(model, loss, inner_lr=0.3, inner_steps=J, outer_lr=0.5, optimizer="sgd", inner="anil")
    state, _ = algorithm.adapt(algorithm.init(w), points())
    assert apart(w - state.phi, 0.5 * want) < 1e-12
    assert apart(g, maml(loss, w, points(), inner_lr=0.3, inner_steps=J)[0]) > 1e-3


def test_an_unknown_inner_rule_is_refused_by_name():
    with pytest.raises(ConfigError, match="'mamal'; it must be one of maml, anil, reptile"):
        dif_maml(FlatModel(nn.Linear(1, 1)), linear, inner="mamal")


# --- first order ---------------------------------------------------------------------------------------------------


def test_first_order_is_exact_where_there_is_no_curvature():
    """A linear loss has no Hessian, and with inner rate 0 it does not enter."""
    w, tasks = numbers(M), regressions()
    for loss, rate in ((linear, 0.1), (least_squares, 0.0)):
        second, _ = maml(loss, w, tasks, inner_lr=rate, inner_steps=3, order=2)
        first, _ = maml(loss, w, tasks, inner_lr=rate, inner_steps=3, order=1)
        assert torch.equal(first, second)


@pytest.mark.parametrize("J", [1, 3])
def test_first_order_stops_at_the_gradient_after_the_inner_steps(J):
    """FOMAML is grad Q at theta_J; on a curved loss that is another vector than MAML's."""
    w, tasks = numbers(M), regressions()
    first, first_loss = maml(least_squares, w, tasks, inner_lr=0.05, inner_steps=J, order=1)
    gradients = []
    for X, y, Xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        theta = fit(least_squares, w, (X, y), inner_lr=0.05, inner_steps=J)
        gradients.append(2 * Xq.T @ (Xq @ theta - yq) / len(yq))
    assert apart(first, torch.stack(gradients).mean(0)) < 1e-13
    second, second_loss = maml(least_squares, w, tasks, inner_lr=0.05, inner_steps=J)
    assert apart(first, second) > 1e-2 and first_loss == second_loss


@pytest.mark.parametrize("order", [1, 2])
def test_inner_rate_zero_gives_the_gradient_of_the_query_loss(order):
    model, w, loss = smooth_net(nn.Tanh)
    g, _ = maml(loss, w, points(), inner_lr=0.0, inner_steps=4, order=order)
    assert apart(g, unrolled(model, mse_loss, w, points(), rate=0.0, J=0)) < 1e-14


# --- however it is run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("net", "draw", "J"), [(lambda: smooth_net(nn.Tanh), points, 3), 
    pytest.param(conv_net, images, 1, marks=pytest.mark.slow)], ids=["mlp", "cnn"])  # fmt: skip
def test_a_trace_keeps_the_second_order(net, draw, J):
    """What agents run is the trace; at another w than it was made with it still equals the code as written."""
    _, w, loss = net()

    def gradient(w, sx, sy, qx, qy):
        return maml(loss, w, Tasks((sx, sy), (qx, qy)), inner_lr=0.1, inner_steps=J)[0]

    tasks = draw()
    inputs = (*tasks.support, *tasks.query)
    first_order, _ = maml(loss, w, tasks, inner_lr=0.1, inner_steps=J, order=1)
    traced = make_fx(gradient)(torch.zeros_like(w) + 0.1, *inputs)
    assert apart(traced(w, *inputs), gradient(w, *inputs)) < 1e-12
    assert apart(traced(w, *inputs), first_order) > 1e-3


def test_switching_autograd_off_does_not_lose_the_second_order():
    """Agent processes run with autograd off."""
    _, w, loss = smooth_net(nn.Tanh)
    with torch.enable_grad():
        on, _ = maml(loss, w, points(), inner_lr=0.1, inner_steps=3)
    with torch.no_grad():
        off, _ = maml(loss, w, points(), inner_lr=0.1, inner_steps=3)
    assert torch.equal(on, off) and not off.requires_grad


@pytest.mark.parametrize("rule", [maml, reptile])
def test_the_order_of_tasks_and_of_samples_does_not_matter(rule):
    _, w, loss = smooth_net(nn.Tanh)
    (sx, sy), (qx, qy) = points()
    g, _ = rule(loss, w, points(), inner_lr=0.1, inner_steps=3)
    turned = Tasks((sx.flip(0), sy.flip(0)), (qx.flip(0), qy.flip(0)))
    shuffled = Tasks((sx.flip(1), sy.flip(1)), (qx.roll(2, 1), qy.roll(2, 1)))
    half_shuffled = Tasks((sx.flip(1), sy), (qx, qy))
    for tasks in (turned, shuffled):
        assert apart(rule(loss, w, tasks, inner_lr=0.1, inner_steps=3)[0], g) < 1e-12
    assert apart(rule(loss, w, half_shuffled, inner_lr=0.1, inner_steps=3)[0], g) > 1e-3


def test_a_batch_of_tasks_is_the_mean_of_its_tasks():
    _, w, loss = smooth_net(nn.Tanh)
    tasks = points()
    together = maml(loss, w, tasks, inner_lr=0.1, inner_steps=2)
    alone = [maml(loss, w, Tasks(*[tuple(x[t : t + 1] for x in batch) for batch in tasks]), inner_lr=0.1, inner_steps=2)
             for t in range(T)]  # fmt: skip
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert apart(whole, torch.stack(parts).mean(0)) < 1e-13


@pytest.mark.parametrize("masked", [False, True])
def test_evaluation_is_the_query_loss_after_that_many_steps_of_the_algorithms_own_fit(masked):
    """With ANIL the fit moves the head alone, in evaluation as in training."""
    model, w, loss = smooth_net(nn.Tanh)
    tasks = points()
    rate = 0.1 * (model.head() if masked else torch.ones_like(w))
    want = torch.zeros(3)
    for sx, sy, qx, qy in zip(*tasks.support, *tasks.query, strict=True):
        theta, losses = w, []
        for step in range(11):
            if step in (0, 1, 10):
                losses.append(loss(theta, (qx, qy)))
            with torch.enable_grad():
                leaf = theta.clone().requires_grad_()
                theta = theta - rate * torch.autograd.grad(loss(leaf, (sx, sy)), leaf)[0]
        want = want + torch.stack(losses) / T
    algorithm = dif_maml(model, loss, inner_lr=0.1, inner="anil" if masked else "maml")
    got = evaluate(lambda w, batch: loss(w, batch)[None], algorithm.fit, w, tasks, (1, 10))
    assert got.shape == (T, 3, 1) and apart(got.mean(0)[:, 0], want) < 1e-13
    one_by_one = [Tasks(*(tuple(t[n] for t in batch) for batch in tasks)) for n in range(T)]
    assert apart(evaluate(lambda w, batch: loss(w, batch)[None], algorithm.fit, w, one_by_one, (1, 10)), got) < 1e-13


# --- the sinusoid's scale ------------------------------------------------------------------------------------------


def test_sine_waves_have_the_power_and_the_best_fixed_function_that_integrals_give():
    """E[y^2] = 4.25167; without adaptation the best is f(x) = E[y | x] = -(2 / pi) E[a] cos x, with 3.00567.

    Integrals by the midpoint rule, then 400 000 samples of the family's own: within five standard errors.
    """
    def middle(low, high, n):
        return low + (np.arange(n) + 0.5) * (high - low) / n

    a, p, x = middle(0.1, 5.0, 400), middle(0.0, np.pi, 400), middle(-5.0, 5.0, 2000)
    wave = np.sin(x - p[:, None])
    power, fixed = (a**2).mean() * (wave**2).mean(), a.mean() * wave.mean(0)
    least = power - (fixed**2).mean()
    assert abs(power - 4.25167) < 1e-4 and abs(least - 3.00567) < 1e-4
    assert np.abs(fixed + 2 / np.pi * a.mean() * np.cos(x)).max() < 1e-4

    draws = sinusoid(agents=40, shots=1, queries=1).draw(None, 200_000, np.random.default_rng(0))
    for xs, ys in draws:
        x, y = xs.numpy().ravel(), ys.numpy().ravel()
        for errors, want in ((y**2, power), ((y + 2 / np.pi * a.mean() * np.cos(x)) ** 2, least)):
            assert abs(errors.mean() - want) < 5 * errors.std() / np.sqrt(len(errors))
