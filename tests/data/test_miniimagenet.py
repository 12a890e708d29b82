"""MiniImagenet: small pictures of one colour each, written here, and the real subset against its description."""

import csv
import gzip
import zipfile

import numpy as np
import pytest

from difnet import catalog
from difnet.data.miniimagenet import read
from difnet.errors import EnvironmentLacks
from difnet.tasks.miniimagenet import miniimagenet
from tests.data.files import gz, jpg, laid_out, refused, scrambled, zipped

LISTS = {"train": [("b2.jpg", "bear"), ("a1.jpg", "ant"), ("a0.jpg", "ant"), ("gone.jpg", "ant")],
         "val": [("c.jpg", "cow")], "test": [("e.jpg", "elk"), ("d.jpg", "dog")]}  # fmt: skip
COLOURS = {"a0": (250, 10, 10), "a1": (10, 250, 10), "b2": (10, 10, 250), "c": (90, 90, 90), "d": (0, 0, 0),
           "e": (250, 250, 250)}  # fmt: skip


def picture(colour: tuple[int, int, int], size: int = 84) -> bytes:
    return jpg(np.full((size, size, 3), colour, np.uint8))


def pictures(*names: str) -> list[tuple[str, bytes]]:
    return [(f"images/{name}.jpg", picture(COLOURS[name])) for name in names or COLOURS]


def lists(place, name="{}.csv", pack=lambda path, content: path.write_bytes(content)):
    for part, rows in LISTS.items():
        content = "filename,label\n" + "".join(f"{file},{label}\n" for file, label in rows)
        pack(place / name.format(part), content.encode())


@pytest.fixture
def place(tmp_path):
    lists(tmp_path)
    zipped(tmp_path / "images.zip", pictures())
    return tmp_path


def test_classes_are_groups_part_by_part_and_pictures_in_the_order_of_the_csv(place):
    table = read(place)
    assert list(table.names) == ["ant", "bear", "cow", "dog", "elk"] and table.sizes.tolist() == [2, 1, 1, 1, 1]
    assert table.facts["parts"] == {"train": 2, "val": 1, "test": 2}
    assert table.inputs.shape == (6, 84, 84, 3) and table.inputs.dtype == np.uint8
    want = [COLOURS[name] for name in ("a1", "a0", "b2", "c", "d", "e")]
    assert np.abs(table.inputs.astype(int) - np.array(want)[:, None, None]).max() <= 3  # JPEG rounds
    assert table.targets.tolist() == [0, 0, 1, 2, 3, 4]


def test_pictures_that_are_not_there_are_left_out_and_counted(place):
    assert read(place).facts["missing"] == {"train": 1, "val": 0, "test": 0}


def test_one_zip_three_zips_and_a_folder_with_folders_of_classes_give_the_same_table(place, tmp_path):
    three, loose = tmp_path / "three", tmp_path / "loose"
    three.mkdir()
    lists(three, "ravi-larochelle-{}.csv.gz", gz)
    for part, names in {"train": ["a0", "a1", "b2"], "val": ["c"], "test": ["d", "e"]}.items():
        zipped(three / f"images-{part}.zip", pictures(*names))
    laid_out(loose, [(name.replace("images/", f"images/n{n % 2}/"), c) for n, (name, c) in enumerate(pictures())])
    lists(loose)
    assert read(place).digest == read(three).digest == read(loose).digest


@pytest.mark.parametrize("val", ["val", "validation"])
def test_folders_of_parts_with_a_folder_a_class_need_no_csv(place, tmp_path, val):
    """The same classes; a class's pictures come in the order of their names."""
    classes = {"a0": "train/ant", "a1": "train/ant", "b2": "train/bear", "c": f"{val}/cow", "d": "test/dog",
               "e": "test/elk"}  # fmt: skip
    files = [(f"{folder}/{name}.JPEG", picture(COLOURS[name])) for name, folder in classes.items()]
    loose = laid_out(tmp_path / "loose", files)
    table, want = read(loose), read(place)
    assert list(table.names) == list(want.names) and table.facts["parts"] == want.facts["parts"]
    assert table.sizes.tolist() == want.sizes.tolist() and set(table.facts["missing"].values()) == {0}
    assert np.array_equal(table.inputs[[1, 0, 2, 3, 4, 5]], want.inputs)
    laid_out(loose, [("train/stray.jpg", picture((1, 2, 3)))])
    refused(lambda: read(loose), "train/stray.jpg", "PART/CLASS/FILE")


def test_a_part_without_pictures_is_refused(tmp_path):
    laid_out(tmp_path, [("train/ant/a.jpg", picture((9, 9, 9))), ("val/ant/notes.txt", b""), ("test/cow/c.txt", b"")])
    refused(lambda: read(tmp_path), tmp_path / "val", "has no pictures")


def test_pictures_of_another_size_are_resampled(place):
    zipped(place / "images.zip", [*pictures("a0", "a1", "c", "d", "e"), ("b2.jpg", picture(COLOURS["b2"], 200))])
    assert np.abs(read(place).inputs[2].astype(int) - COLOURS["b2"]).max() <= 3


@pytest.mark.parametrize("content", [b"", b"GIF8?", picture((9, 9, 9))[:300]], ids=["empty", "foreign", "cut off"])
def test_a_broken_picture_is_named_and_nothing_is_kept(place, content):
    zipped(place / "images.zip", [*pictures("a0", "a1", "c", "d", "e"), ("images/b2.jpg", content)])
    refused(lambda: read(place), "images/b2.jpg", "no picture that can be read")


@pytest.mark.parametrize("spoil", [lambda whole: b"", lambda whole: whole[:-60], lambda whole: b"<html>" * 20,
                                   scrambled],
                         ids=["empty", "cut off", "foreign", "scrambled"])  # fmt: skip
def test_a_broken_zip_is_named_and_nothing_is_kept(place, spoil):
    path = place / "images.zip"
    path.write_bytes(spoil(path.read_bytes()))
    refused(lambda: read(place), path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"), (b"\n\nfilename,label\n", "is empty"), (b"file,class\nc.jpg,cow\n", "no column 'filename'"),
        (b"filename,label\nc.jpg\n", "line 2: 1 columns"), (b'filename,label\n"c.jpg,cow\n', "unexpected end of data"),
        (b"filename,label\n\xff\xfe,cow\n", "no text in UTF-8"), (b"filename,label\n", "none of the 0 pictures"),
        (b"filename,label\nother.jpg,cow\n", "none of the 1 pictures"),
        (b"filename,label\nc.jpg,ant\n", "class 'ant' is in an earlier part"),
    ],
)  # fmt: skip
def test_a_broken_list_is_named_with_the_line(place, content, said):
    (place / "val.csv").write_bytes(content)
    refused(lambda: read(place), place / "val.csv", said)


def test_a_list_cut_off_within_its_gzip_is_named(place):
    (place / "val.csv").unlink()
    path = gz(place / "val.csv.gz", b"filename,label\n" + b"c.jpg,cow\n" * 40)
    path.write_bytes(path.read_bytes()[:-12])
    refused(lambda: read(place), path)


@pytest.mark.parametrize(("name", "said"), [("test.csv", "lacks test.csv"), ("images.zip", "has no pictures")])
def test_a_missing_file_is_named(place, name, said):
    (place / name).unlink()
    with pytest.raises(EnvironmentLacks, match=said):
        read(place)


def test_episodes_have_pictures_with_their_colours_first(place, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "miniimagenet").symlink_to(place)
    more = [(f"{name[:-4]}-{n}.jpg", content) for name, content in pictures() for n in range(2)]
    zipped(place / "images.zip", more)
    for part, rows in LISTS.items():
        rows = [*rows, ("c.jpg", "cub")] if part == "val" else rows
        twice = [(f"{name[:-4]}-{n}.jpg", label) for name, label in rows for n in range(2)]
        (place / f"{part}.csv").write_text("filename,label\n" + "".join(f"{f},{label}\n" for f, label in twice))
    family = miniimagenet(agents=1, shots=1, queries=1, ways=2, data_dir=str(tmp_path / "home"))
    (x, y), (q, _) = family.draw(0, 30, np.random.default_rng(0))
    assert x.shape == q.shape == (30, 2, 3, 84, 84) and y.tolist() == [[0, 1]] * 30
    seen = {tuple((pixel * 255).round(decimals=-1).int().tolist()) for pixel in x[..., 40, 40].flatten(0, 1)}
    assert seen == {(250, 10, 10), (10, 250, 10), (10, 10, 250)}
    model = catalog.model(family.default_model, family.model_words)
    assert sum(p.numel() for p in model.parameters()) == 32901 - 3 * 801  # two ways instead of five
    assert model(x[0]).shape == (2, 2)


def test_a_few_published_pictures_of_every_class_are_found_by_the_whole_lists(real_data, tmp_path):
    """Two of each of 64 + 16 + 20 classes, with Ravi and Larochelle's lists of 38400 + 9600 + 12000 names."""
    place = real_data("miniimagenet") / "miniimagenet"
    for part in ("train", "val", "test"):
        listed = place / f"ravi-larochelle-{part}.csv.gz"
        (tmp_path / listed.name).symlink_to(listed)
        with zipfile.ZipFile(place / f"images-{part}.zip") as archive:
            classes: dict[str, list[str]] = {}
            for row in csv.DictReader(gzip.decompress(listed.read_bytes()).decode().splitlines()):
                classes.setdefault(row["label"], []).append(f"images/{row['filename']}")
            chosen = [name for names in classes.values() for name in names[:2]]
            zipped(tmp_path / f"images-{part}.zip", [(name, archive.read(name)) for name in chosen])
    table = read(tmp_path)
    assert table.facts["parts"] == {"train": 64, "val": 16, "test": 20} and set(table.sizes.tolist()) == {2}
    assert table.facts["missing"] == {"train": 38400 - 128, "val": 9600 - 32, "test": 12000 - 40}
    assert len(set(table.names)) == 100


@pytest.mark.slow
def test_the_published_subset_has_the_counts_of_its_description(real_data):
    table = read(real_data("miniimagenet") / "miniimagenet")
    assert table.facts["parts"] == {"train": 64, "val": 16, "test": 20}
    assert table.facts["missing"] == {"train": 0, "val": 0, "test": 0}
    assert table.inputs.shape == (20000, 84, 84, 3) and set(table.sizes.tolist()) == {200}
    family = miniimagenet(agents=2, shots=1, queries=15, data_dir=str(real_data("miniimagenet")))
    (x, _), (q, _) = family.draw(1, 1, np.random.default_rng(0))
    assert x.shape == (1, 5, 3, 84, 84) and q.shape == (1, 75, 3, 84, 84)
    assert sum(p.numel() for p in catalog.model(family.default_model, family.model_words).parameters()) == 32901
