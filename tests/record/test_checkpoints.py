"""A checkpoint can be read whole or not at all, and only by the run and agent that wrote it."""

import json
import os
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difnet.errors import CheckpointError, RunFolderError
from difnet.record import checkpoints
from difnet.record.checkpoints import Manifest, Shelf, identify, settings_of, shelf_of, shelves_folder
from difnet.record.events import Checkpointed, Note, RunStarted
from difnet.record.past import Past
from tests.conftest import environment

MINE = Manifest("0f" * 8, 3, 0, "settings", "topology", "weights", "model", {})
W, SLOTS = np.arange(7, dtype=np.float32), (np.ones(7, np.float32), np.array(4.0, np.float32))


@pytest.fixture
def shelf(tmp_path):
    return shelf_of(tmp_path, MINE)


def test_what_was_written_is_read_to_the_bit(shelf):
    size = shelf.write(20, {"steps": 20}, W, SLOTS)
    saved = shelf.read(20)
    assert size == shelf.path(20).stat().st_size and shelf.usable() == ([20], [])
    assert saved.manifest == MINE._replace(iteration=20, totals={"steps": 20})
    for ours, theirs in zip((saved.w, *saved.slots), (W, *SLOTS), strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and np.array_equal(ours, theirs)
    assert shelf.folder.name == "003" and os.listdir(shelf.folder) == ["checkpoint-000020.safetensors"]


def test_no_state_at_all_beside_the_model_is_a_checkpoint_too(shelf):
    shelf.write(1, {}, W, ())
    assert shelf.read(1).slots == ()


@given(st.data())
def test_a_file_that_was_cut_or_changed_anywhere_is_refused_by_name(tmp_path_factory, data):
    shelf = Shelf(tmp_path_factory.mktemp("agent"), MINE)
    shelf.write(10, {"steps": 1}, W, SLOTS)
    shelf.write(20, {"steps": 2}, W, SLOTS)
    content = bytearray(shelf.path(20).read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[where:]
    else:
        content[where] ^= 1 << data.draw(st.integers(0, 7))
    shelf.path(20).write_bytes(content)
    usable, refused = shelf.usable()
    if usable == [10, 20]:  # blanks and the like in the header, which say nothing
        saved = shelf.read(20)
        assert np.array_equal(saved.w, W) and saved.manifest.totals == {"steps": 2}
    else:
        assert usable == [10] and len(refused) == 1 and str(shelf.path(20)) in refused[0]


@pytest.mark.parametrize("name", ["run", "agent", "settings", "topology", "weights", "model"])
def test_one_of_another_run_agent_or_configuration_is_refused(tmp_path, name):
    Shelf(tmp_path, MINE._replace(**{name: 9 if name == "agent" else "other"})).write(20, {}, W, SLOTS)
    with pytest.raises(CheckpointError, match=f"checkpoint-000020.* cannot be used: it is of another {name}"):
        Shelf(tmp_path, MINE).read(20)


def test_one_of_another_iteration_than_its_name_says_is_refused(shelf):
    shelf.write(20, {}, W, SLOTS)
    shelf.path(20).rename(shelf.path(30))
    assert shelf.usable()[0] == [] and "it is of iteration 20" in shelf.usable()[1][0]


def test_one_of_a_newer_difnet_is_refused(shelf, monkeypatch):
    monkeypatch.setattr(checkpoints, "SCHEMA", 2)
    Shelf(shelf.folder, MINE._replace(schema=2)).write(20, {}, W, SLOTS)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="a newer difnet wrote it"):
        shelf.read(20)


def test_a_safetensors_file_of_somebody_else_is_refused(shelf):
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    shelf.folder.mkdir(parents=True)
    shelf.path(20).write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(CheckpointError, match="no manifest of ours"):
        shelf.read(20)


def test_a_full_disk_leaves_what_was_there(shelf, monkeypatch):
    shelf.write(10, {}, W, SLOTS)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        shelf.write(20, {}, W, SLOTS)
    assert os.listdir(shelf.folder) == ["checkpoint-000010.safetensors"] and shelf.usable() == ([10], [])


def test_others_and_halves_go_when_some_are_kept(shelf):
    for i in (10, 20, 30):
        shelf.write(i, {}, W, SLOTS)
    (shelf.folder / ".checkpoint-000040.safetensors.part").write_bytes(b"half")
    (shelf.folder / "state-000010.safetensors").write_bytes(b"not ours")
    shelf.keep([20, 30])
    assert sorted(os.listdir(shelf.folder)) == [
        "checkpoint-000020.safetensors", "checkpoint-000030.safetensors", "state-000010.safetensors"]


def test_where_they_lie(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / "identity.json").write_text('{"id": "abc"}')
    monkeypatch.delenv("DIFNET_CHECKPOINTS", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert identify(run) == "abc" and shelves_folder("abc", str(run)) == run
    assert shelves_folder("other", str(run)) == tmp_path / "state" / "difnet" / "checkpoints" / "other"
    monkeypatch.setenv("DIFNET_CHECKPOINTS", str(tmp_path / "asked"))
    assert shelves_folder("abc", str(run)) == tmp_path / "asked" / "abc"
    (run / "identity.json").write_text("[]")
    with pytest.raises(RunFolderError, match=r"identity\.json is missing or damaged"):
        identify(run)


def test_every_setting_that_is_not_of_the_record_counts():
    from difnet.config import RunConfig

    assert RunConfig.model_fields.keys() >= checkpoints.OF_THE_RECORD
    assert {"seed", "outer_lr", "algorithm", "task", "server", "combine", "local_steps"} <= settings_of(
        RunConfig().model_dump()).keys()


WRITER = """
import sys, numpy as np
from pathlib import Path
from difnet.record.checkpoints import Manifest, Shelf
shelf = Shelf(Path(sys.argv[1]), Manifest("r", 0, 0, "s", "t", "w", "m", {}))
n = int(sys.argv[2])
w = np.arange(200_000, dtype=np.float32)
while True:
    n += 1
    shelf.write(n, {"n": n}, w + np.float32(n), (w,))
    shelf.keep(shelf.iterations()[-2:])
    if n % 5 == 0:
        print(n, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kills", [int(os.environ.get("DIFNET_KILLS", "25"))])
def test_a_writer_that_is_killed_leaves_a_checkpoint_that_can_be_loaded(tmp_path, kills):
    """25 kills here; with DIFNET_KILLS=500 as docs/reliability.md says."""
    shelf, rng, newest = Shelf(tmp_path, Manifest("r", 0, 0, "s", "t", "w", "m", {})), np.random.default_rng(0), 0
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(newest)], env=environment(),
                                   stdout=subprocess.PIPE, text=True)  # fmt: skip
        told = int(process.stdout.readline())
        with suppress(subprocess.TimeoutExpired):
            process.wait(float(rng.uniform(0, 0.02)))
        process.kill()
        process.communicate()
        usable, refused = shelf.usable()
        assert not refused and usable[-1] >= told
        newest = usable[-1]
        saved = shelf.read(newest)
        assert saved.manifest.totals == {"n": newest} and saved.w[0] == newest


def past(*known: int) -> Past:
    """A run that knew of these complete checkpoints."""
    return Past(Path("runs/x"), "id", None, None, [Note(""), *(Checkpointed(i, 0.0, 0.0, 0, {}) for i in known)])


@pytest.mark.parametrize(("known", "found", "first"), [
    ((), {0: [], 1: []}, 0),
    ((), {}, 0),
    ((10,), {0: [10], 1: [10]}, 10),
    ((10,), {0: [10, 20], 1: [10]}, 10),
    ((10,), {0: [10, 20], 1: [10, 20]}, 10),  # of 20 no measurement may have been recorded
    ((), {0: [10, 20], 1: [20, 10]}, 20),
])  # fmt: skip
def test_a_run_goes_on_where_everybody_was(known, found, first):
    assert past(*known).agree(found, None) == first


def test_a_checkpoint_that_is_gone_is_not_passed_over_in_silence():
    with pytest.raises(CheckpointError, match=r"had a checkpoint of iteration 20, and now agent 1 has none.*--from 10"):
        past(10, 20).agree({0: [10, 20], 1: [10]}, None)
    assert past(10, 20).agree({0: [10, 20], 1: [10]}, 10) == 10
    assert past(10, 20).agree({0: [10, 20], 1: [10]}, 0) == 0
    with pytest.raises(CheckpointError, match=r"agents 0, 1 have no checkpoint of iteration 15.*\[10\]"):
        past(10).agree({0: [10], 1: [10, 20]}, 15)


def test_what_a_run_was_to_do_is_told_as_it_is_now():
    from dataclasses import fields

    from difnet.config import load

    began = RunStarted(**{f.name: 1 for f in fields(RunStarted)})
    assert Past(Path(), "id", load(settings={"iterations": 7}), None, [began]).started.iterations == 7
