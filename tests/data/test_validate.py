import json
import pwd
import re
import shutil
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import pytest

from data import validate
from data.outcomes import EXITS
from tests.support import folders
from tests.support.paths import ROOT
from tvts_jax.shards import index, tfrecord

SHARD = 'train-00000-of-00002.tfrecord'


def damaged(video_id, changes):
  """An entry for folders.write: a record as no writer of ours would write it, under right checksums."""
  return folders.example(folders.record(frames=3, words=4), {'video/id': [video_id.encode()], **changes}), video_id, 0


def make(folder, **more):
  train = [[folders.record(v, frames=2) for v in 'abc'], [folders.record('d', w, frames=2) for w in (0, 1)]]
  return folders.write(folder / 'data', {'train': train, 'val': [[folders.record('z', frames=2)]], **more})


@pytest.fixture
def folder(tmp_path):
  return make(tmp_path)


def kinds(found):
  return [f.kind for f in found]


def test_a_good_folder(folder):
  assert validate.check(folder, decode=True) == validate.check(folder, quick=True) == []


def write(path, change):
  path.write_bytes(change(path.read_bytes()))


def record_bytes(folder, i):
  """Where the i-th record of SHARD begins."""
  m = index.load(folder, 'train')
  return index.load_index(m).place(i).begin


def flip(at, bit=3):
  return lambda data: data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def edit_manifest(change):
  def apply(folder):
    content = json.loads((folder / 'manifest.json').read_text())
    change(content)
    (folder / 'manifest.json').write_text(json.dumps(content))

  return apply


def rewrite_without_a_record(folder):
  """Right checksums, one record less."""
  m = index.load(folder, 'train')
  ids = index.load_index(m)
  framed = b''.join(tfrecord.frame(index.read_record(m, ids, i)) for i in (0, 2))
  (folder / SHARD).write_bytes(framed)


def exchange_records(folder):
  """As many bytes, right checksums, two records in each other's place."""
  m = index.load(folder, 'train')
  ids = index.load_index(m)
  framed = b''.join(tfrecord.frame(index.read_record(m, ids, i)) for i in (1, 0, 2))
  (folder / SHARD).write_bytes(framed)


def become_folder(path):
  """The nearest to storage that fails which no privilege gets around."""
  path.unlink(missing_ok=True)
  path.mkdir()


# what is done → class, whether --quick sees it too, what the line says
DAMAGES = {
  'missing': (lambda d: (d / SHARD).unlink(), 'missing', True, f'{SHARD} is not there'),
  'emptied': (lambda d: (d / SHARD).write_bytes(b''), 'emptied', True, 'has 0 bytes'),
  'cut at a boundary': (
    lambda d: write(d / SHARD, lambda b: b[: record_bytes(d, 2)]),
    'cut',
    True,
    ': 2 of 3 records are left',
  ),
  'cut inside a record': (
    lambda d: write(d / SHARD, lambda b: b[: record_bytes(d, 1) + 5]),
    'cut',
    True,
    ': 1 of 3 records and part of one are left',
  ),
  'a record less': (rewrite_without_a_record, 'cut', True, '2 of 3 records are left'),
  'grown': (lambda d: write(d / SHARD, lambda b: b + bytes(16)), 'grown', True, 'instead of'),
  'added': (lambda d: (d / 'train-00002-of-00003.tfrecord').write_bytes(b'x'), 'added', True, 'train-00002-of-00003'),
  'bit in a frame': (lambda d: write(d / SHARD, flip(record_bytes(d, 1) + 60)), 'checksum', False, 'record 1 at byte'),
  'bit in a length': (
    lambda d: write(d / SHARD, flip(record_bytes(d, 1))),
    'checksum',
    False,
    'record length is wrong',
  ),
  'bit in a checksum': (
    lambda d: write(d / SHARD, flip(record_bytes(d, 2) - 1)),
    'checksum',
    False,
    'record 1 at byte',
  ),
  'index missing': (lambda d: (d / 'train.idx').unlink(), 'index', True, 'train.idx is missing'),
  'index flipped': (lambda d: write(d / 'train.idx', flip(50)), 'index', True, 'is not the index that the manifest'),
  'index of another split': (lambda d: shutil.copy(d / 'val.idx', d / 'train.idx'), 'index', True, 'is not the index'),
  'index unreadable': (lambda d: become_folder(d / 'train.idx'), 'unreadable', True, 'Is a directory'),
  'manifest missing': (lambda d: (d / 'manifest.json').unlink(), 'manifest', True, 'not a finished data set'),
  'manifest unreadable': (lambda d: become_folder(d / 'manifest.json'), 'manifest', True, 'Is a directory'),
  'manifest of another version': (
    edit_manifest(lambda c: c.update(schema_version=1)),
    'manifest',
    True,
    'schema_version 1',
  ),
  'manifest miscounts': (
    edit_manifest(lambda c: c['splits']['train'].update(records=6)),
    'manifest',
    True,
    "split 'train' says other than the 5 records",
  ),
  'shard.json of another shard': (
    lambda d: (d / SHARD.replace('.tfrecord', '.shard.json')).write_text('{"shard": {"count": 4}}'),
    'metadata',
    True,
    'does not describe the shard',
  ),
  'shard.json unreadable': (
    lambda d: become_folder(d / SHARD.replace('.tfrecord', '.shard.json')),
    'unreadable',
    True,
    'Is a directory',
  ),
  'dataset_info.json unreadable': (
    lambda d: become_folder(d / 'dataset_info.json'),
    'unreadable',
    True,
    'dataset_info.json cannot be read',
  ),
  'dataset_info.json of other data': (
    lambda d: (d / 'dataset_info.json').write_text('{"splits": [{"name": "train", "shardLengths": ["3"]}]}'),
    'metadata',
    True,
    'other splits or shard lengths',
  ),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_each_damage_has_its_class(folder, name):
  damage, kind, quick, says = DAMAGES[name]
  damage(folder)
  found = validate.check(folder)
  assert kinds(found) == [kind] and says in found[0].text, found
  assert kinds(validate.check(folder, quick=True)) == ([kind] if quick else [])


def test_a_folder_whose_owner_has_no_name(folder, monkeypatch):
  def unknown(uid):
    raise KeyError(f'getpwuid(): uid not found: {uid}')

  monkeypatch.setattr(pwd, 'getpwuid', unknown)
  assert validate.check(folder) == []


def test_a_folder_with_brackets_in_its_name(tmp_path):
  folder = make(tmp_path / 'run[1]')
  (folder / 'train-00002-of-00003.tfrecord').write_bytes(b'x')
  assert kinds(validate.check(folder)) == ['added']


def test_exchanged_records_are_seen(folder):
  exchange_records(folder)
  assert kinds(validate.check(folder)) == ['index', 'index', 'checksum']


BAD_RECORDS = {
  'version': ({'schema_version': [1]}, 'schema', 'schema_version is 1'),
  'table of frames': ({'frames/crc32c': [1, 2, 3]}, 'schema', 'its table of frames'),
  'feature missing': ({'lang': None}, 'schema', "missing: ['lang']"),
  'unsorted words': ({'words/start_ms': [0, 15000, 7500, 22500]}, 'times', 'not sorted'),
  'word outside': ({'words/end_ms': [7500, 15000, 22500, 99000]}, 'times', 'word 3'),
  'frame outside': ({'frames/time_ms': [0, 10000, 30001]}, 'times', 'frame 2 at 30001 ms'),
  'header lies': ({'frames/height': [17]}, 'jpeg', 'frame 0 says 16x24 in its header, the record 17x24'),
  'header of a bomb': (
    {'frames/jpeg': [folders.jpeg(16, 24).replace(b'\x00\x10\x00\x18', b'\x4e\x20\x4e\x20', 1)] * 3},
    'jpeg',
    'frame 0 says 20000x20000',
  ),
  'truncated frame': ({'frames/jpeg': [folders.jpeg(16, 24)[:-20]] * 3}, 'jpeg', 'cut short'),
  'no JPEG': ({'frames/jpeg': [b'\x89PNG', b'', b'']}, 'jpeg', 'not a JPEG'),
}


@pytest.mark.parametrize('name', BAD_RECORDS)
def test_each_bad_record_has_its_class(tmp_path, name):
  changes, kind, says = BAD_RECORDS[name]
  folder = make(tmp_path, val=[[damaged('y', {}), damaged('z', changes)]])
  found = validate.check(folder)
  assert kinds(found) == [kind] and 'record 1 at byte' in found[0].text and says in found[0].text, found
  assert validate.check(folder, quick=True) == []


def test_frames_that_only_decoding_shows_to_be_bad(tmp_path):
  whole = folders.jpeg(16, 24)
  at = whole.index(b'\xff\xc4')  # the first Huffman table
  broken = whole[: at + 4] + bytes([255] * 24) + whole[at + 28 :]
  folder = make(tmp_path, val=[[damaged('z', {'frames/jpeg': [whole, broken, whole]})]])
  assert validate.check(folder) == []
  found = validate.check(folder, decode=True)
  assert kinds(found) == ['jpeg'] and "'z' window 0: frame 1 cannot be decoded" in found[0].text


def test_duplicates_and_overlap(tmp_path):
  val = [[folders.record('z'), folders.record('z')], [folders.record('d', 1), folders.record('z', 1)]]
  folder = make(tmp_path, val=val)
  for quick in (True, False):
    assert {str(f) for f in validate.check(folder, quick=quick)} == {
      'duplicate: one window is at val-00000-of-00002 record 0 and at val-00000-of-00002 record 1',
      'duplicate: one window is at train-00001-of-00002 record 1 and at val-00001-of-00002 record 0',
      'overlap: one video is at train-00001-of-00002 record 0 and at val-00001-of-00002 record 0',
    }


def run(*args):
  return subprocess.run(
    [sys.executable, '-m', 'data.validate', *map(str, args)],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def test_command(folder):
  result = run(folder)
  assert result.returncode == 0 and 'train: 5 records in 2 shards are as the manifest says' in result.stdout
  write(folder / SHARD, flip(60))
  (folder / 'val.idx').unlink()
  result = run(folder, '--workers', '2')
  assert result.returncode == validate.CLASSES['index'][0]  # the first of the two classes
  assert [line.split(':')[0] for line in result.stdout.splitlines()] == ['index', 'checksum']
  assert result.stderr == '' and run(folder, '--quick').returncode == validate.CLASSES['index'][0]
  assert run('/nowhere').returncode == validate.CLASSES['manifest'][0]


@pytest.mark.parametrize(
  'error, end',
  [
    (BrokenProcessPool('A process died.'), 'worker'),
    (PermissionError(13, 'Permission denied', 'DIR'), 'output'),
    (KeyboardInterrupt(), 'interrupted'),
  ],
)
def test_a_check_that_can_not_go_on_ends_with_one_sentence(monkeypatch, capsys, error, end):
  def fail(*_):
    raise error

  monkeypatch.setattr(validate, 'check', fail)
  assert validate.main(['DIR']) == EXITS[end]
  said = capsys.readouterr().err
  assert said.count('\n') == 1 and 'give the same command again\n' in said.lower()


def test_an_unreadable_file_hides_no_other_finding(folder):
  become_folder(folder / 'dataset_info.json')
  write(folder / SHARD, flip(60))
  assert kinds(validate.check(folder)) == ['unreadable', 'checksum']


def test_codes_are_documented_and_differ():
  codes = [code for code, _ in validate.CLASSES.values()]
  assert len(set(codes)) == len(codes) and codes == sorted(codes) and min(codes) > 2
  text = run('--help').stdout
  assert all(re.search(rf'{code}\s+{kind}\b', text) for kind, (code, _) in validate.CLASSES.items())
