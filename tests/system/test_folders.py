"""Where things are kept, and what becomes of a run that cannot keep them there."""

import pytest

SHORT = ("--topology", "cycle_graph(n=3)", "--iterations", "2", "--tasks", "1", "--eval-tasks", "2")


@pytest.mark.parametrize("command", ["simulate", pytest.param("launch", marks=pytest.mark.slow)])
@pytest.mark.parametrize("home", ["/dev/null/home", "/proc/home"])
def test_a_home_that_cannot_be_written_costs_speed_and_is_said(difnet, command, home):
    """The trace runs; nothing is left in the folder for temporary files (the fixture looks)."""
    done = difnet(command, *SHORT, HOME=home, DIFNET_CACHE="", XDG_CACHE_HOME="", TORCHINDUCTOR_CACHE_DIR="")
    assert done.status == 0 and "Traceback" not in done.err, done.err
    assert "the traced graph runs instead" in done.err and "set DIFNET_CACHE to another folder" in done.err
    assert "`difnet ps` finds this run with --runs alone" in done.err


def test_caches_that_can_go_elsewhere_do_not_need_a_home(difnet, tmp_path):
    done = difnet("simulate", *SHORT, "--engine", "traced", HOME="/dev/null/home", DIFNET_CACHE=str(tmp_path / "kept"))
    assert done.status == 0 and "difnet ps" not in done.err and (tmp_path / "kept/running").is_dir(), done.err
