"""`difnet bench` and the scripts it runs, each as quickly as it can be run at all."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from difnet.cli import bench, group
from difnet.errors import ConfigError, EnvironmentLacks

CHECKOUT = Path(bench.__file__).parents[2]


def script(name: str, *words: object) -> dict[str, Any]:
    """The document a script of bench/ prints."""
    done = subprocess.run(
        [sys.executable, CHECKOUT / "bench" / name, *map(str, words)], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def document() -> dict[str, Any]:
    figure = {"median": 120.4, "min": 98.76, "max": 130.0, "runs": 3}
    machine = {"date": "2000-01-01", "cores": 2, "processor": "P", "python": "3", "torch": "2", "libzmq": "4",
               "load_before": 0.1}  # fmt: skip
    return {
        "name": "rounds", "question": "How many?", "quick": False, "seed": 0, "machine": machine, "notes": ["A note."],
        "rows": [{"what": "ring", "rounds/s": figure}, {"what": "bare", "µs": 1.5}], "ratios": {"a to b": figure},
    }  # fmt: skip


def test_list_names_every_measurement_and_its_question():
    listed = CliRunner().invoke(group, ["bench", "--list"])
    assert listed.exit_code == 0
    lines = listed.stdout.splitlines()
    names = ["agreement", "communication", "control", "data", "gradients", "growth", "held", "rounds", "scale",
             "simulators", "star", "startup"]  # fmt: skip
    assert [line.split()[0] for line in lines] == names
    assert all(line.endswith("?") for line in lines)


def test_an_unknown_measurement_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'rounds'"):
        CliRunner().invoke(group, ["bench", "round"], catch_exceptions=False, standalone_mode=False)


def test_without_the_scripts_the_remedy_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "difnet" / "cli" / "bench.py"))
    with pytest.raises(EnvironmentLacks, match="clone the repository"):
        bench.scripts_folder()


@pytest.mark.slow
def test_gradients_are_compared_in_ratios():
    found = script("gradients.py", "--quick", "--json", "--engines", "eager", "traced")
    assert found["name"] == "gradients" and found["question"].endswith("?") and found["machine"]["cores"] >= 1
    assert len(found["ratios"]) == 6 and all(ratio["min"] > 0 for ratio in found["ratios"].values())
    assert found["ratios"]["Python loop, autograd to traced with make_fx, 25 tasks"]["min"] > 1


@pytest.mark.slow
def test_networks_of_which_a_tenth_lies_make_a_table(tmp_path):
    """A constant of 1e6 is believed by the mean alone, within three iterations."""
    done = subprocess.run(
        [sys.executable, CHECKOUT / "bench" / "byzantine.py", "--graph", "complete10", "--seeds", "1", "--iterations",
         "3"], capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines())
    after = {row[1]: float(dict(zip(head, row, strict=True))["constant 1e6"].split("<br>")[0]) for row in rows}
    assert after["`mean`"] > 1e6 > 10 > max(after[name] for name in ("`clip`", "`trim:1`", "`median`"))


@pytest.mark.slow
def test_the_yardstick_runs_and_leaves_nothing():
    found = script("bare_eager.py", "--agents", 3, "--iterations", 5)
    assert found["rounds_per_s"] > 0 and found["cpu_s_per_agent_round"] > 0


def test_the_yardstick_knows_nothing_of_difnet():
    for name in ("bare_eager.py", "forked.py"):
        assert "import difnet" not in (text := (CHECKOUT / "bench" / name).read_text()) and "from difnet" not in text


def test_tables_replace_their_earlier_selves_in_a_markdown_file(tmp_path, document):
    path = tmp_path / "benchmarks.md"
    path.write_text("# Ours\n\nWords before.\n", "utf-8")
    bench.write(path, document)
    path.write_text(path.read_text("utf-8") + "\nWords after.\n", "utf-8")
    once = path.read_text("utf-8")
    bench.write(path, document | {"notes": ["Another note."]})
    assert path.read_text("utf-8") == once.replace("A note.", "Another note.")
    assert "| ring | 120 [98.8–130] |  |" in once and "| a to b | 120 [98.8–130] |" in once
    assert once.startswith("# Ours\n\nWords before.\n") and once.endswith("\nWords after.\n")
