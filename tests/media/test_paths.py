"""Videos in tars: what others pack, and what strangers may send."""

import gzip
import hashlib
import io
import os
import tarfile

import pytest

from data import archives
from tvts_jax.errors import UserError
from tvts_jax.media import paths
from tvts_jax.media.errors import MediaError


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


def refused(code, call, *args):
  with pytest.raises(MediaError) as caught:
    call(*args)
  assert caught.value.code == code, caught.value
  return caught.value.detail


def test_references():
  assert paths.split_ref('/a/b.mp4') == ('/a/b.mp4', None)
  assert paths.split_ref('/a/b.tar::c/d.mp4') == ('/a/b.tar', 'c/d.mp4')
  assert paths.split_ref('/a/b.jsonl.gz::77') == ('/a/b.jsonl.gz', '77')
  assert paths.split_ref('/a/b::c.mp4') == ('/a/b::c.mp4', None)
  assert paths.split_ref('/a/b.tar::c.tar::d') == ('/a/b.tar', 'c.tar::d')


@pytest.mark.parametrize('form', [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tar_members(tmp_path, form):
  content = bytes(range(256)) * 40
  path = tar(tmp_path / 'a.tar', special('d', tarfile.DIRTYPE), ('d/x.mp4', content), ('./y.txt', b'yes'), form=form)
  assert list(paths.members(path)) == ['d/x.mp4', 'y.txt']
  assert archives.open_bytes(f'{path}::y.txt', 10) == b'yes'
  assert archives.open_bytes(f'{path}::d/x.mp4', 1 << 20) == content
  refused('oversized_video', archives.open_bytes, f'{path}::d/x.mp4', 100)
  refused('missing_video', archives.open_bytes, f'{path}::z', 100)
  refused('missing_video', archives.open_bytes, f'{tmp_path}/b.tar::z', 100)
  with paths.open_media(f'{path}::d/x.mp4') as file:
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
  assert path in refused('bad_archive', paths.members, path)
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
    refused('bad_archive', paths.members, str(path))


def test_a_tar_may_end_with_a_single_block(tmp_path):
  tar(tmp_path / 'a.tar', ('a', b'x' * 5000), ('b', b'y' * 5000))
  path = tmp_path / 'short.tar'
  path.write_bytes((tmp_path / 'a.tar').read_bytes()[: 2 * 5632 + 512])
  assert list(paths.members(str(path))) == ['a', 'b']


def test_what_follows_the_end_of_a_tar(tmp_path):
  tar(tmp_path / 'a.tar', ('a', b'x' * 5000))
  whole = (tmp_path / 'a.tar').read_bytes()
  path = tmp_path / 'more.tar'
  for trailing in (b'garbage ustar', os.urandom(3000)):
    path.write_bytes(whole + trailing)
    assert list(paths.members(str(path))) == ['a']
  path.write_bytes(whole + whole)
  said = refused('bad_archive', paths.members, str(path))
  assert f'a second archive follows at byte {len(whole)}; unpack both' in said
  path.write_bytes(whole[:5632] + b'garbage' + whole[5639:])
  assert 'damaged or cut short at byte 5632' in refused('bad_archive', paths.members, str(path))


def test_the_hash_is_of_the_whole_file():
  data = bytes(range(256)) * 10_000
  file = io.BytesIO(data)
  file.read(1000)
  assert paths.sha256(file) == hashlib.sha256(data).hexdigest()


def test_videos_of_folders_within_folders(tmp_path):
  for name in ('b.mp4', 'deep/er/a.MKV', 'deep/z.webm', 'deep/._z.webm', 'deep/z.txt', 'picture.jpg'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  names = [os.path.relpath(path, tmp_path) for path in paths.videos_under(str(tmp_path))]
  assert names == ['b.mp4', 'deep/z.webm', 'deep/er/a.MKV']
  assert list(paths.videos_under(str(tmp_path), paths.IMAGES)) == [str(tmp_path / 'picture.jpg')]
  with pytest.raises(UserError, match='gone cannot be read'):
    list(paths.videos_under(str(tmp_path / 'gone')))
