"""The command line: exit statuses, errors with a remedy, help that costs nothing."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from difnet.cli import main
from difnet.config import RunConfig, load
from tests.conftest import REPOSITORY, environment

HEAVY = ("torch", "numpy", "networkx", "zmq", "rich", "pydantic", "matplotlib")


@pytest.mark.parametrize("arguments", [["--help"], ["launch", "--help"], ["simulate", "--help"], ["topology", "--help"],
                                       ["host", "--help"], ["bench", "--help"], ["report", "--help"]])  # fmt: skip
def test_help_imports_nothing_heavy(arguments):
    """Neither torch nor anything else that a person would wait for."""
    code = (
        "import sys\nfrom difnet.cli import group\n"
        f"try:\n    group.main({arguments!r}, standalone_mode=False)\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stdout[-300:] + done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["launch", "--topology", "ring4O"], ["no topology called 'ring4O'", "did you mean 'ring40'"]),
        (["launch", "ring4"], ["no ready-made run called 'ring4'", "ring40"]),
        (["lunch"], ["no command 'lunch'", "launch"]),
        (["launch", "--weights", "metropolitan"], ["weights", "metropolitan", "averaging"]),
        (["launch", "--iterations", "0", "--order", "3", "--set", "tsaks=2"], ["iterations", "order", "'tasks'"]),
        (["simulate", "--set", "eval_steps=[10, 1]"], ["eval_steps must ascend", "[1, 10]"]),
        (["launch", "--set", "nonsense"], ["key=value"]),
        (["launch", "--config", "missing.toml"], ["missing.toml", "No such file"]),
        (["launch", "--topology", "ring6", "--agents", "7"], ["6 agents, not 7", "cycle_graph(n=7)"]),
        (["simulate", "--topology", "ring6", "--task", "sinusiod"], ["no task called", "sinusoid"]),
        (["simulate", "--topology", "ring6", "--task", "nowhere:task"], ["cannot import 'nowhere'"]),
        (["simulate", "--topology", "ring6", "--set", "task.frequency=3"], ["does not take these", "frequency"]),
        (["simulate", "--topology", "ring6", "--set", "task.amplitude=[2.0, 1.0]"], ["amplitude is [2.0, 1.0]"]),
        (["simulate", "--topology", "ring6", "--set", "algorithm.inner=mamal"], ["inner is 'mamal'", "maml"]),
        (["simulate", "--topology", "ring6", "--set", "model.name=mlp", "--set", "model.inputs=3"], ["do not fit"]),
        (["launch", "--mode", "async", "--strategy", "centralised"], ["async", "centralised"]),
        (["launch", "--topology", "ring6", "--place", "moon"], ["no place called 'moon'", "local"]),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, list) else None,
)  # fmt: skip
def test_a_wrong_word_costs_one_clear_error_and_exit_status_2(monkeypatch, capsys, tmp_path, arguments, words):
    """What is wrong, what was given, what would be right; no traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["difnet", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert all(word in said for word in words), said
    assert "Traceback" not in said and len(said.splitlines()) <= 8


@pytest.mark.slow
def test_a_wrong_option_is_found_in_the_host_too(difnet):
    """What only the host can know (here: an option of a plug-in) ends a launch with the same error and status."""
    done = difnet("launch", "--topology", "ring6", "--set", "algorithm.inner=mamal")
    assert done.status == 2 and "inner is 'mamal'" in done.err and "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize("command", ["simulate", "launch"])
def test_a_device_that_is_not_there_is_something_the_machine_lacks(difnet, command):
    """Exit status 3, with the reason."""
    done = difnet(command, "--topology", "ring6", "--device", "xpu:7")
    assert done.status == 3 and "--device xpu:7 cannot be used here" in done.err and "Traceback" not in done.err


@pytest.mark.slow
def test_runs_that_cannot_be_written_are_refused(difnet, tmp_path):
    (tmp_path / "file").write_text("")
    done = difnet("simulate", "--topology", "ring6", "--runs", "file/runs")
    assert done.status == 2 and "cannot write runs" in done.err and "--runs" in done.err


def test_the_printed_configuration_is_the_configuration(difnet, tmp_path):
    """What --print-config prints, --config reads back to the same."""
    words = ("--topology", "paper6", "--set", "algorithm.inner=anil", "--set", "model.name=mlp", "--seed", "7")
    printed = difnet("launch", *words, "--print-config")
    assert printed.status == 0
    (tmp_path / "run.toml").write_text(printed.out)
    assert difnet("launch", "--config", "run.toml", "--print-config").out == printed.out
    assert load(tmp_path / "run.toml").algorithm.options == {"inner": "anil"}
    assert load(tmp_path / "run.toml").model_copy(update={"seed": 0}) != RunConfig()


def test_flags_win_over_settings_and_settings_over_the_file(tmp_path):
    (tmp_path / "a.toml").write_text("seed = 1\ntasks = 2\nshots = 3\n")
    config = load(tmp_path / "a.toml", {"tasks": 4, "shots": 5}, {"shots": 6})
    assert (config.seed, config.tasks, config.shots) == (1, 4, 6)


@pytest.mark.slow
def test_the_wheel_carries_topologies_and_ready_made_runs(tmp_path):
    """Built, installed into an empty environment, and used from an empty folder."""
    wheel, site = tmp_path / "wheel", tmp_path / "site"
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", wheel, REPOSITORY], check=True,
                   capture_output=True, timeout=300)  # fmt: skip
    [built] = wheel.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, built]
    subprocess.run(install, check=True, timeout=300)
    empty = tmp_path / "empty"
    empty.mkdir()
    env = environment() | {"PYTHONPATH": str(site)}

    def difnet(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "difnet", *arguments]
        return subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True, timeout=120)

    where = subprocess.run([sys.executable, "-c", "import difnet; print(difnet.__file__)"], cwd=empty, env=env,
                           capture_output=True, text=True, timeout=60)  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(site)
    assert "ring40" in difnet("topology", "list").stdout
    assert 'topology = "paper6"' in difnet("launch", "paper6", "--print-config").stdout
    assert difnet("launch", "--topology", "ring6", "--iterations", "3", "--engine", "eager", "--quiet").returncode == 0
    refused = difnet("bench", "gradients", "--quick")
    assert refused.returncode == 3 and "bench" in refused.stderr


@pytest.mark.slow
def test_two_hundred_agents_start_and_run(difnet):
    """Two hundred processes on one machine."""
    began = time.monotonic()
    words = ("--topology", "ring200", "--iterations", "50", "--eval-tasks", "10", "--json")
    done = difnet("launch", *words, timeout_s=400)
    assert done.status == 0, done.err
    summary = done.json()
    assert summary["iterations"] == 50 and summary["lost_agents"] == [] and summary["agents"] == 200
    assert summary["ready_s"] < time.monotonic() - began
