"""What came out of these runs? One page that needs nothing but itself, and the same as Markdown, CSV and pictures.

The page is first composed as plain values (sections of paragraphs, tables, pictures), then written in both languages.
"""

import base64
import csv
import html
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from difnet.errors import RunFolderError
from difnet.readable import bytes_text, energy_text, figure, steps_text, time_text
from difnet.runs import Run, flatten, grouped

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Items:
    """A list of remarks."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows of text below a head; the first column is words, the others are figures."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A PNG file of the report's folder."""

    file: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Code:
    """Text to be read or typed as it stands, folded away where the page can fold."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Paragraph | Items | Table | Picture | Code, ...]


def write(runs: Sequence[Run], folder: str | Path) -> Path:
    """Write report.html, report.md, summary.csv and the pictures; the path of the page.

    Raises: RunFolderError, if there is no run; EnvironmentLacks, without matplotlib.
    """
    if not runs:
        raise RunFolderError("a report needs at least one run; difnet report latest")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    several = f"{len(runs)} runs on {', '.join(_distinct(runs, 'topology'))}"
    title = several if len(runs) > 1 else str(runs[0].fact("run"))
    sections = compose(runs)
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Picture):
                (folder / block.file).write_bytes(block.png)
    _write_csv(runs, folder / "summary.csv")
    (folder / "report.md").write_text(to_markdown(title, sections), encoding="utf-8")
    page = folder / "report.html"
    page.write_text(to_html(title, sections), encoding="utf-8")
    return page


def compose(runs: Sequence[Run]) -> list[Section]:
    """Everything the report says, in order."""
    return [
        Section("What ran", (_what_ran(runs),)),
        Section("What came out", (_outcome(runs), *([_per_run(runs)] if len(runs) > 1 else []))),
        Section("Pictures", _pictures(runs)),
        Section("What it cost", (_cost(runs), Paragraph(
            "Payload counts the intermediate states alone; wire counts every byte of every frame. Each energy carries "
            "its source, and its quality: measured, attributed, estimated or modelled."
        ))),
        Section("What is missing or needs care", (Items(tuple(_missing(runs))),)),
        Section("How to reproduce", _reproduce(runs)),
    ]  # fmt: skip


# What it says


def _distinct(runs: Iterable[Run], name: str) -> list[str]:
    return list(dict.fromkeys(str(run.fact(name)) for run in runs))


def _what_ran(runs: Sequence[Run]) -> Table:
    def row(run: Run) -> tuple[str, ...]:
        rate = run.summary.get("mixing_rate") or run.topology.get("mixing_rate")
        if rate is None and run.started:
            rate = run.started.mixing_rate
        facts = [run.fact(n) for n in ("command", "topology", "agents", "strategy", "algorithm", "task", "seed")]
        words = ["unknown" if f is None else str(f) for f in facts]
        return (str(run.fact("run")), *words, f"{rate:.4f}" if rate is not None else "unknown", run.state)

    head = ("run", "command", "topology", "agents", "strategy", "algorithm", "task", "seed", "mixing rate λ₂", "state")
    return Table(head, tuple(row(run) for run in runs))


def _number(run: Run, name: str) -> float | None:
    flat = flatten(run.summary)
    value = flat.get(name, flat.get(name.removesuffix(".mean")))
    return float(value) if isinstance(value, int | float) else None


def spread(values: Iterable[float | None], show: Callable[[float | None], str] = figure) -> str:
    """Mean ± standard deviation (n - 1) of what is known; the figure alone where only one is.

    >>> spread([1.0, 2.0, 3.0]), spread([1.5]), spread([None])
    ('2 ± 1', '1.5', 'unknown')
    """
    known = [v for v in values if v is not None]
    if len(known) < 2:
        return show(known[0] if known else None)
    return f"{show(statistics.mean(known))} ± {show(statistics.stdev(known))}"


def _measures(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(heading, summary name) of every loss and accuracy that some run has, before adaptation first."""
    found: list[tuple[str, str]] = []
    for measure in ("loss", "accuracy"):
        having = [run.summary[measure] for run in runs if run.summary.get(measure)]
        steps = dict.fromkeys(s for values in having for s in values.get("after") or {})
        stages = [("before adaptation", "before"), *((steps_text(s), f"after.{s}") for s in steps)] if having else []
        found += [(f"{measure} {stage}, {word}", f"{measure}.{path}.{word}")
                  for stage, path in stages for word in ("mean", "median", "worst")]  # fmt: skip
    return found


def _outcome(runs: Sequence[Run]) -> Table:
    """A row per figure, a column per experiment: the mean over its seeds with the standard deviation."""
    groups = grouped(runs)
    rows = [(name, *(spread(_number(r, path) for r in group) for group in groups.values()))
            for name, path in [*_measures(runs), ("consensus error", "consensus_error")]]  # fmt: skip
    heads = [f"{label} ({_seeds(group)})" for label, group in groups.items()]
    return Table(("over agents", *heads), tuple(rows))


def _seeds(group: Sequence[Run]) -> str:
    seeds = _distinct(group, "seed")
    again = "" if len(seeds) == len(group) else f" in {len(group)} runs"
    return f"seed {seeds[0]}{again}" if len(seeds) == 1 else f"mean ± s.d. of {len(seeds)} seeds{again}"


def _per_run(runs: Sequence[Run]) -> Table:
    shown = [m for m in _measures(runs) if m[0].endswith("mean")] + [("consensus error", "consensus_error")]
    rows = tuple((str(r.fact("run")), *(figure(_number(r, path)) for _, path in shown)) for r in runs)
    return Table(("run", *(name for name, _ in shown)), rows)


def _cost(runs: Sequence[Run]) -> Table:
    def row(run: Run) -> tuple[str, ...]:
        return (
            str(run.fact("run")), time_text(_number(run, "seconds")), figure(_number(run, "rounds_per_s")),
            bytes_text(_number(run, "bytes.payload")), bytes_text(_number(run, "bytes.wire")),
            figure(_number(run, "pss_mb_per_agent")), energy_text(run.summary.get("energy")),
        )  # fmt: skip

    head = ("run", "time", "rounds/s", "payload", "wire", "MB per agent (PSS)", "energy")
    return Table(head, tuple(row(run) for run in runs))


def _pictures(runs: Sequence[Run]) -> tuple[Picture | Paragraph, ...]:
    from difnet import plots

    def take(file: str, caption: str, draw: "Callable[[], Figure]") -> Picture | Paragraph:
        try:
            return Picture(file, plots.png(draw()), caption)
        except RunFolderError as error:
            return Paragraph(f"{caption} This picture is missing: {error}.")

    networks: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.fact("strategy") not in ("diffusion", "cta")):
        networks.setdefault(str(run.fact("topology")), run)  # rather a run in which the network was used as it is
    return (
        take("validation.png", "Loss of the agents' launch models on tasks they have not seen, after adaptation.",
             lambda: plots.validation(runs)),
        take("consensus.png", "How far the agents' launch models are from their centroid, and what theory promises.",
             lambda: plots.consensus(runs)),
        *(take(f"network-{i}.png", f"{name}: who talks to whom.", lambda run=run: plots.network(run))  # type: ignore[misc]
          for i, (name, run) in enumerate(networks.items(), start=1)),
    )  # fmt: skip


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
    if run.summary.get("doubly_stochastic") is False:
        yield "the combination matrix is not doubly stochastic, so the network agrees on a weighted mean."
    if unknown := [name for name, value in flatten(run.summary).items() if value is None]:
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
        text = path.read_text(encoding="utf-8") if path.is_file() else "# this run's folder has no config.toml\n"
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


# As Markdown


def to_markdown(title: str, sections: Iterable[Section]) -> str:
    """The report as GitHub's Markdown; pictures are files beside it."""
    parts = [f"# {_md(title)}"]
    for section in sections:
        parts += [f"## {_md(section.title)}", *(_block_md(block) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def _md(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def _block_md(block: Paragraph | Items | Table | Picture | Code) -> str:
    match block:
        case Items():
            return "\n".join(f"- {_md(text)}" for text in block.texts) or "Nothing."
        case Table():
            rule = "|".join([":--", *["--:"] * (len(block.head) - 1)])
            rows = [" | ".join(map(_md, row)) for row in (block.head, *block.rows)]
            return "\n".join(f"| {row} |" for row in [rows[0], rule, *rows[1:]])
        case Picture():
            return f"![{_md(block.caption)}]({block.file})\n\n*{_md(block.caption)}*"
        case Code():
            fence = "`" * 4
            return f"**{_md(block.title)}**\n\n{fence}\n{block.text.rstrip()}\n{fence}"
    return _md(block.text)


# As HTML


STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --pale: #5d6675; --line: #d9dde3; --page: #fbfbfa; --card: #fff;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ec; --pale: #9aa4b2; --line: #333b47; --page: #15191f;
  --card: #1c222a; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  "Noto Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.8rem 0 .9rem; padding-bottom: .35rem; border-bottom: 2px solid var(--accent); }
p, li { max-width: 46rem; overflow-wrap: anywhere; } .lead, figcaption { color: var(--pale); } .lead { margin: 0; }
.wide { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .9rem; min-width: 100%; }
th, td { padding: .45rem .8rem .45rem 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--pale); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); gap: 1.5rem;
  align-items: start; }
figure { margin: 0; } figure img { width: 100%; display: block; background: #fff; border: 1px solid var(--line);
  border-radius: 8px; padding: .6rem; } figcaption { font-size: .88rem; margin-top: .5rem; }
details { border: 1px solid var(--line); border-radius: 8px; background: var(--card); margin: .6rem 0; }
summary { cursor: pointer; padding: .6rem .9rem; font-family: ui-monospace, "Cascadia Mono", Menlo, monospace;
  font-size: .85rem; overflow-wrap: anywhere; }
pre { margin: 0; padding: .4rem .9rem 1rem; overflow-x: auto; font: .83rem/1.5 ui-monospace, "Cascadia Mono", Menlo,
  monospace; }
"""


def to_html(title: str, sections: Iterable[Section]) -> str:
    """The report as one page that carries its pictures and asks nothing of any other place."""
    body = "\n".join(f"<section>\n<h2>{_esc(s.title)}</h2>\n{_blocks_html(s.blocks)}\n</section>" for s in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_esc(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{_esc(title)}</h1>\n"
        f'<p class="lead">A report by difnet: agents that learn one launch model together.</p>\n{body}\n'
        "</main>\n</body>\n</html>\n"
    )


def _esc(text: str) -> str:
    return html.escape(text, quote=True)


def _blocks_html(blocks: Sequence[Paragraph | Items | Table | Picture | Code]) -> str:
    inner = "\n".join(_block_html(block) for block in blocks)
    return f'<div class="pictures">\n{inner}\n</div>' if any(isinstance(b, Picture) for b in blocks) else inner


def _block_html(block: Paragraph | Items | Table | Picture | Code) -> str:
    match block:
        case Items():
            items = "".join(f"<li>{_esc(text)}</li>" for text in block.texts)
            return f"<ul>{items}</ul>" if items else "<p>Nothing.</p>"
        case Table():
            head = "".join(f'<th scope="col">{_esc(cell)}</th>' for cell in block.head)
            rows = "\n".join(f"<tr>{''.join(f'<td>{_esc(c)}</td>' for c in row)}</tr>" for row in block.rows)
            return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
        case Picture():
            data, caption = base64.b64encode(block.png).decode("ascii"), _esc(block.caption)
            image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
            return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
        case Code():
            return f"<details><summary>{_esc(block.title)}</summary><pre>{_esc(block.text)}</pre></details>"
    return f"<p>{_esc(block.text)}</p>"
