"""A few digits each: whose images are whose, and what an unseen task is made of."""

import numpy as np
import pytest
import torch

from difnet.data import mnist
from difnet.errors import ConfigError
from difnet.tasks.digits import digits
from tests import miniature

OWN = {"own": [[0, 1, 2], [7, 8, 9]]}


def family(agents: int = 2, shots: int = 5, queries: int = 3, **options):
    place, options = str(miniature.home()), {"samples": 40} | options
    with miniature.kept_apart():
        return digits(agents=agents, shots=shots, queries=queries, data_dir=place, **options)


def table(part: str):
    with miniature.kept_apart():
        return mnist.read(miniature.home() / "mnist", part)


def rows_of(x: torch.Tensor, part: str) -> list[int]:
    """Where each image lies in a part of MNIST."""
    read = table(part)
    places = {(image.reshape(-1).astype(np.float32) / 255).tobytes(): row for row, image in enumerate(read.inputs)}
    return [places[image.numpy().tobytes()] for image in x.reshape(-1, 784)]


def test_an_agent_trains_on_its_own_forty_images_of_its_own_digits_all_alike():
    """Three thousand minibatches of eight: each of the forty as often as any other, within five standard deviations."""
    f, seen = family(**OWN), {}
    for agent, own in enumerate(OWN["own"]):
        tasks = f.draw(agent, 3000, np.random.default_rng(agent))
        assert set(tasks.support[1].unique().tolist()) == set(own) == set(tasks.query[1].unique().tolist())
        both = torch.cat([tasks.support[0], tasks.query[0]], dim=1)
        assert all(len({image.numpy().tobytes() for image in one}) == 8 for one in both[:200])
        values, counts = np.unique(rows_of(both, "train"), return_counts=True)
        assert len(values) == 40 and np.isin(table("train").targets[values], own).all()
        assert (abs(counts - 600) < 5 * (3000 * 0.2 * 0.8) ** 0.5).all()
        seen[agent] = set(values)
    assert not seen[0] & seen[1]


def test_unseen_tasks_have_five_digits_of_ten_by_their_own_names_and_no_image_that_an_agent_has():
    f = family(**OWN)
    drawn = [f.draw(agent, 500, np.random.default_rng(0)).support[0] for agent in (0, 1)]
    trained = set(rows_of(torch.cat(drawn), "train"))
    for part, lies_in in (("validation", "train"), ("test", "test")):
        tasks = f.draw_unseen(part, 40, np.random.default_rng(1))
        assert tasks.support[0].shape == (40, 25, 784) and tasks.query[0].shape == (40, 15, 784)
        met = set()
        for x, y, q, z in zip(*tasks.support, *tasks.query, strict=True):
            classes, counts = y.unique(return_counts=True)
            assert len(classes) == 5 and (counts == 5).all() and (z.unique() == classes).all()
            here, there = rows_of(x, lies_in), rows_of(q, lies_in)
            assert not set(here) & set(there)
            targets = table(lies_in).targets
            assert targets[here].tolist() == y.tolist() and targets[there].tolist() == z.tolist()
            met.update(classes.tolist())
            assert part == "test" or not (set(here) | set(there)) & trained
        assert met == set(range(10))


def test_unless_told_the_ten_digits_are_cut_over_the_agents():
    drawn = [family(agents=3).draw(k, 200, np.random.default_rng(0)).query[1] for k in range(3)]
    assert [set(targets.unique().tolist()) for targets in drawn] == [{0, 1, 2, 3}, {4, 5, 6}, {7, 8, 9}]


@pytest.mark.parametrize(("words", "said"), [
    ({"agents": 3, **OWN}, "own has the digits of 2 agents"), ({"own": [[0, 0], [1]]}, "each once"),
    ({"own": [[0], [10]]}, "digits from 0 to 9"), ({"own": [[], [1]]}, "each agent needs digits"),
    ({"agents": 11}, "each agent needs digits"), ({"ways": 11}, "2 to 10 digits"), ({"ways": 1}, "2 to 10 digits"),
    ({"shots": 30, "queries": 30}, "40 together at most"),
    ({"own": [[0], [0]], "samples": 80}, "70 images of its digits"),
])  # fmt: skip
def test_what_cannot_be_is_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        family(**words)
