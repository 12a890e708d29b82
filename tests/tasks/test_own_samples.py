"""Pictures, arrays and data sets as owners' clients and as episodes: against arrays and torch's own loader, by hand."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from difnet import catalog, tasks
from difnet.config import load
from difnet.data import own_arrays
from difnet.errors import ConfigError, DataError
from difnet.tasks.arrays_ import arrays
from difnet.tasks.episodes import episodes
from difnet.tasks.images_ import images
from difnet.workload.building import Own, build, make_family

NAMES = ("ash", "elm", "oak")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path / "cache"))


def samples(client: int, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Every input says whose it is and which; classes 0, 1, 2."""
    x = np.stack([np.full(n, client), np.arange(n)], 1).astype(np.float32)
    return x, np.arange(n) % 3


def folder(place: Path, made=samples, names=NAMES) -> Path:
    for k, name in enumerate(names):
        (place / name).mkdir(parents=True, exist_ok=True)
        for file, values in zip(("x", "y"), made(k), strict=True):
            np.save(place / name / f"{file}.npy", values)
    return place


def datasets(made=samples):
    return {name: TensorDataset(*map(torch.from_numpy, made(k))) for k, name in enumerate(NAMES)}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for s, t in zip(a, b, strict=True) for x, y in zip(s, t, strict=True))


# Arrays


def test_a_task_has_samples_of_its_own_client_with_their_own_targets(tmp_path):
    f = arrays(3, 4, 5, data=str(folder(tmp_path / "own")))
    assert f.owners == {0: ["ash"], 1: ["elm"], 2: ["oak"]}
    for agent in range(3):
        x, y = f.draw(agent, 50, rng()).query
        assert x.dtype == torch.float32 and y.dtype == torch.int64 and x.shape == (50, 5, 2) and y.shape == (50, 5)
        assert (x[..., 0] == agent).all() and (x[..., 1].long() % 3 == y).all()
    assert f.default_model == "mlp" and f.model_words == {"inputs": 2, "outputs": 3}
    assert f.manifest()["targets"]["agents"] == [{"0": 14, "1": 13, "2": 13}] * 3


def test_targets_that_are_no_whole_numbers_are_for_regression(tmp_path):
    f = arrays(3, 4, 5, data=str(folder(tmp_path / "own", lambda k: (samples(k)[0], samples(k)[0][:, 1] / 2))))
    x, y = f.draw(1, 20, rng()).support
    assert y.shape == (20, 4, 1) and torch.equal(y[..., 0], x[..., 1] / 2) and not hasattr(f, "accuracy")
    assert float(f.loss(torch.zeros_like(y), y)) == pytest.approx(float((y**2).mean()))


def test_bytes_are_pixels_from_0_to_1_unless_they_are_said_to_be_numbers_or_codes(tmp_path):
    place = str(folder(tmp_path / "own", lambda k: (np.arange(40, dtype=np.uint8)[:, None] * 6, samples(k)[1])))
    pixels, numbers, codes = (arrays(3, 9, 9, data=place, inputs=kind).draw(0, 30, rng()).support[0]
                              for kind in (None, "numbers", "codes"))  # fmt: skip
    assert pixels.max() <= 1 and torch.equal(numbers / 255, pixels)
    assert codes.dtype == torch.int64 and torch.equal(codes.float(), numbers)


@pytest.mark.parametrize(("x", "y", "words", "said"), [
    (np.arange(40)[:, None], None, {}, "numbers, or codes"),
    (None, np.arange(40) - 1, {}, "targets are no classes: whole numbers from 0 on"),
    (None, np.eye(40, dtype=np.int64), {}, "ones and noughts, or quantities"),
    (None, np.arange(40) * 1000, {}, "39001 classes, or a quantity"),
    (None, np.arange(39), {}, "40 inputs and 39 targets"),
    (np.array(["a"] * 40), None, {}, "x.npy holds <U1"),
    (np.full((40, 2), np.inf), None, {}, r"row 0 \(from 0\): is not finite"),
    (np.full((40, 2), 1e300), None, {}, "is not finite as float32"),
    (None, None, {"kind": "clasification"}, "kind is 'clasification'"),
    (None, None, {"classes": 2}, "whole numbers from 0 to 1"),
    (None, None, {"schema": {"shape": [3], "inputs": "numbers", "kind": "classification", "outputs": 3}},
     r"inputs have shape \(2,\); the schema says \(3,\)"),
    (None, None, {"schema": {}}, "shape is None"),
], ids=str)  # fmt: skip
def test_arrays_that_nobody_can_learn_from_are_refused(tmp_path, x, y, words, said):
    def made(k):
        given = samples(k)
        return given[0] if x is None else x, given[1] if y is None else y

    with pytest.raises((ConfigError, DataError), match=said):
        arrays(3, 4, 5, data=str(folder(tmp_path / "own", made)), **words)


def test_pickled_objects_are_no_arrays(tmp_path):
    folder(tmp_path / "own")
    np.save(tmp_path / "own" / "ash" / "x.npy", np.array([{"a": 1}] * 40, object), allow_pickle=True)
    with pytest.raises(DataError, match=r"ash/x.npy is no array of numbers"):
        arrays(3, 4, 5, data=str(tmp_path / "own"))


def test_clients_that_do_not_agree_are_both_named(tmp_path):
    place = folder(tmp_path / "own", lambda k: (np.zeros((40, 2 + (k == 2))), samples(k)[1]))
    with pytest.raises(DataError, match=r"client 'ash' has inputs of shape \(2,\), and 'oak' \(3,\)"):
        arrays(3, 4, 5, data=str(place))


def test_a_host_with_a_part_of_the_clients_draws_what_the_one_with_all_draws(tmp_path):
    everything = arrays(3, 4, 5, data=str(folder(tmp_path / "own")))
    folder(tmp_path / "part", lambda k: samples(k + 1), ("elm", "oak"))
    schema = everything.meaning.to_dict()
    part = arrays(3, 4, 5, data=str(tmp_path / "part"), here=[1, 2], schema=schema)
    for agent in (1, 2):
        assert same(part.draw(agent, 20, rng(3)), everything.draw(agent, 20, rng(3)))
        assert same(part.draw_kept(agent, "test", 20, rng(3)), everything.draw_kept(agent, "test", 20, rng(3)))


# Pictures


def drawings(place: Path, owners=NAMES, words="abc", each: int = 12) -> Path:
    """A picture's grey says whose it is, of which class and which: 80 owner + 20 class + number."""
    for k, owner in enumerate(owners):
        for c, word in enumerate(words):
            (place / owner / word).mkdir(parents=True)
            for n in range(each):
                Image.new("L", (6, 6), 80 * k + 20 * c + n).save(place / owner / word / f"{n:02d}.png")
    return place


def greys(x: torch.Tensor) -> torch.Tensor:
    assert x.shape[2:] == (1, 6, 6) and (x == x[..., :1, :1]).all()
    return (x[:, :, 0, 0, 0] * 255).round().long()


def test_pictures_are_of_their_owner_and_carry_the_number_of_their_class(tmp_path):
    f = images(3, 4, 5, data=str(drawings(tmp_path / "pics")), size=6)
    for agent in range(3):
        x, y = f.draw(agent, 40, rng()).query
        assert (greys(x) // 80 == agent).all() and torch.equal(greys(x) % 80 // 20, y)
    assert f.manifest()["targets"]["agents"] == [{"a": 12, "b": 12, "c": 12}] * 3
    assert f.default_model == "conv4" and f.model_words == {"channels": 1, "size": 6, "outputs": 3, "strided": True}


def test_an_episode_has_its_shots_of_each_of_its_ways_and_numbers_them_anew(tmp_path):
    """Owners share no name of a class; support and query pictures of a class are never the same."""
    place = drawings(tmp_path / "pics", ("ash",), "abc")
    drawings(tmp_path / "pics", ("elm",), "wxyz")
    f = images(2, 2, 3, data=str(place), size=6, ways=2)
    orders = set()
    for agent, classes in ((0, 3), (1, 4)):
        (sx, sy), (qx, qy) = f.draw(agent, 80, rng())
        assert sy.tolist() == [[0, 0, 1, 1]] * 80 and qy.tolist() == [[0, 0, 0, 1, 1, 1]] * 80
        assert f.example(2, rng()).query[1].tolist() == qy[:2].tolist()
        for s, q in zip((greys(sx) // 20 % 4).tolist(), (greys(qx) // 20 % 4).tolist(), strict=True):
            assert s[0] == s[1] != s[2] == s[3] and [s[0]] * 3 + [s[2]] * 3 == q
            orders.add((agent, s[0], s[2]))
        assert not set(greys(sx).ravel().tolist()) & set(greys(qx).ravel().tolist())
        assert len({order for order in orders if order[0] == agent}) == classes * (classes - 1)


def test_what_episodes_keep_back_is_never_trained_on_and_is_some_of_every_class(tmp_path):
    f = images(1, 2, 3, data=str(drawings(tmp_path / "pics", ("ash",))), size=6, ways=3)
    train = f.draw(0, 200, rng())
    alike = f.draw_alike(0, 200, rng())
    seen = {grey for batch in (*train, *alike) for grey in greys(batch[0]).ravel().tolist()}
    for part in ("validation", "test"):
        kept = set(greys(f.draw_kept(0, part, 200, rng()).query[0]).ravel().tolist())
        assert not kept & seen and {grey // 20 for grey in kept} == {0, 1, 2} and len(kept) == 3
        seen |= kept
    assert len(seen) == 36 and alike.support[0].shape[1] == 6 and f.samples(0) == 30


def test_small_classes_and_owners_with_too_few_of_them_are_left_out_of_episodes_and_named(tmp_path):
    place = drawings(tmp_path / "pics", ("ash", "elm"))
    for n in range(5):
        (place / "elm" / "c" / f"{n:02d}.png").unlink()
    f = images(1, 1, 1, data=str(place), size=6, ways=3)
    assert f.owners == {0: ["ash"]}
    assert "elm/c: 7 rows, fewer than 10 (task.least): left out" in f.cautions
    assert any(line.startswith("elm: 2 classes that are large enough, fewer than 3") for line in f.cautions)
    with pytest.raises(ConfigError, match="1 clients for 2 agents"):
        images(2, 1, 1, data=str(place), size=6, ways=3)


def test_owners_of_pictures_learn_and_the_network_takes_what_they_kept_back(tmp_path):
    settings = {"task": {"name": "images", "size": 6}, "tasks": 1, "shots": 3, "queries": 3, "engine": "eager",
                "model": {"name": "conv4", "filters": 2}}  # fmt: skip
    w = build(load(settings=settings), 3, own=Own(drawings(tmp_path / "pics")))
    state, info = w.algorithm.adapt(w.first_state(0), w.family.draw(0, 1, rng()))
    assert torch.isfinite(state.phi).all() and info["loss"] > 0
    assert w.validation_tasks(1).query[0].shape[2:] == (1, 6, 6)


# Data sets of torch


class Lazy(Dataset):
    """Items by index, and which were asked for."""

    def __init__(self, client: int, told: bool = True, n: int = 40) -> None:
        self.x, self.y = samples(client, n)
        self.asked: list[int] = []
        if told:
            self.targets = self.y.tolist()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int):
        self.asked.append(index)
        return torch.from_numpy(self.x[index]), int(self.y[index])


def made(task, **words):
    return task(agents=3, shots=4, queries=5, **words)


def test_data_sets_are_the_same_family_as_their_arrays(tmp_path):
    """Their arrays as torch's own loader gives them."""
    given = datasets()
    loaded = {name: next(iter(DataLoader(one, batch_size=len(one)))) for name, one in given.items()}
    place = folder(tmp_path / "own", lambda k: tuple(part.numpy() for part in loaded[NAMES[k]]))
    one, other = made(tasks.from_datasets(given)), arrays(3, 4, 5, data=str(place))
    assert one.manifest() == other.manifest() and one.meaning == other.meaning
    for draw in ("draw", "draw_alike"):
        assert same(getattr(one, draw)(2, 9, rng()), getattr(other, draw)(2, 9, rng()))


def test_a_data_set_that_tells_its_targets_is_not_read_whole():
    given = {name: Lazy(k, n=5000) for k, name in enumerate(NAMES)}
    f = made(tasks.from_datasets(given))
    assert all(len({*one.asked}) == 8 for one in given.values())
    x, y = f.draw(1, 3, rng()).support
    assert (x[..., 0] == 1).all() and (x[..., 1].long() % 3 == y).all()
    assert len({*given["elm"].asked}) <= 8 + 3 * 9 and all(len({*given[name].asked}) == 8 for name in ("ash", "oak"))


def test_targets_that_are_not_told_or_are_told_wrongly_are_read_once():
    """A target_transform changes an item's target, and not the list that the data set has of them."""
    untold = {name: Lazy(k, told=False) for k, name in enumerate(NAMES)}
    wrong = {name: Lazy(k) for k, name in enumerate(NAMES)}
    for one in wrong.values():
        one.targets = [0] * 40
    for given in (untold, wrong):
        f = made(tasks.from_datasets(given))
        assert f.manifest()["targets"]["agents"] == [{"0": 14, "1": 13, "2": 13}] * 3
        assert all(sorted({*one.asked}) == list(range(40)) for one in given.values())


def test_parts_and_unions_of_data_sets_tell_their_targets_too():
    whole = Lazy(0)
    part, both = Subset(whole, range(30, 5, -1)), ConcatDataset([Lazy(1), Subset(Lazy(2), range(9))])
    f = tasks.from_datasets({"part": part, "union": both})(agents=2, shots=4, queries=5)
    assert len({*whole.asked}) == 8
    assert f.manifest()["targets"]["agents"] == [{"0": 9, "1": 8, "2": 8}, {"0": 17, "1": 16, "2": 16}]


def test_pictures_of_a_data_set_are_pixels():
    def picture(n: int) -> Image.Image:
        return Image.new("RGB", (6, 6), (n, 2 * n, 3 * n))

    f = tasks.from_datasets({"ash": [(picture(n), n % 2) for n in range(40)]})(agents=1, shots=2, queries=2)
    x, y = f.draw(0, 20, rng()).query
    assert x.shape == (20, 2, 3, 6, 6) and f.meaning.inputs == "pixels"
    n = (x[:, :, 0, 0, 0] * 255).round().long()
    assert torch.equal(n % 2, y) and torch.equal((x[:, :, 2, 5, 5] * 255).round().long(), 3 * n)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(2), 0)])


class Flipping(Lazy):
    def __getitem__(self, index: int):
        x, y = super().__getitem__(index)
        return x * random.random(), y


@pytest.mark.parametrize(("given", "said"), [
    (Stream(), "Stream has no length .* map-style"), ([], "is empty"), ([(object(), 1)] * 40, "is of type object"),
    ([torch.zeros(2)] * 40, "must be \\(x, y\\)"), ([{"x": 1, "y": 2}] * 40, "is a dict of 2"),
    ([(torch.zeros(2), "cat")] * 40, "classes are numbers from 0 on"),
    (Flipping(0), "is another one when it is read again"),
    ([(torch.zeros(2 + (n == 20)), n % 2) for n in range(40)], r"item 20: x is float32 \(3,\)"),
], ids=["a stream", "empty", "objects", "no pair", "a dict", "words", "random", "two shapes"])  # fmt: skip
def test_what_is_no_data_set_by_index_is_refused_with_the_remedy(given, said):
    with pytest.raises((ConfigError, DataError), match=said):
        tasks.from_datasets({"ash": given})(agents=1, shots=2, queries=2)


def test_a_file_of_three_lines_is_a_task_and_every_host_reads_its_own_agents_clients(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path), *__import__("sys").path])
    (tmp_path / "three_lines.py").write_text(
        "from difnet.tasks import from_datasets\nfrom tests.tasks.test_own_samples import datasets\n"
        "task = from_datasets(datasets())\n")
    config = load(settings={"task": "three_lines:task", "shots": 4, "queries": 5})
    everything, part = make_family(config, 3), make_family(config, 3, Own(None, [2]))
    assert part.owners == {2: ["oak"]} and same(part.draw(2, 5, rng()), everything.draw(2, 5, rng()))
    with pytest.raises(ConfigError, match="agent 0 is not here"):
        part.draw(0, 1, rng())
    with pytest.raises(ConfigError, match="no use for --data"):
        make_family(config, 3, Own(tmp_path))
    assert catalog.load("tasks", "three_lines:task").name == "arrays"


# Episodes of one data set


def many_classes() -> tuple[np.ndarray, np.ndarray]:
    """Twenty-five classes of eight samples, mixed; an input says class and number."""
    y = np.random.default_rng(1).permutation(np.arange(200) % 25)
    return np.stack([y, np.arange(200)], 1).astype(np.float32), y


def test_episodes_of_a_data_set_hold_classes_out_and_are_those_of_its_arrays(tmp_path):
    x, y = many_classes()
    one = tasks.episodes_from(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), ways=4)(3, 2, 3)
    for file, values in (("x", x), ("y", y)):
        np.save(tmp_path / f"{file}.npy", values)
    other = episodes(3, 2, 3, data=str(tmp_path), ways=4)
    seen = {}
    for part in ("train", "validation", "test"):
        a, b = (f.draw(0, 60, rng()) if part == "train" else f.draw_unseen(part, 60, rng()) for f in (one, other))
        assert same(a, b)
        seen[part] = {*a.support[0][..., 0].long().ravel().tolist(), *a.query[0][..., 0].long().ravel().tolist()}
        for sx, qx in zip(a.support[0], a.query[0], strict=True):
            assert not {*sx[:, 1].tolist()} & {*qx[:, 1].tolist()}
            classes = sx[::2, 0]
            assert torch.equal(sx[1::2, 0], classes) and torch.equal(qx[:, 0], classes.repeat_interleave(3))
    assert sum(map(len, seen.values())) == 25 == len(set.union(*seen.values()))
    assert {part: len(its) for part, its in seen.items()} == {"train": 16, "validation": 4, "test": 5}


def test_another_data_set_than_the_runs_is_refused_by_its_digest(tmp_path):
    x, y = many_classes()
    for name, changed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", x + changed * (np.arange(200) == 199)[:, None].astype(np.float32))
        np.save(tmp_path / name / "y.npy", y)
    digest = own_arrays.digest_of(tmp_path / "a")
    episodes(3, 2, 3, data=str(tmp_path / "a"), ways=4, digest=digest)
    with pytest.raises(DataError, match="another one"):
        episodes(3, 2, 3, data=str(tmp_path / "b"), ways=4, digest=digest)


def test_episodes_that_say_other_shots_than_the_run_are_refused():
    task = tasks.episodes_from(TensorDataset(*map(torch.from_numpy, many_classes())), ways=3, shots=1)
    with pytest.raises(ConfigError, match="says 1 shots, and the run 5"):
        task(2, 5, 3)
    assert task.said({"seed": 3}) == {"seed": 3, "shots": 1, "task": {"name": "episodes", "ways": 3}}
