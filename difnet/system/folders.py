"""Where does difnet keep what it makes?"""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where compiled kernels are kept: $DIFNET_CACHE, else the user's cache folder."""
    base = os.environ.get("DIFNET_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "difnet"
    )
    return Path(base) / "kernels"
