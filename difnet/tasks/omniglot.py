"""Omniglot: N-way k-shot episodes of handwritten characters.

Source: Vinyals et al., "Matching Networks for One Shot Learning", 2016, and Finn, Abbeel, Levine, 2017 (MAML), for the
shuffled split, the rotations and the size.
"""

import numpy as np

from difnet.data import Array, Indices
from difnet.data import omniglot as files
from difnet.data.home import folder
from difnet.errors import ConfigError
from difnet.maths.seeding import data_generator
from difnet.tasks._episodes import Episodes, episodes_of


def omniglot(
    agents: int, shots: int, queries: int, data_dir: str | None = None, ways: int = 5, split: str = "shuffled",
    training: int = 1100, validation: int = 100, rotations: bool = True, partition: str = "none", size: int = 28,
    data_seed: int = 0,
) -> Episodes:  # fmt: skip
    """Episodes of `ways` characters, `shots` support and `queries` query drawings of each.

    Inputs are images (1, size, size), float32, 1 for ink.

    Args: `split`, "shuffled" (at random, `training` characters for training, `validation` for validation, the rest for
        tests: with validation 1200, as in MAML) or "background" (the background set for training, less its last
        `validation` characters; the evaluation set, other alphabets, for tests); with `rotations` a character turned
        by 90, 180 or 270 degrees is a class of its own; `partition`, "none" or "class", see `episodes_of`.
    Raises: ConfigError for options that cannot be; EnvironmentLacks and DataError as `difnet.data.omniglot.read`.
    """
    table = files.read(folder("omniglot", data_dir), size)
    order, background = data_generator(data_seed).permutation(table.groups), table.facts["background"]
    if split == "background":
        order, edges = np.arange(table.groups), (background - validation, background)
    elif split == "shuffled":
        edges = (training, training + validation)
    else:
        raise ConfigError(f"task omniglot: split is {split!r}; it must be shuffled or background")
    if not 0 < edges[0] < edges[1] < table.groups:
        raise ConfigError(f"task omniglot: {table.groups} characters, {background} of them in the background set, "
                          f"cannot be split ({split!r}) into {edges[0]} for training, {validation} for validation and "
                          f"the rest for tests; change task.training or task.validation")  # fmt: skip
    split_up = [np.sort(part) for part in np.split(order, edges)]
    parts: dict[str, Indices] = dict(zip(("train", "validation", "test"), split_up, strict=True))
    return episodes_of(
        table, parts, agents=agents, partition=partition, ways=ways, shots=shots, queries=queries,
        turns=4 if rotations else 1, change=_ink, default_model="conv4",
        model_words={"channels": 1, "size": size, "outputs": ways},
    )  # fmt: skip


def _ink(pixels: Array) -> Array:
    """(…, height, width), uint8 -> (…, 1, height, width), float32."""
    return 1 - pixels[..., None, :, :].astype(np.float32) / 255
