"""What a folder of shards holds and where each record lies: the manifest, and an index of each split.

DIR/manifest.json lists the shards of every split, and its index: 8 bytes of magic and then, one after the other, the
columns of all records of the split (COLUMNS), 28 bytes of each. So a run begins with two requests, however many shards
there are. `load` and `load_index` refuse a folder that is not what the manifest says, before anybody trains on it; in a
bucket, where it takes a request to look at a shard, a changed one is found when its checksums are.
"""

import bisect
import functools
import hashlib
import itertools
import json
import mmap
import os
import pathlib
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.shards import records, storage, tfrecord

MANIFEST = 'manifest.json'
REPORT = 'report.json'  # Of the builder, in numbers; no reader needs it.
INDEX_MAGIC = b'TVTSIDX2'
# Type, and how many values more than there are records.
COLUMNS = {'offset': ('<u8', 1), 'video': ('<u8', 0), 'example_id': ('<u8', 0), 'head': ('<u4', 0)}
CHUNK = 1 << 20  # Records that are looked at together.
ADVICE = 'bring the folder back or build the data again (python -m data.validate says more)'


class FolderError(UserError):
  """A folder that is not a finished data set, or no longer the one its manifest describes."""


class DamagedRecord(UserError):
  """One record that cannot be read back as it was written."""


class Listed:
  """A file of the manifest's folder. TypeError for values that no builder writes."""

  def __post_init__(self):
    for field in fields(self):
      value = getattr(self, field.name)
      if type(value) is not field.type or field.type is int and value < 0:
        raise TypeError(f'{field.name}={value!r:.60}')


@dataclass(frozen=True)
class Shard(Listed):
  name: str  # NAME.tfrecord, in the manifest's folder.
  count: int  # Records.
  bytes: int
  sha256: str


@dataclass(frozen=True)
class IndexFile(Listed):
  name: str  # In the manifest's folder.
  bytes: int
  sha256: str


@dataclass(frozen=True)
class Manifest:
  """One split of a folder."""

  folder: pathlib.Path | storage.BucketPath
  split: str
  shards: list[Shard]
  index: IndexFile
  config: dict  # What the builder was told: window length, frame rate, frame size ...
  sampling: dict  # What every record can serve: transcripts, seconds, gap_s, min_words.
  outcomes: dict[str, int]  # Items by outcome: ok and the codes of those left out.
  listed: frozenset[str]  # Names of the shards of all splits.

  @property
  def count(self) -> int:
    return sum(s.count for s in self.shards)

  @property
  def sha256(self) -> str:
    """Of all that belongs to the split: equal data have equal hashes wherever they lie."""
    parts = {k: getattr(self, k) for k in ('split', 'config', 'sampling', 'outcomes')}
    return sha256_json({**parts, 'shards': [asdict(s) for s in self.shards]})

  def path(self, shard: int):
    return self.folder / self.shards[shard].name


class Place(NamedTuple):
  """Of a record."""

  shard: int  # Index into manifest.shards.
  number: int  # Within its shard, from 0.
  begin: int  # Byte of its shard.
  size: int  # Bytes, with its TFRecord frame.


@dataclass(frozen=True)
class Index:
  """All records of a split in the order of its shards. The columns of a local file are mapped, so that processes share
  them.
  """

  shards: list[Shard]
  offset: np.ndarray  # uint64 [N + 1], bytes: where each record begins, and the last ends, if the shards were one file.
  video: np.ndarray  # uint64 [N], video_hash.
  example_id: np.ndarray  # uint64 [N], example_hash.
  head: np.ndarray  # uint32 [N], bytes of the serialized record before its JPEGs.
  changed: list[float]  # When each shard was last written; empty for a bucket, where nobody has looked.

  def __len__(self) -> int:
    return len(self.example_id)

  def place(self, row: int) -> Place:
    rows_S, begin_S = self._before
    shard = bisect.bisect_right(rows_S, row) - 1
    begin, end = self.offset[row : row + 2].tolist()
    return Place(shard, row - rows_S[shard], begin - begin_S[shard], end - begin)

  @functools.cached_property
  def _before(self) -> tuple[list[int], list[int]]:
    """Records and bytes before each shard."""
    return tuple([0, *itertools.accumulate(values)] for values in zip(*((s.count, s.bytes) for s in self.shards)))


def video_hash(video_id: str) -> int:
  """uint64. Equal for all windows of one video."""
  return int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:8], 'little')


def example_hash(video_id: str, window_index: int) -> int:
  """uint64. Names one record for good, whatever shard or folder it is in."""
  return video_hash(f'{video_id}\0{window_index}')


def sha256_json(value) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(',', ':')).encode()).hexdigest()


def splits(folder) -> list[str]:
  """The splits that a finished folder has."""
  return list(read_manifest(storage.path(folder))['splits'])


def load(folder, split: str) -> Manifest:
  """The manifest of one split. FolderError if there is none that this code can read."""
  folder = storage.path(folder)
  content = read_manifest(folder)
  if split not in content['splits']:
    raise FolderError(
      f'{folder} has no split {split!r}; it has: {", ".join(content["splits"])}; name one of these, or build it with '
      'such splits in the index or a larger --val-fraction'
    )
  part = content['splits'][split]
  try:
    shards, index = [Shard(**s) for s in part['shards']], IndexFile(**part['index'])
    listed = frozenset(s['name'] for p in content['splits'].values() for s in p['shards'])
    manifest = Manifest(folder, split, shards, index, content['config'], content['sampling'], part['outcomes'], listed)
  except (TypeError, KeyError) as e:
    raise damaged(folder, e) from e
  for name in (*(s.name for s in shards), index.name):
    if name != os.path.basename(name) or not name.endswith('.idx' if name == index.name else '.tfrecord'):
      raise FolderError(f'{folder / MANIFEST} lists {name!r}, which names no file of its own folder; {ADVICE}')
  return manifest


def load_index(manifest: Manifest) -> Index:
  """Reads the index, and of a local folder the names and sizes of all shards.

  FolderError if a file is missing, added or not as listed.
  """
  changed = look_at_shards(manifest) if storage.is_local(manifest.folder) else []
  return Index(manifest.shards, **read_columns(manifest), changed=changed)


def read_columns(manifest: Manifest) -> dict[str, np.ndarray]:
  """Those of the index. FolderError if it is not as listed."""
  path, count = manifest.folder / manifest.index.name, manifest.count
  size = index_bytes(count)
  try:
    data, sha256 = mapped(path, size) if storage.is_local(path) else hashed(storage.read_bytes(path))
  except FileNotFoundError as e:
    raise FolderError(f'{path} is missing; {ADVICE}') from e
  if sha256 != manifest.index.sha256 or len(data) != size:
    raise FolderError(f'{path} is not the index that the manifest lists; {ADVICE}')
  columns, at = {}, len(INDEX_MAGIC)
  for name, (dtype, more) in COLUMNS.items():
    columns[name] = np.frombuffer(data, dtype, count + more, at)
    at += columns[name].nbytes
  if not fits(manifest.shards, columns['offset'], columns['head']):
    raise FolderError(f'{path} names places that the shards of the manifest do not have; {ADVICE}')
  if isinstance(data, mmap.mmap):
    data.madvise(mmap.MADV_DONTNEED)  # The system need not keep what was looked through.
  return columns


def fits(shards: list[Shard], offset: np.ndarray, head: np.ndarray) -> bool:
  """Whether records follow each other, have room for their heads, and begin and end with their shards."""
  frame = tfrecord.HEADER + tfrecord.FOOTER
  rows_S = [0, *itertools.accumulate(shard.count for shard in shards)]
  bytes_S = [0, *itertools.accumulate(shard.bytes for shard in shards)]
  if offset[rows_S].tolist() != bytes_S:
    return False
  for at in range(0, len(head), CHUNK):
    head_C = head[at : at + CHUNK]
    size_C = np.diff(offset[at : at + len(head_C) + 1])
    # A place before the one that it should follow makes a size beyond all shards.
    if (size_C > max(bytes_S)).any() or (size_C < head_C + np.uint64(frame)).any():
      return False
  return True


def index_bytes(count: int) -> int:
  """Of an index of so many records."""
  return len(INDEX_MAGIC) + sum(np.dtype(dtype).itemsize * (count + more) for dtype, more in COLUMNS.values())


def hashed(data: bytes) -> tuple[bytes, str]:
  return data, hashlib.sha256(data).hexdigest()


def mapped(path: pathlib.Path, size: int) -> tuple[mmap.mmap | bytes, str]:
  """The content of a file, and its sha256, for which no more than a part of it is in memory at a time. One that has
  another size is not read."""

  def read():
    with storage.open_local(path) as file:
      if os.stat(file.fileno()).st_size != size:
        return b'', ''
      sha256 = hashlib.file_digest(file, 'sha256').hexdigest()
      return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), sha256

  return storage.patiently(path, read)


def look_at_shards(manifest: Manifest) -> list[float]:
  """When each shard of a local folder was last written. FolderError if one is missing, added or not of its size."""
  folder = manifest.folder

  def scan():
    with os.scandir(folder) as entries:
      return {entry.name: entry.stat() for entry in entries if entry.name.endswith('.tfrecord')}

  there = storage.patiently(folder, scan)
  if added := sorted(there.keys() - manifest.listed):
    more = f' and {len(added) - 1} more' if len(added) > 1 else ''
    raise FolderError(f'{folder / added[0]}{more}: not in the manifest, so nobody would read it; move it away')
  for shard in manifest.shards:
    path = folder / shard.name
    if shard.name not in there:
      raise vanished(path)
    if (size := there[shard.name].st_size) != shard.bytes:
      raise FolderError(f'{path} has {size} bytes, the manifest says {shard.bytes}; {ADVICE}')
  return [there[shard.name].st_mtime for shard in manifest.shards]


def read_record(manifest: Manifest, index: Index, i: int) -> bytes:
  """The serialized record i, whole. DamagedRecord if its checksums don't agree."""
  place = index.place(i)
  path = manifest.path(place.shard)
  try:
    return tfrecord.unframe(storage.read_range(path, place.begin, place.size))
  except FileNotFoundError as e:
    raise vanished(path) from e
  except ValueError as e:
    raise DamagedRecord(f'{path}: record {place.number} at byte {place.begin} cannot be read: {e}') from e


def refuse_changed(manifest: Manifest, index: Index, shard: int) -> None:
  """FolderError if a shard is no longer the file that it was when the index was loaded."""
  listed, path = manifest.shards[shard], manifest.path(shard)
  try:
    size, time = storage.stat(path)
  except FileNotFoundError as e:
    raise vanished(path) from e
  if size != listed.bytes or index.changed and index.changed[shard] != time:
    raise FolderError(f'{path} was changed while it was in use (of {listed.bytes} bytes it has {size}); {ADVICE}')


def vanished(path) -> FolderError:
  return FolderError(f'{path} is listed in the manifest but missing; {ADVICE}')


def damaged(folder, error: Exception) -> FolderError:
  """What to raise where the manifest cannot be understood."""
  return FolderError(f'{folder / MANIFEST} is damaged ({error!r:.200}); build the data again')


def read_manifest(folder) -> dict:
  path = folder / MANIFEST
  try:
    content = json.loads(storage.read_bytes(path))
    version = content['schema_version']
    parts = {name: content[name] for name in ('splits', 'config', 'sampling')}
    if odd := next((name for name, part in parts.items() if not isinstance(part, dict)), None):
      raise TypeError(f'{odd} is not an object')
  except (FileNotFoundError, NotADirectoryError) as e:
    raise FolderError(
      f'{path} does not exist, so {folder} is not a finished data set; make one with python -m data.build'
    ) from e
  except (ValueError, TypeError, KeyError, RecursionError) as e:
    raise damaged(folder, e) from e
  if version != records.SCHEMA_VERSION:
    raise FolderError(
      f'{path} has schema_version {version!r:.60}, this code reads {records.SCHEMA_VERSION}; build the data again with '
      'python -m data.build SOURCE --out ANOTHER_FOLDER'
    )
  return content
