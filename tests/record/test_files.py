"""The files of a run folder: what it may be called, and that what is damaged is told and never used."""

import json
import re
from datetime import datetime

import numpy as np
import pytest

from difnet.config import load
from difnet.errors import ConfigError, RunFolderError
from difnet.record import finding
from difnet.record.comparing import same_bits
from difnet.record.files import make_folder, read_tensors, tensor_bytes
from tests import fake_run

NOW = datetime(2026, 11, 20, 14, 3, 22)


@pytest.mark.parametrize(
    ("name", "said"),
    [("latest", "the newest run"), ("../../x", "begins with a dot"), ("a/b", "holds a slash"), ("/tmp/x", "a slash"),
     (".hidden", "begins with a dot"), ("..", "begins with a dot"), ("", "is empty"), ("  ", "is empty"),
     ("red\x1b[31m", "control characters"), ("two\nlines", "control characters"), ("\u202egnp.exe", "control"),
     ("x" * 201, "201 bytes"), ("ä" * 101, "202 bytes"), ("a\\b", "holds a slash")],
    ids=lambda text: repr(text)[:12],
)  # fmt: skip
def test_a_name_that_leaves_or_breaks_the_folder_of_runs_is_refused(name, said):
    with pytest.raises(ConfigError, match="a run's name has 1 to 200 bytes") as refused:
        load(settings={"name": name})
    assert said in str(refused.value) and "\x1b" not in str(refused.value)


@pytest.mark.parametrize("name", ["x" * 200, "ring40, the second", "ä_ß-1.2", "<b>&`"])
def test_every_other_name_is_that_of_a_folder(name, tmp_path):
    """A second run of the name, when the first is over, gets a suffix, and `latest` points to it."""
    config = load(settings={"name": name, "runs": str(tmp_path)})
    first, second = make_folder(config, NOW), make_folder(config, NOW)
    assert first.name == name and re.fullmatch(re.escape(name) + "_[0-9a-f]{4}", second.name)
    assert (tmp_path / "latest").resolve() == second


def test_a_name_made_from_a_topology_is_one_that_could_be_given(tmp_path):
    """Of a file whose own name is long and full of escape sequences."""
    config = load(settings={"topology": "\x1b[31m" + "ü" * 150 + ".toml", "runs": str(tmp_path)})
    folder = make_folder(config, NOW)
    assert load(settings={"name": folder.name}).name == folder.name


@pytest.mark.parametrize("file", ["events.jsonl", "run.json", "config.toml", "topology.json"])
def test_what_is_nested_beyond_reason_is_damage(tmp_path, file):
    folder = fake_run.write(tmp_path / "deep", 2, iterations=100)
    if file == "events.jsonl":
        text = (folder / file).read_text().splitlines()
        (folder / file).write_text("\n".join([text[0], "[" * 100_000 + "]" * 100_000, *text[1:]]) + "\n")
    else:
        (folder / file).write_text(("a = " if file == "config.toml" else "") + "[" * 100_000)
    with pytest.raises(RunFolderError, match="line 2" if file == "events.jsonl" else f"{file} is damaged"):
        finding.load(folder)


def test_tensors_are_read_as_they_were_written(tmp_path):
    tensors = {"w": np.arange(5, dtype=np.float32), "optimizer.0": np.zeros((2, 3))}
    (tmp_path / "state.safetensors").write_bytes(tensor_bytes(tensors, {"state": "done"}))
    read = read_tensors(tmp_path / "state.safetensors")
    assert read.keys() == tensors.keys()
    assert all(read[n].tobytes() == t.tobytes() and read[n].dtype == t.dtype for n, t in tensors.items())


@pytest.mark.parametrize("place", [1, 7, 20])
def test_a_flipped_bit_is_noticed(tmp_path, place):
    """Whichever: of the values, the file's last bytes."""
    path = tmp_path / "state.safetensors"
    path.write_bytes(tensor_bytes({"w": np.arange(5, dtype=np.float32)}, {}))
    damaged = bytearray(path.read_bytes())
    damaged[-place] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(RunFolderError, match="not those that were written; copy it again"):
        read_tensors(path)


def test_runs_of_an_older_difnet_have_no_digest_and_are_compared(tmp_path):
    a, b = (finding.load(fake_run.write(tmp_path / name, 2, iterations=100)) for name in "ab")
    assert same_bits(a, b) is True
    (b.folder / "launch-model.safetensors").write_bytes(b"[]")
    with pytest.raises(RunFolderError, match="no safetensors file"):
        same_bits(a, b)


def test_a_deep_line_is_one_line_of_error(difnet, tmp_path):
    (tmp_path / "runs/deep").mkdir(parents=True)
    (tmp_path / "runs/deep/events.jsonl").write_text(json.dumps({"event": "Note"}) + "\n" + "[" * 100_000 + "\n")
    done = difnet("report", "deep")
    assert done.status == 2 and "Traceback" not in done.err and "events.jsonl, line 1" in done.err
