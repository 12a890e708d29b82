"""The command line, in this process."""

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from difnet.cli import main


@pytest.fixture
def command(monkeypatch, capsys, tmp_path) -> Callable[..., SimpleNamespace]:
    """Run `difnet ARGUMENTS…` here, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["difnet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return SimpleNamespace(status=ended.value.code, out=said.out, err=said.err)

    return run
