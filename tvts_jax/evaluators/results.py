"""What an evaluator found, and how."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Result:
  """`items` has one dict for each thing that was asked: its id and its own score."""

  metrics: dict[str, float]
  expected: int  # Clips that the annotations list.
  evaluated: int  # Clips that could be seen; where nothing else is said, the others count as wrong.
  protocol: str  # Everything that another number would have to share to be compared with this one.
  items: list[dict]
  missing: tuple[str, ...] = ()  # Ids of the clips that could not be seen.

  def numbers(self) -> dict[str, float]:
    """For a run's log."""
    return {**self.metrics, 'clips': self.expected, 'missing': self.expected - self.evaluated}
