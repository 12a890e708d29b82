"""Shakespeare by speaking role: LEAF's counts and samples, and its rules on small plays."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest

from difnet.data import shakespeare
from difnet.data.shakespeare import ALL_LETTERS
from difnet.errors import DataError, EnvironmentLacks
from difnet.tasks.shakespeare import shakespeare as family

LONG = "Speak the speech, I pray you, as I pronounced it to you, trippingly on the tongue:"  # 82 letters
HEAD = ["The first line is left out", "by William Shakespeare", *[""] * 3]


def play(title: str, *text: str, gap: int = 1) -> list[str]:
    return [title, *[""] * gap, "by William Shakespeare", "", *text]


def text_of(table, group: int) -> str:
    """A role's text, from its windows and the letters that follow."""
    rows = table.rows(group)
    first = "".join(ALL_LETTERS[n] for n in table.inputs[rows[0]])
    return first + "".join(ALL_LETTERS[n] for n in table.targets[rows])


def written(folder, *plays: list[str], name: str = "shakespeare.txt", end: str = "\n"):
    content = end.join([*HEAD, *(line for one in plays for line in one), ""]).encode("utf-8")
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def two(lines_of_ann: list[str], *others: str) -> list[str]:
    """A play in which Ann says so, and Bob says enough to be a role."""
    return play("A PLAY", *lines_of_ann, *others, f"  BOB. {LONG}", "    Two.", "    Three.")


def test_leaf_gives_the_same_number_of_windows_to_every_role(real_data):
    place = real_data("shakespeare") / "shakespeare"
    oracle = json.loads((place / "leaf_num_samples.json").read_text())["num_samples"]
    table = shakespeare.read(place)
    assert dict(zip(table.names, table.sizes.tolist(), strict=True)) == oracle
    assert (table.groups, int(table.sizes.sum()), len(table.facts["plays"])) == (1130, 4226206, 36)
    assert table.facts["unknown"] == 0
    assert table.inputs.base is not None, "windows are a view"


def test_leafs_samples_are_ours(real_data):
    place = real_data("shakespeare") / "shakespeare"
    with gzip.open(place / "leaf_all_data_20users.json.gz") as file:
        oracle = json.load(file)["user_data"]
    read = shakespeare.read(place)
    table = shakespeare.read(place / "leaf_all_data_20users.json.gz")
    assert len(oracle) == table.groups == 20
    for user, samples in oracle.items():
        for one in (read, table):
            rows = one.rows(one.names.index(user))
            assert ["".join(ALL_LETTERS[n] for n in x) for x in one.inputs[rows]] == samples["x"]
            assert ["".join(ALL_LETTERS[n] for n in one.targets[rows])] == ["".join(samples["y"])]


def test_the_letters_are_leafs_eighty():
    assert len(ALL_LETTERS) == len(set(ALL_LETTERS)) == 80


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["shakespeare.txt", "shakespeare.txt.gz"])
def test_a_roles_lines_become_one_text(tmp_path, end, name):
    ann = [f"  Ann. {LONG}", "    goes   on", "  [aside]", "  BOB. Here.", "  ANN. and on."]
    table = shakespeare.read(written(tmp_path, two(ann), name=name, end=end))
    assert table.names == ["A_PLAY_ANN", "A_PLAY_BOB"]
    assert text_of(table, 0) == f"{LONG} goes on and on. "
    assert text_of(table, 1) == f"Here. {LONG} Two. Three. "
    assert table.sizes.tolist() == [len(text_of(table, g)) - 80 for g in (0, 1)]


def test_windows_over_the_end_of_a_role_belong_to_nobody(tmp_path):
    table = shakespeare.read(written(tmp_path, two([f"  ANN. {LONG}", "    a", "    b"])))
    letters = [len(text_of(table, g)) for g in (0, 1)]
    assert table.first.tolist() == [0, letters[0]]
    assert len(table.inputs) == len(table.targets) == sum(letters) - 80
    assert len(table.inputs) - table.sizes.sum() == 80


def test_roles_with_two_lines_or_no_window_are_left_out(tmp_path):
    few = [f"  ANN. {LONG}", "    two", "  CAT. a", "    b", "    c", f"  DAN. {LONG}", "    2", "    3"]
    assert shakespeare.read(written(tmp_path, two(few))).names == ["A_PLAY_DAN", "A_PLAY_BOB"]


def test_the_comedy_of_errors_is_read_without_indentation(tmp_path):
    comedy = play("THE COMEDY OF ERRORS", "ACT I. SCENE 1", "nobody's", f"ANN. {LONG}", "more", "more still",
                  "<<a notice>>", "nobody's", f"BOB. {LONG}", "ACT II. SCENE 1", f"BOB. {LONG}", "", gap=4)  # fmt: skip
    table = shakespeare.read(written(tmp_path, comedy))
    assert table.names == ["THE_COMEDY_OF_ERRORS_ANN", "THE_COMEDY_OF_ERRORS_BOB"]
    assert text_of(table, 0) == f"{LONG} more more still "
    assert text_of(table, 1) == f"{LONG} {LONG} "


def test_a_work_with_one_role_is_no_play_and_roles_of_two_plays_are_two(tmp_path):
    other = two([f"  ANN. {LONG}", "    two", "    three"])
    sonnets = play("THE SONNETS", f"  ANN. {LONG}", "    two", "    three")
    table = shakespeare.read(written(tmp_path, other, sonnets, ["LOVE'S, LOST", *other[1:]]))
    assert table.names == ["A_PLAY_ANN", "A_PLAY_BOB", "LOVE_S__LOST_ANN", "LOVE_S__LOST_BOB"]
    assert table.facts["plays"] == ["A PLAY", "LOVE'S, LOST"]


def test_unknown_letters_become_blanks_and_are_counted(tmp_path):
    counts = Counter()
    assert [ALL_LETTERS[n] for n in shakespeare.numbers("a~\u00e9\U0001f600\ud800b", counts)] == ["a", *"    ", "b"]
    assert counts["unknown"] == 4
    table = shakespeare.read(written(tmp_path, two([f"  ANN. {LONG}", "    caf\u00e9", "    #"])))
    assert (table.facts["unknown"], text_of(table, 0)[-8:]) == (2, " caf    ")


def leaf_file(path, x: list, y: list) -> None:
    path.write_text(json.dumps({"users": ["ann"], "num_samples": [len(x)], "user_data": {"ann": {"x": x, "y": y}}}))


def test_leafs_windows_are_read_as_they_stand(tmp_path):
    leaf_file(tmp_path / "all_data.json", ["~" * 40 + "b" * 40, "a" * 80], ["z", "\n"])
    table = shakespeare.read(tmp_path)
    assert table.inputs[0].tolist() == [1] * 40 + [ALL_LETTERS.index("b")] * 40
    assert (table.targets.tolist(), table.facts["unknown"]) == ([ALL_LETTERS.index("z"), 0], 40)


@pytest.mark.parametrize(("x", "y", "wrong"), [
    (["a" * 80, "a" * 79], ["b", "b"], r"user_data\['ann'\], x\[1\] has 79 letters; it must be a text of 80"),
    (["a" * 80], ["bc"], r"y\[0\] has 2 letters"),
    ([[1] * 80], ["b"], r"x\[0\] is a list"),
])  # fmt: skip
def test_leafs_windows_of_another_kind_are_refused(tmp_path, x, y, wrong):
    leaf_file(tmp_path / "all_data.json", x, y)
    with pytest.raises(DataError, match=wrong):
        shakespeare.read(tmp_path)


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "shakespeare.txt").write_bytes(b"\x00\x01\x02" * 999)
    with pytest.raises(DataError, match=r"shakespeare\.txt: it is no text, .*difnet data check"):
        shakespeare.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x01\x02\x03" * 999, b"ROMEO: no etext of 1994\n" * 99])
def test_another_text_is_refused(tmp_path, content):
    (tmp_path / "shakespeare.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"shakespeare\.txt: no plays in its \d+ lines"):
        shakespeare.read(tmp_path)


def test_a_cut_off_text_says_where(tmp_path, own_cache):
    path = written(tmp_path, two([f"  ANN. {LONG}", "    two"]), name="shakespeare.txt.gz") / "shakespeare.txt.gz"
    path.write_bytes(path.read_bytes()[:-20])
    before = sorted((own_cache / "data").glob("*"))
    with pytest.raises(DataError, match=r"shakespeare\.txt\.gz is damaged or cut off after unpacked byte \d+"):
        shakespeare.read(tmp_path)
    assert sorted((own_cache / "data").glob("*")) == before


def test_without_any_file_it_says_both_names(tmp_path):
    with pytest.raises(EnvironmentLacks, match=r"lacks shakespeare\.txt\.gz .*all_data\*\.json"):
        shakespeare.read(tmp_path)


def test_a_roles_first_windows_are_its_support(tmp_path):
    """Every letter of a role is its own, so that a sample tells its place."""
    (tmp_path / "shakespeare").mkdir()
    rng = np.random.default_rng(0)
    roles = [[f"  {chr(65 + n)}. " + "".join(rng.choice(list("abcdefgh"), 200)), "    x", "    y"] for n in range(20)]
    written(tmp_path / "shakespeare", play("A PLAY", *(line for role in roles for line in role)))
    clients = family(agents=3, shots=5, queries=7, data_dir=str(tmp_path), most=50)
    table = shakespeare.read(tmp_path / "shakespeare")
    place = {bytes(x): n for n, x in enumerate(table.inputs)}
    tasks = clients.held_out("test")
    assert len(tasks) == 2
    for task in tasks:
        support, query = ([place[bytes(x.numpy())] for x in batch[0]] for batch in task)
        assert support + query == list(range(support[0], support[0] + 50)) and len(support) == 10
        assert support[0] in table.first
        assert task.query[1].tolist() == table.targets[query].tolist()
    assert clients.draw(0, 3, np.random.default_rng(0)).query[0].shape == (3, 7, 80)
    assert clients.model_words == {"vocabulary": 80, "outputs": 80}
