"""Meta-Backward: its projection against a search, its schedules by hand, whole runs against the paper's constraints."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import mse_loss

from difnet.algorithms import Algorithm, State
from difnet.algorithms.meta_backward import meta_backward
from difnet.errors import ConfigError
from difnet.maths.flat import FlatModel
from difnet.maths.meta_backward import ascend, multiplier, project, radii, reach
from difnet.meta import Tasks

inf = math.inf


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape))


def close(got: Tensor, want, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=got.dtype), rtol=tolerance, atol=tolerance)


# --- the projection ------------------------------------------------------------------------------------------------


def nearest_by_search(phi: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """The nearest of a million points of the disc, then of a million around that one: a polar grid, no formula."""
    r, angle, spread = radius / 2, 0.0, (radius / 2, math.pi)
    for _ in range(4):
        rs = np.clip(np.linspace(r - spread[0], r + spread[0], 401), 0, radius)
        angles = np.linspace(angle - spread[1], angle + spread[1], 401)
        grid = centre + rs[:, None, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        i, j = np.unravel_index(np.argmin(((grid - phi) ** 2).sum(-1)), (401, 401))
        r, angle, spread = rs[i], angles[j], (spread[0] / 50, spread[1] / 50)
    return grid[i, j]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("radius", [0.05, 0.7, 3.0])
def test_the_projection_is_the_nearest_point_of_the_ball(seed, radius):
    phi, centre = 2 * numbers(2, seed=seed), numbers(2, seed=100 + seed)
    want = nearest_by_search(phi.numpy(), centre.numpy(), radius)
    close(project(phi, centre, radius), want, 1e-4)


def test_the_projection_meets_the_conditions_of_karush_kuhn_and_tucker_with_its_multiplier():
    """Eq. (28) to (30), and the quadratic of eq. (32), with delta = r^2; in many dimensions, inside and outside."""
    outside = 0
    for seed in range(20):
        phi, centre, radius = numbers(9, seed=seed), numbers(9, seed=50 + seed), 0.5 + 0.3 * seed
        mu, got = multiplier(phi, centre, radius), project(phi, centre, radius)
        distance, delta = np.linalg.norm((phi - centre).numpy()), radius**2
        close(got - phi + 2 * mu * (got - centre), torch.zeros(9))
        assert mu >= 0
        if distance > radius:
            outside += 1
            assert abs(mu**2 + mu - distance**2 / (4 * delta) + 0.25) < 1e-12 * distance**2 / delta
            assert abs(torch.sum((got - centre) ** 2) - delta) < 1e-12 * delta
        else:
            assert mu == 0 and torch.equal(got, phi)
    assert 5 < outside < 20


def test_the_projection_is_idempotent_and_never_takes_two_points_further_apart():
    centre, points = numbers(7), [numbers(7, seed=seed) * (0.2 + seed / 5) for seed in range(1, 15)]
    images = [project(phi, centre, 1.5) for phi in points]
    for phi, image in zip(points, images, strict=True):
        close(project(image, centre, 1.5), image, 1e-15)
        for other, other_image in zip(points, images, strict=True):
            assert (image - other_image).norm() <= (phi - other).norm() * (1 + 1e-14)


def test_a_ball_of_no_radius_is_its_centre_and_one_without_bounds_is_everything():
    """Each bit for bit, and without NaN where phi lies at the centre."""
    phi, centre = numbers(5), numbers(5, seed=1)
    assert torch.equal(project(phi, centre, 0.0), centre)
    assert torch.equal(project(phi, centre, inf), phi)
    for radius in (0.0, 1.0, inf):
        assert torch.equal(project(centre, centre, radius), centre)
        assert multiplier(centre, centre, radius) == 0
    assert multiplier(phi, centre, 0.0) == inf


# --- ascent --------------------------------------------------------------------------------------------------------


def parabola(w, batch):
    """3/2 ||w - c||^2, its mean over samples; c is the inputs."""
    return 1.5 * ((w - batch[0]) ** 2).sum(-1).mean()


def points(c: Tensor) -> Tasks:
    """One task whose four samples all lie at c."""
    return Tasks((c.expand(1, 3, -1), c.expand(1, 3, -1)), (c.expand(1, 1, -1), c.expand(1, 1, -1)))


def test_ascent_leaves_the_optimum_of_a_parabola_by_the_closed_form():
    """phi^k - c = (1 + a h)^(K-k) (phi* - c): a minus in eq. (25) would shrink it."""
    phi, c, start = numbers(4), numbers(4, seed=1), numbers(4)
    for _ in range(6):
        phi = ascend(parabola, phi, points(c), rate=0.05).phi
    close(phi - c, 1.15**6 * (start - c))


def test_ascent_takes_the_mean_over_all_samples_support_and_query_alike():
    """Two tasks of 2 + 1 samples: the gradient is 3 (phi - mean of the six)."""
    x, q, phi = numbers(2, 2, 4), numbers(2, 1, 4, seed=1), numbers(4, seed=2)
    ascent = ascend(parabola, phi, Tasks((x, x), (q, q)), rate=0.1)
    samples = np.concatenate([x.numpy().reshape(4, 4), q.numpy().reshape(2, 4)])
    slope = 3 * (phi.numpy() - samples.mean(0))
    close(ascent.phi, phi.numpy() + 0.1 * slope)
    close(ascent.gradient_norm, np.linalg.norm(slope))
    close(ascent.loss, 1.5 * ((phi.numpy() - samples) ** 2).sum(1).mean())


@pytest.mark.parametrize(("clip", "length"), [(2.0, 2.0), (5.0, 5.0), (15.0, 15.0), (16.0, 15.0), (None, 15.0)])
def test_a_clip_bounds_the_step_and_keeps_its_direction(clip, length):
    """At (3, 4) from c the gradient is (9, 12), of norm 15; what is reported is the norm before clipping."""
    phi, c = torch.tensor([3.0, 4.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    ascent = ascend(parabola, phi, points(c), rate=0.1, clip=clip)
    close(ascent.phi, phi + 0.1 * length * torch.tensor([0.6, 0.8], dtype=torch.float64))
    close(ascent.gradient_norm, 15.0)


# --- schedules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("schedule", "steps", "r_max", "end", "want"), [
    ("geometric", 4, 8.0, 1.0, [1, 2, 4, 8]),
    ("geometric", 3, 100.0, 0.01, [0.01, 1, 100]),
    ("geometric", 3, 0.5, 2.0, [0.5, 0.5, 0.5]),
    ("geometric", 3, 0.0, 1e-3, [0, 0, 0]),
    ("linear", 4, 8.0, 2.0, [2, 4, 6, 8]),
    ("linear", 3, 1.0, 0.0, [0, 0.5, 1]),
    ("constant", 3, 0.7, 1e-3, [0.7, 0.7, 0.7]),
    ("constant", 2, inf, 1e-3, [inf, inf]),
    ([0, 0.25, inf], 3, 1.0, 1e-3, [0, 0.25, inf]),
    ("geometric", 1, 5.0, 0.1, [0.1]),
])  # fmt: skip
def test_schedules_by_hand(schedule, steps, r_max, end, want):
    for top in (r_max, torch.tensor(r_max, dtype=torch.float64)):
        got = radii(schedule, steps, top, end=end)
        assert got.shape == (steps,)
        close(got.double(), torch.tensor(want, dtype=torch.float64), 1e-12 if torch.is_tensor(top) else 1e-6)
        assert (got.diff().nan_to_num(0.0) >= 0).all()


def test_a_geometric_schedule_falls_by_the_same_factor_in_every_step():
    """r_k = r_max rho^(K-1-k), down to 1e-3 where nothing else is said."""
    got = radii("geometric", 50, torch.tensor(2.5, dtype=torch.float64)).numpy()
    rho = (1e-3 / 2.5) ** (1 / 49)
    np.testing.assert_allclose(got, [2.5 * rho ** (49 - k) for k in range(50)], rtol=1e-12)
    assert got[-1] == pytest.approx(2.5, rel=1e-15) and got[0] == pytest.approx(1e-3, rel=1e-15)


@pytest.mark.parametrize(("options", "said"), [
    ({"schedule": "geometrical"}, "did you mean 'geometric'"),
    ({"schedule": [0.1, 0.2]}, "2 radii for 3 iterations"),
    ({"schedule": [0.3, 0.2, 0.1]}, r"try \[0.1, 0.2, 0.3\]"),
    ({"schedule": [-0.1, 0.2, 0.3]}, "numbers, 0 or more"),
    ({"schedule": [0.1, math.nan, 0.3]}, "numbers, 0 or more"),
    ({"schedule": ["a", "b", "c"]}, "numbers, 0 or more"),
    ({"end_radius": 0.0}, "end_radius"),
    ({"end_radius": -1.0, "schedule": "linear"}, "end_radius"),
    ({"radius": inf}, "'constant'"),
    ({"radius": -1.0}, "radius"),
    ({"radius": math.nan, "schedule": "constant"}, "radius"),
    ({"radius": 1.0, "schedule": [0.1, 0.2, 0.3]}, "leave one away"),
    ({"rate": -1.0}, "rate"),
    ({"clip": 0.0}, "clip"), ({"solve": "bal"}, "did you mean 'ball'"), ({"solve_steps": 0}, "solve_steps"),
])  # fmt: skip
def test_options_out_of_range_are_refused_before_the_run(options, said):
    with pytest.raises(ConfigError, match=said):
        meta_backward(network(), loss, iterations=3, **options)


# --- the algorithm -------------------------------------------------------------------------------------------------


K, AGENTS = 6, 3


def network() -> FlatModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FlatModel(nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double())


MODEL = network()


def loss(w, batch):
    return mse_loss(MODEL(w, batch[0]), batch[1])


def sines(agent: int, step: int) -> Tasks:
    x, q = numbers(2, 5, 1, seed=10 * step + agent), numbers(2, 3, 1, seed=1000 + 10 * step + agent)
    return Tasks((x, (agent + 1) * torch.sin(x)), (q, (agent + 1) * torch.sin(q)))


def local_models() -> list[Tensor]:
    return [numbers(MODEL.size, seed=agent) for agent in range(AGENTS)]


def run(algorithm: Algorithm, starts: list[Tensor], tasks, iterations: int):
    """The runtime's part on a star, written out: the offline start, then rounds of all agents and the hub.

    Yields: (k, Phi^{k+1}, the agents' states after the step, their infos), k = K-1 to 0; last, the launch model.
    """
    states = [algorithm.init(start) for start in starts]
    hub = algorithm.server.step(algorithm.server.init(torch.zeros_like(starts[0])), torch.stack(starts).mean(0))
    rounds = []
    for step in range(iterations):
        outcomes = [
            algorithm.adapt(algorithm.combine(state, hub.w), tasks(agent, step)) for agent, state in enumerate(states)
        ]
        states = [state for state, _ in outcomes]
        rounds.append((iterations - 1 - step, hub.w, states, [info for _, info in outcomes]))
        hub = algorithm.server.step(hub, torch.stack([state.phi for state in states]).mean(0))
    return rounds, hub.w


@pytest.mark.parametrize("options", [{}, {"radius": 2.0}, {"schedule": "linear", "end_radius": 0.1},
                                     {"schedule": "constant"}, {"schedule": [0.0, 0.1, 0.1, 0.5, 1.0, 2.0]}],
                         ids=str)  # fmt: skip
def test_a_run_keeps_every_agent_in_the_ball_of_every_step(options):
    """Eq. (13): ||phi_i^k - Phi^{k+1}||^2 <= delta_k, delta_k that of the common radius max_i ||phi*_i - Phi^K||."""
    algorithm, starts = meta_backward(MODEL, loss, iterations=K, rate=0.05, **options), local_models()
    average = np.mean([start.numpy() for start in starts], axis=0)
    r_max = options.get("radius", max(np.linalg.norm(start.numpy() - average) for start in starts))
    first = torch.tensor(r_max, dtype=torch.float64)
    common = radii(options.get("schedule", "geometric"), K, first, end=options.get("end_radius", 1e-3)).numpy()
    rounds, _ = run(algorithm, starts, sines, K)
    assert [k for k, *_ in rounds] == [5, 4, 3, 2, 1, 0]
    projected = 0.0
    for k, centre, states, infos in rounds:
        for state, info in zip(states, infos, strict=True):
            distance = np.linalg.norm((state.phi - centre).numpy())
            assert distance**2 <= common[k] ** 2 * (1 + 1e-12)
            assert info["distance"].item() == pytest.approx(distance, rel=1e-12, abs=1e-300)
            assert torch.equal(state.slots[0], state.phi) and torch.equal(state.w, centre)
            projected += info["projected"].item()
    assert projected > 0


@pytest.mark.parametrize("clip", [None, 1.5])
def test_every_step_is_the_papers_step(clip):
    """Each phi_i^k from phi_i^{k+1} and Phi^{k+1} by numpy: the ascent along autograd's gradient, min(1, r / norm)."""
    algorithm, starts = meta_backward(MODEL, loss, iterations=K, rate=0.05, end_radius=0.2, clip=clip), local_models()
    average = np.mean([start.numpy() for start in starts], axis=0)
    before = [start.numpy() for start in starts]
    first = [np.linalg.norm(phi - average) for phi in before]
    rounds, launch_model = run(algorithm, starts, sines, K)
    moved, clipped = set(), set()
    for step, (k, centre, states, infos) in enumerate(rounds):
        np.testing.assert_allclose(centre.numpy(), average, rtol=1e-12)
        for agent in range(AGENTS):
            w = torch.tensor(before[agent], requires_grad=True)
            (x, y), (q, z) = sines(agent, step)
            value = loss(w, (torch.cat([*x, *q]), torch.cat([*y, *z])))
            value.backward()
            norm = np.linalg.norm(w.grad.numpy())
            up = before[agent] + 0.05 * w.grad.numpy() * min(1, (clip or inf) / norm)
            r = first[agent] * (0.2 / first[agent]) ** ((K - 1 - k) / (K - 1))
            distance = np.linalg.norm(up - average)
            before[agent] = average + (up - average) * min(1, r / distance)
            np.testing.assert_allclose(states[agent].phi.numpy(), before[agent], rtol=1e-11)
            assert infos[agent]["loss"].item() == pytest.approx(value.item(), rel=1e-12)
            assert infos[agent]["gradient_norm"].item() == pytest.approx(norm, rel=1e-12)
            assert infos[agent]["projected"].item() == (distance > r)
            moved.add(distance > r)
            clipped.add(norm > (clip or inf))
        average = np.mean(before, axis=0)
    np.testing.assert_allclose(launch_model.numpy(), average, rtol=1e-11)
    assert True in moved and clipped == ({True, False} if clip else {False})


@pytest.mark.parametrize("options", [{"radius": 0.0}, {"radius": 0.0, "schedule": "constant"}, {"schedule": [0.0] * K}])
def test_balls_of_no_radius_give_the_plain_average_of_the_local_models(options):
    starts = [2.0 * torch.arange(MODEL.size).double() * (agent + 1) for agent in range(AGENTS)]  # their mean is exact
    rounds, launch_model = run(meta_backward(MODEL, loss, iterations=K, rate=0.05, **options), starts, sines, K)
    assert torch.equal(launch_model, starts[1])
    assert all(torch.equal(state.phi, starts[1]) for _, _, states, _ in rounds for state in states)


def test_balls_without_bounds_let_every_agent_climb_alone():
    """phi_i^0 - c_i = (1 + a h)^K (phi*_i - c_i) on parabolas; the launch model is the mean of these."""
    centres, starts = [numbers(4, seed=9 + i) for i in range(AGENTS)], [numbers(4, seed=i) for i in range(AGENTS)]
    algorithm = meta_backward(MODEL, parabola, iterations=K, rate=0.05, schedule="constant", radius=inf)
    rounds, launch_model = run(algorithm, starts, lambda agent, step: points(centres[agent]), K)
    ends = [c + 1.15**K * (start - c) for c, start in zip(centres, starts, strict=True)]
    for state, info, want in zip(rounds[-1][2], rounds[-1][3], ends, strict=True):
        close(state.phi, want)
        assert info["projected"] == 0
    close(launch_model, torch.stack(ends).mean(0))


def test_a_step_beyond_the_last_one_stays_in_the_last_ball():
    algorithm = meta_backward(MODEL, loss, iterations=3, rate=0.5, schedule=[0.25, 0.5, 1.0])
    rounds, _ = run(algorithm, local_models(), sines, 5)
    for (_, _, _, infos), radius in zip(rounds, [1.0, 0.5, 0.25, 0.25, 0.25], strict=True):
        assert max(info["distance"].item() for info in infos) == pytest.approx(radius, rel=1e-12)


def test_it_asks_for_an_offline_start_and_everyone_and_no_hub():
    algorithm = meta_backward(MODEL, loss)
    assert algorithm.offline and algorithm.everyone and not algorithm.needs_hub and algorithm.server is not None
    support = (numbers(5, 1), numbers(5, 1, seed=1))
    w = local_models()[0].requires_grad_()
    loss(w, support).backward()
    fitted = meta_backward(MODEL, loss, inner_lr=0.05).fit(w.detach(), support, 1)
    close(fitted, w.detach() - 0.05 * w.grad)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"schedule": "constant", "clip": 0.5}, {"schedule": [0.1] * 5 + [0.9]}],
                         ids=str)  # fmt: skip
def test_a_trace_and_a_map_over_agents_compute_what_the_code_says(options):
    """Traced in the first step with one agent's values, used in later steps and by others; phi of the state is not."""
    algorithm, starts = meta_backward(MODEL, loss, iterations=K, rate=0.05, **options), local_models()

    def adapt(w, phi, done, first, *tensors):
        given = State(w, torch.full_like(w, math.nan), (phi, done, first))
        state, info = algorithm.adapt(given, Tasks(tensors[:2], tensors[2:]))
        return [state.phi, *state.slots, *info.values()]

    centre = torch.stack(starts).mean(0)
    slots = [algorithm.init(start).slots for start in starts]
    traced = None
    for step in range(3):
        inputs = [[centre, *slots[k], *(t for batch in sines(k, step) for t in batch)] for k in range(AGENTS)]
        traced = traced or make_fx(adapt)(*inputs[0])
        plain = [adapt(*given) for given in inputs]
        mapped = vmap(adapt)(*(torch.stack(given) for given in zip(*inputs, strict=True)))
        for k in range(AGENTS):
            for got in (traced(*inputs[k]), [values[k] for values in mapped]):
                for mine, theirs in zip(got, plain[k], strict=True):
                    close(mine, theirs)
        slots = [tuple(outcome[1:4]) for outcome in plain]
        centre = torch.stack([outcome[0] for outcome in plain]).mean(0)
    assert {outcome[2].item() for outcome in plain} == {3.0}


# --- (23) solved in its ball ---------------------------------------------------------------------------------------


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def gap_of(phi: Tensor, tasks: Tasks, target: float, loss=loss) -> float:
    samples = tuple(torch.cat([*s, *q]) for s, q in zip(*tasks, strict=True))
    return abs(float(loss(phi, samples)) - target)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("radius", [0.0, 0.01, 0.3, 3.0])
@pytest.mark.parametrize("times", [0.0, 0.5, 1.02, 3.0])
def test_what_is_reached_lies_in_the_ball_and_is_never_worse_than_the_projection(seed, radius, times):
    """Whatever the level asked for, a tanh net's loss from nothing to three times what it is."""
    centre, tasks = numbers(MODEL.size, seed=seed), sines(seed % AGENTS, seed)
    phi = project(centre + numbers(MODEL.size, seed=50 + seed), centre, radius)
    target = times * gap_of(phi, tasks, 0.0)
    before, gaps = gap_of(phi, tasks, target), []
    for steps in (1, 3, 10, 30):
        point, gap = reach(loss, phi, tasks, number(target), centre=centre, radius=radius, steps=steps)
        assert torch.linalg.vector_norm(point - centre) <= radius * (1 + 1e-12)
        close(gap, gap_of(point, tasks, target))
        gaps.append(float(gap))
    assert gaps == sorted(gaps, reverse=True) and gaps[0] <= before * (1 + 1e-12)
    assert gaps[-1] < before if radius > 0 and times == 0.5 else gaps[-1] <= before * (1 + 1e-12)


@pytest.mark.parametrize("radius", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0, 2.0])
def test_on_a_parabola_it_comes_as_near_as_a_line_search_does(level, radius):
    """Its levels are spheres around c, so a line through c and the ball's centre meets every level that the ball has.

    `level` is the target, in units of the loss at the ball's centre; with the small ball some are out of reach.
    """
    c, centre = numbers(4, seed=1), numbers(4)
    away = (centre - c) / torch.linalg.vector_norm(centre - c)
    target = level * gap_of(centre, points(c), 0.0, parabola)
    line = [centre + float(t) * away for t in np.linspace(-radius, radius, 20001)]
    best = min(gap_of(point, points(c), target, parabola) for point in line)
    side = project(centre + numbers(4, seed=2), centre, radius)
    point, gap = reach(parabola, side, points(c), number(target), centre=centre, radius=radius,
                       steps=400)  # fmt: skip
    assert torch.linalg.vector_norm(point - centre) <= radius * (1 + 1e-12)
    assert abs(float(gap) - best) < 2e-3 * max(1.0, target)
    assert best < 1e-2 or float(gap) > best - 1e-9


def test_where_there_is_no_slope_it_stays():
    c = numbers(4)
    point, gap = reach(parabola, c, points(c), number(0.7), centre=c, radius=1.0, steps=5)
    assert torch.equal(point, c) and gap == 0.7


def test_solved_in_the_ball_every_step_has_the_loss_nearer_to_what_the_ascent_asks_for():
    """A whole run, and at each of its steps the point that the printed form would have gone to from there."""
    algorithm, starts = meta_backward(MODEL, loss, iterations=K, rate=0.05, solve="ball"), local_models()
    rounds, _ = run(algorithm, starts, sines, K)
    before, nearer = [start.numpy() for start in starts], 0
    average = torch.stack(starts).mean(0)
    first = [float(torch.linalg.vector_norm(start - average)) for start in starts]
    for step, (_, centre, states, infos) in enumerate(rounds):
        for agent, (state, info) in enumerate(zip(states, infos, strict=True)):
            w, tasks = torch.tensor(before[agent], requires_grad=True), sines(agent, step)
            (x, y), (q, z) = tasks
            loss(w, (torch.cat([*x, *q]), torch.cat([*y, *z]))).backward()
            up = w.detach() + 0.05 * w.grad
            target = gap_of(up, tasks, 0.0)
            radius = first[agent] * (1e-3 / first[agent]) ** (step / (K - 1))
            printed = project(up, centre, radius)
            assert torch.linalg.vector_norm(state.phi - centre) <= radius * (1 + 1e-12)
            close(info["gap"], gap_of(state.phi, tasks, target))
            assert info["gap"] <= gap_of(printed, tasks, target) + 1e-9
            nearer += float(info["gap"]) < 0.9 * gap_of(printed, tasks, target)
            before[agent] = state.phi.numpy()
    assert nearer >= 5
