"""Synthetic(alpha, beta): its laws by hand and by their moments, and what of it depends on what."""

import numpy as np
import pytest
import torch
from torch.func import grad
from torch.fx.experimental.proxy_tensor import make_fx

from difnet.errors import ConfigError
from difnet.maths.flat import FlatModel, flatten
from difnet.meta import Tasks, maml
from difnet.models.logistic import logistic
from difnet.tasks.synthetic import blend, law, sample, shared_law, synthetic


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def held_out(**options) -> list[Tasks]:
    family = synthetic(agents=2, shots=5, queries=5, **{"clients": 20, "most": 80} | options)
    return [*family.held_out("validation"), *family.held_out("test")]


def whole(client: Tasks) -> tuple[torch.Tensor, torch.Tensor]:
    """All of a client's samples, in an order of their own values (the cut into two parts has none)."""
    x, y = (torch.cat([s, q]) for s, q in zip(client.support, client.query, strict=True))
    order = torch.argsort(x[:, 0])
    return x[order], y[order]


# --- the law ---------------------------------------------------------------------------------------------------------


def test_a_label_is_the_class_of_the_largest_softmax():
    """One sample and one class at a time, in sums and exponentials."""
    client = law(rng(0), 1.0, 1.0, features=7, classes=4)
    for x, y in zip(*sample(rng(1), client, 200), strict=True):
        logits = [sum(client.W[c, j] * x[j] for j in range(7)) + client.b[c] for c in range(4)]
        chances = [np.exp(v) / sum(np.exp(u) for u in logits) for v in logits]
        assert y == max(range(4), key=lambda c: chances[c])


def test_inputs_lie_around_their_centre_with_the_variances_of_the_paper():
    """Sigma_jj = j^-1.2 with j counted from 1, nothing off the diagonal; 40 000 samples, five standard errors."""
    client, n = law(rng(2), 0.0, 3.0, features=6, classes=3), 40_000
    x, _ = sample(rng(3), client, n)
    sigma = np.diag([1.0, 0.43527528, 0.26758052, 0.18946457, 0.14495593, 0.11647119])  # 1, 2^-1.2, …, 6^-1.2
    spread = np.sqrt(np.diag(sigma))
    np.testing.assert_array_less(np.abs(x.mean(0) - client.centre), 5 * spread / np.sqrt(n))
    np.testing.assert_array_less(np.abs(np.cov(x.T) - sigma), 5 * np.sqrt(2 / n) * np.outer(spread, spread))


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (0.5, 2.0), (2.0, 0.5)])
def test_the_parameters_of_clients_have_the_variances_of_the_hierarchy(alpha, beta):
    """A client's entries vary by 1 around a mean of its own, which varies by alpha^2 (of W, b) and beta^2 (of centres).

    Of 3000 clients; the mean of n entries adds 1/n. W and b share u.
    """
    laws = [law(r, alpha, beta, features=12, classes=5) for r in [rng(4)] for _ in range(3000)]
    W, b, centre = (np.stack(values) for values in zip(*laws, strict=True))
    assert W.shape == (3000, 5, 12) and b.shape == (3000, 5) and centre.shape == (3000, 12)
    for values in (W.reshape(3000, -1), b, centre):
        assert values.var(axis=1, ddof=1).mean() == pytest.approx(1, abs=0.05)
        assert abs(values.mean()) < 0.2
    variances = [W.mean((1, 2)).var(), b.mean(1).var(), centre.mean(1).var()]
    want = [alpha**2 + 1 / 60, alpha**2 + 1 / 5, beta**2 + 1 / 12]
    np.testing.assert_allclose(variances, want, rtol=0.15)
    covariance = np.mean(W.mean((1, 2)) * b.mean(1))
    assert covariance == pytest.approx(alpha**2, rel=0.15, abs=0.02)


def test_alpha_changes_no_label_since_it_moves_all_logits_of_a_sample_alike():
    """The paper's formula has it so: the family's other random numbers being the same, so is the data."""
    for one, other in zip(held_out(alpha=0.0), held_out(alpha=3.0), strict=True):
        assert all(torch.equal(s, t) for a, b in zip(one, other, strict=True) for s, t in zip(a, b, strict=True))


def test_beta_moves_the_inputs():
    def spread(**options) -> float:
        return float(torch.stack([whole(client)[0].mean() for client in held_out(**options)]).std())

    assert spread(beta=0.0, clients=100) < 0.3 < 3 < spread(beta=10.0, clients=100)


# --- what clients have in common --------------------------------------------------------------------------------------


def test_nothing_in_common_is_a_client_s_own_law_and_everything_is_the_shared_one():
    """Bit for bit at both ends."""
    own, shared = law(rng(0), 1.0, 1.0, features=7, classes=4), shared_law(rng(1), features=7, classes=4)
    assert all(map(np.array_equal, blend(own, shared, 0.0), own))
    assert all(map(np.array_equal, blend(own, shared, 1.0), shared))


@pytest.mark.parametrize("common", [0.0, 0.3, 0.8, 1.0])
def test_two_clients_parameters_vary_by_one_and_are_correlated_by_what_they_have_in_common(common):
    """Their W and b; their inputs lie around centres of variance 1 - common each. 60 000 pairs of each kind."""
    r = rng(5)
    own, other, shared = ([make(r) for _ in range(3000)] for make in (
        lambda r: law(r, 0.0, 0.0, features=20, classes=20), lambda r: law(r, 0.0, 0.0, features=20, classes=20),
        lambda r: shared_law(r, features=20, classes=20),
    ))  # fmt: skip
    one, two = ([blend(a, s, common) for a, s in zip(laws, shared, strict=True)] for laws in (own, other))
    for name in ("W", "b"):
        a, b = (np.stack([getattr(client, name) for client in laws]).reshape(3000, -1)[:, :20] for laws in (one, two))
        assert a.var() == pytest.approx(1, abs=0.03) and b.var() == pytest.approx(1, abs=0.03)
        assert np.mean(a * b) == pytest.approx(common, abs=0.03)
    assert np.stack([client.centre for client in one]).var() == pytest.approx(1 - common, abs=0.03)


def accuracy_on_others(**options) -> tuple[float, float]:
    """A linear model fitted by least squares to all validation clients' samples: its accuracy on the test clients', and
    the share of the class that is their most frequent one."""
    family = synthetic(agents=2, shots=1, queries=1, clients=60, shares=(0.04, 0.48, 0.48), features=8, classes=4,
                       most=100, **options)  # fmt: skip
    (x, y), (tx, ty) = ([torch.cat(parts).numpy() for parts in zip(*map(whole, family.held_out(part)), strict=True)]
                        for part in ("validation", "test"))  # fmt: skip
    slopes = np.linalg.lstsq(np.c_[x, np.ones(len(x))], np.eye(4)[y], rcond=None)[0]
    right = np.argmax(np.c_[tx, np.ones(len(tx))] @ slopes, axis=1) == ty
    return float(right.mean()), float(np.bincount(ty).max() / len(ty))


def test_what_some_clients_teach_is_right_for_others_only_if_they_share_law_and_names():
    """With laws of their own, or with the classes named anew by each client, it is no better than one guess."""
    right, guess = accuracy_on_others(common=1.0)
    assert right > guess + 0.3
    for options in ({"common": 0.0}, {"common": 1.0, "relabel": True}):
        right, guess = accuracy_on_others(**options)
        assert right < guess + 0.1


def names(plain: Tasks, renamed: Tasks) -> tuple[int, ...]:
    """Class of a client -> its name after relabelling, of three; the inputs and their cut are the same."""
    pairs = set()
    for (x, y), (renamed_x, renamed_y) in zip(plain, renamed, strict=True):
        assert torch.equal(x, renamed_x)
        pairs |= set(zip(y.tolist(), renamed_y.tolist(), strict=True))
    named = dict(pairs)
    assert len(named) == len(pairs) and len({*named.values()}) == len(named)
    return tuple(named.get(c, -1) for c in range(3))


def test_relabelling_gives_each_client_one_of_all_orders_of_the_classes_alike():
    """Six orders of three classes, of the clients that have all three: chi-square, 99.9 % point of 5 degrees."""
    options = {"clients": 800, "shares": (0.01, 0.495, 0.495), "features": 3, "classes": 3, "common": 1.0}
    pairs = zip(held_out(**options), held_out(**options, relabel=True), strict=True)
    orders = [order for plain, renamed in pairs if -1 not in (order := names(plain, renamed))]
    counts = np.array([orders.count(order) for order in sorted(set(orders))])
    assert len(counts) == 6 and len(orders) > 500
    expected = len(orders) / 6
    assert float(((counts - expected) ** 2 / expected).sum()) < 20.5


# --- who has what ----------------------------------------------------------------------------------------------------


def test_a_client_has_fifty_samples_and_a_lognormal_number_more_up_to_the_limit():
    """Of ln(n - 50), for 500 clients with no limit to speak of: mean 4 and standard deviation 2, as far as n - 50 > 5
    tells (whole numbers blur the small ones): its median, and the share below e^2 and above e^6."""
    options = {"agents": 2, "shots": 1, "queries": 1, "clients": 500, "features": 2, "classes": 2,
               "shares": (0.01, 0.495, 0.495)}  # fmt: skip
    family = synthetic(**options, most=20_000)
    sizes = np.array([len(whole(c)[1]) for part in ("validation", "test") for c in family.held_out(part)]) - 50
    assert sizes.min() >= 0
    error = 4 * np.sqrt(0.25 / len(sizes))
    assert abs((sizes < np.exp(4)).mean() - 0.5) < error
    assert abs((sizes < np.exp(2)).mean() - 0.1587) < error and abs((sizes > np.exp(6)).mean() - 0.1587) < error
    capped = synthetic(**options, most=60)
    got = np.array([len(whole(c)[1]) for part in ("validation", "test") for c in capped.held_out(part)])
    assert (got == np.minimum(sizes + 50, 60)).all()


def test_a_client_is_the_same_in_a_larger_federation_and_another_one_under_another_seed():
    few, many, others = (
        {tuple(whole(c)[0].sum(1).tolist()): whole(c)[1] for c in held_out(clients=n, data_seed=seed, shares=shares)}
        for n, seed, shares in [(20, 3, (0.1, 0.45, 0.45)), (40, 3, (0.05, 0.475, 0.475)), (20, 4, (0.1, 0.45, 0.45))]
    )
    shared = few.keys() & many.keys()
    assert len(shared) >= 16 and all(torch.equal(few[c], many[c]) for c in shared)
    assert not few.keys() & others.keys()


@pytest.mark.parametrize("support", [0.2, 0.5, 0.9])
def test_the_support_fraction_is_that_of_every_client_held_out(support):
    for client in held_out(support=support):
        n = len(whole(client)[1])
        assert abs(len(client.support[1]) - support * n) <= 0.5


def test_everything_an_agent_holds_is_drawn_in_the_end_and_nothing_else():
    """Eight clients, one for each agent: as many different samples as it is said to hold."""
    family = synthetic(agents=8, shots=20, queries=20, clients=10, most=120)
    for agent in (0, 7):
        (x, _), (q, _) = family.draw(agent, 150, rng(agent))
        seen = torch.cat([x, q], dim=1).flatten(0, 1).unique(dim=0)
        assert len(seen) == family.samples(agent)


def test_labels_stay_with_their_inputs():
    """Every sample drawn or held out has the label it was made with, found again by its input."""
    family = synthetic(agents=2, shots=9, queries=9, clients=10, most=60)
    held = {tuple(x.tolist()): int(y) for c in family.held_out("validation") for x, y in zip(*whole(c), strict=True)}
    for inputs, classes in family.draw(None, 30, rng()):
        for x, y in zip(inputs.flatten(0, 1), classes.flatten(), strict=True):
            assert held[tuple(x.tolist())] == int(y)


def test_too_small_a_client_is_drawn_from_with_replacement():
    """Half of at most 60 samples are for support; 40 shots are too many for it, and its 5 queries are not."""
    (x, _), (q, _) = synthetic(agents=2, shots=40, queries=5, most=60).draw(0, 10, rng())
    assert x.shape == (10, 40, 60)
    assert all(len(task.unique(dim=0)) <= 30 for task in x) and all(len(task.unique(dim=0)) == 5 for task in q)


def test_a_task_of_an_agent_is_any_of_its_clients_alike():
    """Ten clients dealt to one agent, by the centres of tasks: chi-square, 99.9 % point of 7 degrees."""
    family = synthetic(agents=1, shots=20, queries=1, clients=10, most=52)
    x = family.draw(0, 1600, rng()).support[0].mean(1)
    centres = [x[0]]
    for task in x:
        if min(float((task - c).norm()) for c in centres) > 4:
            centres.append(task)
    nearest = torch.cdist(x, torch.stack(centres)).argmin(1)
    counts = torch.bincount(nearest, minlength=8).double()
    assert len(counts) == 8
    assert float(((counts - 200) ** 2 / 200).sum()) < 24.4


# --- with the rest of difnet -----------------------------------------------------------------------------------------


def test_logistic_regression_has_the_gradient_of_the_textbook():
    """Mean cross-entropy of softmax(W x + b): (softmax - one-hot) x^T, a mean over the samples."""
    family = synthetic(agents=2, shots=30, queries=1, clients=20)
    (x, y), _ = family.draw(0, 1, rng())
    module = logistic()
    model, w = FlatModel(module), flatten(module, torch.float64)
    got = model.unflatten(grad(lambda w: family.loss(model(w, x[0]), y[0]))(w))
    W, b = (t.numpy() for t in model.unflatten(w).values())
    logits = x[0].numpy() @ W.T + b
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    error = (chances - np.eye(10)[y[0].numpy()]) / 30
    np.testing.assert_allclose(got["weight"].numpy(), error.T @ x[0].numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got["bias"].numpy(), error.sum(axis=0), rtol=1e-9, atol=1e-12)


def test_a_trace_of_the_meta_gradient_holds_for_other_labels():
    """Integer targets are inputs of the trace, not constants in it."""
    family = synthetic(agents=2, shots=6, queries=7, clients=20)
    module = logistic()
    model, w = FlatModel(module), flatten(module, torch.float64)

    def meta_gradient(w, sx, sy, qx, qy):
        return maml(lambda w, batch: family.loss(model(w, batch[0]), batch[1]), w, Tasks((sx, sy), (qx, qy)),
                    inner_lr=0.05, inner_steps=2)  # fmt: skip

    first, other = (family.draw(k, 3, rng(k)) for k in (0, 1))
    traced = make_fx(meta_gradient)(w, *first.support, *first.query)
    for got, want in zip(traced(w, *other.support, *other.query),
                         meta_gradient(w, *other.support, *other.query), strict=True):  # fmt: skip
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": -1.0}, "alpha is -1.0"), ({"beta": float("nan")}, "beta is nan"), ({"classes": 1}, "classes is 1"),
        ({"features": 2.5}, "features is 2.5"), ({"most": 1}, "most is 1"), ({"data_seed": -1}, "data_seed is -1"),
        ({"common": 1.5}, "common is 1.5"), ({"common": float("nan")}, "common is nan"),
        ({"relabel": "no"}, "relabel is 'no'"), ({"support": 1.0}, "support fraction of 1.0"),
        ({"support": 0.005}, "needs 100 samples"),
        ({"clients": 4}, "4 clients in shares"), ({"agents": 81}, "80 training clients for 81 agents"),
    ],
)  # fmt: skip
def test_options_that_make_no_federation_are_refused_by_name(options, said):
    with pytest.raises(ConfigError, match=said):
        synthetic(**{"agents": 2, "shots": 5, "queries": 5, **options})
