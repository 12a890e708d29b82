"""What was parsed is kept once, whole or not at all, and shared: with arrays that a test writes itself."""

import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from difnet.data.cache import kept
from difnet.errors import EnvironmentLacks
from tests.data.files import entries

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.txt"
    path.write_text("some text")
    return path


def numbers(writer) -> None:
    for n in range(3):
        writer.add("a", np.full((n + 1, 2), n, np.int16))
    writer.add("b", np.empty((0, 5)))
    writer.facts = {"names": ["one", "two"]}


def test_pieces_become_one_array_and_facts_come_back(source):
    entry = kept("pieces 1", [source], numbers)
    assert entry.arrays["a"].tolist() == [[0, 0], [1, 1], [1, 1], [2, 2], [2, 2], [2, 2]]
    assert entry.arrays["a"].dtype == np.int16
    assert entry.arrays["b"].shape == (0, 5) and entry.facts == {"names": ["one", "two"]}


def test_what_is_kept_is_not_read_again(source):
    times = []
    for _ in range(3):
        kept("again 1", [source], lambda writer: (times.append(1), numbers(writer)))
    assert len(times) == 1


@pytest.mark.parametrize("change", ["content", "time", "reader", "options", "path", "a further file"])
def test_another_file_reader_or_option_is_read_anew(source, change):
    times = []

    def read(sources=None, reader="anew 1", options=None):
        kept(reader, sources or [source], lambda writer: (times.append(1), numbers(writer)), options)

    read()
    if change == "content":
        source.write_text("another text")
        read()
    elif change == "time":
        os.utime(source, (1, 1))
        read()
    elif change == "reader":
        read(reader="anew 2")
    elif change == "options":
        read(options={"size": 3})
    else:
        other = source.with_name("other.txt")
        other.write_text("some text")
        read([other] if change == "path" else [source, other])
    assert len(times) == 2


@pytest.mark.parametrize("change", ["rewritten in place", "added", "removed", "renamed"])
def test_a_folder_stands_for_every_file_below_it(tmp_path, change):
    folder = tmp_path / "folder"
    (folder / "deep" / "er").mkdir(parents=True)
    files = [folder / "deep" / "er" / name for name in ("a.txt", "b.txt")]
    for file in files:
        file.write_text("text")
    times = []
    for _ in range(2):
        kept("folder 1", [folder], lambda writer: (times.append(1), numbers(writer)))
    assert len(times) == 1
    if change == "rewritten in place":
        files[0].write_text("other")
    elif change == "added":
        (folder / "deep" / "c.txt").write_text("")
    elif change == "removed":
        files[0].unlink()
    else:
        files[0].rename(folder / "deep" / "er" / "c.txt")
    kept("folder 1", [folder], lambda writer: (times.append(1), numbers(writer)))
    assert len(times) == 2


@pytest.mark.parametrize("error", [ValueError("half way"), KeyboardInterrupt()])
def test_a_reader_that_fails_half_way_leaves_nothing_and_the_next_one_reads(source, error):
    before = entries()

    def half(writer):
        writer.add("a", np.zeros((1000, 100)))
        raise error

    with pytest.raises(type(error)):
        kept("half 1", [source], half)
    assert entries() == before
    assert len(kept("half 1", [source], numbers).arrays["a"]) == 6


def test_what_a_killed_process_left_is_swept_by_the_next_reader(source):
    """It dies within `read`, with a piece written."""

    def die(writer):
        writer.add("a", np.zeros((100_000, 10)))
        os.kill(os.getpid(), signal.SIGKILL)

    child = FORK.Process(target=kept, args=("killed 1", [source], die))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert [name for name in entries() if name.startswith("reading-")]
    kept("killed 1", [source], numbers)
    assert not [name for name in entries() if name.startswith("reading-")]


def test_two_processes_at_once_end_with_one_entry_and_equal_arrays(source):
    """Each goes on only when the other reads as well, so that both write."""
    together, said = FORK.Barrier(2), FORK.SimpleQueue()

    def read(writer):
        together.wait(60)
        writer.add("a", np.arange(50000.0))

    def tell():
        entry = kept("both 1", [source], read)
        said.put((float(entry.arrays["a"].sum()), entry.digest))

    both = [FORK.Process(target=tell) for _ in range(2)]
    for child in both:
        child.start()
    for child in both:
        child.join(60)
    assert [child.exitcode for child in both] == [0, 0]
    one, other = said.get(), said.get()
    assert one == other and one[0] == 50000 * 49999 / 2
    assert len([name for name in entries() if name.startswith("both-")]) == 1


def test_arrays_are_mapped_from_their_files_and_cannot_be_written(source, own_cache):
    """The kernel's own table of this process' maps names the file, as shared."""
    array = kept("mapped 1", [source], lambda writer: writer.add("a", np.arange(9000))).arrays["a"]
    assert type(array) is np.ndarray
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("needs /proc/self/maps of Linux")
    mine = [line.split() for line in maps.read_text().splitlines() if "/mapped-" in line]
    assert mine and all(fields[1] == "r--s" for fields in mine)


def test_the_digest_is_that_of_the_content_however_it_was_cut_into_pieces(source):
    whole = np.arange(12.0).reshape(6, 2)

    def digest(reader, *pieces):
        return kept(reader, [source], lambda writer: [writer.add("a", piece) for piece in pieces]).digest

    same = {digest("cut 1", whole), digest("cut 2", whole[:1], whole[1:]), digest("cut 3", *whole[:, None])}
    changed = [whole.reshape(3, 4), whole.astype(np.float32), whole + 1, whole.view(np.int64), whole[:5]]
    others = {digest(f"cut {n}", other) for n, other in enumerate(changed, start=4)}
    assert len(same) == 1 and len(others) == 5 and not same & others


def test_arrays_that_are_no_rows_one_after_another_in_memory_are_kept_as_they_are(source):
    grid = np.arange(24, dtype=np.uint8).reshape(4, 6)
    entry = kept("strided 1", [source], lambda writer: [writer.add("a", grid[:, ::2]), writer.add("b", grid.T > 7)])
    assert np.array_equal(entry.arrays["a"], grid[:, ::2]) and np.array_equal(entry.arrays["b"], grid.T > 7)


def test_a_cache_that_cannot_be_written_is_one_error_that_says_what_to_do(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path / "file"))
    with pytest.raises(EnvironmentLacks, match="DIFNET_CACHE"):
        kept("blocked 1", [source], numbers)


@pytest.mark.parametrize("piece", [100, 1000, 100_000])
def test_a_full_disk_is_one_error_and_leaves_nothing(source, piece):
    """A process whose files may have 100 kB: writing beyond fails as on a full disk, at once or on closing."""
    before, said = entries(), FORK.SimpleQueue()

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            kept("full 1", [source], lambda writer: [writer.add("a", np.zeros(piece, np.int8))
                                                     for _ in range(100_100 // piece + 1)])  # fmt: skip
        except EnvironmentLacks as error:
            said.put(str(error))

    child = FORK.Process(target=fill)
    child.start()
    child.join(60)
    assert child.exitcode == 0 and said.get().endswith("name another folder in $DIFNET_CACHE.")
    assert entries() == before


def test_what_is_kept_is_plain(source, own_cache):
    """An array is its bytes; what there is to know of it is JSON."""
    kept("plain 1", [source], lambda writer: writer.add("a", np.arange(3, dtype="<i2")))
    [folder] = (own_cache / "data").glob("plain-*")
    assert (folder / "a.bin").read_bytes() == b"\0\0\1\0\2\0"
    assert json.loads((folder / "about.json").read_text())["arrays"] == {"a": [3, [], "<i2"]}
