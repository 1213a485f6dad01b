"""The records of two folders that show the same pictures.

Shapes: R records of a folder, N frames in them, F of a downstream record, V views, W words of a hash.
"""

import functools
import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.leakage.hashes import BITS, FRAMES, WORDS, fitting, frame_distances, hash_frames
from tvts_jax.errors import UserError
from tvts_jax.human import Progress
from tvts_jax.machine import cores
from tvts_jax.media import paths, pictures, uniform
from tvts_jax.shards import index, records
from tvts_jax.shards.records import Record

SCREEN = 10  # Of the coarse bits so many may differ in what is compared by all.
FITTING = FRAMES // 4  # Of a downstream record, by which records are told to be the same.
CHUNK = 4096  # Frames for pre-training that are compared at a time, so that what is counted stays in the cache.
READ = 64  # Records that are read at a time.
HEIGHT = 96  # At which frames are shown, in pixels.
ENCODE = functools.partial(pictures.encode, quality=75)

# How two records were found to be the same → what the page says of them.
SAME = {'source': 'are made of the same file', 'id': 'have the same id', 'pictures': 'show the same pictures'}


class Shards:
  """All records of all splits of a folder of shards."""

  def __init__(self, folder):
    self.name, self._parts = str(folder), []
    for split in index.splits(folder):
      manifest = index.load(folder, split)
      self._parts.append((manifest, index.load_index(manifest)))
    self._starts = np.cumsum([0] + [len(ids) for _, ids in self._parts])

  def __len__(self) -> int:
    return int(self._starts[-1])

  def place(self, n: int) -> str:
    manifest, ids, row = self._at(n)
    place = ids.place(row)
    return f'{manifest.path(place.shard)}: record {place.number}'

  def read(self, n: int) -> Record:
    manifest, ids, row = self._at(n)
    return records.decode(index.read_record(manifest, ids, row))

  def _at(self, n: int):
    part = int(np.searchsorted(self._starts, n, 'right')) - 1
    return *self._parts[part], n - int(self._starts[part])


class Video(NamedTuple):
  """A video that is in no shard, as far as its record would tell whether two are the same."""

  video_id: str  # The name of the file without its ending, as data.build names a video that lies in SOURCE itself.
  frames: list[bytes]
  height: int
  width: int
  source_sha256: str
  window_index: int = 0


class Videos:
  """All videos and images below a folder, each as FRAMES frames that are spread over it."""

  def __init__(self, folder):
    self.name = str(folder)
    self._paths = list(paths.videos_under(self.name, (*paths.VIDEOS, *paths.IMAGES)))
    if not self._paths:
      raise UserError(f'{folder} is no folder of shards, and holds no video whose name ends like mp4 or webm')

  def __len__(self) -> int:
    return len(self._paths)

  def place(self, n: int) -> str:
    return self._paths[n]

  def read(self, n: int) -> Video:
    with paths.open_media(self._paths[n]) as file:
      _, frames = uniform.read(file, FRAMES, short_side=2 * HEIGHT, keep=ENCODE)
      sha256 = paths.sha256(file)
    height, width = frames[0].height, frames[0].width
    return Video(Path(self._paths[n]).stem, [frame.jpeg for frame in frames], height, width, sha256)


class Hashed(NamedTuple):
  """What is kept of the R records of a folder, and of the N frames in them that show something."""

  source: Shards | Videos
  row_R: list[int]  # In the source, of the records that could be read.
  names: list[tuple[str, int]]  # (video id, window).
  sha256: list[str]
  start: np.ndarray  # int64 [R + 1]: row r has frames start[r] to start[r + 1].
  frame_N: np.ndarray  # int32, number of the frame in its record.
  hash_VxWxN: np.ndarray  # uint64, the words of each of the views.
  unread: list[str]

  def frames(self, r: int) -> slice:
    return slice(int(self.start[r]), int(self.start[r + 1]))


@dataclass
class Pair:
  """A downstream record and the one for pre-training that is most likely the same."""

  video: str
  window: int
  pretrain_video: str
  pretrain_window: int
  same: str  # Key of SAME.
  distance: int | None  # Bits of the quarter of frames that fits best; None: there is no picture to compare.
  found: bool
  rows: tuple[int, int]  # Of the two, in their Hashed.


def read(source: Shards | Videos, downstream: bool) -> Hashed:
  """Every record of a folder; of a downstream one FRAMES frames."""
  rows, names, sha256, unread = [], [], [], []
  counts, numbers, found = [0], [np.zeros(0, np.int32)], [np.zeros((4 if downstream else 2, WORDS, 0), np.uint64)]

  def one(n):
    try:
      record = source.read(n)
      wanted = sorted({*uniform.spread(len(record.frames), FRAMES)}) if downstream else range(len(record.frames))
      name = record.video_id, record.window_index
      return name, record.source_sha256, *hash_frames(record.frames, wanted, downstream)
    except UserError as e:
      return f'{source.place(n)}: {e}'

  with ThreadPoolExecutor(cores()) as pool:
    for first in Progress.over(range(0, len(source), READ), f'times {READ} records of {source.name} read'):
      for n, what in enumerate(pool.map(one, range(first, min(first + READ, len(source)))), first):
        if isinstance(what, str):
          unread.append(what)
          print(f'left out: {what}', file=sys.stderr)
          continue
        name, sha, frame_N, hash_VxWxN = what
        rows.append(n), names.append(name), sha256.append(sha), counts.append(len(frame_N))
        numbers.append(frame_N), found.append(hash_VxWxN)
  start = np.cumsum(counts)
  return Hashed(source, rows, names, sha256, start, np.concatenate(numbers), np.concatenate(found, axis=2), unread)


def distance(down: Hashed, d: int, pre: Hashed, p: int) -> int | None:
  """Of two records; None if one has no frame that shows something."""
  theirs_VxWxN, ours_VxWxN = down.hash_VxWxN[..., down.frames(d)], pre.hash_VxWxN[..., pre.frames(p)]
  if not theirs_VxWxN.size or not ours_VxWxN.size:
    return None
  return int(np.sort(frame_distances(fitting(theirs_VxWxN), ours_VxWxN).min(axis=1))[FITTING - 1])


def nearest(down: Hashed, pre: Hashed) -> list[tuple[int, int] | None]:
  """(distance, row) of the record for pre-training next to each downstream one; None where coarse bits rule out all."""
  best: list[tuple[int, int] | None] = [None] * len(down.names)
  asked = [d for d in range(len(best)) if down.start[d] < down.start[d + 1]]
  coarse = {d: fitting(down.hash_VxWxN[:, :1, down.frames(d)]) for d in asked}
  full_P = np.flatnonzero(np.diff(pre.start))
  # Records stay whole: a chunk has about CHUNK frames, or those of one record.
  edges = np.searchsorted(pre.start[full_P], np.arange(0, pre.start[-1], CHUNK))
  chunks = [full_P[a:b] for a, b in itertools.pairwise(np.unique([*edges, len(full_P)]))]
  for rows in Progress.over(chunks, f'times {CHUNK} frames compared'):
    first = pre.start[rows[0]]
    ours_Vx1xN = pre.hash_VxWxN[:, :1, first : pre.start[rows[-1] + 1]]
    for d, theirs_Vx1xF in coarse.items():
      least_FxP = np.minimum.reduceat(frame_distances(theirs_Vx1xF, ours_Vx1xN), pre.start[rows] - first, axis=1)
      for p in rows[(least_FxP <= SCREEN).sum(axis=0) >= FITTING].tolist():
        now = distance(down, d, pre, p), p
        best[d] = min(best[d] or now, now)
  return best


def pairs(down: Hashed, pre: Hashed, threshold: int) -> list[Pair]:
  """One for each downstream record that is anywhere near one for pre-training; the closest first."""
  by_sha = {sha: p for p, sha in reversed([*enumerate(pre.sha256)])}
  by_id = {video: p for p, (video, _) in reversed([*enumerate(pre.names)])}
  by_window = {name: p for p, name in enumerate(pre.names)}
  found = []
  for d, (name, sha, next_) in enumerate(zip(down.names, down.sha256, nearest(down, pre))):
    p = by_window.get(name, by_id.get(name[0]))
    if sha in by_sha:
      same, p = 'source', by_sha[sha]
    elif p is not None and not name[0].isdecimal():
      same = 'id'
    elif next_ is not None:
      same, p = 'pictures', next_[1]
    else:
      continue
    bits = distance(down, d, pre, p)
    found.append(Pair(*name, *pre.names[p], same, bits, same != 'pictures' or bits <= threshold, (d, p)))
  return sorted(found, key=lambda pair: (not pair.found, BITS if pair.distance is None else pair.distance))


def opened(folder: Path) -> Shards | Videos:
  if not folder.is_dir():
    raise UserError(f'{folder} is no folder; give one of shards (python -m data.build makes them) or of videos')
  return Shards(folder) if (folder / index.MANIFEST).exists() else Videos(folder)
