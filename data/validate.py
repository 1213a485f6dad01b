"""Does a folder of shards still hold what its manifest says? One line for each thing that it does not.

python -m data.validate DIR           reads every byte
python -m data.validate DIR --quick   looks at names, sizes and indices only
"""

import hashlib
import itertools
import json
import multiprocessing
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from data.outcomes import ENDS, ERRORS, EXITS
from tvts_jax import command
from tvts_jax.errors import UserError
from tvts_jax.machine import cores
from tvts_jax.shards import index, records, storage, tfrecord
from tvts_jax.shards.index import Manifest, Shard
from tvts_jax.shards.writer import DONE, ROW, row_of

SHOWN = 20  # Findings of one class that concern the folder as a whole.

# Class of finding → exit code and meaning. Of several findings the first class in this order is the exit code.
CLASSES = {
  'manifest': (10, 'manifest.json is missing, unreadable, damaged, of another version or contradicts itself'),
  'missing': (11, 'a shard is listed but not there'),
  'emptied': (12, 'a shard has 0 bytes and should have more'),
  'cut': (13, 'a shard is shorter than listed'),
  'grown': (14, 'a shard is longer than listed'),
  'added': (15, 'there is a shard that the manifest does not list'),
  'index': (16, 'an index is missing, damaged or not of its shards'),
  'checksum': (17, 'bytes of a shard are not those that were written'),
  'schema': (18, 'a record is not of the schema, or of another version of it'),
  'times': (19, 'times of a record are unsorted or outside their window'),
  'jpeg': (20, 'a frame is no whole JPEG of the size that the record says'),
  'duplicate': (21, 'one window is there twice'),
  'overlap': (22, 'one video is in two splits'),
  'metadata': (23, 'NAME.shard.json or dataset_info.json says other than the manifest'),
  'unreadable': (24, 'storage does not give a file that is there'),
}


@dataclass(frozen=True)
class Finding:
  kind: str  # Key of CLASSES.
  text: str

  def __str__(self):
    return f'{self.kind}: {self.text}'


def check(folder, quick: bool = False, decode: bool = False, workers: int = 1) -> list[Finding]:
  """Everything that is wrong with a folder. quick: no record is read. decode: every frame is decoded, too."""
  folder = storage.path(folder)
  try:
    manifests = [index.load(folder, split) for split in index.splits(folder)]
  except (UserError, OSError) as e:
    return [Finding('manifest', str(e))]
  found, rows = check_manifest(folder, manifests) + check_metadata(folder, manifests), {}
  for manifest in manifests:
    findings, rows_S = check_index(manifest)
    found += findings
    rows |= {shard.name: rows for shard, rows in zip(manifest.shards, rows_S)}
  jobs = [(folder, shard, rows[shard.name], quick, decode) for m in manifests for shard in m.shards]
  if workers == 1 or len(jobs) == 1:
    checked = list(itertools.starmap(check_shard, jobs))
  else:
    with ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context('spawn')) as pool:
      checked = list(pool.map(check_shard, *zip(*jobs)))
  return found + sum(checked, []) + check_ids(manifests, rows)


def check_shard(folder, shard: Shard, rows: np.ndarray, quick: bool, decode: bool) -> list[Finding]:
  """What is wrong with one shard; `rows` are what its index says."""
  path = folder / shard.name
  try:
    return check_readable_shard(path, shard, rows, quick, decode)
  except OSError as e:
    return [unreadable(path, e)]


def unreadable(path, e: OSError) -> Finding:
  return Finding(
    'unreadable', f'{e.filename or path} cannot be read: {e.strerror or e}; put that right and check again'
  )


def check_readable_shard(path, shard: Shard, rows: np.ndarray, quick: bool, decode: bool) -> list[Finding]:
  if not path.exists():
    return [Finding('missing', f'{path} is not there')]
  if (size := storage.stat(path).size) != shard.bytes:
    kind = 'emptied' if not size else 'cut' if size < shard.bytes else 'grown'
    whole = f': {whole_records(rows, size)} are left' if kind == 'cut' and len(rows) else ''
    return [Finding(kind, f'{path} has {size} bytes instead of {shard.bytes}{whole}')]
  return [] if quick else check_records(path, shard, rows, decode)


def check_index(manifest: Manifest) -> tuple[list[Finding], list[np.ndarray]]:
  """What is wrong with the index of a split, and of each shard the ROWs in it, as far as they can be trusted."""
  none = [np.zeros(0, ROW)] * len(manifest.shards)
  path = manifest.folder / manifest.index.name
  try:
    columns = index.read_columns(manifest)
  except OSError as e:
    return [unreadable(path, e)], none
  except UserError as e:
    return [Finding('index', str(e))], none
  rows_N = np.zeros(manifest.count, ROW)
  rows_N['size'] = np.diff(columns['offset'])
  for name in ('video', 'example_id', 'head'):
    rows_N[name] = columns[name]
  rows_S = np.split(rows_N, np.cumsum([shard.count for shard in manifest.shards])[:-1])
  return [], rows_S


def whole_records(rows: np.ndarray, size: int) -> str:
  ends = np.cumsum(rows['size'])
  whole = int((ends <= size).sum())
  return f'{whole} of {len(rows)} records{"" if size in ends else " and part of one"}'


def check_records(path, shard: Shard, rows: np.ndarray, decode: bool) -> list[Finding]:
  found, sha, begin = [], hashlib.sha256(), 0
  with path.open('rb') as f:
    for i, row in enumerate(rows):
      at, framed = f'{path}: record {i} at byte {begin}', f.read(int(row['size']))
      begin += int(row['size'])
      sha.update(framed)
      try:
        payload = tfrecord.unframe(framed)
        record = records.decode(payload)
      except records.RecordError as e:
        found.append(Finding(e.kind, f'{at}: {e}'))
        continue
      except ValueError as e:
        found.append(Finding('checksum', f'{at}: {e}'))
        continue
      name = f'{path}: record {i}, video {record.video_id!r:.80} window {record.window_index}'
      if row.tolist() != row_of(payload, record.video_id, record.window_index):
        found.append(Finding('index', f'{name}: the index has another record here'))
      if decode:
        found += [Finding('jpeg', f'{name}: {problem}') for problem in undecodable(record)]
    while rest := f.read(1 << 24):  # Everything, where the index is of no use.
      sha.update(rest)
  if sha.hexdigest() != shard.sha256 and not any(finding.kind == 'checksum' for finding in found):
    found.append(Finding('checksum', f'{path}: the sha256 of the file differs from the manifest'))
  return found


def undecodable(record: records.Record) -> list[str]:
  import cv2  # Only where frames are decoded.

  problems = []
  for i, jpeg in enumerate(record.frames):
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None or image.shape != (record.height, record.width, 3):
      problems.append(f'frame {i} cannot be decoded')
  return problems


def check_manifest(folder, manifests: list[Manifest]) -> list[Finding]:
  found = []
  content = json.loads((folder / index.MANIFEST).read_text())
  for m in manifests:
    if content['splits'][m.split].get('records') != m.count:
      found.append(Finding('manifest', f'split {m.split!r} says other than the {m.count} records of its shards'))
  names = [shard.name for m in manifests for shard in m.shards]
  for name in sorted(n for n, count in Counter(names).items() if count > 1):
    found.append(Finding('manifest', f'{name} is listed twice'))
  there = {p.name for p in folder.iterdir() if p.name.endswith('.tfrecord')}
  return found + [Finding('added', f'{folder / name} is not in the manifest') for name in sorted(there - {*names})]


def check_metadata(folder, manifests: list[Manifest]) -> list[Finding]:
  """Files that other programs read, where they exist."""
  found, said = [], 'does not describe the shard that the manifest lists'
  for m in manifests:
    for shard in m.shards:
      path = folder / shard.name.replace('.tfrecord', DONE)
      found += check_json(path, lambda c: c['shard'], vars(shard), said)
  lengths = {m.split: [s.count for s in m.shards] for m in manifests}
  said = 'has other splits or shard lengths than the manifest'
  return found + check_json(folder / 'dataset_info.json', lengths_in, lengths, said)


def lengths_in(content) -> dict[str, list[int]]:
  return {s['name']: [int(n) for n in s['shardLengths']] for s in content['splits']}


def check_json(path, part, expected, said: str) -> list[Finding]:
  """part: takes what is compared out of the file's content."""
  try:
    if not path.exists() or part(json.loads(path.read_text())) == expected:
      return []
  except OSError as e:
    return [unreadable(path, e)]
  except (ValueError, TypeError, KeyError):
    pass  # Not even of the form.
  return [Finding('metadata', f'{path} {said}')]


def check_ids(manifests: list[Manifest], rows: dict[str, np.ndarray]) -> list[Finding]:
  """Across shards: windows that are there twice, videos that are in two splits. The first SHOWN of each."""
  found, of_split = [], {}
  for m in manifests:
    of_split[m.split] = np.concatenate([np.zeros(0, ROW), *(rows[s.name] for s in m.shards)])

  def places(split: str, column: str, value) -> list[str]:
    """Names of the records with that value, in order."""
    listed = next(m.shards for m in manifests if m.split == split)
    names = [f'{s.name.removesuffix(".tfrecord")} record {i}' for s in listed for i in range(len(rows[s.name]))]
    return [names[i] for i in np.flatnonzero(of_split[split][column] == value)]

  ids, counts = np.unique(np.concatenate([r['example_id'] for r in of_split.values()]), return_counts=True)
  twice = ids[counts > 1]
  for example_id in twice[:SHOWN]:
    where = [place for split in of_split for place in places(split, 'example_id', example_id)]
    found.append(Finding('duplicate', f'one window is at {" and at ".join(where)}{more(twice)}'))
  for a, b in itertools.combinations(of_split, 2):
    shared = np.intersect1d(of_split[a]['video'], of_split[b]['video'])
    for video in shared[:SHOWN]:
      where = [places(split, 'video', video)[0] for split in (a, b)]
      found.append(Finding('overlap', f'one video is at {" and at ".join(where)}{more(shared)}'))
  return found


def more(values) -> str:
  return f' ({len(values)} such in all)' if len(values) > SHOWN else ''


def main(argv=None) -> int:
  args = parse(argv)
  return command.ending(lambda: tell(args), ERRORS)


def tell(args) -> int:
  """Says what is wrong with a folder, or that nothing is → the exit code."""
  found = check(args.folder, args.quick, args.decode, args.workers)
  for finding in found:
    print(finding)
  for split in [] if found else index.splits(args.folder):
    manifest = index.load(args.folder, split)
    print(f'{split}: {manifest.count} records in {len(manifest.shards)} shards are as the manifest says')
  return min((CLASSES[finding.kind][0] for finding in found), default=EXITS['done'])


def parse(argv):
  exits = {
    EXITS['done']: 'all is well',
    EXITS['request']: 'the command makes no sense',
    EXITS['output']: 'the folder cannot be read',
    EXITS['worker']: ENDS['worker'][1],
    **{code: f'{kind:<10} {meaning}' for kind, (code, meaning) in CLASSES.items()},
    EXITS['interrupted']: 'SIGINT',
  }
  codes = '\n'.join(f'  {code:>3}  {what}' for code, what in exits.items())
  parser = command.parser('data.validate', f'{__doc__}\nexit codes, of several the first:\n{codes}')
  parser.add_argument('folder', metavar='DIR')
  parser.add_argument('--quick', action='store_true', help='names, sizes and indices only')
  parser.add_argument('--decode', action='store_true', help='decode every frame, too')
  parser.add_argument('--workers', type=int, default=cores(), help='processes (default %(default)s)')
  args = parser.parse_args(argv)
  if args.workers < 1:
    parser.error('--workers must be at least 1')
  return args


if __name__ == '__main__':
  sys.exit(main())
