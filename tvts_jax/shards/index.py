"""What a folder of shards holds and where each record lies: manifest, offset index, positioned reads.

DIR/manifest.json lists the shards of every split. Beside each shard NAME.tfrecord lies NAME.idx: 8 bytes of
magic, then one row of 32 bytes a record (INDEX_ROW). `load` and `load_index` refuse a folder that is not
what the manifest says, before anybody trains on it.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
from etils import epath

from tvts_jax.errors import UserError
from tvts_jax.files import is_local
from tvts_jax.input.skipped import Trouble
from tvts_jax.shards import records, tfrecord

MANIFEST = 'manifest.json'
INDEX_MAGIC = b'TVTSIDX1'
INDEX_ROW = np.dtype([('offset', '<i8'), ('length', '<i8'), ('video', '<u8'), ('example_id', '<u8')])
ADVICE = 'bring the folder back or build the data again (python -m data.validate says more)'


class FolderError(UserError):
  """A folder that is no finished data set, or no longer the one its manifest describes."""


class DamagedRecord(UserError):
  """One record that cannot be read back as it was written."""


@dataclass(frozen=True)
class Shard:
  name: str  # NAME.tfrecord, in the manifest's folder.
  count: int  # Records.
  bytes: int
  sha256: str
  index_sha256: str  # Of NAME.idx.


@dataclass(frozen=True)
class Manifest:
  """One split of a folder."""

  folder: epath.Path
  split: str
  shards: list[Shard]
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


@dataclass(frozen=True)
class Index:
  """All records of a manifest in the order of its shards; every array is [N]."""

  shard: np.ndarray  # int32, index into manifest.shards.
  offset: np.ndarray  # int64, bytes: where the framed record begins in its shard.
  length: np.ndarray  # int64, bytes of the payload, without the frame.
  video: np.ndarray  # uint64, video_hash.
  example_id: np.ndarray  # uint64, example_hash.
  changed: list[float]  # When each shard was last written, as its storage tells it.

  def __len__(self) -> int:
    return len(self.shard)

  def number(self, row: int) -> int:
    """Of a record within its shard, from 0."""
    return row - int(np.searchsorted(self.shard, self.shard[row]))


def video_hash(video_id: str) -> int:
  """uint64. Equal for all windows of one video."""
  return int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:8], 'little')


def example_hash(video_id: str, window_index: int) -> int:
  """uint64. Names one record for good, whatever shard or folder it is in."""
  return video_hash(f'{video_id}\0{window_index}')


def sha256_json(value) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(',', ':')).encode()).hexdigest()


def manifest_json(config: dict, sampling: dict, splits: dict[str, tuple[list[Shard], dict[str, int]]]) -> dict:
  """The content of manifest.json; splits: name → (shards, items by outcome)."""
  return {
    'schema_version': records.SCHEMA_VERSION,
    'config': config,
    'sampling': sampling,
    'splits': {
      name: {'records': sum(s.count for s in shards), 'outcomes': outcomes, 'shards': [asdict(s) for s in shards]}
      for name, (shards, outcomes) in splits.items()
    },
  }


def splits(folder) -> list[str]:
  """The splits that a finished folder has."""
  return list(read_manifest(epath.Path(folder))['splits'])


def load(folder, split: str) -> Manifest:
  """The manifest of one split. FolderError if there is none that this code can read."""
  folder = epath.Path(folder)
  content = read_manifest(folder)
  if split not in content['splits']:
    raise FolderError(
      f'{folder} has no split {split!r}; it has: {", ".join(content["splits"])}; name one of these, or build it with '
      'such splits in the index or a larger --val-fraction'
    )
  part = content['splits'][split]
  try:
    shards = [Shard(**s) for s in part['shards']]
    listed = frozenset(s['name'] for p in content['splits'].values() for s in p['shards'])
    manifest = Manifest(folder, split, shards, content['config'], content['sampling'], part['outcomes'], listed)
  except (TypeError, KeyError) as e:
    raise FolderError(f'{folder / MANIFEST} is damaged ({e!r}); build the data again') from e
  for s in shards:
    if s.name != os.path.basename(s.name) or not s.name.endswith('.tfrecord'):
      raise FolderError(f'{folder / MANIFEST} lists {s.name!r}, which names no shard in its own folder')
  return manifest


def load_index(manifest: Manifest) -> Index:
  """Reads every sidecar and looks at every shard's size. FolderError if one is missing, added or not as listed."""
  folder, trouble = manifest.folder, Trouble()
  there = trouble.patiently(folder, lambda: [path.name for path in folder.iterdir()])
  if added := sorted(n for n in there if n.endswith('.tfrecord') and n not in manifest.listed):
    more = f' and {len(added) - 1} more' if len(added) > 1 else ''
    raise FolderError(f'{folder / added[0]}{more}: not in the manifest, so nobody would read it; move it away')
  with ThreadPoolExecutor(32) as pool:
    shards = list(pool.map(lambda s: read_shard_index(folder, s, trouble), manifest.shards))
  rows = [rows for rows, _ in shards]
  shard_N = np.repeat(np.arange(len(rows), dtype=np.int32), [len(r) for r in rows])
  rows_N = np.concatenate([np.zeros(0, INDEX_ROW), *rows])
  return Index(shard_N, *(np.ascontiguousarray(rows_N[k]) for k in INDEX_ROW.names), [time for _, time in shards])


def read_record(manifest: Manifest, index: Index, i: int) -> bytes:
  """The serialized record i, by one positioned read. DamagedRecord if its checksums don't agree."""
  path = manifest.folder / manifest.shards[index.shard[i]].name
  offset, size = int(index.offset[i]), int(index.length[i]) + tfrecord.HEADER + tfrecord.FOOTER
  try:
    with path.open('rb') as f:
      f.seek(offset)
      return tfrecord.unframe(f.read(size))
  except ValueError as e:
    raise DamagedRecord(f'{path}: record {index.number(i)} at byte {offset} cannot be read: {e}') from e


def refuse_changed(manifest: Manifest, index: Index, shard: int, trouble: Trouble) -> None:
  """FolderError if a shard is no longer the file that it was when the index was loaded."""
  listed = manifest.shards[shard]
  path = manifest.folder / listed.name
  try:
    size, time = trouble.patiently(path, lambda: size_and_time(path))
  except FileNotFoundError as e:
    raise vanished(path) from e
  if (size, time) != (listed.bytes, index.changed[shard]):
    raise FolderError(f'{path} was changed while it was in use (of {listed.bytes} bytes it has {size}): {ADVICE}')


def vanished(path) -> FolderError:
  return FolderError(f'{path} is listed in the manifest but missing: {ADVICE}')


def index_path(shard_path):
  return shard_path.with_suffix('.idx')


def size_and_time(path) -> tuple[int, float]:
  """Of a file: its bytes, and when it was last written, as its storage tells it."""
  if is_local(path):  # Epath would look up the owner's name as well, which not every machine knows.
    found = os.stat(path)
    return found.st_size, found.st_mtime
  found = path.stat()
  return found.length, found.mtime


def read_shard_index(folder, shard: Shard, trouble: Trouble) -> tuple[np.ndarray, float]:
  """INDEX_ROW [n], and when the shard was last written."""
  path = folder / shard.name
  try:
    size, time = trouble.patiently(path, lambda: size_and_time(path))
  except FileNotFoundError as e:
    raise vanished(path) from e
  if size != shard.bytes:
    raise FolderError(f'{path} has {size} bytes, the manifest says {shard.bytes}: {ADVICE}')
  sidecar = index_path(path)
  try:
    data = trouble.patiently(sidecar, sidecar.read_bytes)
  except FileNotFoundError as e:
    raise FolderError(f'{sidecar} is missing: {ADVICE}') from e
  if hashlib.sha256(data).hexdigest() != shard.index_sha256:
    raise FolderError(f'{sidecar} is not the index that the manifest lists: {ADVICE}')
  return np.frombuffer(data, INDEX_ROW, offset=len(INDEX_MAGIC)), time


def read_manifest(folder) -> dict:
  path = folder / MANIFEST
  if not path.exists():
    raise FolderError(f'{path} does not exist: {folder} is no finished data set (python -m data.build makes one)')
  data = Trouble().patiently(path, path.read_bytes)
  try:
    content = json.loads(data)
    version = content['schema_version']
    content['splits'].items(), content['config'], content['sampling']
  except (ValueError, TypeError, KeyError, AttributeError) as e:
    raise FolderError(f'{path} is damaged ({e!r}); build the data again') from e
  if version != records.SCHEMA_VERSION:
    raise FolderError(f'{path} has schema_version {version}, this code reads {records.SCHEMA_VERSION}')
  return content
