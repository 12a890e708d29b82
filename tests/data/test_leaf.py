"""LEAF's JSON: what is read, what is left out and counted, and one clear error for what cannot be read."""

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from difnet.data import leaf
from difnet.errors import DataError, EnvironmentLacks
from difnet.system.progress import progress_to
from difnet.tasks.femnist import femnist

PAPER = [1.0] * 784


def picture(level: float) -> list[float]:
    """Paper, with one pixel of this level."""
    return [level, *PAPER[1:]]


def content(data: dict[str, dict], numbers: list[int] | None = None) -> dict:
    return {"users": list(data), "num_samples": numbers or [len(u["x"]) for u in data.values()], "user_data": data}


def written(folder: Path, data: object, name: str = "all_data_0.json") -> Path:
    text = json.dumps(data).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return folder


TWO = {
    "b": {"x": [picture(0), picture(128 / 255)], "y": [3, 61]},
    "a": {"x": [picture(1 / 255)], "y": ["10"]},
}


def test_users_keep_their_samples_and_order(tmp_path):
    table = leaf.read(written(tmp_path, content(TWO)))
    assert (table.names, table.sizes.tolist(), table.first.tolist()) == (["b", "a"], [2, 1], [0, 2])
    assert table.inputs.dtype == np.uint8
    assert table.inputs[:, :2].tolist() == [[0, 255], [128, 255], [1, 255]]
    assert table.targets.tolist() == [3, 61, 10]
    assert [table.facts["classes"][y] for y in table.targets] == ["3", "z", "A"]


@pytest.mark.parametrize("keys", [("user_data", "num_samples", "users"), ("num_samples", "user_data", "users")])
def test_the_order_of_keys_does_not_matter(tmp_path, keys):
    data = content(TWO, [2, 7])
    table = leaf.read(written(tmp_path, {key: data[key] for key in keys} | {"hierarchies": ["x", "y"]}))
    assert (table.sizes.tolist(), table.facts["miscounted"]) == ([2, 1], 1)


def test_packed_files_in_leafs_own_folders_are_one_data_set(tmp_path):
    (tmp_path / "data" / "all_data").mkdir(parents=True)
    for n, name in enumerate(TWO):
        written(tmp_path / "data" / "all_data", content({name: TWO[name]}), f"all_data_{n}.json{'.gz' if n else ''}")
    apart = leaf.read(tmp_path)
    (other := tmp_path / "other").mkdir()
    assert apart.names == ["b", "a"]
    assert apart.digest == leaf.read(written(other, content(TWO))).digest


@pytest.mark.parametrize("above", ["data", "."])
def test_parts_for_training_and_tests_are_one_data_set(tmp_path, above):
    """As LEAF's scripts leave them: a user is in both files, or in one of them."""
    whole = {"b": TWO["b"], "a": TWO["a"], "c": {"x": [picture(0.2)], "y": [7]}}
    train = {"b": {"x": TWO["b"]["x"][:1], "y": [3]}, "a": TWO["a"]}
    test = {"c": whole["c"], "b": {"x": TWO["b"]["x"][1:], "y": [61]}}
    for part, users in (("train", train), ("test", test)):
        (tmp_path / "set" / above / part).mkdir(parents=True, exist_ok=True)
        written(tmp_path / "set" / above / part, content(users), f"all_data_0_niid_05_keep_0_{part}_9.json")
    (tmp_path / "whole").mkdir()
    table, wanted = leaf.read(tmp_path / "set"), leaf.read(written(tmp_path / "whole", content(whole)).parent / "whole")
    assert (table.names, table.sizes.tolist(), table.facts["miscounted"]) == (["b", "a", "c"], [2, 1, 1], 0)
    assert table.digest == wanted.digest
    for path in (tmp_path / "set" / above / "test").iterdir():
        path.unlink()
    with pytest.raises(EnvironmentLacks, match="lacks the files of the other"):
        leaf.read(tmp_path / "set")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_damage(tmp_path, encoding):
    want = leaf.read(written(tmp_path, content(TWO))).digest
    (tmp_path / "all_data_0.json").write_bytes(json.dumps(content(TWO)).encode(encoding))
    assert leaf.read(tmp_path).digest == want
    (tmp_path / "all_data_0.json").write_bytes(json.dumps(content(TWO)).encode("utf-16")[:-1])
    with pytest.raises(DataError, match=r"all_data_0\.json"):
        leaf.read(tmp_path)


def test_copies_of_a_picture_are_removed_within_a_writer_and_class(tmp_path):
    x, y = [picture(0), picture(0.2), picture(0), picture(0)], [5, 5, 5, 6]
    written(tmp_path, content({"a": {"x": x, "y": y}, "b": {"x": x[:1], "y": y[:1]}}))
    table = leaf.read(tmp_path)
    assert (table.sizes.tolist(), table.facts["duplicates"]) == ([3, 1], 1)
    assert (table.inputs[:, 0].tolist(), table.targets.tolist()) == ([0, 51, 0, 0], [5, 5, 6, 5])
    assert leaf.read(tmp_path, duplicates=True).sizes.tolist() == [4, 1]


def test_pixels_between_grey_levels_are_kept_exactly_from_the_first_user_on(tmp_path):
    data = {"a": {"x": [picture(0.0)], "y": [1]}, "b": {"x": [picture(0.335)], "y": [2]}}
    table = leaf.read(written(tmp_path, content(data)))
    assert table.inputs.dtype == np.float32
    assert table.inputs[:, 0].tolist() == [0, np.float32(0.335)]
    assert table.sizes.tolist() == [1, 1]


def test_users_without_data_are_left_out_and_counted(tmp_path):
    data = content({**TWO, "empty": {"x": [], "y": []}, "none": {}}, [2, 1, 4, 0])
    data["users"].append("nowhere")
    data["num_samples"].append(9)
    table = leaf.read(written(tmp_path, data))
    assert table.names == ["b", "a"]
    assert (table.facts["without_data"], table.facts["miscounted"]) == (3, 1)


def test_memory_holds_one_user_at_a_time(tmp_path):
    """Of many users, most are still unread when the first ones are handed out."""
    data = {f"user{n}": {"x": [[0.5] * 784] * 4, "y": [1] * 4} for n in range(100)}
    told: list[tuple[int, int | None]] = []
    written(tmp_path, content(data))
    with progress_to(lambda what, done, whole: told.append((done, whole))):
        found = leaf.users(leaf.files(tmp_path), Counter())
        next(found)
    (done, whole), size = told[-1], (tmp_path / "all_data_0.json").stat().st_size
    assert (whole, done < size / 4) == (size, True)


def one(x: object, y: object) -> dict:
    return content({"ann": {"x": x, "y": y}}, [1])


BROKEN = {
    "more x than y": (one([PAPER, PAPER], [1]), "user_data['ann'] has 2 x and 1 y"),
    "a short picture": (one([PAPER, [0.0] * 783], [1, 1]), "x[1] has 783 values; a picture is a list of 784"),
    "a text": (one(["abc"], [1]), "x[0] has 3 values"),
    "a text in a picture": (one([["a"] * 784], [1]), "x holds something that is no number"),
    "a pixel of 255": (one([PAPER, picture(255)], [1, 1]), "x[1] has values from 1.0 to 255.0"),
    "a class too many": (one([PAPER, PAPER], [1, 62]), "y[1] is 62; it must be a class from 0 to 61"),
    "no class": (one([PAPER], [None]), "y[0] is None"),
    "no y": (content({"ann": {"x": []}}), "user_data['ann'] must be"),
    "users that are no list": ({**one([PAPER], [1]), "users": "ann"}, "users is a str; it must be a list"),
    "another JSON": ({"images": []}, "no user has data"),
    "a list": ([1, 2], "no user has data"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_named_with_its_place_and_a_remedy(tmp_path, own_cache, name):
    data, wrong = BROKEN[name]
    before = sorted((own_cache / "data").glob("*"))
    with pytest.raises(DataError) as error:
        leaf.read(written(tmp_path, data))
    assert wrong in str(error.value)
    assert "all_data_0.json" in str(error.value) and "difnet data check" in str(error.value)
    assert sorted((own_cache / "data").glob("*")) == before, "a half-read file was kept"


@pytest.mark.parametrize("cut", [0, 1, 30, -1])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_cut_off_or_empty_says_where(tmp_path, cut, packed):
    path = written(tmp_path, content(TWO), f"all_data.json{'.gz' if packed else ''}") / f"all_data.json{'.gz' * packed}"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"all_data\.json.* byte \d+"):
        leaf.read(tmp_path)


@pytest.mark.parametrize("damage", [b'{"users": [NaN]}', b'{"users": ["\xff\xfe"]}', b"\x89PNG\r\n"])
def test_a_foreign_file_says_so(tmp_path, damage):
    (tmp_path / "all_data.json").write_bytes(damage)
    with pytest.raises(DataError, match=r"all_data\.json is no whole JSON file"):
        leaf.read(tmp_path)


def test_a_damaged_gzip_says_so(tmp_path):
    path = written(tmp_path, content(TWO), "all_data.json.gz") / "all_data.json.gz"
    middle = bytearray(path.read_bytes())
    middle[len(middle) // 2] ^= 0xFF
    path.write_bytes(middle)
    with pytest.raises(DataError, match=r"all_data\.json\.gz"):
        leaf.read(tmp_path)


def test_a_user_belongs_to_one_file(tmp_path):
    written(tmp_path, content(TWO))
    written(tmp_path, content({"a": TWO["a"]}), "all_data_1.json")
    with pytest.raises(DataError, match=r"all_data_1\.json: user 'a' is there also in .*all_data_0\.json"):
        leaf.read(tmp_path)


def test_without_files_it_says_what_they_are_called(tmp_path):
    with pytest.raises(EnvironmentLacks, match=r"all_data\*\.json"):
        leaf.read(tmp_path)


def test_femnist_draws_pictures_from_0_to_1_of_an_agents_own_writers(tmp_path):
    """Writer w's pictures all have the grey level w, so that a picture tells whose it is."""
    data = {
        f"w{w}": {"x": [[w / 255] * 783 + [n / 255] for n in range(10)], "y": list(range(10))} for w in range(20)
    }
    (tmp_path / "femnist").mkdir()
    written(tmp_path / "femnist", content(data))
    family = femnist(agents=2, shots=2, queries=4, data_dir=str(tmp_path))
    writers = []
    for agent in (0, 1, None):
        x, y = family.draw(agent, 50, np.random.default_rng(0)).query
        assert (x.shape, x.dtype.is_floating_point, y.shape) == ((50, 4, 784), True, (50, 4))
        assert (x[..., -1] * 255).round().long().equal(y)
        writers.append({round(w * 255) for w in x[..., 0].unique().tolist()})
    assert not set.intersection(*writers[:2]) and not (writers[0] | writers[1]) & writers[2]
    assert sum(map(len, writers)) == 18
    assert family.model_words == {"inputs": 784, "outputs": 62}
