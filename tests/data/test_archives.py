import gzip
import io
import json
import os
import tarfile

import pytest

from data import archives
from data.outcomes import ItemError


def tar(path, *entries, form=tarfile.PAX_FORMAT):
  """A tar of (name, bytes) pairs and ready-made TarInfos."""
  with tarfile.open(path, 'w', format=form) as file:
    for entry in entries:
      if isinstance(entry, tarfile.TarInfo):
        file.addfile(entry)
      else:
        info = tarfile.TarInfo(entry[0])
        info.size = len(entry[1])
        file.addfile(info, io.BytesIO(entry[1]))
  return str(path)


def special(name, kind, link=''):
  info = tarfile.TarInfo(name)
  info.type, info.linkname = kind, link
  return info


def refused(code, call, *args, **kwargs):
  with pytest.raises(ItemError) as caught:
    call(*args, **kwargs)
  assert caught.value.code == code, caught.value
  return caught.value.detail


def test_references():
  assert archives.split_ref('/a/b.mp4') == ('/a/b.mp4', None)
  assert archives.split_ref('/a/b.tar::c/d.mp4') == ('/a/b.tar', 'c/d.mp4')
  assert archives.split_ref('/a/b.jsonl.gz::77') == ('/a/b.jsonl.gz', '77')
  assert archives.split_ref('/a/b::c.mp4') == ('/a/b::c.mp4', None)
  assert archives.split_ref('/a/b.tar::c.tar::d') == ('/a/b.tar', 'c.tar::d')


def test_files(tmp_path):
  path = tmp_path / 'x.mp4'
  path.write_bytes(b'0123456789')
  assert archives.open_bytes(str(path), 10) == b'0123456789'
  assert '10 bytes' in refused('oversized_video', archives.open_bytes, str(path), 9)
  refused('oversized_transcript', archives.open_bytes, str(path), 9, 'transcript')
  for missing in (tmp_path / 'y', tmp_path, '/dev/zero', '', 'a\0b'):
    refused('missing_video', archives.open_bytes, str(missing), 10)
  refused('missing_transcript', archives.open_bytes, str(tmp_path / 'y'), 10, 'transcript')
  os.mkfifo(tmp_path / 'pipe')  # must not wait for a writer
  refused('missing_video', archives.open_bytes, str(tmp_path / 'pipe'), 10)
  assert archives.exists(str(path)) and not archives.exists(str(tmp_path)) and not archives.exists('a\0b')


@pytest.mark.parametrize('form', [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tar_members(tmp_path, form):
  content = bytes(range(256)) * 40
  path = tar(tmp_path / 'a.tar', special('d', tarfile.DIRTYPE), ('d/x.mp4', content), ('./y.txt', b'yes'), form=form)
  assert list(archives.members(path)) == ['d/x.mp4', 'y.txt']
  assert archives.open_bytes(f'{path}::y.txt', 10) == b'yes'
  assert archives.open_bytes(f'{path}::d/x.mp4', 1 << 20) == content
  refused('oversized_video', archives.open_bytes, f'{path}::d/x.mp4', 100)
  refused('missing_video', archives.open_bytes, f'{path}::z', 100)
  refused('missing_video', archives.open_bytes, f'{tmp_path}/b.tar::z', 100)
  with archives.open_media(f'{path}::d/x.mp4') as file:
    assert file.seekable() and file.read(3) == content[:3]
    assert file.seek(-2, io.SEEK_END) == len(content) - 2 and file.read(100) == content[-2:]
    assert file.seek(5) == 5 and file.seek(2, io.SEEK_CUR) == 7 and file.read(1) == content[7:8]
    assert file.seek(len(content) + 5) and file.read() == b''
  assert file.closed


def test_a_tar_that_changes_is_read_anew(tmp_path):
  path = tar(tmp_path / 'a.tar', ('x', b'one'))
  assert archives.open_bytes(f'{path}::x', 10) == b'one'
  tar(tmp_path / 'a.tar', ('w' * 3, b'0' * 2000), ('x', b'three'))
  assert archives.open_bytes(f'{path}::x', 10) == b'three'


@pytest.mark.parametrize(
  'entry',
  [
    ('/etc/passwd', b'x'),
    ('../x', b'x'),
    ('a/../../x', b'x'),
    special('link', tarfile.SYMTYPE, '/etc/passwd'),
    special('link', tarfile.LNKTYPE, 'a'),
    special('null', tarfile.CHRTYPE),
    special('pipe', tarfile.FIFOTYPE),
    ('a', b'again'),
  ],
)
def test_hostile_tar_members(tmp_path, entry):
  path = tar(tmp_path / 'a.tar', ('a', b'x'), entry)
  assert path in refused('bad_archive', archives.members, path)
  refused('bad_archive', archives.open_bytes, f'{path}::a', 10)


def test_damaged_tars(tmp_path):
  tar(tmp_path / 'a.tar', ('a', b'x' * 5000), ('b', b'y' * 5000))
  whole = (tmp_path / 'a.tar').read_bytes()
  for name, data in {
    'cut': whole[:7000],
    'header': whole[:100],
    'noise': os.urandom(4096),
    'page': b'<html>' * 200,
    'gz': gzip.compress(whole),
    'cut between members': whole[:5632],
    'second header': whole[:5700] + b'?' + whole[5701:],
    'two of them': whole + whole,
  }.items():
    path = tmp_path / f'{name}.tar'
    path.write_bytes(data)
    refused('bad_archive', archives.members, str(path))


def test_a_tar_may_end_with_a_single_block(tmp_path):
  tar(tmp_path / 'a.tar', ('a', b'x' * 5000), ('b', b'y' * 5000))
  path = tmp_path / 'short.tar'
  path.write_bytes((tmp_path / 'a.tar').read_bytes()[: 2 * 5632 + 512])
  assert list(archives.members(str(path))) == ['a', 'b']


def test_what_follows_the_end_of_a_tar(tmp_path):
  tar(tmp_path / 'a.tar', ('a', b'x' * 5000))
  whole = (tmp_path / 'a.tar').read_bytes()
  path = tmp_path / 'more.tar'
  for trailing in (b'garbage ustar', os.urandom(3000)):
    path.write_bytes(whole + trailing)
    assert list(archives.members(str(path))) == ['a']
  path.write_bytes(whole + whole)
  said = refused('bad_archive', archives.members, str(path))
  assert f'a second archive follows at byte {len(whole)}; unpack both' in said
  path.write_bytes(whole[:5632] + b'garbage' + whole[5639:])
  assert 'damaged or cut short at byte 5632' in refused('bad_archive', archives.members, str(path))


def test_inflate():
  assert archives.inflate(gzip.compress(b'x' * 100), 100, 'transcript') == b'x' * 100
  refused('oversized_transcript', archives.inflate, gzip.compress(b'x' * 101), 100, 'transcript')
  refused('bad_archive', archives.inflate, gzip.compress(b'x' * 100)[:-9], 100, 'transcript')


LINES = [json.dumps({'id': n, 'text': 'x' * (n * 37 % 900)}).encode() for n in range(400)]


def compressed_as(kind):
  text = b'\n'.join(LINES) + (b'' if kind == 'no_end' else b'\n')
  if kind == 'members':  # as bgzip and parallel gzips write
    return b''.join(gzip.compress(line + b'\n') for line in LINES)
  return gzip.compress(text, 1)


@pytest.mark.parametrize('kind', ['one', 'members', 'no_end'])
def test_lines_of_a_gzip_file_at_any_offset(tmp_path, monkeypatch, kind):
  monkeypatch.setattr(archives, '_MARK_BYTES', 5000)  # many marks
  monkeypatch.setattr(archives, '_READ_BYTES', 700)
  path = tmp_path / 'x.jsonl.gz'
  path.write_bytes(compressed_as(kind))
  found = list(archives.lines(str(path), 2000))
  assert [line for _, line in found] == LINES
  for offset, line in found[::17] + found[::-31] + [found[-1]] * 2:
    assert archives.open_bytes(f'{path}::{offset}', 2000, 'transcript').rstrip() == line
  end = sum(len(line) + 1 for line in LINES)
  refused('missing_transcript', archives.open_bytes, f'{path}::{end}', 2000, 'transcript')
  refused('missing_transcript', archives.open_bytes, f'{path}::first', 2000, 'transcript')
  refused('oversized_transcript', archives.open_bytes, f'{path}::{found[7][0]}', 100, 'transcript')


def test_reading_on_does_not_inflate_from_the_start(tmp_path, monkeypatch):
  monkeypatch.setattr(archives, '_MARK_BYTES', 5000)
  monkeypatch.setattr(archives, '_READ_BYTES', 700)
  path = tmp_path / 'x.jsonl.gz'
  path.write_bytes(compressed_as('one'))
  offset, line = list(archives.lines(str(path), 2000))[-1]
  archives.open_bytes(f'{path}::{offset}', 2000, 'transcript')
  chunks = []
  walk = archives._Gzip._chunks
  monkeypatch.setattr(archives._Gzip, '_chunks', lambda self, at: (chunks.append(c) or c for c in walk(self, at)))
  assert archives.open_bytes(f'{path}::{offset}', 2000, 'transcript').rstrip() == line
  assert 0 < sum(len(chunk) for _, chunk in chunks) < 7000


def test_lines_of_a_plain_file(tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(b'\r\n'.join(LINES))
  found = list(archives.lines(str(path), 2000))
  assert [line for _, line in found] == LINES
  for offset, line in found[::50]:
    assert archives.open_bytes(f'{path}::{offset}', 2000, 'transcript').rstrip() == line
  refused('oversized_transcript', list, archives.lines(str(path), 100))


def test_damaged_gzip_lines(tmp_path):
  whole = compressed_as('one')
  path = tmp_path / 'x.jsonl.gz'
  for damaged in (whole[:500] + bytes(60) + whole[560:], whole[: len(whole) // 2]):
    path.write_bytes(damaged)
    refused('bad_archive', list, archives.lines(str(path), 1 << 20))
  offset = sum(len(line) + 1 for line in LINES[:-3])
  refused('bad_archive', archives.open_bytes, f'{path}::{offset}', 1 << 20, 'transcript')
