"""What tells whether tensors, and words about them, are still those that were written? A SHA-256. Pure."""

import hashlib
from collections.abc import Mapping

import numpy as np

NAME = "sha256"  # in the metadata of a file, as JSON like the rest of it


def digest(tensors: Mapping[str, np.ndarray], words: str = "") -> str:
    """64 hexadecimal digits that change with any name, dtype, shape or bit, and with the words.

    >>> digest({"w": np.zeros(2)}) == digest({"w": np.array([0.0, -0.0])})
    False
    """
    told = hashlib.sha256(words.encode())
    for name, tensor in sorted(tensors.items()):
        told.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        told.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return told.hexdigest()


def sealed(tensors: Mapping[str, np.ndarray], words: str = "") -> dict[str, str]:
    """What a file's metadata say of its tensors, and of words beside them, so that `intact` can tell later."""
    return {NAME: f'"{digest(tensors, words)}"'}


def intact(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bool:
    """Whether tensors are those that were sealed; those that never were count as intact."""
    return NAME not in metadata or metadata[NAME] == sealed(tensors)[NAME]
