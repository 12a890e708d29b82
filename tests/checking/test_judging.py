"""What passes the checks of `difnet check`, and that each of them finds what is wrong with a run."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from difnet.checking.judging import CHECKS, Judgement, judge
from difnet.record.checkpoints import Manifest, Shelf
from difnet.record.events import RunStarted
from difnet.record.files import tensor_bytes
from difnet.system.holding import hold
from difnet.system.remains import left_folders
from tests.conftest import agents_of, environment, events, until

WORDS = ("--topology", "ring6", "--engine", "eager", "--tasks", "1", "--eval-tasks", "4", "--quiet")
Edit = Callable[[Path], None]
SINCE = "2026-11-20T14:00:00+00:00"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six processes that nothing has disturbed; nobody writes to it."""
    home = tmp_path_factory.mktemp("honest")
    words = ["launch", *WORDS, "--iterations", "40", "--eval-every", "20", "--checkpoint-every", "20", "--name", "it"]
    subprocess.run([sys.executable, "-m", "difnet", *words], cwd=home, env=environment(), check=True, timeout=90)
    return home / "runs" / "it"


@pytest.fixture
def copied(honest: Path, tmp_path: Path) -> Path:
    """A copy of it to be edited."""
    return Path(shutil.copytree(honest, tmp_path / "copy"))


def failed(judgement: Judgement) -> set[str]:
    """The checks that found something wrong."""
    return {f.check for f in judgement.findings if f.verdict == "fail"}


def words_of(judgement: Judgement, check: str) -> str:
    """All that one check says."""
    return "; ".join(f"{f.where}: {f.words}" for f in judgement.of(check))


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Change the objects of a JSON or JSON-lines file; None leaves a line out."""
    if path.suffix == ".json":
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        return
    lines = (change(json.loads(line)) for line in path.read_text().splitlines())
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line is not None))


def summarise(folder: Path, **changes: Any) -> None:
    """Change the summary where it stands: in run.json, and in the event with which the run ended."""
    rewrite(folder / "run.json", lambda summary: summary | changes)
    rewrite(folder / "events.jsonl", lambda e: e | {"summary": e["summary"] | changes} if "summary" in e else e)


def insert(folder: Path, *told: dict[str, Any]) -> None:
    """Put events before the end of a run."""
    path = folder / "events.jsonl"
    *lines, end = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in [*lines, *map(json.dumps, told), end]))


def edge(folder: Path, who: int, to: int, **changes: int) -> None:
    """Change an end's row of edges.csv."""
    path = folder / "edges.csv"
    head, *rows = [line.split(",") for line in path.read_text().splitlines()]
    for row in rows:
        if row[:2] == [str(who), str(to)]:
            for name, value in changes.items():
                row[head.index(name)] = str(value)
    path.write_text("".join(",".join(row) + "\n" for row in [head, *rows]))


def counted(folder: Path, agent: int, **changes: Any) -> None:
    """Change all that an agent told of its counters."""
    rewrite(folder / "agents" / f"{agent:03d}" / "metrics.jsonl",
            lambda e: e | changes if e["event"] == "Progress" else e)  # fmt: skip


def lost(agent: int, neighbour: int, used: int, epoch: int = 1, iteration: int = 20) -> dict[str, Any]:
    """An event."""
    return {"event": "NeighbourLost", "agent": agent, "neighbour": neighbour, "iteration": iteration, "used": used,
            "reason": "silent", "epoch": epoch}  # fmt: skip


def back(agent: int, neighbour: int, first: int, epoch: int = 2) -> dict[str, Any]:
    """An event."""
    return {"event": "NeighbourBack", "agent": agent, "neighbour": neighbour, "iteration": first, "first": first,
            "epoch": epoch}  # fmt: skip


def broke(folder: Path, used: tuple[int, int] = (19, 19), first: tuple[int, int] = (25, 25)) -> None:
    """An edge that was away for a while, at both ends."""
    insert(folder, lost(0, 1, used[0]), lost(1, 0, used[1]), back(0, 1, first[0]), back(1, 0, first[1]))
    for k, l in ((0, 1), (1, 0)):
        edge(folder, k, l, epoch=2, combined=35)
        counted(folder, k, missed=5)
    summarise(folder, missed_exchanges=10)


def healed(folder: Path, states: int) -> None:
    """A connection that broke and came back, and how many states 1 sent to 0, one of them again."""
    insert(folder, {"event": "LinkHealed", "agent": 1, "neighbour": 0, "iteration": 20, "epoch": 1, "seconds": 0.1,
                    "resent": 1})  # fmt: skip
    edge(folder, 1, 0, payload_bytes=states * 7044, resent=1)


@pytest.mark.slow
def test_a_state_that_a_cut_made_to_be_sent_again_is_as_it_should_be(copied):
    healed(copied, 41)
    assert failed(judge(copied)) == set()
    assert "1 sent again" in words_of(judge(copied), "exchanges")


@pytest.mark.slow
def test_a_run_that_nothing_disturbed_passes_every_check_and_so_does_its_copy(honest, copied):
    for folder in (honest, copied):
        judgement = judge(folder)
        assert judgement.verdict == "pass" and judgement.unknown == [], judgement
        assert {f.check for f in judgement.findings} == set(CHECKS)
    assert "480 states over 12 directions" in words_of(judge(copied), "exchanges")


@pytest.mark.slow
@pytest.mark.parametrize(("used", "verdict"), [((19, 18), "pass"), ((18, 19), "pass"), ((19, 17), "fail")])
def test_one_exchange_goes_under_with_a_connection_and_no_more(copied, used, verdict):
    """The end that broke it off has used what came; the other had not got what was on its way."""
    broke(copied, used=used)
    for k, l in ((0, 1), (1, 0)):
        edge(copied, k, l, combined=35)
    rewrite(copied / "events.jsonl", lambda e: e | {"reason": "the connection broke"} if (
        e["event"] == "NeighbourLost" and e["agent"] == 0) else e)  # fmt: skip
    summarise(copied, one_sided_exchanges=1)
    told = [f for f in judge(copied).findings if f.check == "epochs"]
    assert {f.verdict for f in told} == {verdict}, told
    assert ("1 exchange one-sided" in str(told)) == (verdict == "pass")


@pytest.mark.slow
@pytest.mark.parametrize(("reason", "used", "verdict"), [
    ("silent for 3.2 s", (19, 18), "pass"),
    ("silent for 3.2 s", (18, 19), "pass"),
    ("silent for 3.2 s", (19, 17), "fail"),
    ("it left: left behind: silent for 3.2 s", (19, 18), "fail"),  # at agent 0, which had been stopped
])  # fmt: skip
def test_one_exchange_goes_under_with_a_link_that_fell_silent_both_ways(copied, reason, used, verdict):
    """Nothing broke: what was sent vanished. An agent that was stopped hears when it goes on that it was given up."""
    broke(copied, used=used)
    reasons = {0: reason, 1: "silent for 3.1 s"}
    rewrite(copied / "events.jsonl", lambda e: e | (
        {"reason": reasons[e["agent"]]} if e["event"] == "NeighbourLost" else {}))  # fmt: skip
    summarise(copied, one_sided_exchanges=1)
    told = [f for f in judge(copied).findings if f.check == "epochs"]
    assert {f.verdict for f in told} == {verdict}, told


@pytest.mark.slow
def test_an_edge_that_was_away_and_came_back_is_as_it_should_be(copied):
    broke(copied)
    judgement = judge(copied)
    assert judgement.verdict == "pass" and "14 epochs" in words_of(judgement, "epochs"), judgement


def _negative(folder: Path) -> None:
    rewrite(folder / "topology.json", lambda t: t | {"A": [[-a if a == t["A"][0][0] else a for a in row]
                                                           for row in t["A"]]})  # fmt: skip


def _too_light(folder: Path) -> None:
    rewrite(folder / "topology.json", lambda t: t | {"A": [[0.0, *row[1:]] for row in t["A"]]})


def _apart(folder: Path) -> None:
    insert(folder, lost(0, 1, 19), lost(1, 0, 19))
    summarise(folder, edges_apart=[[0, 1]])


def _lost(folder: Path) -> None:
    insert(folder, {"event": "AgentLost", "agent": 3, "status": "killed by SIGKILL", "iteration": 9, "log_tail": ""})
    summarise(folder, lost_agents=[3])


def _no_finite_state(folder: Path) -> None:
    path = next((folder / "agents" / "003").glob("state-*"))
    path.write_bytes(tensor_bytes({"w": np.array([1.0, np.nan], "f4")}, {}))


def _no_finite_checkpoint(folder: Path) -> None:
    run = json.loads((folder / "identity.json").read_text())["id"]
    shelf = Shelf(folder / "agents" / "001", Manifest(run, 1, 0, "", "", "", "", {}))
    shelf.write(40, {}, np.array([np.inf], "f4"), [])


def _of_another_agent(folder: Path) -> None:
    name = "checkpoint-000040.safetensors"
    shutil.copy(folder / "agents" / "001" / name, folder / "agents" / "002" / name)


def _damaged(pattern: str) -> Edit:
    def edit(folder: Path) -> None:
        path = next(folder.glob(pattern))
        path.write_bytes(path.read_bytes()[:-1] + b"\x55")

    return edit


def _measured_twice(folder: Path) -> None:
    lines = (folder / "events.jsonl").read_text().splitlines()
    insert(folder, json.loads(next(line for line in lines if '"Measured"' in line)))


def _without(kind: str, iteration: int) -> Edit:
    return lambda folder: rewrite(folder / "events.jsonl", lambda e: None if (
        e["event"] == kind and e["iteration"] == iteration) else e)  # fmt: skip


def _not_finite(folder: Path) -> None:
    rewrite(folder / "events.jsonl", lambda e: e | {"disagreement": None} if e["event"] == "Measured" else e)


WRONG: dict[str, tuple[str, Edit, str]] = {  # what is wrong -> the check that fails, how, and a word of its own
    "a damaged line": ("record", lambda f: insert(f, {"event": "Nonsense"}), "events.jsonl, line"),
    "records that no disk took": ("record", lambda f: summarise(f, lost_records=3), "3 records"),
    "a file that no disk took": ("record", lambda f: summarise(f, unwritten=["test.csv"]), "test.csv"),
    "a summary of another end": ("record", lambda f: rewrite(f / "run.json", lambda s: s | {"agents": 7}), "not the"),
    "a lost agent that no event tells of": ("agents", lambda f: summarise(f, lost_agents=[3]), "lost_agents"),
    "one that returned and never did": ("agents", lambda f: summarise(f, returned_agents=[3]), "returned_agents"),
    "done though edges are apart": ("agents", _apart, "apart"),
    "done though somebody is lost": ("agents", _lost, "max_lost"),
    "done too early": ("agents", lambda f: summarise(f, iterations=30), "30 iterations of 40"),
    "a column of A that is too light": ("weights", _too_light, "column 0"),
    "a negative weight": ("weights", _negative, "it is -"),
    "ends of other rounds": ("epochs", lambda f: broke(f, used=(19, 18)), "edge 0-1, epoch 1"),
    "ends that begin apart": ("epochs", lambda f: broke(f, first=(25, 26)), "edge 0-1, epoch 2"),
    "a round in two epochs": ("epochs", lambda f: broke(f, first=(19, 19)), "an earlier one had used round 19"),
    "an epoch used before it began": ("epochs", lambda f: (broke(f), edge(f, 0, 1, used=20)), "used until 20"),
    "an epoch that ended twice": ("epochs", lambda f: (insert(f, lost(0, 1, 19), lost(0, 1, 20))), "ended twice"),
    "an epoch within another": ("epochs", lambda f: insert(f, back(0, 1, 25)), "during epoch 1"),
    "one-sided exchanges": ("epochs", lambda f: summarise(f, one_sided_exchanges=1), "one-sided"),
    "an edge that ended elsewhere at its ends": ("epochs", lambda f: edge(f, 0, 1, used=38), "0 to 38 at 0"),
    "a round used twice": ("rounds", lambda f: edge(f, 0, 1, combined=41), "combined in 41 of 40 rounds"),
    "a round neither used nor missed": ("rounds", lambda f: edge(f, 0, 1, combined=39), "combined 79, missed 0"),
    "a state that nobody sent": ("exchanges", lambda f: edge(f, 1, 0, payload_bytes=39 * 7044), "1 sent 39"),
    "a state sent twice for no reason": (
        "exchanges", lambda f: edge(f, 1, 0, payload_bytes=41 * 7044, resent=1), "came back it told 0"),
    "a state that was only sent again": ("exchanges", lambda f: healed(f, 40), "1 sent 39"),
    "half a state": ("exchanges", lambda f: edge(f, 1, 0, payload_bytes=40 * 7044 + 1), "7044 each"),
    "more heard than sent": ("exchanges", lambda f: counted(f, 2, heard_payload_bytes=10**9), "it heard 1000000000"),
    "a miss without a loss": ("missed", lambda f: counted(f, 4, missed=1), "lost no neighbour"),
    "other misses in the summary": ("missed", lambda f: summarise(f, missed_exchanges=7), "7 missed exchanges"),
    "a wait without end": ("waits", lambda f: counted(f, 5, longest_wait_s=1300.0), "agent 5: it waited 1300.0 s"),
    "other refusals in the summary": ("refusals", lambda f: summarise(f, refused_messages=7), "7 refused"),
    "a measurement there twice": ("measurements", _measured_twice, "was measured after 40"),
    "a measurement that is missing": ("measurements", _without("Measured", 12), "no measurement of iteration 12"),
    "a validation that is missing": ("measurements", _without("Validated", 20), "no validation of iteration 20"),
    "no last measurement": ("measurements", _without("Validated", 40), "the last measurement is of iteration 38"),
    "a distance without end": ("measurements", _not_finite, "is not finite"),
    "a state that is not finite": ("states", _no_finite_state, "w is not finite"),
    "a damaged state": ("states", _damaged("agents/002/state-*"), "damaged"),
    "a damaged model": ("states", _damaged("launch-model.safetensors"), "launch-model.safetensors"),
    "a state that is missing": ("states", lambda f: next(f.glob("agents/002/state-*")).unlink(), "agents/002"),
    "a model that is missing": ("states", lambda f: (f / "launch-model.safetensors").unlink(), "missing"),
    "a damaged checkpoint": ("checkpoints", _damaged("agents/002/checkpoint-*"), "damaged"),
    "a checkpoint of another agent": ("checkpoints", _of_another_agent, "of agent 1"),
    "a checkpoint that is not finite": ("checkpoints", _no_finite_checkpoint, "not finite"),
    "an unfinished file": ("remains", lambda f: (f / ".run.json.part").touch(), ".run.json.part"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", WRONG)
def test_a_check_finds(what, copied):
    check, edit, word = WRONG[what]
    edit(copied)
    judgement = judge(copied)
    assert judgement.verdict == "fail" and check in failed(judgement), judgement
    assert word in words_of(judgement, check), words_of(judgement, check)


@pytest.mark.slow
def test_a_process_a_lock_and_sockets_that_were_left_are_found(copied, monkeypatch):
    """A process with the run's id in its environment that began before the run ended; a folder of a dead launcher."""
    key = json.loads((copied / "identity.json").read_text())["id"]
    left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, env=environment(DIFNET_RUN_KEY=key))  # fmt: skip
    try:
        began = psutil.Process(left.pid).create_time()
        for end in (began - 10, began):
            os.utime(copied / "run.json", (end, end))
            assert "remains" not in failed(judge(copied)), "it is of another run of that name, or may be"
        os.utime(copied / "run.json", (began + 10, began + 10))
        assert f"process {left.pid}: " in words_of(judge(copied), "remains")
    finally:
        left.communicate(timeout=30)
    scratch = Path(os.environ["TMPDIR"])
    pid = json.loads((copied / "lock.json").read_text())["pid"]
    (scratch / f"difnet-{pid}-abc").mkdir()
    assert left_folders(copied, scratch, "difnet-") == [scratch / f"difnet-{pid}-abc"]
    (scratch / f"difnet-{pid}-abc").rmdir()
    with hold(copied, print):
        assert "the folder is held" in words_of(judge(copied), "remains")
    assert "remains" not in failed(judge(copied))


def course(folder: Path, levels: list[float], faults: bool = True) -> Path:
    """A run's folder with a consensus error measured every iteration, and an edge that is away from 60 to 80."""
    folder.mkdir()
    told: list[dict[str, Any]] = [
        {"event": "Measured", "iteration": i, "seconds": 0.1 * i, "disagreement": d, "distances": {"0": d}}
        for i, d in enumerate(levels)]  # fmt: skip
    if faults:
        told += [lost(0, 1, 59, iteration=60), lost(1, 0, 59, iteration=60), back(0, 1, 80), back(1, 0, 80)]
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in told))
    (folder / "topology.json").write_text(json.dumps({"agents": 2, "A": [[0.5, 0.5], [0.5, 0.5]], "mixing_rate": 0.9}))
    return folder


@pytest.mark.parametrize(
    ("after", "verdict", "word"),
    [([30.0] * 20 + [1.5] * 60, "pass", "1.5 after the last heal"),
     ([30.0] * 80, "fail", "30 times as far apart"),
     ([30.0] * 30, "unknown", "A needs 22 iterations"),
     ([1.0] * 21, "unknown", "are too few")],
    ids=["comes back", "stays away", "not enough iterations yet", "not enough measurements"],
)  # fmt: skip
def test_consensus_is_to_come_back_after_the_last_heal(after, verdict, word, tmp_path):
    judgement = judge(course(tmp_path / "run", [0.0] + [1.0] * 59 + after))
    assert judgement.of("consensus")[0].verdict == verdict
    assert word in words_of(judgement, "consensus")


def test_faults_that_somebody_made_on_purpose_count_by_their_clock(tmp_path):
    """Those of which no event tells, since nobody was lost for them."""
    folder = course(tmp_path / "run", [0.0] + [1.0] * 59 + [30.0] * 80, faults=False)
    assert "no fault is recorded" in words_of(judge(folder), "consensus")
    began = RunStarted("r", "launch", "", "", 2, 1, 0.9, True, "diffusion", "", "", "", 140, 0.1, 0, SINCE).to_dict()
    ready = {"event": "Ready", "seconds": 2.0, "engine": "eager", "parameters": 1, "server": None, "mixing_rate": 0.9}
    path, zero = folder / "events.jsonl", datetime.fromisoformat(SINCE).timestamp() + 2.0
    path.write_text("".join(json.dumps(e) + "\n" for e in (began, ready)) + path.read_text())
    told = [{"at": zero + at, "kind": "delay", "edges": [[0, 1]], "phase": phase}
            for at, phase in ((6.01, "begun"), (7.99, "ended"))]  # fmt: skip
    (folder / "chaos.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    assert "30 times as far apart" in words_of(judge(folder), "consensus")


def test_what_nothing_is_known_of_is_unknown_and_says_why(tmp_path):
    """A folder with an empty record passes nothing but what it can be looked at for."""
    (tmp_path / "events.jsonl").touch()
    judgement = judge(tmp_path)
    assert set(judgement.unknown) == set(CHECKS) and judgement.state == "unfinished"
    assert all(f.words for f in judgement.findings)


@pytest.mark.slow
def test_the_command_says_a_line_for_each_check_and_its_status_tells(difnet, copied, tmp_path):
    good = difnet("check", copied)
    assert good.status == 0 and [line.split()[1] for line in good.out.splitlines()[:-1]] == list(CHECKS)
    assert good.out.splitlines()[-1] == "copy: nothing is wrong"
    (copied / "launch-model.safetensors").unlink()
    bad = difnet("check", copied)
    assert bad.status == 1 and "FAIL    states" in bad.out and "1 of 14 checks failed" in bad.out
    told = difnet("check", copied, "--json")
    assert told.status == 1 and told.json()["verdict"] == "fail"
    assert difnet("check", "nothing").status == 2


@pytest.mark.slow
def test_a_run_with_a_killed_agent_is_checked_as_it_goes_on_and_passes_at_its_end(running, difnet, tmp_path):
    """Its edges have two epochs each, of the same rounds at both ends; consensus is what it was."""
    launcher = running("launch", *WORDS, "--iterations", "1000000", "--eval-every", "100000",
                       "--set", "measure_every=10", "--set", "checkpoint_s=1")  # fmt: skip
    until(lambda: [e for e in events(tmp_path, "Measured") if e["iteration"] >= 60], "some iterations")
    os.kill(agents_of(launcher.pid)[2], signal.SIGKILL)
    until(lambda: len(events(tmp_path, "NeighbourBack")) == 4 and events(tmp_path, "AgentReturned"), "its return")
    meanwhile = difnet("check", "latest")
    assert meanwhile.status == 0 and "the run goes on" in meanwhile.out, meanwhile.out
    healed = max(e["first"] for e in events(tmp_path, "NeighbourBack"))
    until(lambda: events(tmp_path, "Measured")[-1]["iteration"] > healed + 60, "rounds of all six")
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(60) == 130
    judgement = judge((tmp_path / "runs" / "latest").resolve())
    assert judgement.verdict == "pass" and judgement.unknown == [], judgement
    assert "1 returned" in words_of(judgement, "agents") and "16 epochs" in words_of(judgement, "epochs")
