"""Where do data sets lie?"""

import os
from pathlib import Path

from difnet.data.sources import SOURCES, forms
from difnet.errors import EnvironmentLacks

VARIABLE = "DIFNET_DATA"


def home(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of all data sets, one sub-folder each: as given, else $DIFNET_DATA, else the user's data folder."""
    said = data_dir or os.environ.get(VARIABLE)
    if said:
        return Path(said).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "difnet"


def folder(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where the data set of that name lies.

    Raises: EnvironmentLacks, if it is not there; it says how to get it.
    """
    base = home(data_dir)
    place = place_of(name, base, asked=True)
    if place is None:
        raise EnvironmentLacks(
            f"there is no data set {name!r} in {base}: no folder {base / name}. `difnet data get {name}` fetches it or "
            f"says where to get it; elsewhere it is found by --data-dir or ${VARIABLE}"
        )
    return place


def place_of(name: str, base: Path, *, asked: bool = False) -> Path | None:
    """Where in the folder of all sets the one of that name lies: in a folder of its own, or `base` is that itself.

    It is, if it bears the set's name or holds its files. LEAF's are called alike in three sets, so they tell only where
    this one set is asked for.
    """
    source = SOURCES.get(name)
    names = (name, *(source.others if source else ()))
    if found := next((base / own for own in names if (base / own).is_dir()), None):
        return found
    if source is None or not base.is_dir():
        return base if base.is_dir() and base.name == name else None
    theirs = [path for file in source.files for path in forms(base, file)]
    is_its_own = base.resolve().name in names and any(base.iterdir())
    is_telling = any(asked or ".json" not in path.suffixes for path in theirs)
    return base if is_its_own or is_telling else None


def find(place: Path, *names: str) -> Path:
    """The first of these files that there is, of which the later ones are other names for the same content.

    Raises: EnvironmentLacks, if there is none of them.
    """
    for name in names:
        if (place / name).is_file():
            return place / name
    others = f" (nor {', '.join(names[1:])})" if names[1:] else ""
    raise EnvironmentLacks(f"{place} lacks {names[0]}{others}; `difnet data check {place.parent}` says what there is")
