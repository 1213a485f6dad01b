"""Files that ask for more than they are: nothing of them is run, and nothing is read before its size was looked at.

What else strangers may send is in test_pth.py, test_paths.py, test_archives.py, test_transcripts.py, test_video.py and
test_data.py.
"""

import resource
import tarfile

import pytest

from tests.media.test_paths import tar
from tvts_jax import config
from tvts_jax.errors import UserError
from tvts_jax.media import paths
from tvts_jax.media.errors import MediaError


@pytest.mark.parametrize('kind', [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize('place', ['first', 'second'])
def test_a_header_of_a_tar_takes_no_more_memory_than_a_name_needs(tmp_path, kind, place):
  """The file has the size that the header claims, but next to nothing on the disk."""
  size = 1 << 28
  header = tarfile.TarInfo('bomb')
  header.type, header.size = kind, size
  path = tar(tmp_path / 'a.tar', ('a', b'x'))
  with open(path, 'r+b') as file:
    file.seek(0 if place == 'first' else 1024)
    file.write(header.tobuf(tarfile.GNU_FORMAT))
    file.truncate(file.tell() + size + 1024)
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(MediaError, match=f'a header claims to have {size} bytes') as error:
    paths.members(path)
  assert error.value.code == 'bad_archive'
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < most + 2**16  # KiB


def test_long_names_in_a_tar_are_fine(tmp_path):
  name = '/'.join(['x' * 200] * 20)
  for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
    assert list(paths.members(tar(tmp_path / f'{form}.tar', (name, b'x'), form=form))) == [name]


@pytest.mark.parametrize(
  'text',
  [
    b'input.batch: __import__("os").mkdir("made")',
    b'input.batch: [].append(open("made", "w"))',
    b'input.batch: 10 ** 10 ** 10',
    b'input.folder: "a" * 10 ** 12',
    b'input.batch: ' + b'9' * 10**5,
    b'input.batch: ' + b'(' * 10**5,
    b'input.batch: ' + b'-' * 10**6 + b'1',
    b'input.batch: ' + b'1+' * 10**5 + b'1',
    b'input.batch: ' + b'{1: ' * 10**4,
    b'input.batch: "\xff\xfe"',
    b'input.batch: \x00',
    b'input.batch: None',
    b'input.seconds: 3',
    b'input.mode: {}',
  ],
)
def test_the_config_of_a_work_directory_is_text(tmp_path, monkeypatch, text):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'config.txt').write_bytes(text)
  with pytest.raises(UserError, match='config.txt is damaged at ') as error:
    config.read_input(tmp_path)
  assert len(str(error.value)) < 400 and str(error.value).isprintable()
  assert [path.name for path in tmp_path.iterdir()] == ['config.txt']
