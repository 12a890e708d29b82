"""N-way k-shot episodes of small tables: every picture says which class, which drawing and which way up it is."""

import numpy as np
import pytest
import torch

from difnet.data import Table
from difnet.errors import ConfigError
from difnet.tasks._episodes import episodes_of

CLASSES, EACH = 24, 8
PARTS = {"train": np.arange(0, 14), "validation": np.arange(14, 18), "test": np.arange(18, 24)}


def picture(group: int, drawing: int) -> np.ndarray:
    """Corners: group, drawing, 201, 202; turned, these are elsewhere."""
    return np.array([[group, drawing], [201, 202]], np.uint8)


def table(sizes=None) -> Table:
    sizes = np.full(CLASSES, EACH) if sizes is None else np.asarray(sizes)
    pictures = np.stack([picture(g, n) for g in range(CLASSES) for n in range(sizes[g])])
    return Table(pictures, np.repeat(np.arange(CLASSES), sizes), np.cumsum(sizes) - sizes, sizes,
                 [f"class-{g}" for g in range(CLASSES)], "digest", {})  # fmt: skip


def episodes(agents=2, partition="none", ways=3, shots=2, queries=4, turns=1, data=None, parts=None):
    return episodes_of(data or table(), parts or PARTS, agents=agents, partition=partition, ways=ways, shots=shots,
                       queries=queries, turns=turns, change=lambda pixels: pixels[..., None, :, :].astype(np.float32),
                       default_model="conv4", model_words={"size": 2})  # fmt: skip


def told(x: torch.Tensor) -> tuple[int, int, int]:
    """(group, drawing, quarter turns against the clock) of a picture (1, 2, 2), found by turning it back."""
    pixels = x[0].tolist()
    for turn in range(4):
        if pixels[1] == [201, 202]:
            return int(pixels[0][0]), int(pixels[0][1]), turn
        (a, b), (c, d) = pixels  # a quarter turn with the clock, by hand
        pixels = [[c, a], [d, b]]
    raise AssertionError(f"no picture of ours: {x}")


def tasks(family, agent=0, count=60, part=None):
    """For each task its support and query samples, as (label, group, drawing, turn)."""
    rng = np.random.default_rng(0)
    drawn = family.draw_unseen(part, count, rng) if part else family.draw(agent, count, rng)
    return [
        tuple([(int(y), *told(x)) for x, y in zip(inputs[t], labels[t], strict=True)] for inputs, labels in drawn)
        for t in range(count)
    ]


def test_every_class_of_a_task_has_its_shots_and_queries_and_one_label():
    for support, query in tasks(episodes(), count=20):
        assert [label for label, *_ in support] == [0, 0, 1, 1, 2, 2]
        assert [label for label, *_ in query] == [0] * 4 + [1] * 4 + [2] * 4
        groups = {label: {g for own, g, *_ in support + query if own == label} for label in range(3)}
        assert all(len(g) == 1 for g in groups.values()) and len(set.union(*groups.values())) == 3


@pytest.mark.parametrize("turns", [1, 4])
def test_no_drawing_is_both_support_and_query_of_a_class_nor_twice_in_a_task(turns):
    for support, query in tasks(episodes(turns=turns)):
        assert len({*support, *query}) == len(support) + len(query) == 18


def test_a_group_has_another_label_from_task_to_task():
    """Of 14 classes any of three, in any order: class 0 has each label about 60 * 1/14 times in 600 tasks."""
    labels = [{g: label for label, g, *_ in support}.get(0) for support, _ in tasks(episodes(), count=600)]
    assert all(15 < labels.count(label) < 75 for label in range(3))


def test_classes_for_training_validation_and_test_are_disjoint_and_all_are_used():
    family = episodes()
    seen = [{g for s, q in tasks(family, agent, part=part) for _, g, *_ in s + q}
            for agent, part in ((0, None), (None, None), (0, "validation"), (0, "test"))]  # fmt: skip
    assert seen == [set(PARTS["train"]), set(PARTS["validation"]), set(PARTS["validation"]), set(PARTS["test"])]


def test_turned_classes_are_classes_of_their_own_and_turned_as_a_whole():
    """Within a label one turn; among tasks all four; the same group upright and turned may meet in one task."""
    family, seen, met = episodes(turns=4, ways=4, shots=1, queries=2), set(), 0
    for support, query in tasks(family, count=300):
        classes = {label: {(g, turn) for own, g, _, turn in support + query if own == label} for label in range(4)}
        assert all(len(c) == 1 for c in classes.values())
        pairs = [next(iter(c)) for c in classes.values()]
        assert len(set(pairs)) == 4
        seen |= set(pairs)
        met += len({g for g, _ in pairs}) < 4
    assert seen == {(g, turn) for g in PARTS["train"] for turn in range(4)} and met > 0


def test_without_turns_every_picture_is_upright():
    assert {turn for s, q in tasks(episodes()) for *_, turn in s + q} == {0}


def test_turned_tasks_reach_classes_that_are_too_few_upright():
    assert tasks(episodes(turns=4, ways=14), part="validation", count=3)
    with pytest.raises(ConfigError, match=r"task\.ways is 14"):
        episodes(ways=14)


def test_all_agents_have_all_training_classes_or_each_its_own():
    alike = [{g for s, q in tasks(episodes(), k) for _, g, *_ in s + q} for k in range(2)]
    own = [{g for s, q in tasks(episodes(partition="class"), k) for _, g, *_ in s + q} for k in range(2)]
    assert alike == [set(PARTS["train"])] * 2
    assert [*map(len, own)] == [7, 7] and not own[0] & own[1] and own[0] | own[1] == set(PARTS["train"])


def test_the_same_generator_draws_the_same_tasks_and_another_others():
    family = episodes(turns=4)
    one, same, other = (family.draw(0, 5, np.random.default_rng(seed)).query[0] for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_pictures_are_turned_with_their_colours_left_alone():
    """Three colours last, as MiniImagenet stores them: the grid turns, a pixel's colours stay together."""
    grey = table()
    colours = grey.inputs[..., None] + np.array([0, 20, 30], np.uint8)
    data = Table(colours, grey.targets, grey.first, grey.sizes, grey.names, "digest", {})
    family = episodes_of(data, PARTS, agents=1, partition="none", ways=3, shots=1, queries=1, turns=4,
                         change=lambda pixels: np.moveaxis(pixels, -1, -3).astype(np.float32), default_model="conv4",
                         model_words={})  # fmt: skip
    x = family.draw(0, 40, np.random.default_rng(0)).support[0].flatten(0, 1)
    assert torch.equal(x[:, 1], x[:, 0] + 20) and torch.equal(x[:, 2], x[:, 0] + 30)
    assert {told(one[:1])[2] for one in x} == {0, 1, 2, 3}


def test_the_manifest_tells_who_has_which_class():
    told = episodes(partition="class").manifest()
    hands = [{c["client"] for c in hand} for hand in told["agents"]]
    assert [*map(len, hands)] == [7, 7] and not hands[0] & hands[1]
    assert {c["client"] for c in told["test"]} == {f"class-{g}" for g in PARTS["test"]}
    assert all(c["samples"] == EACH for c in told["validation"])


def test_classes_that_all_agents_share_are_told_once():
    """A manifest of many agents would otherwise be too long for a message."""
    told = episodes(partition="none").manifest()
    assert {c["client"] for c in told["everyone"]} == {f"class-{g}" for g in PARTS["train"]}
    assert "agents" not in told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ways": 1}, "from 2 to 4"), ({"ways": 5}, "task.ways is 5"), ({"shots": 5}, "5 shots and 4 queries"),
        ({"partition": "alphabet"}, "task.partition is 'alphabet'"),
        ({"agents": 15, "partition": "class"}, "15 agents"),
        ({"agents": 6, "partition": "class"}, "has 2 classes"),
        ({"data": table([8] * 23 + [5])}, "a class has 5"),
        ({"parts": {**PARTS, "test": np.arange(0)}}, "has 0 classes"),
    ],
)  # fmt: skip
def test_episodes_that_cannot_be_are_refused_by_what_is_wrong(options, said):
    with pytest.raises(ConfigError, match=said):
        episodes(**options)
