"""What came out of these runs? One page that needs nothing but itself, and the same as Markdown, CSV and pictures.

The page is first composed as plain values (sections of paragraphs, tables, pictures), then written in both languages.
"""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from difnet.errors import RunFolderError
from difnet.record.comparing import flatten
from difnet.record.costs import Target
from difnet.record.run import Run
from difnet.report import comparison_plots, plots, tables
from difnet.report.away import away, away_table, course_of
from difnet.report.experiments import accurate, common_target, grouped, target_text
from difnet.report.owners import owners_table
from difnet.report.page import Block, Code, Items, Paragraph, Picture, Section, to_html, to_markdown
from difnet.system.texts import read_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of a summary: null where there is none, which is not the same as unknown.
OPTIONAL = ("server", "offline", "target", "accuracy", "test", "place", "bytes.up", "bytes.down",
            "energy.preparation_joules")  # fmt: skip


def write(runs: Sequence[Run], folder: str | Path, targets: Sequence[Target] = ()) -> Path:
    """Write report.html, report.md, summary.csv, clients.csv and the pictures; the path of the page.

    Args: `targets`, the cost to reach which is told; by default those the runs were started with, or else one that
        every run reached.
    Raises: RunFolderError, if there is no run; EnvironmentLacks, without matplotlib.
    """
    if not runs:
        raise RunFolderError("a report needs at least one run; difnet report latest")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    several = f"{len(runs)} runs on {', '.join(_distinct(runs, 'topology'))}"
    title = several if len(runs) > 1 else str(runs[0].fact("run"))
    sections = compose(runs, targets)
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Picture):
                (folder / block.file).write_bytes(block.png)
    _write_csv(runs, folder / "summary.csv")
    _write_clients(runs, folder / "clients.csv")
    (folder / "report.md").write_text(to_markdown(title, sections), encoding="utf-8")
    page = folder / "report.html"
    page.write_text(to_html(title, sections), encoding="utf-8")
    return page


def compose(runs: Sequence[Run], targets: Sequence[Target] = ()) -> list[Section]:
    """Everything the report says, in order."""
    return [
        Section("What ran", (tables.what_ran(runs),)),
        Section("What came out", (
            tables.outcome(runs), *([tables.per_run(runs)] if len(runs) > 1 else []), *tables.on_test_tasks(runs),
        )),
        *_owner_by_owner(runs),
        Section("Cost to reach a target", _to_reach(runs, targets)),
        Section("Pictures", _pictures(runs)),
        *_who_was_away(runs),
        Section("What it cost", (tables.cost(runs), *tables.service(runs), Paragraph(
            "Payload counts the intermediate states alone; wire counts every byte of every frame. Communication is "
            "that of the modelled channel. Each energy carries its source, and its quality: measured, attributed, "
            "estimated or modelled."
        ))),
        Section("What is missing or needs care", (Items(tuple(_missing(runs))),)),
        Section("How to reproduce", _reproduce(runs)),
    ]  # fmt: skip


# What it says


def _distinct(runs: Iterable[Run], name: str) -> list[str]:
    return list(dict.fromkeys(str(run.fact(name)) for run in runs))


def _to_reach(runs: Sequence[Run], targets: Sequence[Target]) -> tuple[Block, ...]:
    asked = [Target.parse(told["asked"]) for run in runs if "asked" in (told := run.summary.get("target") or {})]
    chosen, why = list(dict.fromkeys(targets or asked)), ""
    if not chosen:
        if not (common := common_target(runs)):
            return (Paragraph("These runs have no validation in common, so there is no target to compare them by."),)
        chosen, why = [common], f" None was asked for; {common} is the worst of the runs' best, so all got there."
    blocks: list[Block] = []
    for number, target in enumerate(chosen, start=1):
        words = target_text(target)
        blocks += [
            Paragraph(f"Spent at the first validation with {words}.{why}"), tables.cost_to_reach(runs, target),
            _take(f"cost-{number}.png", f"What it took to reach {words}.",
                  partial(comparison_plots.costs, runs, target)),
        ]  # fmt: skip
    return tuple(blocks)


# Pictures


def _take(file: str, caption: str, draw: "Callable[[], Figure]") -> Picture | Paragraph:
    try:
        drawn = draw()
        return Picture(file, plots.png(drawn), caption, wide=len(drawn.axes) > 1)
    except RunFolderError as error:
        return Paragraph(f"{caption} This picture is missing: {error}.")


def _pictures(runs: Sequence[Run]) -> tuple[Picture | Paragraph, ...]:
    networks: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.fact("strategy") not in ("diffusion", "cta")):
        networks.setdefault(str(run.fact("topology")), run)  # rather a run in which the network was used as it is
    agreeing, accuracies = [run for run in runs if not run.served], bool(accurate(runs))
    tested = any(run.scores for run in runs)
    shown: list[tuple[bool, str, str, Callable[[], Figure]]] = [
        (True, "validation.png", "Loss of the launch models on tasks they have not seen, after adaptation.",
         partial(plots.validation, runs)),
        (accuracies, "validation-accuracy.png", "Accuracy of the launch models on tasks they have not seen, "
         "after adaptation.", partial(plots.validation, runs, what="accuracy")),
        (bool(agreeing), "consensus.png", "How far the agents' launch models are from their centroid, and what theory "
         "promises.", partial(plots.consensus, agreeing)),
        (tested, "distribution.png", "How the final scores are spread over the test tasks.",
         partial(comparison_plots.distribution, runs)),
        (tested and accuracies, "density.png", "How evenly the test clients are served.",
         partial(comparison_plots.client_density, runs)),
        (True, "time-energy.png", "What computation and communication took until the last validation.",
         partial(comparison_plots.time_and_energy, runs)),
        *((True, f"network-{i}.png", f"{name}: who talks to whom.", partial(plots.network, run))
          for i, (name, run) in enumerate(networks.items(), start=1)),
    ]  # fmt: skip
    return tuple(_take(file, caption, draw) for wanted, file, caption, draw in shown if wanted)


def _owner_by_owner(runs: Sequence[Run]) -> list[Section]:
    """What the owners of each run found with their own data; no section where nobody has any."""
    blocks: list[Block] = []
    for run in runs:
        if table := owners_table(run):
            blocks += [Paragraph(f"{run.fact('run')}: the launch model, tested by each owner with data that nobody "
                                 f"else has. Every owner counts alike in what is said above."), table]  # fmt: skip
    return [Section("Owner by owner", tuple(blocks))] if blocks else []


def _who_was_away(runs: Sequence[Run]) -> list[Section]:
    """A table and a picture for each run in which somebody was away; no section where nobody was."""
    blocks: list[Block] = []
    for number, run in enumerate((run for run in runs if not course_of(run).is_whole), start=1):
        name = str(run.fact("run"))
        blocks += [
            Paragraph(f"{name}: an agent is away while all its neighbours that are there go on without it, or while no "
                      "process is it. Times are told to a second; – is what was not measured."),
            away_table(run),
            _take(f"away-{number}.png", f"{name}: who was away, and what it did.", partial(away, run)),
        ]  # fmt: skip
    return [Section("Who was away", tuple(blocks))] if blocks else []


def _missing(runs: Sequence[Run]) -> Iterable[str]:
    """Each remark once, behind the names of the runs it is about."""
    about: dict[str, list[str]] = {}
    for run in runs:
        for remark in _remarks(run):
            about.setdefault(remark, []).append(str(run.fact("run")))
    for remark, names in about.items():
        yield f"{'all runs' if len(names) == len(runs) > 1 else ', '.join(names)}: {remark}"
    if singles := [label for label, group in grouped(runs).items() if len(_distinct(group, "seed")) == 1]:
        yield f"{'; '.join(singles)}: only one seed, so no spread can be told."


def _remarks(run: Run) -> Iterable[str]:
    if run.state != "done":
        yield f"{run.state}; the figures are those of the last validation reached, if any."
    if lost := run.summary.get("lost_agents"):
        told = ", ".join(map(str, lost)) if isinstance(lost, list) else lost
        yield f"lost agents on the way: {told}. Means are over those that lived."
    if run.combine != "mean":
        yield f"combined by {run.combine}, so neither the mixing rate nor the mean that A keeps is this run's."
    elif run.summary.get("doubly_stochastic") is False and not run.served:
        yield "the combination matrix is not doubly stochastic, so the network agrees on a weighted mean."
    server, target = run.summary.get("server") or {}, run.summary.get("target") or {}
    if rounds := server.get("abandoned_rounds"):
        yield f"abandoned rounds: {rounds}. Fewer clients answered than the quorum, so they changed nothing."
    if late := server.get("late"):
        yield f"late answers: {late}. They came after the hub had gone on, and were not used."
    if target.get("reached") is False:
        yield f"the target {target.get('asked')} was not reached."
    if run.summary.get("transductive"):
        yield "evaluation is transductive: batch normalisation takes the statistics of the samples tested together."
    if run.state == "done" and not run.scores:
        yield "not tested: the folder has no test.csv."
    if unknown := [n for n, v in flatten(run.summary).items() if v is None and n not in OPTIONAL]:
        yield f"unknown: {', '.join(unknown)}."
    if (quality := (run.summary.get("energy") or {}).get("quality")) not in (None, "measured"):
        yield f"the energy is {quality}, not measured."
    for file in ("config.toml", "topology.json", "environment.json"):
        if not (run.folder / file).is_file():
            yield f"the folder has no {file}."


def _reproduce(runs: Sequence[Run]) -> tuple[Paragraph | Code, ...]:
    blocks: list[Paragraph | Code] = [Paragraph("Save a configuration as config.toml and run the command below it.")]
    for run in runs:
        path = run.folder / "config.toml"
        text = read_text(path) if path.is_file() else "# this run's folder has no config.toml\n"
        command = f"difnet {run.fact('command') or 'launch'} --config config.toml"
        blocks.append(Code(f"{run.fact('run')}: {command}", f"{text.rstrip()}\n\n# {command}\n"))
    if runs[0].environment:
        told = "\n".join(f"{name}: {value}" for name, value in flatten(runs[0].environment).items())
        blocks.append(Code("The machine it ran on", told))
    return tuple(blocks)


def _write_csv(runs: Sequence[Run], path: Path) -> None:
    """A row per run, a column per figure of the summary under its dotted name; unknown is empty."""
    rows = [{"run": run.fact("run"), "state": run.state, **flatten(run.summary)} for run in runs]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows({n: json.dumps(v) if isinstance(v, list) else v for n, v in row.items()} for row in rows)


def _write_clients(runs: Sequence[Run], path: Path) -> None:
    """A row per run, model, test task (client) and number of inner steps; none if nothing was tested."""
    experiments = {id(run): label for label, group in grouped(runs).items() for run in group}
    rows = [(run, score) for run in runs for score in run.scores]
    if not rows:
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "experiment", "seed", *rows[0][1]._fields])
        for run, score in rows:
            told = ["" if value != value else value for value in score]  # NaN, the only value unlike itself, is unknown
            writer.writerow([run.fact("run"), experiments[id(run)], run.fact("seed"), *told])
