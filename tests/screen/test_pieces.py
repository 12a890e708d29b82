"""A network that falls into pieces, as the screen and plain lines show it."""

from rich.console import Group
from rich.text import Text

from difnet.record.events import Pieces, Ready, Resumed, RunEnded, RunStarted, from_dict
from difnet.screen.dashboard import BY_PIECE, View, render, update
from difnet.screen.lines import WARNING, plain_line
from tests import fake_run

HALVES = Pieces(312, 5.0, [[*range(13), *range(27, 40)], [*range(13, 27)]])
WHOLE = Pieces(400, 9.0, [[*range(40)]])


def view_of(agents: int, *events) -> View:
    view = View()
    for event in [e for e in fake_run.events(agents, iterations=100) if not isinstance(e, RunEnded)] + [*events]:
        view = update(view, event)
    return view


def lines_of(view: View, width: int = 100, height: int = 40) -> list[Text]:
    drawn = render(view, width, height)
    assert isinstance(drawn, Group)
    return [line for line in drawn.renderables if isinstance(line, Text)]


def style_at(line: Text, words: str) -> str:
    """The style in which some words of a line are drawn, the last that was given."""
    at = line.plain.index(words)
    return str([span.style for span in line.spans if span.start <= at < span.end][-1])


def test_the_screen_shows_the_pieces_of_a_cut_ring_until_it_is_whole_again():
    told = [line.plain for line in lines_of(view_of(40, HALVES))]
    assert "  in 2 pieces: 0-12, 27-39 | 13-26" in told
    assert "› the network is in 2 pieces: 0-12, 27-39 | 13-26" in told
    healed = [line.plain for line in lines_of(view_of(40, HALVES, WHOLE))]
    assert not [line for line in healed if line.startswith("  in ")]
    assert healed[-1] == "› the network is in one piece again"


def test_agents_bear_the_colour_of_their_piece_and_who_is_alone_that_of_a_warning():
    lines = lines_of(view_of(6, Pieces(5, 1.0, [[0, 1, 5], [2, 3], [4]])))
    [row] = [line for line in lines if line.plain.startswith("  in 3 pieces")]
    assert row.plain == "  in 3 pieces: 0, 1, 5 | 2, 3 | alone: 4"
    agents = lines[lines.index(row) + 1]
    for k, words in ((5, "0, 1, 5"), (3, "2, 3"), (4, "alone: 4")):
        assert style_at(agents, f" {k}") == style_at(row, words)
    assert [style_at(agents, f" {k}") for k in (0, 2, 4)] == [BY_PIECE[0], BY_PIECE[1], WARNING]
    [whole] = [line for line in lines_of(view_of(6)) if line.plain.startswith(" 0")]
    assert style_at(whole, " 0") == "dim"


def test_a_big_network_in_pieces_still_fits_the_screen():
    """Cells without numbers are coloured themselves; where many share a cell, the line alone tells."""
    for agents in (200, 5000):
        started = fake_run.events(6, iterations=100)
        view = View()
        for event in started:
            if isinstance(event, RunStarted):
                told = event.to_dict() | {"agents": agents}
                view = update(view, from_dict(told))
            elif isinstance(event, Ready):
                view = update(view, event)
        fallen = update(view, Pieces(5, 1.0, [[*range(0, agents, 2)], *([k] for k in range(1, agents, 2))]))
        for width, height in ((20, 5), (80, 24), (200, 60)):
            lines = lines_of(fallen, width, height)
            assert len(lines) <= height and max(len(line) for line in lines) <= width
        shown = lines_of(fallen, 80, 24)
        assert any(line.plain.startswith(f"  in {agents // 2 + 1} pieces: 0, 2, 4") for line in shown)


def test_a_run_that_goes_on_begins_whole():
    assert view_of(6, Pieces(5, 1.0, [[0, 1, 2], [3, 4, 5]]), Resumed(10, 100, 2.0, 0)).pieces == ()


def test_pieces_are_a_line_on_a_pipe_and_survive_the_record():
    assert plain_line(HALVES) == "the network is in 2 pieces: 0-12, 27-39 | 13-26"
    assert plain_line(WHOLE) == "the network is in one piece again"
    assert from_dict(HALVES.to_dict()) == HALVES
