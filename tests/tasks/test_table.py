"""People's own tables as clients: whose rows are whose, what is kept back, who scales whom, and what one host sees."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from difnet import catalog, config
from difnet.errors import ConfigError, DataError
from difnet.tasks._owned import deal
from difnet.tasks.table_ import table
from difnet.workload.building import Own, build

ILL = ("no", "yes", "yes")
PARTS = ("support", "query", "validation", "test")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def owners(place: Path, names="abcdef", rows: int = 40) -> Path:
    """A table for each owner. A row's `mark` is unlike all others of all owners; classes are yes and no."""
    place.mkdir(exist_ok=True)
    for name in names:
        first = (ord(name) - ord("a")) * 1000
        lines = [f"{first + 2 * n},{'yes' if n % 3 else 'no'}" for n in range(rows)]
        (place / f"{name}.csv").write_text("mark,ill\n" + "\n".join(lines) + "\n")
    return place


FIXED = {"scale": "constants", "target": {"name": "ill", "kind": "classification", "classes": ["no", "yes"]},
         "columns": {"mark": {"kind": "number", "center": 0.0, "scale": 1.0}}}  # fmt: skip


def family(place, agents=3, shots=4, queries=5, **words):
    """By constants that change nothing, so that a row is known by its input."""
    return table(agents, shots, queries, data=place, **{"schema": FIXED, **words})


def marks(batch) -> set[int]:
    return set(batch[0].flatten().long().tolist())


def seen(f, client: str, agent: int) -> dict[str, set[int]]:
    """The marks of one client's parts, as far as 300 draws of each kind show them."""
    base = (ord(client) - ord("a")) * 1000
    own = set(range(base, base + 1000))
    train = f.draw(agent, 300, np.random.default_rng(0))
    parts = {"support": marks(train.support) & own, "query": marks(train.query) & own}
    for part in ("validation", "test"):
        kept = f.draw_kept(agent, part, 300, np.random.default_rng(1))
        assert marks(kept.support) <= marks(train.support)
        parts[part] = marks(kept.query) & own
    return parts


def test_clients_are_dealt_in_the_order_of_their_names_in_equal_runs(tmp_path):
    f = family(owners(tmp_path / "own"))
    assert f.owners == {0: ["a", "b"], 1: ["c", "d"], 2: ["e", "f"]} and f.here == [0, 1, 2]
    for agent in range(3):
        drawn = f.draw(agent, 100, np.random.default_rng(0))
        assert {mark // 1000 for mark in marks(drawn.support) | marks(drawn.query)} == {2 * agent, 2 * agent + 1}


def test_the_four_parts_of_a_client_share_no_row_and_are_all_its_rows(tmp_path):
    """Of 40 rows 4 and 4 are kept back, and 16 and 16 are for support and query."""
    f = family(owners(tmp_path / "own"))
    parts = seen(f, "c", 1)
    assert [len(parts[part]) for part in PARTS] == [16, 16, 4, 4]
    assert set().union(*parts.values()) == set(range(2000, 2080, 2))
    [told] = [entry for entry in f.manifest()["agents"][1] if entry["client"] == "c"]
    assert [told[part] for part in PARTS] == [16, 16, 4, 4]
    assert f.samples(1) == 64


def test_a_host_with_a_third_of_the_files_cuts_them_as_the_host_that_has_all(tmp_path):
    everything = family(owners(tmp_path / "own"))
    third = family(owners(tmp_path / "third", "cd"), agents=3, here=[1])
    assert third.here == [1] and third.owners == {1: ["c", "d"]}
    assert third.manifest()["agents"][0] == everything.manifest()["agents"][1]
    for draw in ("draw", "draw_alike"):
        a, b = (getattr(f, draw)(1, 20, np.random.default_rng(5)) for f in (everything, third))
        assert all(torch.equal(x, y) for s, t in zip(a, b, strict=True) for x, y in zip(s, t, strict=True))


def test_agents_whose_data_is_elsewhere_are_refused_by_name(tmp_path):
    f = family(owners(tmp_path / "own", "cd"), here=[1])
    for call in (lambda: f.draw(0, 1, np.random.default_rng(0)), lambda: f.samples(2),
                 lambda: f.draw_kept(2, "test", 1, np.random.default_rng(0))):  # fmt: skip
        with pytest.raises(ConfigError, match=r"the data of agent [02] is not here: this process has that of 1"):
            call()


def test_another_data_seed_cuts_otherwise_and_the_name_of_a_file_is_all_that_counts(tmp_path):
    place = owners(tmp_path / "own", "ab")
    one, other = (family(place, agents=1, data_seed=seed).manifest()["agents"][0][0]["rows"] for seed in (0, 1))
    (tmp_path / "moved").mkdir()
    (place / "b.csv").rename(tmp_path / "moved" / "b.csv")
    alone = family(tmp_path / "moved", agents=1)
    both = family(owners(tmp_path / "own", "ab"), agents=1)
    assert one != other
    assert alone.manifest()["agents"][0][0] == both.manifest()["agents"][0][1]


def test_without_keeping_back_all_rows_are_for_training(tmp_path):
    f = family(owners(tmp_path / "own", "a"), agents=1, keeps=False)
    drawn = f.draw(0, 300, np.random.default_rng(0))
    assert len(marks(drawn.support)) == len(marks(drawn.query)) == 20 and not marks(drawn.support) & marks(drawn.query)
    assert f.samples(0) == 40 and set(f.manifest()["agents"][0][0]) == {"client", "support", "query", "rows"}
    with pytest.raises(ConfigError, match="no rows are kept back"):
        f.draw_kept(0, "validation", 1, np.random.default_rng(0))


def test_drawn_alike_a_row_for_training_is_as_likely_as_any_other_and_none_that_is_kept(tmp_path):
    """32 rows, 9 of them drawn 3000 times: each 844 times, within five standard deviations."""
    f = family(owners(tmp_path / "own", "a"), agents=1)
    drawn = f.draw_alike(0, 3000, np.random.default_rng(0))
    counts = Counter(torch.cat([drawn.support[0], drawn.query[0]], 1).flatten().long().tolist())
    parts = seen(f, "a", 0)
    assert set(counts) == parts["support"] | parts["query"]
    spread = (3000 * 9 / 32 * 23 / 32) ** 0.5
    assert all(abs(n - 3000 * 9 / 32) < 5 * spread for n in counts.values())


def test_the_samples_that_are_counted_are_those_of_the_client_that_is_drawn(tmp_path):
    place = owners(owners(tmp_path / "own", "a", 40), "b", 90)
    f = family(place, agents=1)
    counted = f.samples_drawn(0, 50, np.random.default_rng(3))
    which = (f.draw(0, 50, np.random.default_rng(3)).support[0][:, 0, 0] >= 1000).numpy()
    assert counted.tolist() == np.where(which, 90 - 18, 40 - 8).tolist() and 0 < which.sum() < 50


def test_shapes_are_the_same_for_an_owner_with_few_rows_and_one_with_many(tmp_path):
    f = family(owners(owners(tmp_path / "own", "a", 10), "b", 500), agents=2, shots=12, queries=20)
    few, many = (f.draw(agent, 3, np.random.default_rng(0)) for agent in range(2))
    assert [t.shape for batch in few for t in batch] == [t.shape for batch in many for t in batch]
    assert len(set(few.support[0][0].flatten().tolist())) == 4 and len(set(many.support[0][0].flatten().tolist())) == 12


def test_owners_with_few_rows_are_left_out_and_named_and_too_few_are_refused(tmp_path):
    f = family(owners(owners(tmp_path / "own", "abc"), "b", 7), agents=2)
    assert f.owners == {0: ["a"], 1: ["c"]} and "b: 7 rows, fewer than 10 (task.least): left out" in f.cautions
    with pytest.raises(ConfigError, match=r"2 clients for 3 agents here; 1 more have fewer than 10 rows"):
        family(tmp_path / "own", agents=3)
    assert family(tmp_path / "own", agents=3, least=4).owners[1] == ["b"]


def test_seven_clients_are_dealt_three_two_and_two():
    assert [*deal(list("abcdefg"), [0, 1, 2]).values()] == [["a", "b", "c"], ["d", "e"], ["f", "g"]]


# What a task is made of


def test_a_task_is_scaled_by_its_own_support_rows_and_by_no_other(tmp_path):
    """Against numpy, row by row; and rows of the query, of the client or of others change nothing of it."""
    place = owners(tmp_path / "own", "ab")
    raw = family(place, agents=2).draw(0, 6, np.random.default_rng(4))
    made = table(2, 4, 5, data=place, target="ill").draw(0, 6, np.random.default_rng(4))
    for task in range(6):
        support = raw.support[0][task].double().numpy()
        for a, b in ((raw.support, made.support), (raw.query, made.query)):
            by_hand = (a[0][task].numpy() - support.mean(0)) / support.std(0)
            np.testing.assert_allclose(b[0][task], by_hand, rtol=1e-4, atol=1e-5)
            assert torch.equal(a[1][task], b[1][task])
    (place / "b.csv").write_text("mark,ill\n" + "\n".join(f"{n * 1e6},{'yes' if n % 2 else 'no'}" for n in range(40)))
    again = table(2, 4, 5, data=place, target="ill").draw(0, 6, np.random.default_rng(4))
    assert torch.equal(again.support[0], made.support[0]) and torch.equal(again.query[0], made.query[0])


def test_regression_learns_scaled_targets_and_tells_errors_in_their_unit(tmp_path):
    """A prediction of the scaled mean, 0, is off by as much as the rows are off their support's mean."""
    (tmp_path / "a.csv").write_text("x,price\n" + "\n".join(f"{2 * n},{100 + 3 * n * n}" for n in range(60)))
    f = table(1, 6, 8, data=tmp_path / "a.csv", target="price")
    assert f.model_words == {"inputs": 1, "outputs": 1} and not hasattr(f, "accuracy")
    plain = {"scale": "constants", "target": {"name": "price", "kind": "regression", "center": 0.0, "scale": 1.0},
             "columns": {"x": {"kind": "number", "center": 0.0, "scale": 1.0}}}  # fmt: skip
    unscaled = table(1, 6, 8, data=tmp_path / "a.csv", schema=plain).draw(0, 3, np.random.default_rng(0))
    tasks = f.draw(0, 3, np.random.default_rng(0))
    [(name, error)] = f.metrics.items()
    assert name == "absolute error (as 'price')"
    for task in range(3):
        y, unseen = (batch[1][task, :, 0].double().numpy() for batch in (unscaled.support, unscaled.query))
        zero = torch.zeros(8, 1)
        target = tasks.query[1][task]
        assert float(error(zero, target)) == pytest.approx(abs(unseen - y.mean()).mean(), rel=1e-4)
        assert float(f.loss(zero, target)) == pytest.approx((((unseen - y.mean()) / y.std()) ** 2).mean(), rel=1e-4)


def test_inputs_are_in_the_order_of_the_columns_names_whatever_the_files_say(tmp_path):
    (tmp_path / "a.csv").write_text("z,colour,ill,at\n" + "\n".join(
        f"{3 * n},{'red' if n % 2 else ''},{ILL[n % 3]},2026-01-{n + 1:02d}" for n in range(20)))
    (tmp_path / "b.csv").write_text("at,ill,colour,z\n" + "\n".join(
        f"2026-01-{n + 1:02d},{ILL[n % 3]},{'red' if n % 2 else 'blue'},{3 * n}" for n in range(20)))
    f = table(2, 3, 3, data=tmp_path, target="ill")
    assert f.schema.inputs == ["at", "colour=blue", "colour=red", "colour is a gap", "z"]
    assert f.draw(0, 2, np.random.default_rng(0)).support[0].shape == (2, 3, 5)
    of_b = f.draw(1, 50, np.random.default_rng(0)).support[0]
    torch.testing.assert_close(of_b[..., 0], of_b[..., 4], rtol=1e-3, atol=1e-3)  # day and z rise together
    assert of_b[..., 3].max() == 0 and (of_b[..., 1] + of_b[..., 2] == 1).all()


def test_one_file_with_a_column_of_clients_is_as_many_files(tmp_path):
    """The rows of its clients lie mixed; tasks are the same as of a file for each, in the same order of rows."""
    place = owners(tmp_path / "own", "abc")
    rows = [f"{name},{line}" for name in "abc" for line in (place / f"{name}.csv").read_text().splitlines()[1:]]
    order = np.random.default_rng(0).permutation(120)
    mixed = [rows[n] for n in sorted(order, key=lambda n: (n % 40, order[n]))]
    (tmp_path / "all.csv").write_text("who,mark,ill\n" + "\n".join(mixed) + "\n")
    files, one = family(place), family(tmp_path / "all.csv", client="who")
    assert one.owners == files.owners and one.manifest() == files.manifest()
    a, b = (f.draw(2, 10, np.random.default_rng(2)) for f in (files, one))
    assert torch.equal(a.support[0], b.support[0]) and torch.equal(a.query[1], b.query[1])


def test_cautions_name_owners_and_counts_and_no_value_of_a_row(tmp_path):
    lines = [f"{4711 + n},{'' if n < 3 else 8},no" for n in range(20)]
    (tmp_path / "ash.csv").write_text("a,b,ill\n" + "\n".join(lines) + "\n9999,1,\n")
    (tmp_path / "oak.csv").write_text("a,b,ill\n" + "\n".join(f"{n},{n % 4},{ILL[n % 2]}" for n in range(20)))
    f = table(2, 3, 3, data=tmp_path, target="ill")
    told = "\n".join(f.cautions)
    for said in ("ash: gaps in 20 rows: 3 of 'b'", "ash: the target is the same in all 20 rows",
                 "ash: 1 rows without a target are left out", "ash: the same in all 20 rows: 'b'"):  # fmt: skip
        assert said in told
    assert "4711" not in told and "9999" not in told and "oak:" not in told
    assert f.manifest()["targets"]["agents"] == [{"no": 20}, {"no": 10, "yes": 10}]


@pytest.mark.parametrize(("words", "said"), [
    ({"schema": None}, "neither a target nor a schema"),
    ({"target": "mark"}, "the schema's target is 'ill'"),
    ({"kept": 0.4}, "kept above 0 and 0.25 at most"),
    ({"support": 1.0}, "support must be above 0"),
    ({"least": 3}, "a whole number, 4 or more"),
    ({"schema": {**FIXED, "scale": "support"}, "shots": 1}, "a support set of one row has no spread"),
    ({"schema": {**FIXED, "scael": 1}}, "did you mean 'scale'"),
    ({"data_seed": -1}, "data_seed is -1"),
], ids=str)  # fmt: skip
def test_words_that_mean_nothing_are_refused(tmp_path, words, said):
    with pytest.raises(ConfigError, match=said):
        family(owners(tmp_path / "own"), **words).draw(0, 1, np.random.default_rng(0))


def test_the_catalog_makes_it_with_the_words_of_a_caller(tmp_path):
    place = owners(tmp_path / "own")
    f = catalog.make("tasks", "table", {"target": "ill"}, agents=3, shots=2, queries=2, data=place, here=[0, 2])
    assert list(f.owners) == [0, 2]
    with pytest.raises(ConfigError, match="does not take these options"):
        catalog.make("tasks", "table", {"target": "ill", "leest": 3}, agents=3, shots=2, queries=2, data=place)


def test_what_a_class_is_called_elsewhere_is_refused_by_line(tmp_path):
    place = owners(tmp_path / "own")
    with (place / "b.csv").open("a") as file:
        file.write("3,maybe\n")
    with pytest.raises(DataError, match=r"b.csv, line 42, column 'ill': is none of the 2 classes"):
        family(place)


@pytest.mark.parametrize("target", ["ill", "dose"])
def test_three_owners_learn_a_launch_model_that_fits_rows_they_kept_back(tmp_path, target):
    """With a rule that all have in common and a shift of each; each agent adapts on its own rows."""
    rng = np.random.default_rng(0)
    for n, name in enumerate("abc"):
        x = rng.normal(100 * n, 5, (80, 2))
        lines = [f"{a:.3f},{b:.3f},{'yes' if a - b > 0 else 'no'},{3 * a - b:.3f}" for a, b in x]
        head = "p,q,ill,dose\n" + "\n".join(lines)
        (tmp_path / f"{name}.csv").write_text(head + "\n")
    settings = {"task": {"name": "table", "target": target}, "tasks": 4, "shots": 8,
                "queries": 8, "inner_lr": 0.1, "outer_lr": 0.01, "engine": "eager"}  # fmt: skip
    w = build(config.load(settings=settings), 3, own=Own(tmp_path))
    kept = [w.family.draw_kept(k, "test", 20, np.random.default_rng(k)) for k in range(3)]

    def loss(state) -> float:
        fitted = [(w.algorithm.fit(state.w, (sx, sy), 1), (qx, qy)) for tasks in kept
                  for sx, sy, qx, qy in zip(*tasks.support, *tasks.query, strict=True)]  # fmt: skip
        return float(torch.stack([w.loss(model, batch) for model, batch in fitted]).mean())

    states, generators = [w.first_state(k) for k in range(3)], [np.random.default_rng(9 + k) for k in range(3)]
    before = loss(states[0])
    for _ in range(30):
        states = [w.algorithm.adapt(s, w.family.draw(k, 4, generators[k]))[0] for k, s in enumerate(states)]
        mixed = torch.stack([s.phi for s in states]).mean(0)
        states = [w.algorithm.combine(s, mixed) for s in states]
    assert loss(states[0]) < 0.75 * before
