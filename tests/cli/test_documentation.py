"""Every command that a person can read in the README, in docs/ or behind --help is a command that works."""

import re
import shlex
from pathlib import Path

import pytest

from difnet.cli import COMMANDS
from tests.conftest import REPOSITORY

SHORT = ("--iterations", "4", "--tasks", "1", "--eval-tasks", "2", "--eval-every", "4", "--engine", "eager")
NEEDS_A_RUN = ("watch", "report", "compare")
pytestmark = pytest.mark.slow
PLUMBING = ("host", "agent", "bench")  # they need a registry, or minutes; tested elsewhere


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a Markdown file in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def documented() -> list[str]:
    """Every `difnet …` line of the README and docs/, without repetitions."""
    lines = []
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))):
        lines += [line for block in blocks(path, "console") for line in block.splitlines()]
    commands = [line.removeprefix(".venv/bin/") for line in lines]
    return list(dict.fromkeys(line for line in commands if line.startswith("difnet ")))


@pytest.fixture(scope="module")
def examples() -> dict[str, list[str]]:
    """The examples behind every command's --help, read from the commands themselves."""
    import click

    from difnet.cli import group

    def walk(command: click.Command, name: str) -> dict[str, list[str]]:
        text = (command.help or "").partition("Examples:")[2]
        found = {name: [line.strip() for line in text.splitlines() if line.strip().startswith(("difnet", "DIFNET"))]}
        if isinstance(command, click.Group):
            ctx = click.Context(command)
            for inner in command.list_commands(ctx):
                found |= walk(command.get_command(ctx, inner), f"{name} {inner}")
        return found

    return walk(group, "difnet")


def shortened(line: str) -> list[str]:
    """The arguments of a `difnet` line, made short enough for a test where it runs a network."""
    arguments = shlex.split(line, comments=True)[1:]
    runs_a_network = arguments[0] in ("launch", "simulate") and "--help" not in arguments
    return [*arguments, *SHORT] if runs_a_network else arguments


def ended_well(line: str, status: int) -> bool:
    """Exit status 0; or 4, a target not reached, which a run made so short may have."""
    return status == 0 or (status == 4 and "--target" in line)


def test_every_command_has_an_example(examples):
    assert set(examples) >= {f"difnet {name}" for name in COMMANDS}
    assert all(examples.values()), [name for name, lines in examples.items() if not lines]


@pytest.mark.parametrize("line", documented())
def test_a_documented_command_works(line, difnet, tmp_path):
    """As printed, in an empty folder with the files that the documentation has the reader save."""
    [own_task] = blocks(REPOSITORY / "docs" / "own-task.md", "python")
    (tmp_path / "steps.py").write_text(own_task)
    if line.split()[1] in PLUMBING:
        pytest.skip("measured, not tested: it takes minutes")
    if line.split()[1] in NEEDS_A_RUN:
        for _ in range(2):
            assert difnet("simulate", "--topology", "ring6", *SHORT, "--quiet").status == 0
    done = difnet(*shortened(line))
    assert ended_well(line, done.status), done.err


def test_every_example_behind_help_works(examples, difnet, tmp_path):
    """One after the other, in one folder that holds two runs."""
    names = [f"2026-11-20_14-0{n}-22_ring40_dif-maml_s0" for n in range(2)]
    for name in names:
        assert difnet("simulate", "--topology", "ring6", "--name", name, *SHORT, "--quiet").status == 0
    failed = {}
    for command, lines in examples.items():
        for line in lines if not command.endswith(PLUMBING) else []:
            arguments = [word for given in shortened(line.partition(" > ")[0])
                         for word in (sorted(map(str, tmp_path.glob(given))) if "*" in given else [given])]
            done = difnet(*arguments)
            if not ended_well(line, done.status):
                failed[line] = done.err
    assert not failed


def test_the_example_of_an_own_task_is_short_and_learns(difnet, tmp_path):
    """Under forty lines; as written in the docs, its loss falls."""
    [own_task] = blocks(REPOSITORY / "docs" / "own-task.md", "python")
    assert len(own_task.splitlines()) < 40
    (tmp_path / "steps.py").write_text(own_task)
    done = difnet("launch", "--topology", "ring6", "--task", "steps:steps", "--inner-lr", "0.1", "--iterations", "200",
                  "--engine", "traced", "--eval-every", "200", "--eval-tasks", "50", "--json")  # fmt: skip
    assert done.status == 0, done.err
    loss = done.json()["loss"]
    assert loss["after"]["10"]["mean"] < 0.8 * loss["first"]["after"]["10"]["mean"]


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    [code] = blocks(REPOSITORY / "README.md", "python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    short = 'iterations=4, engine="eager", eval_tasks=2, tasks=1'
    assert "iterations=200" in code
    exec(compile(code.replace("iterations=200", short), "README.md", "exec"), {})
