"""What the examples in docstrings may use: `tmp`, an empty folder."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def tmp(doctest_namespace: dict, tmp_path: Path) -> None:
    """An empty folder, as text."""
    doctest_namespace["tmp"] = str(tmp_path)
