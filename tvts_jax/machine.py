"""What there is to compute with."""

import os


def cores() -> int:
  """Those that this process may use, where the system says."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
