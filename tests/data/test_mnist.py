"""MNIST's own files: small ones written here byte by byte, and the real ones against the counts of their owners."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from difnet.data.mnist import read, read_idx
from difnet.errors import ConfigError, EnvironmentLacks
from difnet.tasks.mnist import mnist
from tests.data.files import gz, refused, scrambled

IMAGES, LABELS, WRITERS = (
    "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "qmnist-train-labels-idx2-int.gz",
)  # fmt: skip
DIGITS, WHO = [3, 1, 4, 1, 5], [7, 2, 7, 2, 9]


def idx(kind: int, shape: tuple[int, ...], content: bytes) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + b"".join(struct.pack(">I", size) for size in shape) + content


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Five images of two by two pixels, the n-th of which is 10 n, 10 n + 1, …"""
    gz(tmp_path / IMAGES, idx(8, (5, 2, 2), bytes(10 * n + p for n in range(5) for p in range(4))))
    gz(tmp_path / LABELS, idx(8, (5,), bytes(DIGITS)))
    rows = [[digit, 4, who, 0, 0, 0, 0, 0] for digit, who in zip(DIGITS, WHO, strict=True)]
    gz(tmp_path / WRITERS, idx(12, (5, 8), b"".join(struct.pack(">8i", *row) for row in rows)))
    return tmp_path


def test_digits_are_grouped_by_writer_in_the_order_of_the_files(place):
    table = read(place)
    assert list(table.names) == ["writer-2", "writer-7", "writer-9"]
    assert table.sizes.tolist() == [2, 2, 1] and table.first.tolist() == [0, 2, 4]
    assert table.inputs.tolist() == [[[10 * n, 10 * n + 1], [10 * n + 2, 10 * n + 3]] for n in (1, 3, 0, 2, 4)]
    assert table.targets.tolist() == [1, 1, 3, 4, 5] and table.targets.dtype == np.int64
    assert table.inputs.dtype == np.uint8


def test_unpacked_files_give_the_same_table(place, tmp_path):
    packed = read(place)
    for name in (IMAGES, LABELS, WRITERS):
        (place / name.removesuffix(".gz")).write_bytes(gzip.decompress((place / name).read_bytes()))
        (place / name).unlink()
    assert read(place).digest == packed.digest


@pytest.mark.parametrize("above", ["raw", "MNIST/raw"])
def test_files_lie_where_torchvision_leaves_them(place, tmp_path, above):
    """Packed, and unpacked beside them, without the table of writers; then unpacked alone."""
    want = read(place)
    (there := tmp_path / "other" / above).mkdir(parents=True)
    for name in (IMAGES, LABELS):
        (there / name).write_bytes((place / name).read_bytes())
        (there / name.removesuffix(".gz")).write_bytes(gzip.decompress((place / name).read_bytes()))
    table = read(tmp_path / "other")
    assert (list(table.names), table.sizes.tolist(), table.targets.tolist()) == (["unknown"], [5], DIGITS)
    for name in (IMAGES, LABELS):
        (there / name).unlink()
    assert read(tmp_path / "other").digest == table.digest
    (there / WRITERS).write_bytes((place / WRITERS).read_bytes())
    assert read(tmp_path / "other").digest == want.digest


def test_the_writers_are_needed_only_where_they_are_the_clients(place, tmp_path):
    (place / WRITERS).unlink()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mnist").symlink_to(place)
    words = {"agents": 1, "shots": 1, "queries": 1, "data_dir": str(tmp_path / "home"), "least": 1}
    with pytest.raises(EnvironmentLacks, match=r"lacks qmnist-train-labels-idx2-int\.gz"):
        mnist(**words)
    divided = mnist(**words, partition="iid", clients=5, shares=(0.6, 0.2, 0.2))
    assert divided.model_words == {"inputs": 784, "outputs": 10}


def test_a_table_of_writers_that_goes_on_is_read_as_far_as_there_are_digits(place):
    content = gzip.decompress((place / WRITERS).read_bytes())
    gz(place / WRITERS, idx(12, (6, 8), content[12:] + bytes(32)))
    assert read(place).sizes.sum() == 5


@pytest.mark.parametrize("name", [IMAGES, LABELS, WRITERS])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: b"", lambda packed: packed[:-9], lambda packed: packed[:12], lambda packed: b"<html>" * 99,
        lambda packed: gzip.compress(gzip.decompress(packed)[:-1]), lambda packed: gzip.compress(b""), scrambled,
        lambda packed: gzip.compress(b"\x89PNG" + bytes(40)), lambda packed: gzip.compress(gzip.decompress(packed)[:6]),
    ],
    ids=["empty", "cut off", "cut in its head", "a page", "a byte too few", "empty inside", "scrambled", "a picture",
         "a head"],
)  # fmt: skip
def test_a_broken_file_is_named_and_nothing_is_kept(place, name, spoil):
    (place / name).write_bytes(spoil((place / name).read_bytes()))
    refused(lambda: read(place), place / name, "difnet data check")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (LABELS, idx(8, (4,), bytes(DIGITS[:4])), "5 images"), (LABELS, idx(8, (0,), b""), "no labels"),
        (LABELS, idx(8, (5,), bytes([3, 1, 4, 1, 17])), "row 4: label 17"),
        (LABELS, idx(8, (5,), bytes([3, 1, 8, 1, 5])), "row 2: digit 4"),
        (WRITERS, idx(12, (5, 2), bytes(40)), "2 columns"),
        (IMAGES, idx(8, (2**32 - 1, 2**32 - 1, 4), bytes(20)), "4294967295 x 4294967295 x 4"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_together_are_refused_with_the_row(place, name, content, said):
    gz(place / name, content)
    refused(lambda: read(place), place / name, said)


def test_a_missing_file_is_named_with_what_fetches_it(place):
    (place / LABELS).unlink()
    with pytest.raises(EnvironmentLacks, match=LABELS):
        read(place)


def test_no_data_set_at_all_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(EnvironmentLacks, match=f"no folder {tmp_path / 'mnist'}"):
        mnist(agents=2, shots=1, queries=1, data_dir=str(tmp_path))


def test_the_published_sets_have_their_published_counts(real_data):
    """Of the data's own description: 60000 and 10000 digits, 539 and 297 writers of 19 to 131 and 8 to 130."""
    place = real_data("mnist") / "mnist"
    tables = [read(place, part) for part in ("train", "test")]
    for table, rows, writers, least, most, median in zip(
        tables, (60000, 10000), (539, 297), (19, 8), (131, 130), (116, 21), strict=True
    ):
        assert table.inputs.shape == (rows, 28, 28) and table.groups == writers and table.sizes.sum() == rows
        assert (table.sizes.min(), table.sizes.max(), np.median(table.sizes)) == (least, most, median)
        assert sorted(set(table.targets.tolist())) == list(range(10))
    assert not set(tables[0].names) & set(tables[1].names)
    assert (tables[0].sizes >= 50).sum() == 537


def test_every_published_digit_lies_with_its_writer_as_its_bytes_say(real_data):
    """Looked up in the unpacked bytes, one by one, for a few rows."""
    place = real_data("mnist") / "mnist"
    table = read(place, "test")
    images, labels, writers = (
        gzip.decompress((place / name).read_bytes())
        for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "qmnist-test-labels-idx2-int.gz")
    )
    for row in (0, 1, 4321, 9999):
        group = list(table.names).index(f"writer-{struct.unpack_from('>i', writers, 12 + 32 * row + 8)[0]}")
        pixels = images[16 + 784 * row : 16 + 784 * (row + 1)]
        same = [r for r in table.rows(group) if table.inputs[r].tobytes() == pixels]
        assert [table.targets[r] for r in same] == [labels[8 + row]]


def test_the_family_gives_pixels_from_0_to_1(real_data):
    family = mnist(agents=4, shots=3, queries=5, data_dir=str(real_data("mnist")))
    (x, y), (q, _) = family.draw(0, 2, np.random.default_rng(0))
    assert x.shape == (2, 3, 784) and q.shape == (2, 5, 784) and y.shape == (2, 3)
    assert float(x.min()) == 0 and 0.9 < float(x.max()) <= 1
    assert len(family.held_out("test")) == 54


def test_a_part_that_there_is_not_is_refused(place):
    with pytest.raises(ConfigError, match="'validation'"):
        read(place, "validation")


def test_numbers_of_more_than_a_byte_are_read_most_significant_first(tmp_path):
    array = read_idx(gz(tmp_path / "a.gz", idx(12, (2, 1), b"\x00\x00\x01\x02\xff\xff\xff\xff")), 2)
    assert array.tolist() == [[258], [-1]]
