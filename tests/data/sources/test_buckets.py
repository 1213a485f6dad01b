"""Videos and transcripts in a bucket: the same items, the same bytes and the same complaints as on a disk."""

import dataclasses
import gzip
import io
import json

import pytest

from data import archives, build
from data.outcomes import EXITS, ItemError
from data.sources import find
from tests.data.builder.test_build import SMALL, add_item, outcome_lines
from tests.data.sources.test_sources import JSON3, folder, jsonl, record, tar, tvts, write
from tests.support import bucket, media
from tvts_jax.media import paths
from tvts_jax.media.errors import MediaError
from tvts_jax.shards import storage


@pytest.fixture(scope='module')
def server():
  with bucket.server() as client:
    yield client


@pytest.fixture(autouse=True)
def undisturbed(server):
  server.zero()
  yield
  server.set(rules=[])


def upload(root, there):
  for file in storage.files_below(root):
    (storage.path(there) / file.relative_to(root)).write(file.read_bytes())


def merlot(root):
  lines = gzip.compress(jsonl(record('a'), record('b')).encode())
  return write(root, {'yttemporal180m_0.jsonl.gz': lines, 'v/a.mp4': b'v', 'v/._a.mp4': b'', 'w/b.mkv': b'v'})


def tars(root):
  root.mkdir()
  tar(root / '0.tar', {'0.mp4': b'v0', '0.json3': JSON3, '1.jpg': b'i', '1.txt': 'a dog'})
  tar(root / '._1.tar', {})
  return root


def tree(root):
  return write(folder(root), {'b/c.mp4': b'v', 'b/c.de.vtt': 'x', 'd.mp4': b'v', 'd.json': {}, 'd.srt': 'x'})


def tables(root):
  return write(folder(root), {'x.csv': 'id,video,transcript\na,a.mp4,a.json3\nb,c/../a.mp4,\n'})


SOURCES = {
  'index': (tables, '/x.csv'),
  'tree': (tree, ''),
  'tvts': (tvts, ''),
  'merlot': (merlot, ''),
  'webdataset': (tars, ''),
}


def dump(items) -> str:
  return json.dumps([dataclasses.asdict(item) for item in items])


@pytest.mark.parametrize('kind', SOURCES)
def test_every_kind_of_source(server, tmp_path, kind):
  make, source = SOURCES[kind]
  here, there = make(tmp_path / kind), f'gs://bucket/{kind}'
  upload(here, there)
  assert find.detect(there + source) == kind
  items = find.find(there + source)
  on_disk = dump(find.find(f'{here}{source}'))
  assert dump(items) == on_disk.replace(str(here), there).replace('c/../', '')
  for item in items:
    for ref in filter(None, (item.video, item.transcript)):
      if paths.exists(ref):
        assert archives.open_bytes(ref, 1 << 20) == archives.open_bytes(ref.replace(there, str(here)), 1 << 20)


def test_an_object_is_fetched_in_ranges_and_checked_first(server, monkeypatch):
  monkeypatch.setattr(paths, 'FETCH_BYTES', 1000)
  content = bytes(range(256)) * 10
  storage.path('gs://bucket/x/a.mp4').write(content)
  server.zero()
  with paths.open_media('gs://bucket/x/a.mp4') as file:
    assert file.seek(-2, io.SEEK_END) == 2558 and file.read() == content[-2:]
    assert file.seek(0) == 0 and file.read() == content
  assert server.counts()['counts'] == {'obstore head': 1, 'obstore get': 3}
  server.zero()
  with pytest.raises(ItemError, match='oversized_transcript.*2560 bytes'):
    archives.open_bytes('gs://bucket/x/a.mp4', 2559, 'transcript')
  with pytest.raises(ItemError, match="missing_video: 'gs://bucket/x/b.mp4': No such file"):
    archives.open_bytes('gs://bucket/x/b.mp4', 10)
  assert server.counts()['counts'] == {'obstore head': 2}
  server.set(rules=[{'match': 'get .*a.mp4', 'do': 'status', 'status': 403}])
  with pytest.raises(MediaError, match='missing_video: gs://bucket/x/a.mp4 cannot be opened: Permission denied'):
    paths.open_media('gs://bucket/x/a.mp4')


def contents(out) -> dict[str, bytes]:
  names = ('*.tfrecord', '*.idx', 'manifest.json', 'report.json', 'dataset_info.json', 'features.json')
  return {file.name: file.read_bytes() for name in names for file in out.glob(name)}


def test_a_build_writes_the_same_bytes(server, tmp_path, monkeypatch):
  """A list on a disk of what lies in a bucket, where some reads fail; and a folder in a bucket, into the bucket."""
  source = tmp_path / 'source'
  source.mkdir()
  for name in ('a', 'b', 'cut', 'page', 'mute', 'gone'):
    add_item(source, name)
  media.truncate(source / 'cut.mp4', 0.3)
  (source / 'page.json3').write_text('<!DOCTYPE html><html><body>no</body></html>')
  (source / 'mute.json3').unlink()
  (source / 'gone.mp4').unlink()
  upload(source, 'gs://bucket/source')
  rows = [json.loads(line) for line in (source / 'index.jsonl').read_text().splitlines()]
  for line in rows:
    line.update({name: f'gs://bucket/source/{line[name]}' for name in ('video', 'transcript')})
  write(tmp_path, {'index.jsonl': jsonl(*rows)})
  options = [*SMALL.split(), '--workers', '1', '--max-failed-fraction', '1']
  assert build.main([str(source / 'index.jsonl'), '--out', str(tmp_path / 'disk'), *options]) == 0
  server.set(rules=[{'match': 'get .*source/', 'do': 'truncate', 'count': 3}])
  assert build.main([str(tmp_path / 'index.jsonl'), '--out', str(tmp_path / 'mixed'), *options]) == 0
  assert server.counts()['faults'] == {'truncate': 3}
  assert build.main(['gs://bucket/source/index.jsonl', '--out', 'gs://bucket/out', *options]) == 0
  expected = contents(tmp_path / 'disk')
  assert len(expected) == 8 and contents(tmp_path / 'mixed') == contents(storage.path('gs://bucket/out')) == expected
  complaints = {name: line['code'] for name, line in outcome_lines(tmp_path / 'mixed').items()}
  assert complaints == {name: line['code'] for name, line in outcome_lines(tmp_path / 'disk').items()}
  assert complaints == {
    'a': 'ok',
    'b': 'ok',
    'cut': 'truncated_video',
    'page': 'html_transcript',
    'mute': 'missing_transcript',
    'gone': 'missing_video',
  }


def test_a_bucket_that_stays_away_ends_the_build_and_no_item(server, tmp_path, capfd):
  add_item(tmp_path, 'a')
  upload(tmp_path, 'gs://bucket/away')
  server.set(rules=[{'match': 'get .*a.mp4', 'do': 'status', 'status': 503, 'count': 10**6}])
  out = tmp_path / 'out'
  command = ['gs://bucket/away/index.jsonl', '--out', str(out), *SMALL.split(), '--workers', '1', '--item-seconds', '6']
  assert build.main(command) == EXITS['output']
  says = capfd.readouterr().err.splitlines()[-1]
  assert says.startswith('error: gs://bucket/away/a.mp4: ') and 'run the same command again' in says
  assert not list(out.glob('*.tfrecord'))
  server.set(rules=[])
  assert build.main(command) == 0
