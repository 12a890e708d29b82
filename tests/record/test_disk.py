"""A disk that is full, and has room again: what is lost is told, and no reader meets half a line.

The kernel itself refuses to write: no file may grow beyond RLIMIT_FSIZE, and what fits is written.
"""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors import safe_open

from difnet.config import load
from difnet.errors import ConfigError
from difnet.record import finding
from difnet.record.disk import Disk
from difnet.record.events import Evaluated, Finished, Note, Progress
from difnet.record.recorder import Recorder
from difnet.topology import networks
from tests.record.test_recorder import PREPARED


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def disk(tmp_path) -> Disk:
    warned: list[str] = []
    disk = Disk(tmp_path, warned.append)
    disk.warned = warned  # type: ignore[attr-defined]
    return disk


def begin(tmp_path, heard: list, **settings) -> Recorder:
    """A run of six agents whose model has two parameters, and which has begun."""
    config = load(settings={"topology": "ring6", "runs": str(tmp_path / "runs"), **settings})
    recorder = Recorder(config, networks.load("ring6"), "launch", heard.append)
    recorder.start()
    recorder.ready(PREPARED)
    return recorder


def validate(recorder: Recorder, iteration: int, loss: float = 1.0) -> None:
    """All agents are tested after an iteration, which is the value of their models, too."""
    for k in range(6):
        w = np.full(2, iteration, dtype=np.float32)
        recorder.record(Evaluated(k, iteration, 0, 0, 0, before=2.0, after={"10": loss}, accuracy={}), [w])


def end(recorder: Recorder, iteration: int) -> dict:
    for k in range(6):
        recorder.record(Finished(k, iteration, "done"), [np.full(2, iteration, dtype=np.float32)])
    return recorder.finish("done")


def iteration_on_disk(recorder: Recorder) -> str:
    with safe_open(recorder.folder / "launch-model.safetensors", "numpy") as file:
        assert file.get_tensor("w").tolist() == [float(file.metadata()["iteration"])] * 2
        return file.metadata()["iteration"]


def test_a_line_that_was_cut_short_goes_on_where_it_ended_and_what_came_meanwhile_is_counted(disk):
    with no_file_beyond(10):
        assert disk.append("events", "1234567\n") and disk.append("events", "abcdefg\n")
        assert (disk.folder / "events").read_text() == "1234567\nab"
        assert disk.told()["lost_records"] == 1, "for as long as the rest is not there"
        assert not disk.append("events", "lost\n") and disk.told()["lost_records"] == 2
    with no_file_beyond(12):
        assert not disk.append("events", "this too\n")
        assert (disk.folder / "events").read_text() == "1234567\nabcd"
    assert disk.append("events", "last\n")
    assert (disk.folder / "events").read_text() == "1234567\nabcdefg\nlast\n"
    assert disk.told() == {"lost_records": 2, "unwritten": []}
    assert len(disk.warned) == 1 and "File too large" in disk.warned[0]


def test_a_whole_file_that_does_not_fit_leaves_the_one_before_and_no_scratch(disk):
    disk.write("model", "old")
    with no_file_beyond(5):
        assert not disk.write("model", "a newer one")
        assert [p.name for p in disk.folder.iterdir()] == ["model"] and (disk.folder / "model").read_text() == "old"
        assert disk.told() == {"lost_records": 0, "unwritten": ["model"]}
    assert disk.write("model", "a newer one") and disk.told()["unwritten"] == []


def test_a_run_goes_on_through_a_full_disk_and_its_record_tells_of_the_gap(tmp_path):
    heard: list = []
    recorder = begin(tmp_path, heard)
    size = (recorder.folder / "events.jsonl").stat().st_size
    with no_file_beyond(size + 10):  # amid a line
        for _ in range(5):
            recorder.pulse()
        recorder.record(Progress(0, 1, 1.0, 0.1, None, 1, {}, None, 0, 0, 0, 0, 0, 0))  # which still fits
    summary = end(recorder, 9)
    events = finding.load(recorder.folder).events
    warnings = [e for e in heard if isinstance(e, Note)]
    assert "cannot write" in warnings[0].text and len(warnings) == 2, "once on the screen, and when there is room again"
    [gap] = [e for e in events if isinstance(e, Note)]
    assert gap == warnings[1] and gap.text == "5 events are missing here: File too large"
    assert len(heard) - len(events) == 5 == summary["lost_records"], "each was shown, and five are not recorded"
    assert (recorder.folder / "agents/000/metrics.jsonl").is_file()
    assert json.loads((recorder.folder / "run.json").read_text()) == summary and summary["unwritten"] == []


def test_what_cannot_be_written_at_the_end_is_named(tmp_path):
    recorder = begin(tmp_path, [])
    validate(recorder, 3)
    with no_file_beyond(100):
        summary = end(recorder, 9)
    states = [f"agents/{k:03d}/state-000009.safetensors" for k in range(6)]
    assert summary["unwritten"] == [*states, "launch-model.safetensors", "run.json"] and summary["state"] == "done"
    assert iteration_on_disk(recorder) == "3" and summary["lost_records"] > 0


def test_a_folder_that_vanishes_ends_no_run(tmp_path):
    recorder = begin(tmp_path, [])
    shutil.rmtree(recorder.folder)
    validate(recorder, 3)
    recorder.prints.take(2, "words\n")
    summary = end(recorder, 9)
    assert summary["state"] == "done" and "run.json" in summary["unwritten"] and not recorder.folder.exists()


def test_a_disk_that_is_full_from_the_first_refuses_the_run(tmp_path):
    with no_file_beyond(100), pytest.raises(ConfigError, match=r"cannot write the run to .*: File too large; .*--runs"):
        begin(tmp_path, [])


def test_the_newest_tested_model_is_on_disk_before_the_run_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("difnet.record.models.MOST_SAVING", 1.0)  # however slow this disk is
    recorder = begin(tmp_path, [])
    for i in (0, 50, 100):
        validate(recorder, i, loss=1.0 + i)
        assert iteration_on_disk(recorder) == str(i)


def test_the_best_model_is_the_one_on_disk_where_that_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("difnet.record.models.MOST_SAVING", 1.0)
    recorder = begin(tmp_path, [], launch_model="best")
    for i, loss, best in ((0, 3.0, "0"), (50, 1.0, "50"), (100, 2.0, "50")):
        validate(recorder, i, loss)
        assert iteration_on_disk(recorder) == best


def test_saving_models_takes_a_small_part_of_the_time_and_the_newest_follows_with_a_pulse(tmp_path, monkeypatch):
    """A disk that takes 1 s to write a model: it is not asked again for 20 s, and then at the next pulse."""
    now, put = [1000.0], Disk.put

    def slow(disk, name, content):
        now[0] += name.startswith("launch-model")
        put(disk, name, content)

    monkeypatch.setattr(Disk, "put", slow)
    monkeypatch.setattr("difnet.record.recorder.time.monotonic", lambda: now[0])
    recorder = begin(tmp_path, [])
    validate(recorder, 0)
    now[0] += 10
    validate(recorder, 50)
    recorder.pulse()
    assert iteration_on_disk(recorder) == "0"
    now[0] += 10
    recorder.pulse()
    assert iteration_on_disk(recorder) == "50"


def test_a_model_that_is_not_finite_leaves_the_one_before(tmp_path):
    recorder = begin(tmp_path, [])
    validate(recorder, 3)
    for k in range(6):
        recorder.record(Evaluated(k, 4, 0, 0, 0, before=1.0, after={"10": 1.0}, accuracy={}),
                        [np.full(2, np.nan, dtype=np.float32)])  # fmt: skip
    recorder._save_again_at = 0.0
    recorder.pulse()
    assert iteration_on_disk(recorder) == "3"


def test_half_a_line_that_a_killed_writer_left_is_cut_off_before_the_next_one(tmp_path):
    """Once, at this process's first record there; a log's last line is nobody's to cut."""
    for name in ("events.jsonl", "log.txt"):
        (tmp_path / name).write_text('{"a": 1}\n{"b"')
        (tmp_path / "whole.jsonl").write_text('{"a": 1}\n')
        disk = Disk(tmp_path, pytest.fail)
        assert disk.append(name, '{"c": 3}\n') and disk.append("whole.jsonl", '{"c": 3}\n')
    assert (tmp_path / "events.jsonl").read_text() == '{"a": 1}\n{"c": 3}\n' == (tmp_path / "whole.jsonl").read_text()
    assert (tmp_path / "log.txt").read_text() == '{"a": 1}\n{"b"{"c": 3}\n'
