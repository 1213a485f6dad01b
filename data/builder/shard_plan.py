"""Which item goes into which shard: decided once, written first, and never changed for a folder.

The plan is a pure function of items and configuration. What a shard holds therefore does not depend on how
many processes build it, in which order, or how often they were killed. DIR/plan.json says what was asked
for; DIR/items.jsonl lists the items, one line each, in the order of the shards.
"""

import dataclasses
import hashlib
import itertools
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from data.outcomes import BuildError
from data.sources.items import Item
from tvts_jax.files import write_whole
from tvts_jax.shards import index, records, storage

PLAN, ITEMS = 'plan.json', 'items.jsonl'
SHARD_BYTES = 200e6  # Aimed at: large enough for a bucket, small enough to lose.
JPEG_BYTES = 0.14  # A pixel, measured on real video at quality 75: 12.5 kB for 340 x 256.


@dataclass(frozen=True)
class PlannedShard:
  name: str  # Without a suffix.
  items: tuple[Item, ...]  # By place().

  @property
  def split(self) -> str:
    return self.items[0].split


def place(item: Item) -> bytes:
  """Sorts items. Neighbours by id are often of one channel or one topic; by hash they are not."""
  return hashlib.sha256(item.id.encode()).digest()


@dataclass(frozen=True)
class Plan:
  content: dict  # Of plan.json.
  shards: tuple[PlannedShard, ...]

  @property
  def sha256(self) -> str:
    return index.sha256_json(self.content)


def make(items: list[Item], config, items_per_shard: int) -> Plan:
  """config: a dataclass, data.builder.windows.WindowConfig."""
  by_split = defaultdict(list)
  for item in items:
    if not re.fullmatch('[a-z][a-z0-9_]*', item.split) or item.split == 'all':
      raise BuildError(
        f'item {item.id!r} is of split {item.split!r}; a split is named by small letters, digits, _, and not "all"',
        'request',
      )
    by_split[item.split].append(item)
  planned = []
  for split, members in sorted(by_split.items()):
    members.sort(key=place)
    n = -(-len(members) // items_per_shard)
    for i in range(n):
      part = members[i * len(members) // n : (i + 1) * len(members) // n]
      planned.append(PlannedShard(f'{split}-{i:05d}-of-{n:05d}', tuple(part)))
  content = {
    'schema_version': records.SCHEMA_VERSION,
    'config': json.loads(json.dumps(dataclasses.asdict(config))),
    'items_per_shard': items_per_shard,
    'items': {split: len(members) for split, members in sorted(by_split.items())},
    'items_sha256': hashlib.sha256(items_bytes(planned)).hexdigest(),
  }
  return Plan(content, tuple(planned))


def items_per_shard(config) -> int:
  """So many that a shard comes near SHARD_BYTES; windows_per_video = 0 counts as the 13 of a ten minute video."""
  frames = (config.windows_per_video or 13) * config.window_s * config.fps
  return max(1, int(SHARD_BYTES / (frames * config.short_side**2 * 4 / 3 * JPEG_BYTES)))


def settle(folder, plan: Plan) -> None:
  """Writes the plan into the folder, or checks that the one there is the same. BuildError names what differs."""
  path = folder / PLAN
  if not path.exists():
    write_whole(folder / ITEMS, items_bytes(plan.shards))
    write_whole(path, json.dumps(plan.content, indent=2, sort_keys=True))
    return
  try:
    there = json.loads(path.read_text())
    differences = differences_of(there, plan.content)
    if 'items_sha256' in dict(differences):
      before = dict(identify(line) for line in (folder / ITEMS).read_text().splitlines())
  except (ValueError, TypeError, KeyError, FileNotFoundError) as e:
    raise BuildError(f'{path} cannot be read ({e!r}); build into another folder', 'plan') from e
  if not differences:
    return
  named = [d for k, d in differences if k != 'items_sha256']
  if 'items_sha256' in dict(differences):
    named += item_differences(before, dict(identify(line) for line in items_lines(plan.shards)))
  raise BuildError(
    f'{folder} was begun with another plan: {"; ".join(named)}; finish it as it was begun or build elsewhere', 'plan'
  )


class Place(NamedTuple):
  """Where the lines of a shard's items are in items.jsonl."""

  name: str
  begin: int
  bytes: int


def places(planned) -> list[Place]:
  sizes = [len(items_bytes([s])) for s in planned]
  begins = itertools.accumulate(sizes, initial=0)
  return [Place(s.name, begin, size) for s, begin, size in zip(planned, begins, sizes)]


def read_shard(folder, at: Place) -> PlannedShard:
  rows = [json.loads(line) for line in storage.read_range(folder / ITEMS, at.begin, at.bytes).splitlines()]
  if not rows or {row.pop('shard') for row in rows} != {at.name}:
    raise BuildError(f'{folder / ITEMS} has changed; build into another folder', 'plan')
  return PlannedShard(at.name, tuple(Item(**row) for row in rows))


def items_lines(planned) -> list[str]:
  return [
    json.dumps({'shard': s.name, **dataclasses.asdict(item)}, sort_keys=True) for s in planned for item in s.items
  ]


def items_bytes(planned) -> bytes:
  return ''.join(line + '\n' for line in items_lines(planned)).encode()


def identify(line: str) -> tuple[str, str]:
  return json.loads(line)['id'], line


def differences_of(there, here, name='') -> list[tuple[str, str]]:
  """(path of the key, what it was and what it is) for every leaf that differs."""
  if isinstance(there, dict) and isinstance(here, dict):
    inside = lambda key: differences_of(there.get(key), here.get(key), f'{name}.{key}' if name else key)
    return [difference for key in sorted({*there, *here}) for difference in inside(key)]
  return [] if there == here else [(name, f'{name} was {there}, is {here}')]


def item_differences(before: dict, now: dict) -> list[str]:
  changes = {
    'gone': sorted(before.keys() - now.keys()),
    'new': sorted(now.keys() - before.keys()),
    'changed': sorted(k for k in before.keys() & now.keys() if before[k] != now[k]),
  }
  return [
    f'{len(ids)} items are {what} ({ids[0]!r}{", ..." if ids[1:] else ""})' for what, ids in changes.items() if ids
  ]
