"""What has a run spent so far, and what had it spent when it reached a target? Pure: plain numbers in, figures out."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from difnet.config import Channel
from difnet.errors import ConfigError, did_you_mean
from difnet.maths.channel import charge
from difnet.record.events import Amount, Statistics

FIGURES = ("loss", "accuracy")


class Validation(Protocol):
    """What a target asks of a validation: `events.Validated`, or one read back from a record."""

    @property
    def iteration(self) -> int: ...
    @property
    def before(self) -> Statistics: ...
    @property
    def after(self) -> dict[str, Statistics]: ...
    @property
    def accuracy(self) -> dict[str, Statistics]: ...
    @property
    def spent(self) -> dict[str, Amount]: ...


def spent(
    *, payload_bytes: int | None, uploads: int, rounds: int, busiest: float, is_served: bool, steps: int,
    flops_per_step: int | None, values: int, channel: Channel, energy: Mapping[str, Any], cpu_s: float | None,
    seconds: float | None,
) -> dict[str, Amount]:
    """Everything that a run has spent since it began, by name; what is unknown is None, never 0.

    Args: totals so far, but for `busiest`, the messages of the busiest agent in one round, and `values`, the values in
        one message; `is_served`, whether a hub serves the others; `energy`, what a Meter said.
    Returns: payload_bytes, uploads (messages), steps and flops (of adapting), communication_s and communication_joules
        (modelled, by `channel`), cpu_s, joules (of the machine, as good as the energy's quality), seconds (of a clock).
    """
    on_air = charge(uploads, rounds, busiest, values, channel, is_served=is_served)
    return {
        "payload_bytes": payload_bytes, "uploads": uploads,
        "steps": steps, "flops": None if flops_per_step is None else flops_per_step * steps,
        "communication_s": on_air.seconds, "communication_joules": on_air.joules,
        "cpu_s": cpu_s, "joules": energy.get("joules"), "seconds": seconds,
    }  # fmt: skip


class Target(NamedTuple):
    """A figure of the validations, a mean over agents, that a run is to reach."""

    what: str  # "loss", to be fallen to | "accuracy", to be risen to
    steps: str | None  # after so many inner steps, "0" for without adaptation; None: after the most there are
    value: float

    @classmethod
    def parse(cls, text: str) -> "Target":
        """A target in the words of a command line.

        Raises: ConfigError, if it is none.

        >>> Target.parse("accuracy=0.74"), Target.parse("loss@1=0.5")
        (Target(what='accuracy', steps=None, value=0.74), Target(what='loss', steps='1', value=0.5))
        """
        words = re.fullmatch(r"\s*(\w+)\s*(?:@\s*([0-9]{1,9})\s*)?=\s*(\S+)\s*", text)
        value = _number(words[3]) if words else None
        if words is None or value is None:
            raise ConfigError(f"target {text!r} is not a figure and a number; try accuracy=0.74, or loss@1=0.5 for the "
                              "loss after 1 inner step")  # fmt: skip
        what, steps = words[1], words[2]
        if what not in FIGURES:
            hint = did_you_mean(what, FIGURES) or "; try loss=0.5 or accuracy=0.74"
            raise ConfigError(f"target {text!r}: no figure called {what!r}{hint}")
        if what == "accuracy" and not 0 <= value <= 1:
            raise ConfigError(f"target {text!r}: an accuracy is a share from 0 to 1, got {value}; 74 % is 0.74")
        return cls(what, None if steps is None else str(int(steps)), value)

    def check(self, eval_steps: Sequence[int], *, has_accuracy: bool) -> None:
        """Refuse a target that no validation of a run will speak of.

        Args: `eval_steps`, the run's; `has_accuracy`, whether its task family tells one.
        Raises: ConfigError.
        """
        if self.what == "accuracy" and not has_accuracy:
            raise ConfigError(f"target {self}: this task family has no accuracy; try a loss, as in loss=0.5")
        tested = ["0", *map(str, eval_steps)]
        if self.steps is not None and self.steps not in tested:
            raise ConfigError(f"target {self}: models are tested after {', '.join(tested)} inner steps, not after "
                              f"{self.steps}; choose one of these, or add {self.steps} to eval_steps")  # fmt: skip

    def figure(self, event: Validation) -> float | None:
        """What a validation says of it, or None where it says nothing."""
        by_steps = {"0": event.before, **event.after} if self.what == "loss" else event.accuracy
        steps = max(by_steps, key=int, default="") if self.steps is None else self.steps
        return by_steps[steps]["mean"] if steps in by_steps else None

    def reached(self, event: Validation) -> bool:
        """Whether a validation meets it; one that says nothing of it does not."""
        figure = self.figure(event)
        if figure is None:
            return False
        return figure <= self.value if self.what == "loss" else figure >= self.value

    def __str__(self) -> str:
        return f"{self.what}{'' if self.steps is None else f'@{self.steps}'}={self.value}"


def to_reach(
    validations: Sequence[Validation], what: str, steps: str | None, value: float
) -> dict[str, Amount] | None:
    """What a run had spent at the first validation that reached a target, with its iteration; None if none did.

    Args: `validations`, in the order of their iterations; the rest, the parts of a Target: `to_reach(seen, *target)`.
    """
    target = Target(what, steps, value)
    return next(({"iteration": v.iteration, **v.spent} for v in validations if target.reached(v)), None)


def _number(text: str) -> float | None:
    """A finite number, or None where the text is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
