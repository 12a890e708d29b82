"""Sentiment140: its counts, words and users; word vectors; one clear error for what cannot be read."""

import csv
import gzip
import json

import numpy as np
import pytest
import torch

from difnet.data import glove, sent140
from difnet.errors import DataError, EnvironmentLacks
from difnet.tasks.sent140 import sent140 as family

ROWS = [(4, "ann", "Good good morning!"), (0, "bob", "bad MORNING, 'n all"), (4, "ann", "good"), (0, "cat", "bad, bad")]


def row(polarity: object, user: str, text: str) -> str:
    return ",".join(f'"{v}"' for v in (polarity, 1, "a day", "NO_QUERY", user, text)) + "\n"


def written(folder, rows, name: str = "training.csv", encoding: str = "utf-8"):
    folder.mkdir(exist_ok=True)
    content = "".join(row(*one) for one in rows).encode(encoding)
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def texts(table, group: int) -> list[list[str]]:
    """The words of a user's tweets, without padding."""
    words = ["_", "?", *table.facts["vocabulary"]]
    return [[words[n] for n in numbers if n] for numbers in table.inputs[table.rows(group)]]


def test_counts_are_those_of_the_subset(real_data):
    table = sent140.read(real_data("sent140") / "sent140")
    assert (table.groups, len(table.inputs)) == (18105, 20000)
    assert [int((table.sizes >= n).sum()) for n in (2, 3, 5)] == [1435, 296, 40]
    assert np.bincount(table.targets).tolist() == [9999, 10001]
    assert len(table.facts["vocabulary"]) == 10000 and table.inputs.max() == 10001


def test_the_test_file_is_read_with_the_training_vocabulary_and_without_neutral_tweets(real_data):
    place = real_data("sent140") / "sent140"
    table = sent140.read(place, "test")
    assert (np.bincount(table.targets).tolist(), table.facts["neutral"]) == ([177, 182], 139)
    assert table.facts["vocabulary"] == sent140.read(place).facts["vocabulary"]


def test_tweets_and_users_are_those_that_pythons_csv_reader_and_leafs_rule_give(real_data):
    """LEAF's file of the users with two tweets or more was made from the csv otherwise: word for word the same."""
    place = real_data("sent140") / "sent140"
    whole, some = sent140.read(place), sent140.read(place / "leaf_all_data_min2.json.gz", words=10**6)
    with gzip.open(place / "training.subset20000.csv.gz", "rt", encoding="utf-8", newline="") as file:
        users = [one[4] for one in csv.reader(file)]
    assert set(whole.names) == set(users)
    assert (some.groups, len(some.inputs)) == (1435, 3330)
    assert dict(zip(some.names, some.sizes.tolist(), strict=True)) == {
        name: size for name, size in zip(whole.names, whole.sizes.tolist(), strict=True) if size >= 2
    }
    complete = sent140.read(place, words=10**6)
    assert all(
        sorted(texts(some, g)) == sorted(texts(complete, complete.names.index(name)))
        and sorted(some.targets[some.rows(g)]) == sorted(complete.targets[complete.rows(complete.names.index(name))])
        for g, name in enumerate(some.names[:200])
    )


def test_tweets_are_grouped_by_user_and_numbered_by_frequency(tmp_path):
    table = sent140.read(written(tmp_path, ROWS))
    assert (table.names, table.sizes.tolist(), table.first.tolist()) == (["ann", "bob", "cat"], [2, 1, 1], [0, 2, 3])
    assert table.targets.tolist() == [1, 1, 0, 0]
    assert table.facts["vocabulary"] == ["good", "bad", "morning", ",", "!", "'n", "all"]
    assert [texts(table, g) for g in range(3)] == [
        [["good", "good", "morning", "!"], ["good"]], [["bad", "morning", ",", "'n", "all"]], [["bad", ",", "bad"]],
    ]  # fmt: skip
    assert table.inputs[0].tolist() == [0] * 21 + [2, 2, 4, 6]


def test_words_beyond_the_vocabulary_are_unknown(tmp_path):
    table = sent140.read(written(tmp_path, ROWS), words=2)
    assert table.facts["vocabulary"] == ["good", "bad"]
    assert texts(table, 1) == [["bad", "?", "?", "?", "?"]]
    assert sent140.numbers("so bad", table.facts["vocabulary"]).tolist() == [0] * 23 + [1, 3]


def test_a_tweet_has_its_first_25_words(tmp_path):
    table = sent140.read(written(tmp_path, [(0, "ann", " ".join(f"w{n}" for n in range(30)))]))
    assert texts(table, 0) == [[f"w{n}" for n in range(25)]]


@pytest.mark.parametrize("name", ["training.1600000.processed.noemoticon.csv", "training.csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_both_encodings_are_read_packed_or_not(tmp_path, name, encoding):
    rows = [(0, "ann", "caf\u00e9 na\u00efve"), (4, "ann", 'a ""quote"", indeed')]
    table = sent140.read(written(tmp_path, rows, name, encoding))
    assert texts(table, 0) == [["caf\u00e9", "na\u00efve"], ["a", "quote", ",", "indeed"]]


@pytest.mark.parametrize(("damage", "wrong"), [
    (lambda text: text[:-30], r"line 4: 3 columns"),
    (lambda text: text[:-5], r"is cut off: its last line, 4, ends within quotes"),
    (lambda text: text.replace('"4"', '"3"', 1), r"line 1: polarity '3'"),
    (lambda text: text + "a,b\n", r"line 5: 2 columns"),
    (lambda text: "\x89PNG\r\n\x00\x01", r"line 1: 1 columns"),
    (lambda text: "", "has no tweets"),
])  # fmt: skip
def test_a_damaged_csv_is_one_error_with_its_line(tmp_path, own_cache, damage, wrong):
    path = written(tmp_path, ROWS) / "training.csv"
    path.write_text(damage(path.read_text()))
    before = sorted((own_cache / "data").glob("*"))
    with pytest.raises(DataError, match=rf"training\.csv.* ?{wrong}.*difnet data check"):
        sent140.read(tmp_path)
    assert sorted((own_cache / "data").glob("*")) == before


def test_blank_lines_are_no_tweets(tmp_path):
    path = written(tmp_path, ROWS) / "training.csv"
    whole = sent140.read(tmp_path)
    text = path.read_text()
    path.write_text(text.replace("\n", "\n\n", 1) + "\n   \n\n")
    assert sent140.read(tmp_path).digest == whole.digest
    path.write_text(text[:-5] + "\n\n")
    with pytest.raises(DataError, match="ends within quotes"):
        sent140.read(tmp_path)


def test_leafs_json_is_read_where_there_is_no_csv(tmp_path):
    x = [["1", "a day", "NO_QUERY", "ann", text, "training"] for text in ("good day", "bad day")]
    data = {"users": ["ann"], "num_samples": [2], "user_data": {"ann": {"x": x, "y": ["1", 0]}}}
    (tmp_path / "all_data.json").write_text(json.dumps(data))
    table = sent140.read(tmp_path)
    assert (texts(table, 0), table.targets.tolist()) == ([["good", "day"], ["bad", "day"]], [1, 0])
    data["user_data"]["ann"]["x"][1] = ["only", "two"]
    (tmp_path / "all_data.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"user_data\['ann'\], x\[1\] must be a list of 6 texts"):
        sent140.read(tmp_path)


def test_without_files_it_says_what_they_are_called(tmp_path):
    with pytest.raises(EnvironmentLacks, match=r"lacks training\*\.csv.*all_data\*\.json"):
        sent140.read(tmp_path)
    with pytest.raises(EnvironmentLacks, match=r"lacks testdata\*\.csv"):
        sent140.read(written(tmp_path, ROWS), "test")


def test_vectors_are_those_of_their_words(tmp_path):
    (tmp_path / "glove.txt").write_text("the 9 9\nbad 1 -2.5\n. . . 4 4\ngood 0.5 1e-3\nbad 7 7\n")
    vectors = glove.read(tmp_path / "glove.txt", ["good", "missing", "bad", ". . ."])
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.float32([[0.5, 1e-3], [0, 0], [1, -2.5], [4, 4]]))


@pytest.mark.parametrize(("content", "wrong"), [
    ("good 1 2\nbad 1\n", r"line 2: 1 numbers after a word; the first line has 2"),
    ("good 1 2\nbad 1 x\n", r"line 2: could not convert"),
    ("good 1 2\nbad 1 nan\n", r"line 2: not all of its numbers are finite"),
    ("good\n", r"line 1: 0 numbers"),
    ("the 1 2\n", "none of the 2 words"),
    ("", "none of the 2 words"),
])  # fmt: skip
def test_a_damaged_file_of_vectors_is_one_error_with_its_line(tmp_path, content, wrong):
    (tmp_path / "glove.txt").write_text(content)
    with pytest.raises(DataError, match=rf"glove\.txt.* {wrong}"):
        glove.read(tmp_path / "glove.txt", ["good", "bad"])


def many(folder) -> str:
    """Twelve users with four tweets each; returns the folder of all sets."""
    rows = [(4 * (n % 2), f"user{u}", f"word{u} {'good' if n % 2 else 'bad'}") for u in range(12) for n in range(4)]
    written(folder / "sent140", rows)
    return str(folder)


def test_tasks_are_word_numbers_or_their_vectors(tmp_path):
    place = many(tmp_path)
    (tmp_path / "sent140" / "glove.txt").write_text("good 1 2 3\nbad -1 -2 -3\n")
    words = {"agents": 2, "shots": 1, "queries": 2, "data_dir": place, "least": 4, "support": 0.5}
    numbers, vectors = family(**words), family(**words, vectors="glove.txt")
    (x, y), _ = numbers.draw(1, 5, np.random.default_rng(0))
    (v, z), _ = vectors.draw(1, 5, np.random.default_rng(0))
    assert (x.shape, v.shape, v.dtype) == ((5, 1, 25), (5, 1, 25, 3), torch.float32)
    assert y.equal(z)
    assert v[:, 0, -1].equal(torch.tensor([1.0, 2.0, 3.0]) * (2 * y - 1))
    assert not v[:, :, :-1].any(), "padding, and a word without a vector"
    assert numbers.model_words == {"vocabulary": 16, "outputs": 2}
    assert vectors.model_words == {"vectors": 3, "outputs": 2}


def test_missing_vectors_are_said_to_be_missing(tmp_path):
    with pytest.raises(EnvironmentLacks, match=r"no word vectors .*glove\.6B\.300d\.txt"):
        family(agents=2, shots=1, queries=2, data_dir=many(tmp_path), vectors="glove.6B.300d.txt")
