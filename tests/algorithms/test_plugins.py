"""Every plug-in in the catalog through one battery: a new file is tested by existing."""

import inspect
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from difnet import catalog, config, places
from difnet.algorithms import Algorithm, State
from difnet.errors import ConfigError
from difnet.maths.flat import FlatModel, flatten
from difnet.maths.optimizers import OPTIMIZERS
from difnet.meta import Tasks
from difnet.workload import TaskStream
from difnet.workload.building import Own, build
from difnet.workload.kernels import flat_adapt
from tests import miniature

AGENTS = 4
OWNED = ("table", "images", "arrays")  # nobody has the data of all
REPEAT = {"recommendation": "two records of a user may have the same features, after the same past"}


def variants(name: str) -> list[dict]:
    """The options under which an algorithm is tested: each of its inner rules, where it has several."""
    factory = catalog.load("algorithms", name)
    if "inner" not in inspect.signature(factory).parameters:
        return [{}]
    return [{"inner": inner} for inner in sys.modules[factory.__module__].INNER]


CASES = [
    *((name, options, "adam") for name in catalog.names("algorithms") for options in variants(name)),
    *(("dif-maml", {}, optimizer) for optimizer in OPTIMIZERS if optimizer != "adam"),
]
IDS = [" ".join([name, *options.values(), optimizer]) for name, options, optimizer in CASES]
QUICK = (("dif-maml", {"inner": "maml"}, "adam"), ("fedmeta", {"inner": "meta-sgd"}, "adam"))
every_algorithm = pytest.mark.parametrize("case", CASES, ids=IDS)
every_algorithm_slowly = pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES], ids=IDS
)
every_family = pytest.mark.parametrize("name", catalog.names("tasks"))
LARGE = ("char-lstm", "conv4", "femnist-cnn", "word-lstm")  # a step of adapt takes seconds
every_model = pytest.mark.parametrize("name", catalog.names("models"))


def workload(case=("dif-maml", {}, "adam"), hub=None, **settings):
    name, options, optimizer = case
    settings = {"algorithm": {"name": name, **options}, "optimizer": optimizer, "tasks": 2, "shots": 3, "queries": 4,
                "inner_steps": 1, "dtype": "float64", "eval_tasks": 2} | settings  # fmt: skip
    if isinstance(task := settings.get("task"), str):
        settings |= {"task": {"name": task, **miniature.options_of(task)}, "data_dir": str(miniature.home())}
        model = settings.get("model") or family(task).default_model
        settings["model"] = {"name": model, **miniature.SMALL.get(model, {})}
    data = settings["task"].pop("data", None) if isinstance(settings.get("task"), dict) else None
    with miniature.kept_apart():
        own = Own(Path(data)) if data else None
        return build(config.load(settings=settings), AGENTS + (hub is not None), hub, own=own)


def on_a_star(case):
    """The last agent is the hub, so that clients have the numbers they have without one. Shared: it is a value."""
    name, options, optimizer = case
    return _on_a_star(name, tuple(options.items()), optimizer)


@cache
def _on_a_star(name, options, optimizer):
    return workload((name, dict(options), optimizer), hub=AGENTS)


def begun(w) -> State:
    """A state in the middle of a run: agent 0 has combined what is not its own model."""
    return w.algorithm.combine(w.first_state(0), w.first_state(0).w * 1.1 + 0.01)


def flat(state: State) -> list[torch.Tensor]:
    return [state.w, state.phi, *state.slots]


def equal(a, b) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in ("algorithms", "tasks", "models", "places")
                                             for n in catalog.names(g)])  # fmt: skip
def test_every_name_leads_to_a_factory_with_a_docstring(group, name):
    """And its file says what it is."""
    factory = catalog.load(group, name)
    assert callable(factory)
    assert inspect.getdoc(factory) and sys.modules[factory.__module__].__doc__


# --- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [{}, {"agents_per_host": 3}, {"hosts_expected": 4}])
@pytest.mark.parametrize("name", catalog.names("places"))
def test_a_places_plan_has_every_agent_at_one_host_and_begins_nothing(name, words, tmp_path, monkeypatch):
    """In the words of the environment contract or its flags; asked twice, it says the same."""
    if "hosts_expected" in words and name != "expected":
        pytest.skip("somebody else starts no hosts there")
    monkeypatch.chdir(tmp_path)
    asked = config.load(settings={"topology": "cycle_graph(n=11)", "place": name, **words})
    place = catalog.load("places", name)(asked, 11)
    told = re.findall(r'(?:DIFNET_AGENTS[=:] ?"?|--agents )([\d,-]+)', place.plan())
    assert sorted(k for share in told for k in places.parse_agents(share)) == list(range(11))
    assert place.plan() == place.plan() and place.poll() is None and not any(tmp_path.iterdir())


# --- algorithms ----------------------------------------------------------------------------------------------------


@every_algorithm
def test_adapt_leaves_the_launch_model_alone(case):
    """It makes phi and nothing else; the state it was given can be used again."""
    w = on_a_star(case)
    state, tasks = begun(w), TaskStream(w, 0)(0)
    before, drawn = [t.clone() for t in flat(state)], [t.clone() for batch in tasks for t in batch]
    after, _ = w.algorithm.adapt(state, tasks)
    assert equal(flat(state), before) and equal([t for batch in tasks for t in batch], drawn)
    assert torch.equal(after.w, state.w) and not torch.equal(after.phi, state.w)
    assert after.phi.shape == state.w.shape == (w.length,) and after.phi.dtype == torch.float64
    assert after.phi.isfinite().all()
    assert [t.shape for t in after.slots] == [t.shape for t in state.slots]


@every_algorithm
def test_adapt_reports_scalars_the_loss_first(case):
    w = on_a_star(case)
    _, info = w.algorithm.adapt(begun(w), TaskStream(w, 0)(0))
    assert next(iter(info)) == "loss"
    assert all(figure.shape == () and figure.isfinite() for figure in info.values())


@every_algorithm
def test_adapt_does_not_read_what_travelled_last(case):
    """Kernels are handed w and the slots alone."""
    w = on_a_star(case)
    state, tasks = begun(w), TaskStream(w, 0)(0)
    one, other = (w.algorithm.adapt(state._replace(phi=phi), tasks)[0] for phi in (state.w, state.w * float("nan")))
    assert equal(flat(one), flat(other))


@every_algorithm
def test_combine_sets_the_launch_model_and_changes_nothing_in_place(case):
    w = on_a_star(case)
    state, _ = w.algorithm.adapt(begun(w), TaskStream(w, 0)(0))
    before, mixed = [t.clone() for t in flat(state)], torch.full_like(state.w, 0.25)
    after = w.algorithm.combine(state, mixed)
    assert torch.equal(after.w, mixed)
    assert torch.equal(after.phi, state.phi) and [t.shape for t in after.slots] == [t.shape for t in state.slots]
    assert equal(flat(state), before)


@every_algorithm
def test_a_model_is_fitted_without_what_is_learnt_beside_it_being_lost(case):
    """No steps: no change; some: the same length, another model."""
    w = on_a_star(case)
    launch_model, tasks = begun(w).w, TaskStream(w, 0)(0)
    support = tuple(t[0] for t in tasks.support)
    assert torch.equal(w.algorithm.fit(launch_model, support, 0), launch_model)
    fitted = w.algorithm.fit(launch_model, support, 2)
    assert fitted.shape == (w.length,) and w.algorithm.model(fitted).shape == (w.model.size,)
    assert not torch.equal(w.algorithm.model(fitted), w.algorithm.model(launch_model))


@every_algorithm
def test_a_server_steps_from_the_mean_and_changes_nothing_in_place(case):
    """Or the algorithm has none; then it runs on any graph."""
    w = on_a_star(case)
    server = w.algorithm.server
    if server is None:
        assert not w.algorithm.needs_hub and w.hub is None
        return
    assert w.hub == AGENTS
    state = server.init(w.first_state(0).w)
    mean = torch.full_like(state.w, 0.25)
    before = [t.clone() for t in flat(state)]
    once = server.step(state, mean)
    assert equal(flat(state), before) and once.w.shape == (w.length,) and once.w.isfinite().all()
    assert not torch.equal(once.w, state.w) and equal(flat(server.step(state, mean)), flat(once))


@every_algorithm
def test_an_algorithm_that_needs_a_hub_is_refused_elsewhere_with_the_topologies_that_would_do(case):
    if on_a_star(case).algorithm.needs_hub:
        with pytest.raises(ConfigError, match=r"needs a hub.*star_graph\(n=3\).*star10"):
            workload(case)
    else:
        assert workload(case).hub is None


@every_algorithm
def test_the_same_seed_gives_the_same_bits_and_nobody_elses_randomness_is_touched(case):
    def two_steps():
        w = workload(case, hub=AGENTS)
        state, stream = begun(w), TaskStream(w, 1)
        for step in range(2):
            state, info = w.algorithm.adapt(state, stream(step))
            state = w.algorithm.combine(state, state.phi)
        return [*flat(state), *info.values()]

    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), np.random.get_state()[2]
    first = two_steps()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and np.random.get_state()[2] == before[2]
    torch.manual_seed(2)
    np.random.seed(2)
    assert equal(two_steps(), first)


@every_algorithm_slowly
def test_a_trace_computes_what_the_code_says(case):
    """Agents run the trace: with other tasks, and further on, than it was made with."""
    w = on_a_star(case)
    adapt, example, names = flat_adapt(w, w.algorithm)
    traced = make_fx(lambda *inputs: adapt(list(inputs)))(*example)
    state, stream = begun(w), TaskStream(w, 2)
    for step in range(1, 3):
        tasks = stream(step)
        got = traced(state.w, *state.slots, *tasks.support, *tasks.query)
        state, info = w.algorithm.adapt(state, tasks)
        assert names == [*info]
        for mine, theirs in zip(got, [state.phi, *state.slots, *info.values()], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
        state = w.algorithm.combine(state, state.phi)


@every_algorithm
def test_agents_together_compute_what_each_computes_alone(case):
    """The batched simulator maps adapt over agents."""
    w = on_a_star(case)
    states = [begun(w)] * 3
    drawn = [TaskStream(w, k)(0) for k in range(3)]
    one = flat_adapt(w, w.algorithm)[0]
    inputs = [[s.w, *s.slots, *tasks.support, *tasks.query] for s, tasks in zip(states, drawn, strict=True)]
    stacked = [torch.stack(same) for same in zip(*inputs, strict=True)]
    got = torch.func.vmap(lambda *inputs: tuple(one(list(inputs))))(*stacked)
    for k, (state, tasks) in enumerate(zip(states, drawn, strict=True)):
        after, info = w.algorithm.adapt(state, tasks)
        for mine, theirs in zip(got, [after.phi, *after.slots, *info.values()], strict=True):
            torch.testing.assert_close(mine[k], theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", catalog.names("algorithms"))
def test_an_algorithm_is_a_few_functions_and_refuses_an_option_it_does_not_have(name):
    assert isinstance(on_a_star((name, {}, "sgd")).algorithm, Algorithm)
    with pytest.raises(ConfigError, match=f"{name}.*no_such_option"):
        on_a_star((name, {"no_such_option": 1}, "sgd"))


# --- task families -------------------------------------------------------------------------------------------------


def family(name: str):
    return miniature.family(name, agents=AGENTS, shots=5, queries=6)


def tensors(tasks: Tasks) -> list[torch.Tensor]:
    return [*tasks.support, *tasks.query]


@every_family
@pytest.mark.parametrize("agent", [0, AGENTS - 1, None])
def test_a_family_draws_as_many_tasks_as_asked_for_an_agent_or_for_all(name, agent):
    if name in OWNED and agent is None:
        with pytest.raises(ConfigError, match="nobody has the data of the whole network"):
            family(name).draw(None, 1, np.random.default_rng(0))
        return
    for count in (1, 7):
        drawn = tensors(family(name).draw(agent, count, np.random.default_rng(0)))
        assert [t.shape[0] for t in drawn] == [count] * 4
        assert drawn[0].shape[1] == drawn[1].shape[1] > 0 and drawn[2].shape[1] == drawn[3].shape[1] > 0
        assert all(t.dtype in (torch.float64, torch.float32, torch.int64, torch.int32, torch.uint8) for t in drawn)
        assert all(t.isfinite().all() for t in drawn)


@every_family
def test_a_family_draws_from_the_generator_it_is_given_alone(name):
    """The same generator, the same tasks, in two families alike; another one, or an advanced one, others."""
    one, other = family(name), family(name)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[2]
    rng = np.random.default_rng(0)
    first, later = tensors(one.draw(1, 3, rng)), tensors(one.draw(1, 3, rng))
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[2] == before[1]
    torch.manual_seed(2)
    np.random.seed(2)
    assert equal(tensors(other.draw(1, 3, np.random.default_rng(0))), first)
    assert not equal(later, first)
    assert not equal(tensors(one.draw(1, 3, np.random.default_rng(1))), first)


@every_family
def test_support_and_query_samples_are_never_the_same_points(name):
    """A well-known release draws the same points twice by mistake."""
    if name in REPEAT:
        pytest.skip(REPEAT[name])
    x, _, q, _ = tensors(family(name).draw(0, 20, np.random.default_rng(0)))
    for task in range(20):
        samples = torch.cat([x[task].flatten(1), q[task].flatten(1)]).double()
        assert len(samples.unique(dim=0)) == len(samples)


@every_family
def test_the_tasks_of_one_draw_differ_from_each_other(name):
    x, y, _, _ = tensors(family(name).draw(0, 20, np.random.default_rng(0)))
    numbers_classes_anew = hasattr(family(name), "ways")
    for t in (x,) if numbers_classes_anew else (x, y):
        assert len(t.flatten(1).double().unique(dim=0)) > 1


@every_family
def test_the_loss_of_a_family_is_a_mean(name):
    """A scalar that does not grow when every sample is given twice, and that can be differentiated."""
    w = workload(task=name)
    drawn = w.draw(0, 1, np.random.default_rng(0))
    batch = tuple(t[0] for t in drawn.support)
    twice = tuple(torch.cat([t, t]) for t in batch)
    launch_model = w.first_launch_model(0)
    loss = w.loss(launch_model, batch)
    assert loss.shape == () and loss.isfinite()
    torch.testing.assert_close(w.loss(launch_model, twice), loss, rtol=1e-10, atol=1e-12)
    assert torch.func.grad(w.loss)(launch_model, batch).abs().max() > 0


@every_family
def test_a_family_names_a_model_that_fits_it(name):
    assert family(name).default_model in catalog.names("models")
    assert workload(task=name).model.size > 0


def test_slow_networks_are_validated_on_fewer_tasks_unless_told():
    """A hundred tasks, twenty of pictures, whose networks take them one after another; or as many as are asked for."""

    def validated(task, eval_tasks=None):
        return len(workload(task=task, eval_tasks=eval_tasks).validation_tasks().query[0])

    assert (validated("sinusoid"), validated("omniglot"), validated("omniglot", 3)) == (100, 20, 3)


# --- models --------------------------------------------------------------------------------------------------------


@every_model
def test_a_model_is_a_module_of_floating_point_parameters_without_running_statistics(name):
    module = catalog.load("models", name)()
    assert isinstance(module, nn.Module)
    assert all(p.is_floating_point() for p in module.parameters())
    assert FlatModel(module).size == flatten(module, torch.float32).numel()


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in LARGE else [])
                                  for name in catalog.names("models")])  # fmt: skip
def test_a_model_fits_a_family_and_learns_from_it(name):
    """One whose own model it is, or else any; a step of adapt on its tasks lowers a finite loss.

    Without an inner step, whose gradient jumps where a ReLU or a maximum changes sides: between two such places, near
    each other in a network of pictures, a step down the meta-gradient need not lower the loss.
    """
    fitting = []
    owners = [task for task in catalog.names("tasks") if family(task).default_model == name]
    for task in owners or catalog.names("tasks"):
        try:
            fitting.append(workload(("dif-maml", {}, "sgd"), task=task, model=name, inner_lr=0.0, outer_lr=1e-4))
        except ConfigError:
            continue
    assert fitting, f"no task family of the catalog fits the model {name!r} as it comes"
    for w in fitting:
        tasks = TaskStream(w, 0)(0)
        state, before = w.algorithm.adapt(w.first_state(0), tasks)
        _, after = w.algorithm.adapt(w.algorithm.combine(state, state.phi), tasks)
        assert after["loss"] < before["loss"]


@every_model
def test_a_model_begins_the_same_from_the_same_seed(name):
    def first(seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return flatten(catalog.load("models", name)(), torch.float32)

    assert torch.equal(first(0), first(0)) and not torch.equal(first(0), first(1))
