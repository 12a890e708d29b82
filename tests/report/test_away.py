"""What a report says of those who were away: a table, and a picture that is drawn when somebody was."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from matplotlib.colors import same_color
from matplotlib.patches import Rectangle

from difnet.errors import RunFolderError
from difnet.record import finding
from difnet.record.events import (
    AgentLost,
    AgentReturned,
    Event,
    NeighbourBack,
    NeighbourLost,
    Pieces,
    Resumed,
    Validated,
)
from difnet.record.run import Run
from difnet.report import writing
from difnet.report.away import AWAY, MOST_ROWS, away, away_table
from tests import fake_run

SILENT, MEAN = "silent for 3.1 s", "the mean of agents 3, 5"
GONE = [NeighbourLost(3, 4, 120, 119, SILENT), NeighbourLost(5, 4, 121, 120, SILENT),
        NeighbourLost(0, 1, 122, 121, SILENT), NeighbourLost(2, 1, 122, 121, SILENT),
        Pieces(122, 1.5, [[0, 5], [2, 3], [1], [4]])]  # fmt: skip
BACK = [AgentReturned(4, 0, 230, 110, MEAN), *(NeighbourBack(*ends, 229, 230, 2) for ends in ((3, 4), (4, 5), (5, 4))),
        Pieces(231, 3.0, [[0, 2, 3, 4, 5], [1]])]  # fmt: skip


def write(folder: Path, among: dict[int, Iterable[Event]], agents: int = 6) -> Run:
    """A run of 400 iterations, measured each 50, in which some events came right after some measurements."""
    fake_run.write(folder, agents, iterations=400)
    stream: list[Event] = []
    for event in finding.load(folder).events:
        stream.append(event)
        stream += among.get(event.iteration, ()) if isinstance(event, Validated) else ()
    fake_run.write_events(folder, stream)
    return finding.load(folder)


@pytest.fixture(scope="module")
def healed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Agents 1 and 4 stood still at 122, so that the ring fell apart; 4 came back at 230, 1 never."""
    return write(tmp_path_factory.mktemp("runs") / "healed", {100: GONE, 200: BACK})


def at(run: Run, figure: Callable[[Validated], float], *iterations: int) -> list[str]:
    told = {v.iteration: figure(v) for v in run.validations}
    return [f"{told[i]:.3g}" for i in iterations]


def test_the_table_tells_who_was_away_why_and_what_it_did(healed):
    """The figures at 100, before; the highest of 150 and 200; at 250, after."""
    rows = {row[0]: row for row in away_table(healed).rows}
    assert rows["4"][:6] == ("4", "121", "230", "under 1 s", SILENT, MEAN)
    assert rows["1"][1:6] == ("122", "the end", "2.6 s", SILENT, "–")
    for column, figure in ((6, lambda v: v.disagreement), (7, lambda v: v.after["1"]["mean"])):
        before, one, other, after = at(healed, figure, 100, 150, 200, 250)
        assert rows["4"][column] == f"{before} → {max(one, other, key=float)} → {after}"
    assert rows["1"][6].endswith(" → –")


def test_a_report_has_the_table_and_the_picture_in_both_languages(healed, tmp_path):
    page = writing.write([healed], tmp_path)
    told = page.with_suffix(".md").read_text()
    assert "## Who was away" in told and "![healed: who was away, and what it did.](away-1.png)" in told
    assert f"| 4 | 121 | 230 | under 1 s | {SILENT} | {MEAN} |" in told
    assert "<h2>Who was away</h2>" in page.read_text()
    picture = (tmp_path / "away-1.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


def test_the_picture_has_a_bar_from_when_an_agent_was_lost_to_when_it_came_back(healed):
    error, loss, timeline = healed.plot.away().axes
    bars = [p for p in timeline.patches if isinstance(p, Rectangle) and same_color(p.get_facecolor(), AWAY)]
    assert sorted((round(b.get_y() + b.get_height() / 2), b.get_x(), b.get_x() + b.get_width()) for b in bars) == [
        (0, 122, 400), (1, 121, 230)]  # fmt: skip
    assert [text.get_text() for text in timeline.get_yticklabels()] == ["1", "4"]
    assert timeline.get_xlim() == error.get_xlim() == loss.get_xlim() == (0, 400)
    assert error.lines[0].get_xdata().tolist() == [v.iteration for v in healed.validations]


def test_where_nobody_was_away_nothing_is_drawn_or_said(tmp_path):
    run = write(tmp_path / "quiet", {})
    with pytest.raises(RunFolderError, match="nobody was away"):
        away(run)
    assert not [s for s in writing.compose([run]) if s.title == "Who was away"]


def test_edges_that_were_cut_have_thinner_bars_and_a_resumed_run_its_line(tmp_path):
    ends = ((0, 1), (1, 0), (3, 4), (4, 3))
    parted = [NeighbourLost(*edge, 110, 109, SILENT) for edge in ends]
    joined = [NeighbourBack(*edge, 219, 220, 2) for edge in ends]
    run = write(tmp_path / "cut", {100: parted, 200: joined, 300: [Resumed(300, 400, 3.0, 10)]})
    assert [row[:3] for row in away_table(run).rows] == [("0–1 apart", "110", "220"), ("3–4 apart", "110", "220")]
    *_, timeline = away(run).axes
    assert [(bar.get_x(), bar.get_width()) for bar in timeline.patches if bar.get_height() < 0.5] == [(110, 110)] * 2
    assert [list(line.get_xdata()) for line in timeline.lines if len(line.get_xdata())] == [[300, 300]]


def test_many_who_were_away_are_counted_and_not_all_drawn(tmp_path):
    died = [AgentLost(k, "killed by SIGKILL", 60 + k, "") for k in range(50)]
    run = write(tmp_path / "many", {50: died}, agents=60)
    assert len(away_table(run).rows) == MOST_ROWS + 1 and away_table(run).rows[-1][0] == "and 10 more"
    *_, timeline = away(run).axes
    assert len(timeline.get_yticks()) == MOST_ROWS and "(10 more are not shown)" in timeline.get_title(loc="left")


def test_what_a_process_ended_with_is_nothing_but_words(tmp_path):
    run = write(tmp_path / "sly", {100: [AgentLost(2, "\x1b]0;owned\x07<b>| ![x](http://x/y.png)", 100, "")]})
    page = writing.write([run], tmp_path / "report")
    for text in (page.read_text(), page.with_suffix(".md").read_text()):
        assert "\x1b" not in text and "\x07" not in text and "<b>" not in text
    assert "![x](" not in page.with_suffix(".md").read_text()
