"""Files and folders that are whole or not there, what is left of those that are not, and folders that are held."""

import errno
import os
import stat
import subprocess
import sys
import threading

import pytest

from tests.support.paths import ROOT
from tvts_jax import files
from tvts_jax.errors import UserError
from tvts_jax.shards import patience, storage


def test_a_file_appears_whole_or_not_at_all(tmp_path):
  path = tmp_path / 'f'
  with pytest.raises(RuntimeError), files.publish(path) as f:
    f.write(b'half')
    raise RuntimeError
  assert list(tmp_path.iterdir()) == []
  with files.publish(path) as f:
    f.write(b'whole')
    assert not path.exists()
  assert path.read_bytes() == b'whole' and [p.name for p in tmp_path.iterdir()] == ['f']
  for content in ('naïve', b'\xff'):
    files.write_whole(path, content)
  assert path.read_bytes() == b'\xff' and [p.name for p in tmp_path.iterdir()] == ['f']


@pytest.mark.parametrize('durable', [True, False])
def test_a_durable_file_and_its_folder_are_on_disk(tmp_path, monkeypatch, durable):
  synced = []
  monkeypatch.setattr(os, 'fsync', lambda handle: synced.append(stat.S_ISDIR(os.fstat(handle).st_mode)))
  files.write_whole(tmp_path / 'f', 'text', durable)
  assert synced == ([False, True] if durable else [])


@pytest.mark.parametrize('number, refused', [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_folders_still_keeps_files(tmp_path, monkeypatch, number, refused):
  def fsync(handle):
    if stat.S_ISDIR(os.fstat(handle).st_mode):
      raise OSError(number, os.strerror(number))

  monkeypatch.setattr(os, 'fsync', fsync)
  monkeypatch.setattr(patience, 'PATIENCE_S', 0)
  if refused:
    with pytest.raises(storage.StorageError, match=f'/f: {os.strerror(number)}, 1 times in 0 s'):
      files.write_whole(tmp_path / 'f', 'text')
  else:
    files.write_whole(tmp_path / 'f', 'text')
  assert (tmp_path / 'f').read_text() == 'text'


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
  target = tmp_path / 'new' / 'model.d'
  with pytest.raises(RuntimeError), files.appear(target) as folder:
    folder.mkdir()
    (folder / 'half').write_text('')
    raise RuntimeError
  assert list(target.parent.iterdir()) == []
  with files.appear(target) as folder:
    folder.mkdir()
    (folder / 'a').write_text('text')
    assert folder.name == target.name and not target.exists()
    (left,) = target.parent.iterdir()
    assert files.HALF.fullmatch(left.name)
  assert list(target.parent.rglob('*')) == [target, target / 'a']
  for there in (target, target / 'a'):
    with pytest.raises(UserError, match=f'{there} exists already; move it away'), files.appear(there):
      pass


def test_a_sweep_removes_what_is_half_written_and_nothing_else(tmp_path):
  folder = tmp_path / 'run[1]'
  kept = [folder / name for name in ('clock.json', '.lock', '.clock.json', 'run-0123abcd', '.run-0123abc')]
  for path in (*kept, folder / '.clock.json-0123abcd', folder / '.parts-0123abcd' / '0'):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('')
  files.sweep(folder)
  assert sorted(folder.iterdir()) == sorted(kept)
  files.sweep(tmp_path / 'none')


def test_a_folder_is_held_by_one_process_which_says_its_name(tmp_path):
  folder = tmp_path / 'new' / 'folder'
  with files.locked(folder) as owner:
    assert owner is None
    for _ in range(2):
      with files.locked(folder) as owner:
        assert owner.startswith(f'process {os.getpid()} on ')
    with files.locked(folder, 'another') as owner:
      assert owner is None
  with files.locked(folder) as owner:
    assert owner is None
  assert (folder / files.LOCK).read_text() == ''


def test_a_process_waits_until_the_one_that_holds_the_folder_dies(tmp_path):
  hold = f'from tvts_jax.files import locked\nwith locked({str(tmp_path)!r}): print(1, flush=True); input()'
  process = subprocess.Popen(
    [sys.executable, '-c', hold], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )
  try:
    process.stdout.readline()
    end = threading.Timer(0.5, process.kill)
    with files.locked(tmp_path) as owner:
      assert owner.startswith(f'process {process.pid} on ')
    end.start()
    with files.locked(tmp_path, wait=True) as owner:
      assert owner is None and end.finished.is_set()
  finally:
    process.kill()
    process.wait()
