"""Omniglot's drawings: small sets of pictures written here, and the real one against what its owners published."""

import numpy as np
import pytest

from difnet.data.omniglot import read
from difnet.errors import ConfigError, EnvironmentLacks
from difnet.tasks.omniglot import omniglot
from tests.data.files import entries, laid_out, png, refused, scrambled, zipped

BACKGROUND, EVALUATION = "images_background", "images_evaluation"


def drawing(number: int) -> bytes:
    """105 x 105, paper but for a bar whose place tells the number."""
    pixels = np.full((105, 105), 255, np.uint8)
    pixels[15 * number : 15 * number + 15] = 0
    return png(pixels)


def drawings(folder: str, characters: dict[str, int]) -> list[tuple[str, bytes]]:
    """The first drawing of each character written last, so that the order of the files is no order of names."""
    files = [(f"{folder}/{character}/{n:04}_01.png", drawing(first + n)) for character, first in characters.items()
             for n in range(2)]  # fmt: skip
    return files[::-1]


SETS = {
    BACKGROUND: drawings(BACKGROUND, {"Greek/character02": 0, "Greek/character01": 2, "Greek-like/character01": 1}),
    EVALUATION: drawings(EVALUATION, {"Tengwar/character01": 4}),
}


@pytest.fixture
def place(tmp_path):
    for name, files in SETS.items():
        zipped(tmp_path / f"{name}.zip", files)
    return tmp_path


def test_characters_are_groups_and_the_background_set_comes_first(place):
    table = read(place, size=7)
    assert list(table.names) == [f"{BACKGROUND}/Greek-like/character01", f"{BACKGROUND}/Greek/character01",
                                 f"{BACKGROUND}/Greek/character02", f"{EVALUATION}/Tengwar/character01"]  # fmt: skip
    assert table.sizes.tolist() == [2, 2, 2, 2] and table.facts["background"] == 3
    assert table.targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    darkest = table.inputs.astype(int).sum(2).argmin(1)  # the bars are 15 of 105 rows wide: one of 7
    assert darkest.tolist() == [1, 2, 2, 3, 0, 1, 4, 5]
    assert table.inputs.dtype == np.uint8 and table.inputs.max() > 220 and table.inputs.min() < 50


def test_a_drawing_of_the_wanted_size_keeps_its_pixels(place):
    row = read(place, size=105).inputs[0]
    assert (row[15:30] == 0).all() and (row[:15] == 255).all() and (row[30:] == 255).all()


def test_zip_and_folder_give_the_same_table(place, tmp_path):
    other = tmp_path / "unpacked"
    for files in SETS.values():
        laid_out(other, [*files, (f"{files[0][0]}.txt", b"no drawing"), ("__MACOSX/x/y/z.png", b"")])
    a, b = read(place), read(other)
    assert a.digest == b.digest and list(a.names) == list(b.names) and np.array_equal(a.inputs, b.inputs)


@pytest.mark.parametrize("above", ["omniglot-py", "python"])
def test_the_sets_lie_where_torchvision_and_their_owners_repository_have_them(place, tmp_path, above):
    (there := tmp_path / "other" / above).mkdir(parents=True)
    laid_out(there, SETS[BACKGROUND])
    zipped(there / f"{EVALUATION}.zip", SETS[EVALUATION])
    assert read(tmp_path / "other").digest == read(place).digest


def test_a_folder_is_a_class_where_the_two_sets_are_not_told_apart(place, tmp_path):
    """The same drawings in one tree of alphabets, and in a folder for each character."""
    want, (deep, flat) = read(place), (tmp_path / "deep", tmp_path / "flat")
    for name, content in [file for files in SETS.values() for file in files]:
        _, alphabet, character, file = name.split("/")
        laid_out(deep, [(f"{alphabet}/{character}/{file}", content)])
        laid_out(flat, [(f"{alphabet}-{character}/{file}", content)])
    for folder in (deep, flat):
        table = read(folder)
        assert table.sizes.tolist() == [2, 2, 2, 2] and table.facts["background"] == 0
        assert {row.tobytes() for row in table.inputs} == {row.tobytes() for row in want.inputs}
    assert next(iter(read(deep).names)) == "Greek-like/character01"
    assert sorted(read(flat).names)[0] == "Greek-character01"
    laid_out(deep, [("stray/0.png", drawing(1))])
    refused(lambda: read(deep), "lies where no drawing should")


def test_one_of_the_two_sets_is_not_taken_for_a_folder_of_classes(tmp_path):
    laid_out(tmp_path, SETS[BACKGROUND])
    with pytest.raises(EnvironmentLacks, match=f"neither {EVALUATION}.zip"):
        read(tmp_path)


def test_a_drawing_that_changes_within_a_folder_is_read_anew(tmp_path):
    for files in SETS.values():
        laid_out(tmp_path, files)
    before = read(tmp_path)
    (tmp_path / SETS[BACKGROUND][0][0]).write_bytes(drawing(6) + b"\0")
    assert read(tmp_path).digest != before.digest


def test_what_a_mac_leaves_in_a_zip_is_passed_over(place, tmp_path):
    before = read(place)
    files = [*SETS[EVALUATION], (f"__MACOSX/{EVALUATION}/Tengwar/character01/._a.png", b"?"),
             (f"{EVALUATION}/Tengwar/character01/._b.png", b"?")]  # fmt: skip
    zipped(place / f"{EVALUATION}.zip", files)
    assert read(place).digest == before.digest


@pytest.mark.parametrize("spoil", [lambda whole: b"", lambda whole: whole[: len(whole) // 2],
                                   lambda whole: b"not a zip at all" * 9, scrambled],
                         ids=["empty", "cut off", "foreign", "scrambled"])  # fmt: skip
def test_a_broken_zip_is_named_and_nothing_is_kept(place, spoil):
    path = place / f"{EVALUATION}.zip"
    path.write_bytes(spoil(path.read_bytes()))
    refused(lambda: read(place), path)


@pytest.mark.parametrize("content", [b"", b"GIF?", drawing(0)[:60], scrambled(drawing(0))],
                         ids=["empty", "foreign", "cut off", "scrambled"])  # fmt: skip
def test_a_broken_drawing_is_named_in_zip_and_folder(tmp_path, content):
    name = f"{EVALUATION}/Tengwar/character01/0001_01.png"
    broken = [*SETS[EVALUATION][1:], (name, content)]
    for put, place in ((zipped, tmp_path / "a"), (laid_out, tmp_path / "b")):
        place.mkdir()
        for folder, files in ((BACKGROUND, SETS[BACKGROUND]), (EVALUATION, broken)):
            put(place / f"{folder}.zip" if put is zipped else place, files)
        refused(lambda place=place: read(place), name, "no picture that can be read")


@pytest.mark.parametrize("files", [[], [(f"{EVALUATION}/readme.txt", b"")]])
def test_a_set_without_drawings_is_refused(place, files):
    zipped(place / f"{EVALUATION}.zip", files)
    refused(lambda: read(place), place / f"{EVALUATION}.zip", "holds no drawings")


def test_pictures_that_lie_elsewhere_are_refused(place):
    zipped(place / f"{EVALUATION}.zip", [("cats/1.png", drawing(0))])
    refused(lambda: read(place), "cats/1.png", "ALPHABET/CHARACTER")


def test_a_missing_set_is_named(place):
    (place / f"{EVALUATION}.zip").unlink()
    with pytest.raises(EnvironmentLacks, match=f"neither {EVALUATION}.zip nor a folder {EVALUATION}"):
        read(place)


def family(place, tmp_path, **options):
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    if not (home / "omniglot").exists():
        (home / "omniglot").symlink_to(place)
    return omniglot(agents=1, shots=1, queries=1, ways=2, data_dir=str(home), **options)


def test_characters_are_split_as_told_and_each_has_one_part(place, tmp_path):
    """Shuffled by the data's seed; or the background set's last for validation and the evaluation set for tests."""
    everything, cast = set(read(place).names), set()
    for seed in range(8):
        told = family(place, tmp_path, training=2, validation=1, data_seed=seed).manifest()
        parts = [{c["client"] for c in part} for part in (told["agents"][0], told["validation"], told["test"])]
        assert [*map(len, parts)] == [2, 1, 1] and set.union(*parts) == everything
        cast |= parts[2]
    assert len(cast) > 1
    told = family(place, tmp_path, split="background", validation=1).manifest()
    assert [c["client"] for c in told["validation"]] == [f"{BACKGROUND}/Greek/character02"]
    assert [c["client"] for c in told["test"]] == [f"{EVALUATION}/Tengwar/character01"]


@pytest.mark.parametrize("options", [{}, {"split": "background"}, {"training": 3, "validation": 1},
                                     {"training": 0, "validation": 1}, {"training": 2, "validation": 0}])  # fmt: skip
def test_splits_that_leave_a_part_empty_are_refused(place, tmp_path, options):
    with pytest.raises(ConfigError, match="4 characters, 3 of them in the background set, cannot be split"):
        family(place, tmp_path, **options)


def test_an_unknown_split_is_refused(place, tmp_path):
    with pytest.raises(ConfigError, match="'alphabet'"):
        family(place, tmp_path, split="alphabet")


@pytest.mark.slow
def test_the_published_set_has_its_published_counts(real_data):
    """964 + 659 characters of 20 drawings each; 30 + 20 alphabets; one pair of drawings that is pixel-identical."""
    place = real_data("omniglot") / "omniglot"
    table = read(place, size=105)
    assert table.groups == 1623 and table.facts["background"] == 964 and set(table.sizes.tolist()) == {20}
    alphabets = [{name.split("/")[1] for name in names} for names in (table.names[:964], table.names[964:])]
    assert [*map(len, alphabets)] == [30, 20] and not alphabets[0] & alphabets[1]
    assert table.inputs.shape == (32460, 105, 105) and set(np.unique(table.inputs[::97])) == {0, 255}
    drawn = [row.tobytes() for row in table.inputs]
    assert len(set(drawn)) == 32459
    pair = _equal_pair(drawn)
    assert {table.names[n // 20].split("/", 1)[1] for n in pair} == {"Braille/character01"}
    assert any(name.startswith("omniglot-") for name in entries())


def _equal_pair(drawn: list[bytes]) -> tuple[int, int]:
    seen: dict[bytes, int] = {}
    for n, row in enumerate(drawn):
        if row in seen:
            return seen[row], n
        seen[row] = n
    raise AssertionError("no two are equal")


@pytest.mark.slow
def test_the_family_has_the_splits_of_the_papers(real_data):
    """1100 + 100 + 423 shuffled; else the background set's, less 100, and the evaluation set's alone for tests."""
    for split, sizes in (("shuffled", [1100, 100, 423]), ("background", [864, 100, 659])):
        made = omniglot(agents=2, shots=1, queries=2, data_dir=str(real_data("omniglot")), split=split)
        told = made.manifest()
        names = [{c["client"] for c in part} for part in (told["everyone"], told["validation"], told["test"])]
        assert [*map(len, names)] == sizes and len(set().union(*names)) == 1623
        if split == "background":
            assert all(name.startswith(EVALUATION) for name in names[2])
            assert all(name.startswith(BACKGROUND) for name in names[0] | names[1])
    (x, y), _ = made.draw(0, 2, np.random.default_rng(0))
    assert x.shape == (2, 5, 1, 28, 28) and y.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert float(x.min()) >= 0 and float(x.max()) <= 1 and float(x.mean()) < 0.3
