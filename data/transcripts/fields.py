"""What the readers of JSON transcripts take out of it, refused where it is something else."""

import math

from data.outcomes import ItemError


def items(value, what) -> list[dict]:
  if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
    raise ItemError('bad_transcript', f'{what} is no list of objects')
  return value


def text(item, *keys) -> str:
  for key in keys:
    if isinstance(item.get(key), str):
      return item[key]
  raise ItemError('bad_transcript', f'{" or ".join(keys)} is missing or no text in {str(item)[:80]}')


def time(value, scale=1000):
  """Seconds (or `scale` times ms) in ms; None stays None."""
  if value is None:
    return None
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise ItemError('bad_times', f'{value!r:.40} is no time')
  # Python's own integers have no end; what is this far out is refused as infinite.
  return value * scale if abs(value) < 1e15 else math.inf


def first(content, *keys):
  """The first object in the list at a path of keys, or {}: enough to tell formats apart."""
  for key in keys:
    content = content.get(key) if isinstance(content, dict) else None
    if isinstance(content, list):
      content = next((item for item in content if isinstance(item, dict)), None)
  return content if isinstance(content, dict) else {}


def has(content, key, kind=list):
  return isinstance(content, dict) and isinstance(content.get(key), kind)
