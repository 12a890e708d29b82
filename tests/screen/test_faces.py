"""The faces of a run: screen, plain lines, pictures, report, comparison; all from a folder that no run has made."""

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from difnet.cli import group
from difnet.errors import RunFolderError
from difnet.maths.theory import promised_decay
from difnet.record import finding
from difnet.record.events import AgentLost, Event, NeighbourLost, Note, Pulse, RunEnded, RunStarted, Validated
from difnet.report import plots, writing
from difnet.report.experiments import grouped
from difnet.screen.charts import log_chart
from difnet.screen.dashboard import View, render, theory_lines, update
from difnet.screen.lines import plain_line, summary_table
from tests import fake_run
from tests.conftest import DEADLINE_S, environment


def view_of(stream: list[Event]) -> View:
    view = View()
    for event in stream:
        view = update(view, event)
    return view


def screen(view: View, width: int, height: int) -> list[str]:
    """The screen as lines of text; the console is wide, so that a line too long would show."""
    return text_of(render(view, width, height), columns=400).rstrip("\n").split("\n")


def text_of(renderable: object, columns: int = 120) -> str:
    console = Console(width=columns, color_system=None, file=StringIO())
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def difnet(*words: str | Path) -> Result:
    return CliRunner().invoke(group, [str(word) for word in words])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six finished runs: two strategies, three seeds each."""
    home = tmp_path_factory.mktemp("runs")
    for strategy in ("diffusion", "noncooperative"):
        for seed in range(3):
            fake_run.write(home / f"ring12_{strategy}_s{seed}", 12, strategy=strategy, seed=seed, iterations=200)
    return home


@pytest.fixture(scope="module")
def page(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writing.write([finding.load(folder) for folder in sorted(home.iterdir())], tmp_path_factory.mktemp("report"))


# The screen


@pytest.mark.parametrize("size", [(80, 24), (140, 45)])
@pytest.mark.parametrize("agents", [6, 40, 200])
def test_the_screen_fits_and_tells_what_it_must(size, agents):
    lines = screen(view_of(list(fake_run.events(agents, iterations=200))[:-1]), *size)
    assert len(lines) <= size[1]
    assert max(map(len, lines)) <= size[0]
    told = "\n".join(lines)
    for word in (
        f"ring{agents}", f"{agents} agents", "diffusion dif-maml", "200/200", "consensus error", "λ₂ 0.", "Theorem 1",
        "before adaptation", "after 1 inner step", "after 10 inner steps", "rounds/s", "payload", "0 missed",
        "17.2 MB/agent (PSS)", f"{agents}/{agents} alive", "ready after 3.0 s",
    ):  # fmt: skip
        assert word in told, word


@pytest.mark.parametrize("count", range(0, 30, 5))
def test_every_prefix_of_a_run_has_a_screen_that_fits(count):
    view = view_of(list(islice(fake_run.events(40, iterations=500, lost=8), count)))
    for width, height in ((20, 5), (80, 24), (200, 60)):
        lines = screen(view, width, height)
        assert len(lines) <= height
        assert max(map(len, lines)) <= width


def test_ten_thousand_agents_share_cells():
    view = view_of([e for e in fake_run.events(40, iterations=50) if not isinstance(e, RunEnded)])
    assert view.started is not None
    started = {name: value for name, value in view.started.to_dict().items() if name != "event"} | {"agents": 10_000}
    told = "\n".join(screen(view._replace(started=RunStarted(**started)), 80, 24))
    assert "to a cell" in told


def test_lost_agents_and_bereft_neighbours_are_seen_and_told():
    told = "\n".join(screen(view_of(list(fake_run.events(12, lost=8, iterations=200))[:-1]), 140, 45))
    assert " 8x" in told and " 7!" in told and " 9!" in told
    assert "agent 7 goes on without 8: silent for 3.0 s" in told
    assert "agent 8 lost at iteration 100: killed by SIGKILL; MemoryError: no room" in told
    assert "11/12 alive" in told


def test_the_agent_that_strays_most_has_the_highest_bar():
    view = view_of([e for e in fake_run.events(6, iterations=50) if not isinstance(e, Validated)][:-1])
    distances = {"0": 1.0, "1": 1.0, "2": 100.0, "3": 1.0, "4": 0.001, "5": 1.0}
    view = update(view, Validated(50, 1.0, 1.0, distances, {"mean": 1.0}, {}, {}, {}))
    told = "\n".join(screen(view, 80, 24))
    assert " 2█" in told and " 4▁" in told


def test_a_run_that_failed_says_so():
    view = view_of(list(fake_run.events(12, lost=8, state="failed", iterations=200)))
    assert "failed in" in screen(view, 80, 24)[1]
    assert view.ended is not None
    table = text_of(summary_table(view.ended.summary))
    assert table.startswith("failed") and "lost agents" in table


def test_unknown_figures_are_called_unknown():
    view = view_of(list(fake_run.events(6, iterations=50))[:-1])
    view = update(view, Pulse(1.0, 50, 10.0, None, 0, 0, 0, None, 6, 0))
    unknown: dict[str, Any] = {"disagreement": None, "distances": {"0": None}, "before": {"mean": None}}
    view = update(view, Validated(50, 1.0, after={"1": {"mean": None}}, accuracy={}, spent={}, **unknown))  # type: ignore[dict-item]
    told = "\n".join(screen(view, 80, 24))
    assert "memory unknown" in told and "unknown" in told
    assert "unknown (no meter)" in text_of(summary_table({"state": "done", "energy": None}))


def test_control_characters_from_a_log_never_reach_the_terminal():
    line = plain_line(AgentLost(3, "exit status 1", 5, "first\n\x1b[31mred\x07 end"))
    assert line is not None and line.isprintable()
    view = update(View(), Note("\x1b]0;title\x07 hello\nworld"))
    assert view.notes[-1][1].isprintable()


def test_names_in_a_copied_folder_never_reach_the_terminal_as_escape_sequences(tmp_path):
    """What commands print of it: the screen and table of watch, the columns of compare, an error's one line."""
    sly = "\\u001b]0;owned\\u0007"
    folders = [fake_run.write(tmp_path / name, 3, iterations=100, run="x\x1b[31m") for name in ("a", "b\x1b[31m")]
    for n, folder in enumerate(folders):
        (folder / "config.toml").write_text(f'task = "{sly}{n}"\n"{sly}" = {n}\n')
    shown = [difnet("watch", folders[1]), difnet("compare", *folders)]
    assert all(one.exit_code == 0 and "\x1b" not in one.output and "\x07" not in one.output for one in shown)
    (folders[1] / "run.json").write_text("{")
    ended = subprocess.run([sys.executable, "-m", "difnet", "report", str(folders[1])], capture_output=True, text=True,
                           timeout=DEADLINE_S, env=environment())  # fmt: skip
    assert ended.returncode == 2 and "is damaged" in ended.stderr and "\x1b" not in ended.stderr


def test_the_chart_has_the_highest_value_at_the_top():
    lines = [line.plain for line in log_chart([(0, 100.0), (10, 1.0)], [], 10, 30, 7, "")]
    assert float(lines[0].split()[0]) > 10 > float(lines[5].split()[0])
    assert lines[0][10] != "⠀" and lines[5][-1] != "⠀"
    assert lines[0][-1] == "⠀" and lines[5][10] == "⠀"


def test_the_promise_falls_with_the_square_of_the_mixing_rate_down_to_the_floor():
    curve = [(float(i), max(0.9 ** (2 * i), 1e-3)) for i in range(100)]
    for x, y in promised_decay(curve, 0.9):
        assert math.isclose(y, max(0.9 ** (2 * x), 1e-3), rel_tol=1e-9)


def test_theory_is_silent_about_agents_that_do_not_talk():
    started = next(e for e in fake_run.events(6, strategy="noncooperative") if isinstance(e, RunStarted))
    assert "nothing makes the agents agree" in theory_lines(started)[0]


def test_theory_promises_nothing_where_agents_combine_by_another_rule():
    started = next(e for e in fake_run.events(6) if isinstance(e, RunStarted))
    robust = replace(started, combine="median")
    assert "λ₂" in theory_lines(started)[0] and started.promised_rate == started.mixing_rate
    assert "median" in theory_lines(robust)[0] and "λ₂" not in theory_lines(robust)[0]
    assert robust.promised_rate is None and "combine median" in (plain_line(robust) or "")


def test_plain_lines_tell_a_run_in_order():
    lines = [line for e in fake_run.events(12, lost=8, iterations=200) if (line := plain_line(e))]
    assert lines[1].startswith("ring12_diffusion_s0: 12 agents on ring12 (12 edges, mixing rate 0.911)")
    assert any(line.startswith("iteration 50: loss") and "consensus error" in line for line in lines)
    assert plain_line(NeighbourLost(7, 8, 3, 2, "silent for 3.0 s")) in lines
    assert lines[-1] == "done after 1.7 s"


# The folder


def test_metrics_are_the_columns_of_what_was_validated(home):
    run = finding.load(home / "ring12_diffusion_s0")
    columns, told = run.metrics(), [e for e in run.events if isinstance(e, Validated)]
    assert columns["iteration"].tolist() == [0, 50, 100, 150, 200]
    assert columns["disagreement"].tolist() == [e.disagreement for e in told]
    assert columns["after_10_worst"].tolist() == [e.after["10"]["worst"] for e in told]
    assert {"seconds", "before_mean", "after_1_mean", "after_1_median", "after_1_worst"} <= columns.keys()


def test_agent_metrics_tell_progress_and_tests(home):
    run = finding.load(home / "ring12_diffusion_s0")
    columns = run.agent_metrics(2)
    assert columns["iteration"].tolist() == columns["evaluated_iteration"].tolist() == [0, 100, 200]
    assert np.isnan(columns["pss_bytes"]).all() and columns["after_1"].tolist() == [1.5] * 3
    assert columns["residual"].tolist() == [1.0, 1 / 101, 1 / 201]  # what else its algorithm reports
    with pytest.raises(RunFolderError, match="agent 99"):
        run.agent_metrics(99)


def test_a_half_written_last_line_is_left_out_and_a_damaged_one_named(tmp_path):
    stream = list(fake_run.events(6, iterations=50))
    fake_run.write_events(tmp_path, stream)
    path = tmp_path / "events.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert finding.load(tmp_path).events == stream[:-1]
    assert finding.load(tmp_path).state == "unfinished"
    path.write_bytes(whole.replace(b'{"event": "Ready"', b'{"event": "Raedy"'))
    with pytest.raises(RunFolderError, match=r"line 4: unknown kind of event 'Raedy'"):
        finding.load(tmp_path)


def test_following_yields_what_comes_and_ends_with_the_run(tmp_path):
    stream = list(fake_run.events(6, iterations=50))
    tail = finding.follow(tmp_path, poll_s=0)
    assert next(tail) is None
    fake_run.write_events(tmp_path, stream[:3])
    assert list(islice(tail, 4)) == [*stream[:3], None]
    *_, last = [json.dumps(event.to_dict()) + "\n" for event in stream]
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(last[:30])
        file.flush()
        assert next(tail) is None
        file.write(last[30:])
    assert list(tail) == [stream[-1]]


def test_a_word_finds_its_run(home, tmp_path):
    assert finding.resolve("ring12_diffusion_s1", home) == home / "ring12_diffusion_s1"
    assert finding.resolve(str(home / "ring12_diffusion_s1")) == home / "ring12_diffusion_s1"
    assert finding.resolve("ring12_noncooperative_s2", home).name == "ring12_noncooperative_s2"
    (tmp_path / "first").symlink_to(home / "ring12_diffusion_s0")
    (tmp_path / "latest").symlink_to(home / "ring12_diffusion_s2")
    assert finding.resolve("latest", tmp_path) == (home / "ring12_diffusion_s2").resolve()


def test_a_beginning_is_enough_only_when_it_is_unique(home, tmp_path):
    fake_run.write(tmp_path / "star5_s0", 6, iterations=50)
    assert finding.resolve("star", tmp_path).name == "star5_s0"
    with pytest.raises(RunFolderError, match="beginning of 3 runs"):
        finding.resolve("ring12_d", home)


@pytest.mark.parametrize(
    ("word", "said"), [("ring12_difusion_s0", "did you mean 'ring12_diffusion_s"), ("zebra", "the newest is")]
)
def test_a_wrong_word_costs_one_line_that_helps(home, word, said):
    with pytest.raises(RunFolderError, match=said):
        finding.resolve(word, home)


def test_no_run_at_all_says_how_to_make_one(tmp_path):
    with pytest.raises(RunFolderError, match="difnet launch"):
        finding.resolve("latest", tmp_path)
    with pytest.raises(RunFolderError, match="is no run folder"):
        finding.resolve(str(tmp_path))


def test_seeds_are_grouped_and_other_settings_are_not(home, tmp_path):
    fake_run.write(tmp_path / "faster", 12, iterations=200, outer_lr=0.1)
    loaded = [finding.load(folder) for folder in (*sorted(home.iterdir()), tmp_path / "faster")]
    sizes = {label: len(members) for label, members in grouped(loaded[:6]).items()}
    assert sizes == {"diffusion, ring12": 3, "noncooperative, ring12": 3}
    assert list(grouped(loaded)) == [
        "diffusion, ring12, outer_lr 0.02", "noncooperative, ring12", "diffusion, ring12, outer_lr 0.1",
    ]  # fmt: skip


# Pictures and report


def test_a_notebook_can_show_every_picture(home):
    plot = finding.load(home / "ring12_diffusion_s0").plot
    for figure in (plot.consensus(), plot.loss(), plot.network()):
        assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_the_validation_picture_has_a_line_and_a_band_for_each_strategy(home):
    (ax,) = plots.validation([finding.load(folder) for folder in sorted(home.iterdir())]).axes
    assert len(ax.lines) == 2 and len(ax.collections) == 2
    assert ax.get_legend_handles_labels()[1] == [
        "diffusion, ring12 (mean of 3 seeds)", "noncooperative, ring12 (mean of 3 seeds)",
    ]  # fmt: skip


def test_the_consensus_picture_is_logarithmic_and_carries_the_theory(home):
    (ax,) = plots.consensus([finding.load(home / "ring12_diffusion_s0")]).axes
    assert ax.get_yscale() == "log"
    assert any("theory" in label for label in ax.get_legend_handles_labels()[1])


def test_the_network_picture_crosses_out_lost_agents(tmp_path):
    run = finding.load(fake_run.write(tmp_path / "torn", 12, iterations=200, lost=8))
    ax = run.plot.network().axes[0]
    assert ax.get_title(loc="left") == "ring12, iteration 100"  # the last at which all twelve were there
    assert ax.get_legend_handles_labels()[1] == ["lost"]


class Page(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_but_itself(page):
    text = page.read_text()
    parsed = Page()
    parsed.feed(text)
    assert parsed.open == []
    pictures = [attributes for tag, attributes in parsed.seen if tag == "img"]
    captions = [str(p["alt"]).split()[0] for p in pictures]
    assert captions == ["What", "Loss", "How", "How", "What", "ring12:"]  # cost to reach, validation, …, network
    assert all((p["src"] or "").startswith("data:image/png;base64,") and p["alt"] for p in pictures)
    assert "http://" not in text and "https://" not in text
    assert not any("href" in attributes for _, attributes in parsed.seen)


def test_the_page_tells_spread_cost_lack_and_how_to_do_it_again(page):
    text = page.read_text()
    for words in ("diffusion, ring12", "mean ± s.d. of 3 seeds", "182 J (CPU time × 10 W per core, estimated)",
                  "all runs: unknown: flops", "estimated, not measured", "difnet launch --config config.toml",
                  "prefers-color-scheme: dark"):  # fmt: skip
        assert words in text, words


def test_the_table_reads_back(page, home):
    with (page.parent / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == [folder.name for folder in sorted(home.iterdir())]
    summary = json.loads((home / "ring12_diffusion_s0" / "run.json").read_text())
    assert float(rows[0]["loss.after.10.worst"]) == summary["loss"]["after"]["10"]["worst"]
    assert rows[0]["flops"] == "" and json.loads(rows[0]["lost_agents"]) == []


# The commands


@pytest.mark.slow
def test_report_prints_where_the_page_is(home, tmp_path):
    result = difnet("report", home / "ring12_diffusion_s0", "-o", tmp_path)
    assert result.exit_code == 0 and result.stdout == f"{tmp_path / 'report.html'}\n"
    document = json.loads(difnet("report", home / "ring12_diffusion_s0", "-o", tmp_path, "--json").stdout)
    assert document["page"] in document["files"]


def test_compare_knows_the_same_bits_from_others(home, tmp_path):
    a = home / "ring12_diffusion_s0"
    document = json.loads(difnet("compare", a, home / "ring12_diffusion_s1", "--json").stdout)
    assert document["same_launch_model"] is False
    assert document["config"] == {"seed": [0, 1]}
    again = fake_run.write(tmp_path / "again", 12, iterations=200)
    document = json.loads(difnet("compare", a, again, "--json").stdout)
    assert document["same_launch_model"] is True and document["config"] == {}
    assert document["figures"]["consensus_error"]["ratio"] == 1
    (again / "launch-model.safetensors").unlink()
    assert json.loads(difnet("compare", a, again, "--json").stdout)["same_launch_model"] is None


def test_compare_shows_both_sides(home):
    result = difnet("compare", home / "ring12_diffusion_s0", home / "ring12_noncooperative_s0")
    assert result.exit_code == 0
    for words in ("noncooperative", "loss.after.1.mean", "B/A", "different launch models", "energy.joules (estimated)"):
        assert words in result.stdout, words


def test_watching_a_finished_run_on_a_pipe_shows_its_last_picture_and_the_table(home):
    result = difnet("watch", home / "ring12_diffusion_s0")
    assert result.exit_code == 0 and "\x1b" not in result.stdout
    for words in ("consensus error", "200/200  done in", "lost agents", "difnet report"):
        assert words in result.stdout, words


def test_watching_a_run_to_its_end_prints_plain_lines(tmp_path):
    fake_run.write_events(tmp_path, fake_run.events(12, iterations=200, lost=8, state="failed"))
    result = difnet("watch", tmp_path)
    assert result.exit_code == 1
    assert "agent 7 goes on without 8: silent for 3.0 s\n" in result.stdout and "failed after" in result.stdout


def test_watching_a_dead_run_ends_and_says_why(tmp_path):
    fake_run.write_events(tmp_path, list(fake_run.events(12, iterations=200))[:-1])
    result = difnet("watch", tmp_path, "--patience", "0.2")
    assert result.exit_code == 1
    assert "has not ended" in result.stderr and "iteration 200" in result.stdout


def test_watch_gives_the_stream_as_json_lines(home):
    lines = difnet("watch", home / "ring12_diffusion_s0", "--json").stdout.splitlines()
    assert [json.loads(line)["event"] for line in lines][-1] == "RunEnded"


@pytest.mark.parametrize("word", ["watch", "report", "compare"])
def test_help_ends_with_examples(word):
    told = difnet(word, "--help").stdout
    assert f"Examples:\n    difnet {word}" in told
