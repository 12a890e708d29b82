"""What a person, a shell or a full disk does to a command's output, and the run goes on all the same."""

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from difnet import launch_models
from tests.conftest import DEADLINE_S, Result, agents_of, environment, events, until

SHORT = ("--topology", "cycle_graph(n=4)", "--iterations", "40", "--engine", "eager", "--tasks", "1", "--eval-every",
         "20", "--eval-tasks", "4", "--set", "test_tasks=0", "--name", "run")  # fmt: skip
BOTH = pytest.mark.parametrize("command", ["simulate", "launch"])
LIKE_A_RUN = """
import pathlib
import sys
from difnet.cli import following
from difnet.screen.terminal import settle_streams
from tests import fake_run

def run(config, listen):
    for event in fake_run.events(6, iterations=100):
        listen(event)
    pathlib.Path("done").touch()
    return event.summary

settle_streams()
sys.exit(following.follow(run, {"print_config": False, "quiet": False, "as_json": "--json" in sys.argv}, None))
"""
BROKEN = ['"$@" 2>&1 | head -1', '"$@" >/dev/full 2>&1', '"$@" 2>/dev/full', '"$@" >&- 2>&-', '"$@" <&- >&- 2>&-']


@pytest.fixture(autouse=True)
def hanging_up_means_something():
    """What is started here hears of a terminal that closes, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def shell(tmp_path: Path, script: str, *arguments: str, **extra: str) -> Result:
    """A script of bash, in which "$@" is Python with these arguments."""
    command = ["bash", "-o", "pipefail", "-c", script, "bash", sys.executable, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment(**extra), capture_output=True, text=True,
                          timeout=DEADLINE_S, stdin=subprocess.DEVNULL)  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return Result(done.returncode, done.stdout, done.stderr)


def complete(tmp_path: Path) -> dict:
    """What the folder says of a run that came to its end."""
    folder = tmp_path / "runs" / "run"
    summary = json.loads((folder / "run.json").read_text())
    assert summary["state"] == "done" and summary["iterations"] == 40 and summary["lost_agents"] == []
    assert summary["unwritten"] == [] and summary["lost_records"] == 0
    assert (folder / "launch-model.safetensors").is_file() and events(tmp_path, "RunEnded")
    return summary


class OnTerminal:
    """A command on a terminal of its own."""

    def __init__(self, tmp_path: Path, *arguments: str, ignores_hangup: bool, **extra: str) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))

        def settle() -> None:
            fcntl.ioctl(1, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGHUP, signal.SIG_IGN if ignores_hangup else signal.SIG_DFL)

        self.process = subprocess.Popen(
            [sys.executable, *arguments], cwd=tmp_path, env=environment(**{"TERM": "xterm", **extra}),
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=settle,
        )  # fmt: skip
        os.close(theirs)

    def __enter__(self) -> "OnTerminal":
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()


@pytest.mark.slow
@BOTH
def test_a_terminal_that_closes_stops_a_run_which_writes_everything(tmp_path, command):
    """The kernel hangs up: the same as SIGTERM, and the screen's own failure does not come in between."""
    words = ("--iterations", "1000000", "--eval-every", "1000000")
    with OnTerminal(tmp_path, "-m", "difnet", command, *SHORT, *words, ignores_hangup=False) as it:
        until(lambda: events(tmp_path, "Pulse"), "the first iterations")
        os.close(it.ours)
        assert it.process.wait(60) == 129
    summary = json.loads((tmp_path / "runs/run/run.json").read_text())
    assert (summary["state"], summary["reason"], summary["lost_agents"]) == ("stopped", "SIGHUP", [])
    assert len([*(tmp_path / "runs/run").glob("agents/*/state-*.safetensors")]) == 4
    assert (tmp_path / "runs/run/launch-model.safetensors").is_file()


@pytest.mark.slow
def test_hanging_up_twice_is_hanging_up_once(running, tmp_path):
    """A shell and the kernel both tell of a terminal that closes: nobody is killed for it."""
    launcher = running("launch", *SHORT, "--iterations", "1000000", "--quiet")
    until(lambda: events(tmp_path, "Pulse"), "the first iterations")
    launcher.send_signal(signal.SIGHUP)
    until(lambda: any("stopping" in e["text"] for e in events(tmp_path, "Note")) or launcher.poll(), "the note")
    launcher.send_signal(signal.SIGHUP)
    assert launcher.wait(60) == 129
    assert json.loads((tmp_path / "runs/run/run.json").read_text())["lost_agents"] == []


@pytest.mark.slow
@BOTH
def test_a_run_under_nohup_goes_on_to_its_end_when_its_terminal_closes(tmp_path, command):
    with OnTerminal(tmp_path, "-m", "difnet", command, *SHORT, ignores_hangup=True) as it:
        until(lambda: events(tmp_path, "RunStarted"), "the start")
        os.close(it.ours)
        assert it.process.wait(60) == 0
    complete(tmp_path)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("is_drawn", [True, False], ids=["dashboard", "lines"])
def test_a_terminal_that_takes_nothing_holds_no_run_up(tmp_path, command, is_drawn):
    """Ctrl-S: the run comes to its end and so does the process, though nobody ever types Ctrl-Q."""
    words = ("--iterations", "1000000", "--eval-every", "5")
    extra = {} if is_drawn else {"TERM": "dumb"}
    with OnTerminal(tmp_path, "-m", "difnet", command, *SHORT, *words, ignores_hangup=False, **extra) as it:
        until(lambda: events(tmp_path, "Ready"), "the start")
        os.write(it.ours, b"\x13")
        last = events(tmp_path, "Pulse")
        until(lambda: len(events(tmp_path, "Pulse")) > len(last) + 3, "pulses that nobody sees")
        it.process.send_signal(signal.SIGTERM)
        assert it.process.wait(30) == 143
        os.close(it.ours)
    summary = json.loads((tmp_path / "runs/run/run.json").read_text())
    assert (summary["state"], summary["lost_agents"], summary["lost_records"]) == ("stopped", [], 0)


@pytest.mark.parametrize("script", BROKEN)
def test_a_screen_that_cannot_be_written_to_goes_quiet_and_the_run_goes_on(tmp_path, script):
    assert shell(tmp_path, script, "-c", LIKE_A_RUN).status == 0
    assert (tmp_path / "done").exists()


@pytest.mark.slow
@pytest.mark.parametrize("script", BROKEN)
def test_a_network_outlives_its_screen(tmp_path, script):
    assert shell(tmp_path, script, "-m", "difnet", "launch", *SHORT).status == 0
    complete(tmp_path)


@pytest.mark.parametrize("script", ['"$@" >/dev/full', '"$@" >&-', '"$@" | true'])
def test_a_json_document_that_cannot_be_delivered_costs_the_exit_status_and_not_the_run(tmp_path, script):
    done = shell(tmp_path, script, "-c", LIKE_A_RUN, "--json")
    assert done.status == 3 and "the summary could not be printed" in done.err and "run.json holds it" in done.err
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("script", ['"$@" >/dev/full', '"$@" --json >/dev/full'])
def test_what_a_short_command_cannot_print_is_one_line_and_an_exit_status(tmp_path, script):
    done = shell(tmp_path, script, "-m", "difnet", "topology", "list")
    assert done.status == 3 and done.err.startswith("difnet: cannot write") and done.err.count("\n") == 1


@pytest.mark.parametrize("extra", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"},
                                   {"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize("arguments", [
    ("-c", LIKE_A_RUN), ("-m", "difnet", "topology", "show", "ring6"), ("-m", "difnet", "simulate", "--help"),
    pytest.param(("-m", "difnet", "launch", *SHORT), marks=pytest.mark.slow),
], ids=["like a run", "topology", "help", "launch"])  # fmt: skip
def test_a_terminal_that_lacks_characters_gets_others(tmp_path, arguments, extra):
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment(**extra), capture_output=True, timeout=DEADLINE_S)
    assert done.returncode == 0 and b"Traceback" not in done.stderr + done.stdout, done.stderr


def test_a_live_screen_is_not_drawn_where_its_characters_are_lacking(tmp_path):
    with OnTerminal(tmp_path, "-c", LIKE_A_RUN, ignores_hangup=False, PYTHONIOENCODING="ascii") as it:
        shown = b""
        try:
            while piece := os.read(it.ours, 65536):
                shown += piece
        except OSError:  # it has ended
            pass
        assert it.process.wait(60) == 0 and b"iteration 100" in shown and b"\x1b[?25l" not in shown
        os.close(it.ours)


@pytest.mark.slow
@BOTH
def test_a_disk_without_room_costs_records_and_files_but_no_agent(tmp_path, command):
    """No file may grow beyond 2 kB: the model, which has 7, and run.json are not there, and the summary says so."""
    done = shell(tmp_path, 'ulimit -f 2; "$@"', "-m", "difnet", command, *SHORT, "--json", "--eval-every", "2",
                 PYTHONDONTWRITEBYTECODE="1")  # fmt: skip
    summary = done.json()
    assert done.status == 3 and {"run.json", "launch-model.safetensors"} <= {*summary["unwritten"]}
    assert summary["state"] == "done" and summary["lost_agents"] == [] and summary["iterations"] == 40
    assert summary["lost_records"] > 0
    told = ["cannot write /", *["agent 0: cannot write checkpoints"] * (command == "launch")]  # each once
    assert done.err.count("cannot write") == len(told) == sum(map(done.err.count, told))
    assert "did not take launch-model.safetensors, run.json" in done.err


@pytest.mark.slow
def test_agents_go_on_while_the_disk_takes_nothing_and_does_not_say_so(running, tmp_path):
    """A file of the record that nobody takes a byte of holds the launcher: agents compute on, and nobody is lost."""
    launcher = running("launch", *SHORT, "--iterations", "1000000", "--eval-every", "50", "--quiet")
    until(lambda: events(tmp_path, "Pulse"), "the first iterations")
    metrics = tmp_path / "runs/run/agents/000/metrics.jsonl"
    os.mkfifo(tmp_path / "stuck")
    os.replace(tmp_path / "stuck", metrics)
    if not waits_in(os.getppid()):
        pytest.skip("this kernel does not say what a process waits for")
    until(lambda: waits_in(launcher.pid) == "wait_for_partner", "the launcher to be held by its disk")
    agents = [psutil.Process(pid) for pid in agents_of(launcher.pid).values()]
    held_at = [sum(agent.cpu_times()[:2]) for agent in agents]
    last = events(tmp_path, "Pulse")[-1]
    until(lambda: all(sum(agent.cpu_times()[:2]) > then + 1.5 for agent, then in zip(agents, held_at, strict=True)),
          "1.5 s of work by each agent")  # fmt: skip
    assert events(tmp_path, "Pulse")[-1] == last, "the launcher was held all the while"
    with open(metrics, "rb", buffering=0) as taken:
        os.unlink(metrics)  # what comes next has a file
        assert taken.read(1)
        until(lambda: events(tmp_path, "Pulse")[-1] != last, "the launcher to go on")
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(60) == 143
    summary = json.loads((tmp_path / "runs/run/run.json").read_text())
    assert summary["lost_agents"] == [] and summary["missed_exchanges"] == 0 and summary["lost_records"] == 0
    assert summary["iterations"] > last["iteration"] + 100


def waits_in(pid: int) -> str:
    """The kernel's function in which a process's main thread waits; "" where that is not told."""
    try:
        return Path(f"/proc/{pid}/wchan").read_text().strip("0")
    except OSError:
        return ""


@pytest.mark.slow
def test_a_record_goes_on_when_a_full_disk_has_room_again(tmp_path):
    """A file system of 512 kB that somebody fills and clears: told once, and the gap is told where it is."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this user may make no mount namespace")
    (tmp_path / "runs").mkdir()
    script = 'mount -t tmpfs -o size=512k none runs && exec "$@"'
    words = ("launch", *SHORT, "--iterations", "1000000", "--eval-every", "200", "--json")
    with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
        launcher = subprocess.Popen([*unshare, "bash", "-c", script, "bash", sys.executable, "-m", "difnet", *words],
                                    cwd=tmp_path, env=environment(), stdout=out, stderr=err)  # fmt: skip
    inside = Path(f"/proc/{launcher.pid}/root{tmp_path}")

    def is_missing() -> bool:
        told = re.findall(r"^iteration (\d+): loss", (tmp_path / "err").read_text(), re.MULTILINE)
        return max(map(int, told), default=0) > max((e["iteration"] for e in events(inside, "Validated")), default=0)

    try:
        until(lambda: events(inside, "Pulse"), "the first iterations")
        with suppress(OSError), open(inside / "runs" / "else", "wb", buffering=0) as other:
            while other.write(bytes(4096)):
                pass
        until(lambda: b"cannot write" in (tmp_path / "err").read_bytes() and is_missing(), "events that are only told")
        (inside / "runs" / "else").unlink()
        until(lambda: any("are missing here" in e["text"] for e in events(inside, "Note")), "the gap to be recorded")
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(60) == 143
    finally:
        launcher.kill()
        launcher.wait()
    summary = json.loads((tmp_path / "out").read_text())
    assert summary["unwritten"] == [] and summary["lost_records"] > 0 and summary["lost_agents"] == []
    assert (tmp_path / "err").read_bytes().count(b"cannot write") == 1


@pytest.mark.slow
def test_a_killed_launcher_leaves_the_newest_measured_model(running, tmp_path):
    launcher = running("launch", *SHORT, "--iterations", "1000000", "--quiet")
    folder = tmp_path / "runs" / "run"

    def held() -> int:
        return launch_models.read(folder).about["iteration"] if (folder / launch_models.FILE).exists() else 0

    until(lambda: held() >= 20, "a model that has learnt something")
    launcher.kill()
    launcher.wait(30)
    measured = {e["iteration"] for kind in ("Validated", "Measured") for e in events(tmp_path, kind)}
    assert held() in measured and not (folder / "run.json").exists()
