"""Where data sets lie: in a folder of their names, in one that others name, or in the folder itself that is given."""

import gzip
import json

import pytest

from difnet.data.checks import ABSENT, ANOTHER, INCOMPLETE, check, check_all
from difnet.data.home import folder, place_of
from difnet.data.sources import SOURCES, Count, File, Reading, Source
from difnet.errors import EnvironmentLacks
from tests.data.files import laid_out

IDX = "train-images-idx3-ubyte"


@pytest.mark.parametrize(("name", "file", "given", "found"), [
    ("mnist", f"mnist/{IDX}.gz", ".", "mnist"), ("mnist", f"mnist/{IDX}.gz", "mnist", "mnist"),
    ("mnist", f"MNIST/raw/{IDX}", ".", "MNIST"), ("mnist", f"MNIST/raw/{IDX}", "MNIST", "MNIST"),
    ("mnist", f"MNIST/raw/{IDX}", "MNIST/raw", "MNIST/raw"), ("mnist", f"digits/{IDX}", "digits", "digits"),
    ("omniglot", "omniglot-py/images_background/a/b/1.png", ".", "omniglot-py"),
    ("omniglot", "here/images_background.zip", "here", "here"),
    ("miniimagenet", "mini-imagenet/train/n1/1.jpg", ".", "mini-imagenet"),
    ("miniimagenet", "mini-imagenet/train/n1/1.jpg", "mini-imagenet", "mini-imagenet"),
    ("movielens-small", "ml-latest-small/ratings.csv", ".", "ml-latest-small"),
    ("movielens-small", "ml-latest-small/ratings.csv", "ml-latest-small", "ml-latest-small"),
    ("femnist", "femnist/data/train/x.json", "femnist", "femnist"), ("femnist", "x/all_data_0.json", "x", "x"),
    ("mine", "mine/table.csv", "mine", "mine"),
])  # fmt: skip
def test_a_set_is_found_by_its_folder_or_in_it(tmp_path, name, file, given, found):
    laid_out(tmp_path, [(file, b"?")])
    assert folder(name, tmp_path / given).samefile(tmp_path / found)


def test_a_folder_of_its_name_comes_before_files_that_lie_beside_it(tmp_path):
    laid_out(tmp_path, [(f"mnist/{IDX}", b"?"), (IDX, b"?")])
    assert folder("mnist", tmp_path) == tmp_path / "mnist"


def test_files_of_another_set_are_not_taken_for_it(tmp_path):
    laid_out(tmp_path, [("images_background.zip", b"?"), ("table.csv", b"?")])
    for name in ("mnist", "movielens-small", "mine"):
        with pytest.raises(EnvironmentLacks, match="there is no data set"):
            folder(name, tmp_path)


def test_leafs_files_tell_their_set_only_where_it_is_asked_for(tmp_path):
    laid_out(tmp_path, [("all_data_0.json", b"{}")])
    assert [name for name in SOURCES if place_of(name, tmp_path)] == []
    assert {name for name in SOURCES if place_of(name, tmp_path, asked=True)} == {"femnist", "shakespeare", "sent140"}


def test_a_check_of_a_sets_own_folder_is_of_this_set(tmp_path):
    user = {"x": [[0.5] * 784], "y": [1]}
    text = json.dumps({"users": ["a"], "num_samples": [1], "user_data": {"a": user}})
    laid_out(tmp_path, [("femnist/all_data_0.json", text.encode())])
    for given in (tmp_path, tmp_path / "femnist"):
        (verdict,) = check_all(SOURCES, given)
        assert (verdict.name, verdict.folder, verdict.good) == ("femnist", str(tmp_path / "femnist"), True)
        assert verdict.found == "1 samples in 1 groups"


def test_a_set_that_is_laid_out_otherwise_is_told_to_read_well_or_what_is_missing(tmp_path):
    """By a reader that goes by other files than those with checksums."""
    text = b"userId,movieId,genre,timestamp\n1,2,War,3\n"
    readings = (Reading({}, (Count(1, 1),)),)
    source = Source("mine", "My table", (), "me", "none", (File("table.zip"),), "ratings", readings)
    assert check(source, tmp_path).state == ABSENT
    laid_out(tmp_path / "mine", [("notes.txt", b"?")])
    assert check(source, tmp_path)[2:] == (INCOMPLETE, {}, "", "there is no table.zip")
    (tmp_path / "mine" / "ratings.csv.gz").write_bytes(gzip.compress(text))
    verdict = check(source, tmp_path)
    assert (verdict.state, verdict.found) == (ANOTHER, "1 samples in 1 groups") and "reads well" in verdict.why


def test_real_digits_are_checked_in_the_folder_of_torchvision(real_data, tmp_path):
    there = real_data("mnist") / "mnist"
    (raw := tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for path in there.glob("t*ubyte.gz"):
        (raw / path.name.removesuffix(".gz")).write_bytes(gzip.decompress(path.read_bytes()))
    for given in (tmp_path, tmp_path / "MNIST", raw):
        (verdict,) = check_all({"mnist": SOURCES["mnist"]}, given)
        assert verdict.good and "60000 samples in 1 groups (without the table of writers)" in verdict.found
