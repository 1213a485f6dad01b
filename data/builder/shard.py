"""The work itself, on one item and on one shard: the same functions under local processes and under Beam.

An item's records wait in a part file, on disk rather than in somebody's memory, until all items of the shard
have an outcome. Then the shard is written in one go, and last its NAME.shard.json, which says that it is done, and
keeps what the index of the split will say of its records.
"""

import base64
import json
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data import outcomes
from data.builder import windows
from data.builder.shard_plan import PlannedShard
from data.builder.workers import Answer, Limits, Runner
from data.outcomes import BuildError
from data.sources.items import Item
from tvts_jax.files import write_whole
from tvts_jax.shards import index, records, storage, tfrecord, writer

OUTCOMES = 'outcomes'  # The folder of what became of each item.


@dataclass(frozen=True)
class Job:
  item: Item
  config: windows.WindowConfig
  part: str  # Path of a file to be written: serialized records, end to end.


def make_item(job: Job) -> dict:
  """Runs in a child: 'rows', a writer.ROW of each record, their 'short_sides', 'totals' and 'quality'."""
  made, quality = windows.records(job.item, job.config)
  if not made:
    raise RuntimeError(f'no record and no reason for item {job.item.id!r}')
  payloads = [records.encode(r) for r in made]
  try:
    with open(job.part, 'wb') as f:
      f.writelines(payloads)
  except OSError as e:
    raise BuildError(f'{job.part} cannot be written: {e.strerror}', 'output') from e
  rows = [writer.row_of(p, r.video_id, r.window_index) for p, r in zip(payloads, made)]
  totals = {
    'video_ms': made[0].duration_ms,
    'window_ms': sum(r.end_ms - r.start_ms for r in made),
    'words': sum(len(r.words) for r in made),
    'frames': sum(len(r.frames) for r in made),
    'jpeg_bytes': sum(len(f) for r in made for f in r.frames),
  }
  short_sides = [min(r.height, r.width) for r in made]
  return {'rows': rows, 'totals': totals, 'quality': quality, 'short_sides': short_sides}


def build_shard(folder, planned: PlannedShard, plan_sha256: str, config, limits: Limits) -> None:
  """One shard that is not done, item by item, in one child process: the whole work of a Beam element."""
  if read_one_done(folder, planned, plan_sha256):
    return
  with tempfile.TemporaryDirectory() as parts:
    runner, done = Runner(make_item, limits, threading.Event()), []
    try:
      for i, item in enumerate(planned.items):
        job = Job(item, config, os.path.join(parts, str(i)))
        done.append((job, runner.run(job)))
    finally:
      runner.close()
    finish_shard(folder, planned, plan_sha256, done)


def finish_shard(folder, planned: PlannedShard, plan_sha256: str, done: list[tuple[Job, Answer]]) -> dict:
  """Writes shard, outcome lines and NAME.shard.json, in this order; returns the latter's content."""
  shard, rows = writer.write_shard(folder / f'{planned.name}.tfrecord', records_of(done))
  lines = [json.dumps(outcome(job, answer), sort_keys=True) for job, answer in done]
  log = log_path(folder, planned)
  log.parent.mkdir(exist_ok=True)
  write_whole(log, ''.join(line + '\n' for line in lines))
  rows = base64.b64encode(rows.tobytes()).decode()
  content = {'plan_sha256': plan_sha256, 'shard': asdict(shard), 'rows': rows, **sums(done)}
  write_whole(done_path(folder, planned), json.dumps(content, indent=2, sort_keys=True))
  return content


def read_done(folder, planned: Iterable[PlannedShard], plan_sha256: str) -> dict[str, dict]:
  """Name → content of NAME.shard.json, for the shards that are done: of this plan, and of their right size."""
  with ThreadPoolExecutor(32) as pool:  # A bucket takes its time for each.
    contents = pool.map(lambda p: (p.name, read_one_done(folder, p, plan_sha256)), planned)
    return {name: content for name, content in contents if content}


def read_one_done(folder, planned: PlannedShard, plan_sha256: str) -> dict | None:
  path = done_path(folder, planned)
  if not path.exists():
    return None
  try:
    content = json.loads(path.read_text())
    shard = index.Shard(**content['shard'])
    whole = content['plan_sha256'] == plan_sha256 and sum(content['outcomes'].values()) == len(planned.items)
    whole = whole and len(rows_of(content)) == shard.count
  except (ValueError, TypeError, KeyError, AttributeError):
    return None  # Unreadable is as good as not there: the shard is built again.
  shard_path = folder / shard.name
  whole = whole and log_path(folder, planned).exists() and shard_path.exists()
  return content if whole and storage.stat(shard_path).size == shard.bytes else None


def rows_of(content: dict) -> np.ndarray:
  """writer.ROW [n], out of the content of a NAME.shard.json."""
  return np.frombuffer(base64.b64decode(content['rows']), writer.ROW)


def sums(done: list[tuple[Job, Answer]]) -> dict:
  """Counts of a shard's items by outcome, totals, measures as [sum, items], and records by short side."""
  counts, totals, measures, short_sides = Counter(), Counter(), {}, Counter()
  for _, answer in done:
    counts[answer.code] += 1
    if answer.value:
      totals.update(answer.value['totals'])
      short_sides.update(answer.value['short_sides'])
      for name, value in answer.value['quality'].items():
        if value is not None:
          before, n = measures.get(name, (0, 0))
          measures[name] = before + value, n + 1
  by_side = {str(side): n for side, n in sorted(short_sides.items())}
  return {'outcomes': dict(counts), 'totals': dict(totals), 'measures': measures, 'short_sides': by_side}


def log_path(folder, planned: PlannedShard):
  return folder / OUTCOMES / f'{planned.name}.jsonl'


def done_path(folder, planned: PlannedShard):
  return folder / f'{planned.name}{writer.DONE}'


def records_of(done):
  for job, answer in done:
    if answer.code == 'ok':
      with open(job.part, 'rb') as f:
        for row in answer.value['rows']:
          yield f.read(row[0] - tfrecord.HEADER - tfrecord.FOOTER), row
      Path(job.part).unlink()


def outcome(job: Job, answer: Answer) -> dict:
  return {
    'id': job.item.id,
    'status': outcomes.status(answer.code),
    'code': answer.code,
    'detail': answer.detail,
    'seconds': round(answer.seconds, 3),
    'attempts': answer.attempts,
    'windows': len(answer.value['rows']) if answer.value else 0,
    'totals': answer.value['totals'] if answer.value else {},
    'quality': answer.value['quality'] if answer.value else {},
  }
