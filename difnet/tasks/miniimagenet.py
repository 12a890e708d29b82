"""MiniImagenet: N-way k-shot episodes of small colour pictures.

Source: Vinyals et al., "Matching Networks for One Shot Learning", 2016; Ravi, Larochelle, "Optimization as a Model for
Few-Shot Learning", 2017, for the 64 training, 16 validation and 20 test classes.
"""

import numpy as np

from difnet.data import Array
from difnet.data import miniimagenet as files
from difnet.data.home import folder
from difnet.tasks._episodes import Episodes, episodes_of


def miniimagenet(
    agents: int, shots: int, queries: int, data_dir: str | None = None, ways: int = 5, partition: str = "none"
) -> Episodes:
    """Episodes of `ways` classes, `shots` support and `queries` query pictures of each.

    Inputs are pictures (3, 84, 84), float32, from 0 to 1.

    Args: `partition`, "none" or "class", see `episodes_of`.
    Raises: ConfigError for options that cannot be; EnvironmentLacks and DataError as `difnet.data.miniimagenet.read`.
    """
    table = files.read(folder("miniimagenet", data_dir))
    sizes = [table.facts["parts"][part] for part in files.PARTS]
    parts = np.split(np.arange(table.groups), np.cumsum(sizes)[:-1])
    return episodes_of(
        table, dict(zip(("train", "validation", "test"), parts, strict=True)), agents=agents, partition=partition,
        ways=ways, shots=shots, queries=queries, change=_channels_first, default_model="conv4",
        model_words={"channels": 3, "size": files.SIZE, "outputs": ways},
    )  # fmt: skip


def _channels_first(pixels: Array) -> Array:
    """(…, height, width, 3), uint8 -> (…, 3, height, width), float32."""
    return np.moveaxis(pixels, -1, -3).astype(np.float32) / 255
