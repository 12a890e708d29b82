"""Of what has this machine too little, or allows us too little?"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from difnet.errors import EnvironmentLacks

SCARCE = {
    errno.EMFILE: "there are too few file descriptors; `ulimit -n` tells the limit, and `ulimit -n 4096` raises it",
    errno.ENFILE: "the whole machine has too few file descriptors; root raises fs.file-max, or run fewer agents here",
    errno.EAGAIN: "no further process or thread may be started; `ulimit -u` tells the limit, and a container has "
                  "one of its own (pids.max): raise it, or run fewer agents here",
    errno.ENOMEM: "there is too little memory; run fewer agents here, or raise the limit that `ulimit -v` tells",
}  # fmt: skip
WORDS = {  # of errors without a number: Python's, torch's, the loader's
    "start new thread": errno.EAGAIN, "allocate memory": errno.ENOMEM, "failed to map segment": errno.ENOMEM,
}  # fmt: skip


def scarce(error: BaseException) -> EnvironmentLacks | None:
    """What this machine has too little of, if that is what an exception says.

    >>> scarce(OSError(24, "Too many open files")).exit_code, scarce(KeyError("x"))
    (3, None)
    """
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    if isinstance(error, RuntimeError | ImportError):
        number = next((n for words, n in WORDS.items() if words in str(error)), number)
    if number not in SCARCE:
        return None
    return EnvironmentLacks(f"{str(error) or type(error).__name__}: {SCARCE[number]}")


@contextmanager
def scarcity_named() -> Iterator[None]:
    """Within the block, an exception that says that this machine has too little of something says so in words.

    Raises: EnvironmentLacks, in its place.
    """
    try:
        yield
    except Exception as error:
        if lacking := scarce(error):
            raise lacking from error
        raise
