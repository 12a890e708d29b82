"""Where do data sets lie?"""

import os
from pathlib import Path

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
    if not (base / name).is_dir():
        raise EnvironmentLacks(
            f"there is no data set {name!r} in {base}: no folder {base / name}. `difnet data get {name}` fetches it or "
            f"says where to get it; elsewhere it is found by --data-dir or ${VARIABLE}"
        )
    return base / name


def find(place: Path, *names: str) -> Path:
    """The first of these files that there is, of which the later ones are other names for the same content.

    Raises: EnvironmentLacks, if there is none of them.
    """
    for name in names:
        if (place / name).is_file():
            return place / name
    others = f" (nor {', '.join(names[1:])})" if names[1:] else ""
    raise EnvironmentLacks(f"{place} lacks {names[0]}{others}; `difnet data check {place.parent}` says what there is")
