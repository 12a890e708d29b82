"""What does the theory promise of a run's consensus error?"""

from collections.abc import Sequence
from statistics import median

Point = tuple[float, float]


def promised_decay(curve: Sequence[Point], rate: float | None, points: int = 200) -> list[Point]:
    """The theory's line for a measured curve: from its first point falling with rate² per iteration to its floor.

    The floor is the median of the curve's last third.

    >>> promised_decay([(0, 1.0), (1, 0.4), (2, 0.1)], rate=0.5, points=2)
    [(0.0, 1.0), (1.0, 0.25), (2.0, 0.1)]
    """
    if len(curve) < 3 or not rate or rate >= 1:
        return []
    (x0, y0), x1 = curve[0], curve[-1][0]
    floor = median(y for _, y in curve[-max(len(curve) // 3, 1) :])
    xs = [x0 + (x1 - x0) * i / points for i in range(points + 1)]
    return [(x, max(y0 * rate ** (2 * (x - x0)), floor)) for x in xs]
