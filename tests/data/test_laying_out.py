"""Objects of a Python session become files of a private folder, which is gone afterwards, also after a crash."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from difnet.data import own_arrays, own_tables
from difnet.data.laying_out import OBJECTS, named, scratch, write_arrays, write_frames
from difnet.errors import ConfigError, DataError, EnvironmentLacks
from tests.conftest import REPOSITORY, environment, until


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Where temporary folders go in this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path / "cache"))
    return tmp_path


def folders(place: Path) -> list[Path]:
    return list(place.glob(f"{OBJECTS}*"))


def test_arrays_and_tensors_come_back_bit_for_bit_and_nothing_is_left(place):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9000, 3)), rng.integers(0, 4, 9000)
    given = {"ash": (x, y), "oak": (torch.from_numpy(x.astype(np.float32))[::2], torch.from_numpy(y)[::2])}
    with scratch(lambda folder: write_arrays(given, folder)) as folder:
        assert folder.parent.stat().st_mode & 0o077 == 0
        own = own_arrays.read(folder)
        for name, (inputs, targets) in given.items():
            assert np.array_equal(np.load(folder / name / "x.npy"), np.asarray(inputs))
            assert np.array_equal(own.clients[name].targets, np.asarray(targets))
    assert folders(place) == []


def test_what_is_read_of_them_goes_with_them_and_leaves_the_users_cache_alone(place):
    pytest.importorskip("pyarrow")
    frames = {"ash": {"a": np.arange(20.0) / 3, "ill": ["no", "yes"] * 10}}
    with scratch(lambda folder: write_frames(frames, folder)) as folder:
        schema = own_tables.schema_of(folder, "ill").schema
        assert np.array_equal(own_tables.read(folder, schema).rows[:, 0], (np.arange(20.0) / 3).astype(np.float32))
        assert any((folder.parent / ".difnet-kept").iterdir())
    assert folders(place) == [] and not (place / "cache").exists() and not list(place.rglob("*.bin"))


def test_after_an_error_nothing_is_left(place):
    for broken in ({"ash": (np.zeros((4, 2)), None)}, {"ash": 3}, {"ash": (np.zeros(3), np.array(["a"] * 3))}):
        with pytest.raises(DataError, match="client 'ash'"):
            with scratch(lambda folder, broken=broken: write_arrays(broken, folder)):
                raise AssertionError("nobody comes here")
    with pytest.raises(KeyError), scratch(lambda folder: None):
        raise KeyError
    assert folders(place) == []


def test_what_a_killed_session_left_goes_with_the_next_run_and_that_of_a_living_one_stays(place):
    program = ("import sys, time\nfrom difnet.data.laying_out import scratch\n"
               "with scratch(lambda folder: (folder / 'mine').write_text('row')): print('there', flush=True); "
               "sys.stdin.read()\n")
    sessions = [subprocess.Popen([sys.executable, "-c", program], env=environment(TMPDIR=str(place)), cwd=REPOSITORY,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        assert [session.stdout.readline() for session in sessions] == ["there\n"] * 2
        os.kill(sessions[0].pid, signal.SIGKILL)
        sessions[0].wait(30)
        assert len(folders(place)) == 2
        with scratch(lambda folder: None):
            pass
        [left] = folders(place)
        assert left.name.startswith(f"{OBJECTS}{sessions[1].pid}-") and (left / "own" / "mine").exists()
    finally:
        for session in sessions:
            session.stdin.close()
            session.wait(30)
            session.stdout.close()
    until(lambda: not folders(place), "the other session's folder to go")


def test_without_room_it_says_where(place, monkeypatch):
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(EnvironmentLacks, match=r"No space left on device. Make room there, .*TMPDIR"):
        with scratch(full):
            raise AssertionError("nobody comes here")
    assert folders(place) == []


@pytest.mark.parametrize(("name", "said"), [("", "is empty"), ("a/b", "holds a slash"), (".a", "begins with a dot"),
                                            ("a\nb", "control characters"), ("a" * 300, "is too long")])
def test_names_that_are_no_names_of_files_are_refused(name, said):
    with pytest.raises(ConfigError, match=said):
        named({name: 1}, "arrays")


def test_numbers_are_names_and_those_that_look_alike_are_refused():
    assert named({1: "x", 2: "y"}, "arrays") == {"1": "x", "2": "y"}
    with pytest.raises(ConfigError, match="is there twice"):
        named({1: "x", "1": "y"}, "arrays")
    for nothing in ({}, [1, 2], None):
        with pytest.raises(ConfigError, match="give them by client"):
            named(nothing, "arrays")


def test_frames_of_pandas_are_read_as_pandas_has_them(place):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({
        "age": [31.5, None, 47.25] * 5, "ward": pandas.Categorical(["n", "s", "s"] * 5),
        "smokes": [True, False, True] * 5, "since": pandas.date_range("2026-01-01", periods=15),
        "ill": ["no", "yes", "yes"] * 5,
    }, index=range(100, 115))  # fmt: skip
    with scratch(lambda folder: write_frames({"ash": frame}, folder)) as folder:
        schema = own_tables.schema_of(folder, "ill").schema
        read = own_tables.read(folder, schema)
    kinds = {column.name: column.kind for column in schema.columns}
    assert kinds == {"age": "number", "ward": "category", "smokes": "flag", "since": "date"}
    by_name = dict(zip([column.name for column in schema.used], read.rows.T, strict=True))
    assert np.array_equal(by_name["age"], frame["age"].to_numpy(np.float32), equal_nan=True)
    assert np.array_equal(by_name["ward"], frame["ward"].cat.codes)
    assert np.array_equal(by_name["smokes"], frame["smokes"])
    assert np.array_equal(np.diff(by_name["since"]), np.ones(14))


@pytest.mark.parametrize("frame", [[1, 2], {"a": [object()]}, {"a": [1, 2], "b": [1]}, 3, None],
                         ids=["a list", "objects", "two lengths", "a number", "nothing"])  # fmt: skip
def test_what_is_no_frame_is_refused_by_client(place, frame):
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"client 'ash': a .* cannot be written as a table"):
        with scratch(lambda folder: write_frames({"ash": frame}, folder)):
            raise AssertionError("nobody comes here")
    assert folders(place) == []
