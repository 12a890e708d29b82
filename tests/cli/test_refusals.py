"""What a federated run cannot be is refused before anything runs: one clear error, and no run left half."""

import json
import sys

import pytest

from difnet.cli import main

STAR = ("--topology", "star_graph(n=3)", "--engine", "eager")
SYNTHETIC = (*STAR, "--algorithm", "fedavg", "--task", "synthetic")
FEDMETA = (*STAR, "--algorithm", "fedmeta")


def settings(*pairs: str) -> tuple[str, ...]:
    """These words as --set."""
    return tuple(word for pair in pairs for word in ("--set", pair))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*FEDMETA, *settings("server.clients=4")), ["server.clients is 4", "3 clients", "at most 3"]),
        ((*FEDMETA, *settings("server.clients=2", "server.quorum=3")), ["quorum 3", "2 clients per round"]),
        ((*FEDMETA, *settings("server.quorum=4")), ["server.quorum is 4", "a round has 3 clients", "lower it"]),
        ((*FEDMETA, *settings("quorum=5")), ["quorum 5", "4 agents", "server.quorum"]),
        ((*STAR, *settings("quorum=0")), ["quorum", "greater than or equal to 1", "got 0"]),
        ((*FEDMETA, *settings("server.fraction=0.3", "server.quorum=2")), ["server.quorum is 2", "1 clients"]),
        ((*FEDMETA, *settings("server.clients=2", "server.fraction=0.5")), ["clients (2)", "fraction (0.5)", "one of"]),
        ((*FEDMETA, *settings("server.fraction=nan")), ["server.fraction", "got nan"]),
        ((*FEDMETA, *settings("server.deadline_s=0")), ["server.deadline_s", "greater than 0", "got 0"]),
        (("--topology", "ring6", "--algorithm", "fedavg", *settings("server.clients=2")), ["no hub", "star10"]),
        ((*STAR, "--algorithm", "dsgd", *settings("server.quorum=2")), ["'dsgd' has no server step", "fedavg"]),
        ((*STAR, "--algorithm", "meta-backward", *settings("server.clients=2")), ["needs every client", "leave"]),
        ((*STAR, "--algorithm", "meta-backward", "--local-steps", "2"), ["one step between two", "--local-steps"]),
        ((*STAR, "--algorithm", "imaml", *settings("algorithm.weight=0")), ["algorithm.weight is 0", "above 0"]),
        ((*STAR, "--algorithm", "imaml", *settings("algorithm.weight=-2.0")), ["algorithm.weight is -2.0", "above 0"]),
        ((*STAR, "--algorithm", "imaml", *settings("algorithm.weight=nan")), ["algorithm.weight is nan", "above 0"]),
        ((*SYNTHETIC, *settings("task.support=0")), ["support fraction of 0 ", "empty", "0.001 to 0.999"]),
        ((*SYNTHETIC, *settings("task.support=1")), ["support fraction of 1 ", "empty", "0.001 to 0.999"]),
        ((*SYNTHETIC, *settings("task.support=0.001")), ["0 for support", "neither may be empty", "or more"]),
        (("--topology", "ring6", "--algorithm", "fedmeta"), ["'fedmeta' sends gradients", "star_graph(n=5)", "star10"]),
        (("--topology", "ring6", "--algorithm", "imaml"), ["'imaml' sends gradients", "needs a hub"]),
        ((*FEDMETA, "--local-steps", "2"), ["'fedmeta' sends a gradient", "got --local-steps 2", "--tasks 10"]),
        ((*FEDMETA, "--mode", "async"), ["mode 'async' has no meaning with a server", "server.deadline_s"]),
        ((*STAR, "--algorithm", "fedavg", "--strategy", "cta"), ["strategy 'cta' has no meaning with a server"]),
        ((*STAR, "--algorithm", "iMAML-5-7", "--iterations", "9"), ["iterations = 5", "iterations = 9", "leave one"]),
        ((*FEDMETA, "--combine", "median"), ["combine 'median'", "agent 0 serves", "leave --combine away"]),
        ((*STAR, "--combine", "trim:1"), ["combine 'trim:1' needs 3", "agent 1", "hears 1", "--combine clip"]),
        (("--topology", "ring6", "--combine", "trim:2"), ["needs 5 or more", "agent 0 of 'ring6' hears 2", "edges"]),
        (("--topology", "ring6", "--combine", "trim:0"), ["combine", "'trim:0' is none of mean, clip", "try trim:1"]),
        (("--combine", "krum"), ["combine", "'krum' is none of mean, clip, median and trim:b"]),
        (("--combine", "clip", "--strategy", "centralised"), ["combine 'clip' needs neighbours", "'centralised'"]),
        ((*FEDMETA, "--target", "nonsense"), ["target 'nonsense'", "accuracy=0.74", "loss@1=0.5"]),
        ((*FEDMETA, "--target", "accuracy=0.5"), ["target accuracy=0.5", "has no accuracy", "loss=0.5"]),
        ((*FEDMETA, "--target", "loss@3=0.5"), ["after 0, 1, 10 inner steps, not after 3", "eval_steps"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_what_cannot_be_run_is_refused_before_a_run_is_begun(monkeypatch, capsys, tmp_path, arguments, words):
    """Exit status 2, one error that says what would be right, no traceback, and no folder of a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["difnet", "simulate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert all(word in said for word in words), said
    assert said.startswith("difnet: ") and len(said.splitlines()) <= 2 and "Traceback" not in said
    assert not list(tmp_path.rglob("events.jsonl"))


@pytest.mark.slow
def test_a_launch_that_its_host_refuses_says_the_same_and_is_recorded_as_failed(difnet, tmp_path):
    """More clients in a round than there are: the launcher, which cannot know, ends with the host's own error."""
    done = difnet("launch", *FEDMETA, "--set", "server.clients=4", "--quiet")
    error = "server.clients is 4, but there are 3 clients to call; give at most 3"
    assert (done.status, done.out, done.err) == (2, "", f"difnet: {error}\n")
    run = json.loads((tmp_path / "runs/latest/run.json").read_text())
    assert (run["state"], run["reason"], run["iterations"]) == ("failed", error, 0)
