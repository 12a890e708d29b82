"""What tests of data may use: the real sets where they are, and a cache of their own."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from difnet.data.home import VARIABLE


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """The folder of all data sets, if the one named is in it; else the test is skipped."""

    def there(name: str) -> Path:
        said = os.environ.get(VARIABLE)
        if not said or not (Path(said) / name).is_dir():
            pytest.skip(f"needs the data set {name!r} in ${VARIABLE}, which is {said or 'not set'}")
        return Path(said)

    return there


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that the tests of one run share, and nobody else."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("DIFNET_CACHE", str(cache))
    return cache
