"""FedAvg, FedProx, Per-FedAvg, FedMeta and DSGD against answers found another way: a star is centralised learning."""

from functools import partial
from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import mse_loss

from difnet import meta
from difnet.algorithms import State
from difnet.algorithms._servers import gradient_server, model_server
from difnet.algorithms.dif_maml import dif_maml
from difnet.algorithms.dsgd import dsgd
from difnet.algorithms.fedavg import fedavg
from difnet.algorithms.fedmeta import INNER, fedmeta
from difnet.algorithms.fedprox import fedprox
from difnet.algorithms.per_fedavg import per_fedavg
from difnet.errors import ConfigError
from difnet.maths.flat import FlatModel
from difnet.maths.optimizers import OPTIMIZERS
from difnet.meta import Tasks, difference_product, hessian_product
from tests.maths.test_directions import by_autograd
from tests.maths.test_meta import M, T, apart, least_squares, numbers, points, regressions, smooth_net, unrolled

K = 4
LINEAR = FlatModel(nn.Linear(M - 1, 1))  # of M parameters: what the factories are given with losses of their own


def named(value) -> str:
    """A parameter in a test's name: the same in every process, so no addresses."""
    return getattr(getattr(value, "func", value), "__name__", str(value))


def of_agent(k: int, step: int = 0, dtype=torch.float64) -> Tasks:
    """Three tasks of one agent: 6 samples to fit on and 5 to be judged by, in two dimensions."""
    def some(*shape: int, seed: int) -> Tensor:
        return numbers(T, *shape, seed=100 * seed + 10 * step + k).to(dtype)

    return Tasks((some(6, 2, seed=1), some(6, 1, seed=2)), (some(5, 2, seed=3), some(5, 1, seed=4)))


def together(several: list[Tasks]) -> Tasks:
    """All the tasks of several agents as one batch."""
    support, query = zip(*several, strict=True)
    return Tasks(*(tuple(torch.cat(parts) for parts in zip(*batches, strict=True)) for batches in (support, query)))


def star(algorithm, w: Tensor, rounds: int, *, local_steps: int = 1, draw=of_agent) -> list[Tensor]:
    """The launch models after 0, 1, … rounds in which all K clients take part."""
    clients = [algorithm.init(w) for _ in range(K)]
    hub = algorithm.server.init(clients[0].w)
    path = [hub.w]
    for i in range(rounds):
        for k, state in enumerate(clients):
            state = algorithm.begin(state, hub.w)
            for step in range(local_steps):
                state = state._replace(w=state.phi) if step else state
                state, _ = algorithm.adapt(state, draw(k, i * local_steps + step))
            clients[k] = state
        hub = algorithm.server.step(hub, torch.stack([state.phi for state in clients]).mean(0))
        path.append(hub.w)
    return path


# --- a star on which everybody takes part is centralised learning ---------------------------------------------------


@pytest.mark.parametrize(("inner", "dtype", "close"), [
    ("maml", torch.float64, 1e-12), ("anil", torch.float64, 1e-12), ("reptile", torch.float64, 1e-12),
    ("maml", torch.float32, 1e-6),
], ids=["maml", "anil", "reptile", "maml in single precision"])  # fmt: skip
def test_fedmeta_with_all_clients_and_sgd_is_dif_maml_with_uniform_weights(inner, dtype, close):
    """And, for MAML, the centralised one: autograd through the inner steps on all agents' tasks."""
    model, w, loss = smooth_net(nn.Tanh)
    first, rate, J, rounds = w.to(dtype), 0.5, 2, 3
    words = {"inner_lr": 0.1, "inner_steps": J, "outer_lr": rate, "optimizer": "sgd", "inner": inner}
    served = star(fedmeta(model, loss, **words), first, rounds, draw=partial(of_agent, dtype=dtype))
    diffusion = dif_maml(model, loss, **words)
    states = [diffusion.init(first)] * K
    central = w
    for i in range(rounds):
        adapted = [diffusion.adapt(state, of_agent(k, i, dtype))[0] for k, state in enumerate(states)]
        mixed = sum(state.phi / K for state in adapted)
        states = [diffusion.combine(state, mixed) for state in adapted]
        assert apart(served[i + 1], mixed) < close
        if inner == "maml":
            tasks = together([of_agent(k, i) for k in range(K)])
            central = central - rate * unrolled(model, mse_loss, central, tasks, rate=0.1, J=J)
            assert apart(served[i + 1], central) < close
    assert (served[-1] - first).abs().max() > 0.05


def test_fedmeta_learns_rates_and_model_as_one_centralised_meta_sgd():
    """Each by plain autograd of the query loss on all agents' tasks; both are stepped with the server's rate."""
    model, w, loss = smooth_net(nn.Tanh)
    algorithm = fedmeta(model, loss, inner_lr=0.1, inner_steps=2, outer_lr=0.5, optimizer="sgd", inner="meta-sgd")
    path, theta, rates = star(algorithm, w, 3), w, torch.full_like(w, 0.1)
    for i in range(3):
        tasks = together([of_agent(k, i) for k in range(K)])
        by_theta, by_rates = by_autograd(loss, theta, rates, tasks, 2)
        theta, rates = theta - 0.5 * by_theta, rates - 0.5 * by_rates
        assert apart(algorithm.model(path[i + 1]), theta) < 1e-12
        assert apart(path[i + 1][model.size :], rates) < 1e-12
    assert (rates - 0.1).abs().max() > 0.01


@pytest.mark.parametrize("algorithm", [fedavg, fedprox], ids=["fedavg", "fedprox"])
def test_one_local_step_of_sgd_is_a_centralised_gradient_step(algorithm):
    """On all samples of all agents, by numpy; FedProx's pull is nil at the round's start."""
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((3, K, T, 12, M)), rng.standard_normal((3, K, T, 12))
    def draw(k, i):
        x, z = torch.from_numpy(X[i, k]), torch.from_numpy(y[i, k])
        return Tasks((x[:, :7], z[:, :7]), (x[:, 7:], z[:, 7:]))

    made = algorithm(LINEAR, least_squares, outer_lr=0.1, optimizer="sgd")
    path = star(made, numbers(M), 3, draw=draw)
    w = numbers(M).numpy()
    for i in range(3):
        A, b = X[i].reshape(-1, M), y[i].reshape(-1)
        w = w - 0.1 * 2 * A.T @ (A @ w - b) / len(b)
        assert apart(path[i + 1], w) < 1e-13


def test_several_local_steps_of_fedavg_are_each_clients_own_descent_and_then_the_mean():
    """Not a step on the pooled data: two steps from the same model, then the mean, by autograd."""
    model, w, loss = smooth_net(nn.Tanh)
    path = star(fedavg(model, loss, outer_lr=0.2, optimizer="sgd"), w, 2, local_steps=2)
    for i in range(2):
        ends = []
        for k in range(K):
            theta = path[i]
            for step in (2 * i, 2 * i + 1):
                tasks = of_agent(k, step)
                x, y = (torch.cat(parts, 1).flatten(0, 1) for parts in zip(*tasks, strict=True))
                theta = theta - 0.2 * jacobian(lambda u, x=x, y=y: loss(u, (x, y)), theta)
            ends.append(theta)
        assert apart(path[i + 1], sum(ends) / K) < 1e-13


@pytest.mark.parametrize("algorithm", [fedavg, fedprox], ids=["fedavg", "fedprox"])
def test_a_clients_optimiser_begins_anew_with_every_round(algorithm):
    """torch.optim.Adam, made anew by each client in each round; one that was kept comes elsewhere."""
    model, w, loss = smooth_net(nn.Tanh)
    words = {"proximal": 0.0} if algorithm is fedprox else {}
    path = star(algorithm(model, loss, outer_lr=0.05, optimizer="adam", **words), w, 3, local_steps=3)

    def by_torch(anew: bool) -> Tensor:
        hub, kept = w, [w.clone().requires_grad_() for _ in range(K)]
        moments = [torch.optim.Adam([theta], lr=0.05) for theta in kept]
        for i in range(3):
            for k, theta in enumerate(kept):
                theta.data = hub.clone()
                adam = torch.optim.Adam([theta], lr=0.05) if anew else moments[k]
                for step in range(3 * i, 3 * i + 3):
                    x, y = (torch.cat(parts, 1).flatten(0, 1) for parts in zip(*of_agent(k, step), strict=True))
                    adam.zero_grad()
                    loss(theta, (x, y)).backward()
                    adam.step()
            hub = sum(theta.detach() for theta in kept) / K
        return hub

    assert apart(path[3], by_torch(anew=True)) < 1e-12
    assert apart(path[3], by_torch(anew=False)) > 1e-3


# --- clients -------------------------------------------------------------------------------------------------------


def test_dsgd_steps_along_the_slope_of_the_plain_loss_and_reports_its_length():
    """Central differences on a tanh net; then what an agent mixes is what it goes on from."""
    model, w, loss = smooth_net(nn.Tanh)
    x, y = (torch.cat(parts, 1).flatten(0, 1) for parts in zip(*points(), strict=True))
    ways = 1e-6 * torch.eye(model.size, dtype=w.dtype)
    slope = torch.stack([(loss(w + e, (x, y)) - loss(w - e, (x, y))) / 2e-6 for e in ways])
    algorithm = dsgd(model, loss, outer_lr=0.1, optimizer="sgd")
    state, info = algorithm.adapt(algorithm.init(w), points())
    assert ((w - state.phi) / 0.1 - slope).abs().max() < 1e-9
    assert abs(info["gradient_norm"] - sqrt((slope**2).sum())) < 1e-8 and abs(info["loss"] - loss(w, (x, y))) < 1e-14
    assert torch.equal(algorithm.combine(state, 2 * w).w, 2 * w)


@pytest.mark.parametrize("make", [dsgd, fedavg, fedprox, per_fedavg])
def test_fine_tuning_is_plain_gradient_descent_on_the_support_set(make):
    """FedAvg(Meta): theta_J = w* + (I - a H)^J (w - w*) on least squares."""
    X, y = (t[0] for t in regressions().support)
    w, (H, b) = numbers(M), (2 * X.T @ X / len(y), 2 * X.T @ y / len(y))
    best = torch.linalg.solve(H, b)
    want = best + torch.linalg.matrix_power(torch.eye(M) - 0.05 * H, 6) @ (w - best)
    assert apart(make(LINEAR, least_squares, inner_lr=0.05).fit(w, (X, y), 6), want) < 1e-13


def test_a_fit_of_meta_sgd_moves_the_model_by_its_rates_and_keeps_them():
    """What fits a task after two steps, by autograd; the first rates are the inner rate, in the model's type."""
    model, w, loss = smooth_net(nn.Tanh)
    algorithm = fedmeta(model, loss, inner_lr=0.1, inner="meta-sgd")
    begun = algorithm.init(w).w
    assert torch.equal(begun, torch.cat([w, torch.full_like(w, 0.1)])) and torch.equal(algorithm.model(begun), w)
    assert algorithm.init(w.float()).w.dtype == torch.float32
    rates = 0.05 + 0.1 * numbers(model.size, seed=4).abs()
    x, y = points().support[0][0], points().support[1][0]
    fitted, theta = algorithm.fit(torch.cat([w, rates]), (x, y), 2), w
    for _ in range(2):
        theta = theta - rates * jacobian(lambda v: loss(v, (x, y)), theta)
    assert apart(algorithm.model(fitted), theta) < 1e-14 and torch.equal(fitted[model.size :], rates)


@pytest.mark.parametrize(("words", "product"), [
    ({}, hessian_product), ({"form": "exact", "order": 1}, hessian_product), ({"order": 1}, None),
    ({"form": "fo"}, None), ({"form": "hf"}, partial(difference_product, d=1e-3)),
    ({"form": "hf", "d": 0.05}, partial(difference_product, d=0.05)),
], ids=named)  # fmt: skip
def test_the_forms_of_per_fedavg_differ_in_where_the_hessian_comes_from(words, product):
    """Unless told, the run's order decides; the step is one of plain gradient descent."""
    model, w, loss = smooth_net(nn.Tanh)
    algorithm = per_fedavg(model, loss, inner_lr=0.3, outer_lr=0.5, **words)
    state, info = algorithm.adapt(algorithm.init(w), points())
    direction, want_loss = meta.per_fedavg(loss, w, points(), inner_lr=0.3, product=product)
    assert torch.equal(state.phi, w - 0.5 * direction) and info["loss"] == want_loss


# --- FedProx -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fedprox_without_a_pull_is_fedavg_bit_for_bit(optimizer):
    def draw(k: int, step: int) -> Tasks:
        return Tasks(*((X + 0.1 * k, y - step) for X, y in regressions()))

    words = {"outer_lr": 0.1, "optimizer": optimizer, "server": "adam", "server_lr": 0.1}
    plain = star(fedavg(LINEAR, least_squares, **words), numbers(M), 2, local_steps=2, draw=draw)
    for proximal, same in ((0.0, True), (0.5, False)):
        made = fedprox(LINEAR, least_squares, proximal=proximal, **words)
        held = star(made, numbers(M), 2, local_steps=2, draw=draw)
        assert [torch.equal(a, b) for a, b in zip(plain, held, strict=True)] == [True, same, same]


def test_the_local_steps_of_fedprox_contract_to_the_minimiser_with_the_pull():
    """On least squares: phi - w* = (I - rate (H + mu I)) (w - w*), with w* = (H + mu I)^-1 (b + mu anchor)."""
    (X, y), (Xq, yq) = regressions()
    A, b = torch.cat([X, Xq], 1).flatten(0, 1), torch.cat([y, yq], 1).flatten()
    mu, rate, H = 0.7, 0.1, 2 * A.T @ A / len(b) + 0.7 * torch.eye(M, dtype=torch.float64)
    algorithm = fedprox(LINEAR, least_squares, outer_lr=rate, optimizer="sgd", proximal=mu)
    state = algorithm.init(torch.zeros(M, dtype=torch.float64))
    for anchor in (numbers(M, seed=7), numbers(M, seed=8)):  # a round begins where `combine` says, not at `init`
        best = torch.linalg.solve(H, 2 * A.T @ b / len(b) + mu * anchor)
        state = algorithm.combine(state, anchor)
        for step in range(1, 5):
            state, _ = algorithm.adapt(state, regressions())
            state = state._replace(w=state.phi)
            want = torch.linalg.matrix_power(torch.eye(M) - rate * H, step) @ (anchor - best)
            assert apart(state.w - best, want) < 1e-12
        stays, _ = algorithm.adapt(state._replace(w=best), regressions())
        assert apart(stays.phi, best) < 1e-14


# --- servers -------------------------------------------------------------------------------------------------------


def by_numpy(optimizer: str, w: np.ndarray, gradients: list[np.ndarray], rate: float) -> np.ndarray:
    """Where an optimiser's steps along these gradients lead, written out."""
    m, v = np.zeros_like(w), np.full_like(w, 0.0 if optimizer == "adam" else 1e-6)
    for t, g in enumerate(gradients, 1):
        if optimizer == "sgd":
            step = g
        elif optimizer == "momentum":
            step = m = 0.9 * m + g
        elif optimizer == "adagrad":
            v = v + g**2
            step = g / (np.sqrt(v) + 1e-3)
        elif optimizer == "yogi":
            m, v = 0.9 * m + 0.1 * g, v + 0.01 * np.where(g**2 > v, 1, -1) * g**2
            step = m / (np.sqrt(v) + 1e-3)
        elif optimizer == "adam":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - rate * step
    return w


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_servers_optimiser_remembers_the_rounds_before(optimizer, clip):
    """Three rounds by numpy, for messages that are gradients and for models; an optimiser made anew ends elsewhere."""
    w, gradients = numbers(M), [2.0**i * numbers(M, seed=20 + i) for i in range(3)]
    short = [g.numpy() * min(1.0, (clip or np.inf) / np.sqrt((g.numpy() ** 2).sum())) for g in gradients]
    want = by_numpy(optimizer, w.numpy(), short, 0.1)
    by_gradient, by_model = gradient_server(optimizer, 0.1, clip), model_server(optimizer, 0.1, clip)
    one, other, forgetful = by_gradient.init(w), by_model.init(w), w
    for g in gradients:
        one, other = by_gradient.step(one, g), by_model.step(other, other.w - g)
        forgetful = by_gradient.step(by_gradient.init(forgetful), g).w
    assert apart(one.w, want) < 1e-13 and apart(other.w, want) < 1e-13
    assert optimizer == "sgd" or apart(forgetful, want) > 1e-2


def test_a_server_without_an_optimiser_takes_the_mean_itself():
    """Not w - (w - mean), which rounding moves."""
    server, mean = model_server(), numbers(100, seed=1)
    state = server.step(server.init(1e6 * numbers(100)), mean)
    assert torch.equal(state.w, mean) and not torch.equal(1e6 * numbers(100) - (1e6 * numbers(100) - mean), mean)
    half = model_server("sgd", 0.5)
    assert apart(half.step(half.init(numbers(100)), mean).w, (numbers(100) + mean) / 2) < 1e-14


@pytest.mark.parametrize(("make", "options", "wrong"), [
    (fedavg, {"server": "adm"}, "algorithm.server is 'adm'.*did you mean 'adam'"),
    (fedavg, {"server_lr": -1.0}, "algorithm.server_lr is -1.0; it must be a number from 0 up"),
    (fedavg, {"clip": 0.0}, "algorithm.clip is 0.0; it must be a number above 0"),
    (fedmeta, {"clip": float("inf")}, "algorithm.clip is inf"),
    (fedmeta, {"inner": "mamal"}, "algorithm.inner is 'mamal'; it must be one of maml, meta-sgd, reptile, anil"),
    (fedprox, {"proximal": -0.1}, "algorithm.proximal is -0.1; it must be a number from 0 up"),
    (per_fedavg, {"form": "hessian-free"}, "algorithm.form is 'hessian-free'; it must be one of exact, fo, hf"),
    (per_fedavg, {"d": 0}, "algorithm.d is 0; it must be a number above 0"),
    (per_fedavg, {"d": "small"}, "algorithm.d is 'small'; it must be a number above 0"),
], ids=named)  # fmt: skip
def test_an_option_that_cannot_be_is_refused_by_name(make, options, wrong):
    with pytest.raises(ConfigError, match=wrong):
        make(LINEAR, least_squares, **options)


# --- however it is run ---------------------------------------------------------------------------------------------

KINDS = [(dsgd, {"optimizer": "yogi"}), (fedavg, {"optimizer": "adagrad"}), (fedprox, {"optimizer": "adam"}),
         *((per_fedavg, {"form": form}) for form in ("exact", "fo", "hf")),
         *((fedmeta, {"inner": inner, "inner_steps": 2}) for inner in INNER)]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("make", "options"), KINDS, ids=[" ".join([f.__name__, str(o)]) for f, o in KINDS])
def test_a_trace_and_a_map_over_agents_compute_what_the_code_says(make, options):
    """At other models and tasks than the trace was made with; phi is written and never read, w is left alone."""
    model, w, loss = smooth_net(nn.Tanh)
    algorithm = make(model, loss, inner_lr=0.1, **options)
    first = algorithm.init(w)

    def adapt(w, *rest):
        *slots, sx, sy, qx, qy = rest
        state, info = algorithm.adapt(State(w, torch.full_like(w, torch.nan), tuple(slots)), Tasks((sx, sy), (qx, qy)))
        assert state.w is w
        return state.phi, *state.slots, *info.values()

    traced = make_fx(adapt)(first.w, *first.slots, *(t for batch in points() for t in batch))
    agents = []
    for k in range(2):
        state, _ = algorithm.adapt(first, of_agent(k, 1))
        state = algorithm.combine(state, first.w + 0.1 * numbers(*first.w.shape, seed=k))
        agents.append([state.w, *state.slots, *(t for batch in of_agent(k) for t in batch)])
    want = [torch.stack(values) for values in zip(*(adapt(*inputs) for inputs in agents), strict=True)]
    by_trace = [torch.stack(values) for values in zip(*(traced(*inputs) for inputs in agents), strict=True)]
    mapped = torch.func.vmap(adapt)(*(torch.stack(values) for values in zip(*agents, strict=True)))
    for a, b, c in zip(want, by_trace, mapped, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(c, a, rtol=1e-11, atol=1e-12)


def test_only_what_sends_gradients_needs_a_hub():
    made = {make.__name__: make(LINEAR, least_squares) for make in (dsgd, fedavg, fedprox, per_fedavg, fedmeta)}
    assert [name for name, algorithm in made.items() if algorithm.needs_hub] == ["fedmeta"]
    assert [name for name, algorithm in made.items() if algorithm.server is None] == ["dsgd"]
