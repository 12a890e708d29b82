"""Every command that a person can read in the README, in docs/ or behind --help is a command that works."""

import os
import re
import shlex
import signal
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from difnet import catalog
from difnet.cli import COMMANDS
from difnet.config import load
from difnet.data.home import VARIABLE
from difnet.data.sources import SOURCES
from tests.conftest import REPOSITORY, events, until

SHORT = ("--iterations", "4", "--tasks", "1", "--eval-tasks", "2", "--eval-every", "4", "--engine", "eager")
COMPILING_S = 400  # some of them compile, on two busy cores and with nothing in the cache
NEEDS_A_RUN = ("watch", "logs", "check", "report", "compare", "evaluate", "fit", "export")
slow = pytest.mark.slow
RUNS = ("launch", "simulate")
PARTS = 6  # in which examples are tried, side by side
PLUMBING = ("host", "agent", "bench")  # they need a registry, or minutes; tested elsewhere


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a Markdown file in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def save_what_the_docs_have_saved(folder: Path) -> None:
    """The reader's own task, samples of the reader's own, and a plan of faults."""
    [own_task] = blocks(REPOSITORY / "docs" / "own-task.md", "python")
    (folder / "steps.py").write_text(own_task)
    [plan] = blocks(REPOSITORY / "docs" / "reliability.md", "toml")
    (folder / "faults.toml").write_text(plan)
    [samples] = blocks(REPOSITORY / "docs" / "after-training.md", "csv")
    for name in ("mine.csv", "more.csv"):
        (folder / name).write_text(samples)
    [table] = blocks(REPOSITORY / "docs" / "own-data.md", "csv")
    head, *rows = table.splitlines()
    whole = "\n".join([head, *rows * 5]) + "\n"
    for place, names in (("clients", "ash birch elm fir oak yew"), ("other-clinics", "bay rowan")):
        (folder / place).mkdir()
        for name in names.split():
            (folder / place / f"{name}.csv").write_text(whole)
    (folder / "new-clinic.csv").write_text(whole)
    (folder / "new-patients.csv").write_text("\n".join(line.rpartition(",")[0] for line in [head, *rows]) + "\n")
    for name, word, n in product(("ash", "birch", "oak", "elm", "fir", "yew"), ("bolt", "gear"), range(10)):
        (folder / "pics" / name / word).mkdir(parents=True, exist_ok=True)
        Image.effect_noise((20, 20), 10 * n + 10).save(folder / "pics" / name / word / f"{n}.png")
    [schema] = blocks(REPOSITORY / "docs" / "own-data.md", "toml")
    (folder / "schema.toml").write_text(schema)


def learn_from_clinics(difnet, folder: Path) -> None:
    """The launch model of the clients' tables that the documentation goes on with, and one that is fitted."""
    done = difnet("simulate", "--topology", "ring6", "--task", "table", "--data", "clients", "--target", "ill",
                  "--name", "clinics", "--quiet", *SHORT)  # fmt: skip
    assert done.status == 0, done.err
    done = difnet("fit", "runs/clinics", "--support", "new-clinic.csv", "-o", "clinic.safetensors")
    assert done.status == 0, done.err
    (folder / "runs" / "latest").unlink()


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
    runs_a_network = arguments[0] in RUNS and "--help" not in arguments
    return [*arguments, *SHORT] if runs_a_network else arguments


def lacking(line: str) -> str | None:
    """Why a command cannot be run here: it fetches from the network, or needs data that is not in $DIFNET_DATA.

    It needs the data set that it names, or that the task family or the ready-made run that it names reads.
    """
    words = shlex.split(line, comments=True)[1:]
    if words[:2] == ["data", "get"]:
        return "fetches from the owner; tests/data/test_fetch.py has a server of its own"
    if "--hosts-expected" in words and "--dry-run" not in words:
        return "waits for hosts on other machines; tests/places/test_hosts.py has some"
    if "--place" in words or "--serve" in words:
        return "needs an engine, or serves until it is stopped; tests/places and tests/report do that"
    if words[0] == "launch":
        words += [load(path).task.name for path in catalog.entries("launch") if path.stem in words[1:2]]
    sets = {word: source.name for source in SOURCES.values() for word in (source.name, *source.families)}
    home = os.environ.get(VARIABLE)
    absent = [sets[word] for word in words if word in sets and not (home and (Path(home) / sets[word]).is_dir())]
    return f"needs the data set {absent[0]!r} in ${VARIABLE}, which is {home or 'not set'}" if absent else None


def begin_one(running, folder: Path) -> None:
    """A run that goes on until somebody stops it."""
    running("launch", "--topology", "ring6", "--quiet", *SHORT, "--iterations", "1000000", "--eval-every", "1000000")
    until(lambda: events(folder, "Ready") and not events(folder, "RunEnded"), "a run to stop")


def stop_one(running, folder: Path) -> None:
    """A run that somebody stopped before its end."""
    launcher = running("launch", "--topology", "ring6", "--quiet", *SHORT, "--iterations", "400", "--eval-every", "400")
    until(lambda: events(folder, "Ready") and not events(folder, "RunEnded"), "a run to stop")
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(60) == 130


def ended_well(line: str, status: int) -> bool:
    """Exit status 0; or 4, a target not reached, which a run made so short may have."""
    return status == 0 or (status == 4 and "--target" in line)


def test_every_command_has_an_example(examples):
    assert set(examples) >= {f"difnet {name}" for name in COMMANDS}
    assert all(examples.values()), [name for name, lines in examples.items() if not lines]


@slow
@pytest.mark.parametrize("line", documented())
def test_a_documented_command_works(line, difnet, running, tmp_path):
    """As printed, in an empty folder with the files that the documentation has the reader save."""
    save_what_the_docs_have_saved(tmp_path)
    if line.split()[1] in PLUMBING:
        pytest.skip("measured, not tested: it takes minutes")
    if why := lacking(line):
        pytest.skip(why)
    if line.split()[1] not in RUNS and ("clinic.safetensors" in line or "runs/clinics" in line):
        learn_from_clinics(difnet, tmp_path)
        if line.startswith("difnet fit"):
            (tmp_path / "clinic.safetensors").unlink()
    elif line.split()[1] in NEEDS_A_RUN or "from:" in line:
        for _ in range(2):
            assert difnet("simulate", "--topology", "ring6", *SHORT, "--quiet").status == 0
    if line.startswith("difnet topology show ring6.edgelist"):
        assert difnet("topology", "make", "ring6", "-o", "ring6.edgelist").status == 0
    if line.startswith(("difnet stop", "difnet chaos")):
        begin_one(running, tmp_path)
    if line.startswith("difnet resume"):
        stop_one(running, tmp_path)
    done = difnet(*shortened(line), timeout_s=COMPILING_S)
    assert ended_well(line, done.status), done.err


@slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_example_behind_help_works(part, examples, difnet, running, tmp_path):
    """Those of every PARTS-th command, one after the other, in one folder that holds two runs."""
    save_what_the_docs_have_saved(tmp_path)
    names = [f"2026-11-20_14-0{n}-22_ring40_dif-maml_s0" for n in range(2)]
    for name in names:
        assert difnet("simulate", "--topology", "ring6", "--name", name, *SHORT, "--quiet").status == 0
    learn_from_clinics(difnet, tmp_path)
    (tmp_path / "runs" / "latest").symlink_to(names[1])
    failed = {}
    for command, lines in [*examples.items()][part::PARTS]:
        for line in lines if not command.endswith(PLUMBING) else []:
            if lacking(line):
                continue
            arguments = [word for given in shortened(line.partition(" > ")[0])
                         for word in (sorted(map(str, tmp_path.glob(given))) if "*" in given else [given])]
            if command == "difnet fit":
                (tmp_path / "clinic.safetensors").unlink(missing_ok=True)  # which it makes
            if command in ("difnet stop", "difnet chaos"):
                begin_one(running, tmp_path)
            if command == "difnet resume":
                stop_one(running, tmp_path)
            done = difnet(*arguments, timeout_s=COMPILING_S)
            if not ended_well(line, done.status):
                failed[line] = done.err
            if command == "difnet chaos":
                assert difnet("stop", "latest").status == 0
    assert not failed


@slow
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


@slow
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    [code] = blocks(REPOSITORY / "README.md", "python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    short = 'iterations=4, engine="eager", eval_tasks=2, tasks=1'
    assert "iterations=200" in code
    exec(compile(code.replace("iterations=200", short), "README.md", "exec"), {})


@slow
def test_the_python_of_own_data_runs_in_a_session_and_in_a_file(difnet, tmp_path, monkeypatch):
    [session, module] = blocks(REPOSITORY / "docs" / "own-data.md", "python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    save_what_the_docs_have_saved(tmp_path)
    assert session.count("iterations=200") == 2
    exec(compile(session.replace("iterations=200", 'iterations=4, engine="eager", eval_tasks=2, tasks=1'),
                 "own-data.md", "exec"), {})  # fmt: skip
    (tmp_path / "mine.py").write_text(module)
    done = difnet("launch", "--topology", "ring6", "--task", "mine:task", *SHORT)
    assert done.status == 0, done.err


@pytest.mark.parametrize("language", ["python", "toml"])
def test_what_the_guide_for_contributors_quotes_stands_in_the_package(language):
    quoted = blocks(REPOSITORY / "CONTRIBUTING.md", language)
    sources = [path.read_text() for folder, ending in (("difnet", "py"), ("topologies", "toml"))
               for path in sorted((REPOSITORY / folder).rglob(f"*.{ending}"))]  # fmt: skip
    assert quoted and all(any(code in text for text in sources) for code in quoted)


PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_file_that_a_page_names_is_there(page):
    """Links, and files of the repository or of a room, between backquotes."""
    text = page.read_text()
    linked = [page.parent / path for path in re.findall(r"\]\((?!http)([^)#\s]+)\)", text)]
    named = [path for path in re.findall(r"`([a-z_]+/[\w./-]+\.(?:py|md|toml))`", text) if "NAME" not in path]
    roots = (REPOSITORY, REPOSITORY / "difnet")
    assert [path for path in linked if not path.exists()] == []
    assert [path for path in named if not any((root / path).exists() for root in roots)] == []


def test_every_function_on_the_three_journeys_is_there():
    """What docs/architecture.md writes as `file.function` or `Class.method`."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    named = {name for _, name in re.findall(r"`(\w+)\.(\w+)[`(]", text) if name not in ("py", "md", "toml", "jsonl")}
    sources = "\n".join(path.read_text() for path in (REPOSITORY / "difnet").rglob("*.py"))
    assert len(named) > 30
    defined = set(re.findall(r"(?:def|class) (\w+)|^    (\w+): ", sources, re.MULTILINE))
    assert named <= {name for names in defined for name in names}
