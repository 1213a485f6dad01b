"""A work directory has one owner."""

import fcntl
import os
import subprocess
import sys

import pytest

from tvts_jax.errors import UserError
from tvts_jax.files import LOCK, NO_LOCKS
from tvts_jax.run.workdir_lock import hold


def test_a_work_directory_has_one_owner(tmp_path):
  folder = tmp_path / 'new' / 'run'
  with hold(folder):
    for _ in range(2):
      with pytest.raises(UserError, match=f'{folder} is in use by process {os.getpid()} on .*; wait for it, stop it'):
        hold(folder).__enter__()
  with hold(folder), hold(tmp_path / 'another'):
    pass


def test_the_lock_goes_with_its_owner(tmp_path):
  held = f'import fcntl; f = open({str(tmp_path / LOCK)!r}, "w"); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); '
  owner = subprocess.Popen([sys.executable, '-c', held + 'import time; time.sleep(60)'], stdout=subprocess.PIPE)
  owner.stdout.readline()
  with pytest.raises(UserError, match='in use by another process'):
    hold(tmp_path).__enter__()
  owner.kill()
  owner.wait()
  with hold(tmp_path):
    pass


@pytest.mark.parametrize('number', NO_LOCKS)
def test_a_file_system_without_locks_guards_nothing_and_says_so(tmp_path, monkeypatch, caplog, number):
  def refuse(file, how):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(fcntl, 'flock', refuse)
  with hold(tmp_path / 'run'):
    pass
  assert f'{tmp_path}/run is not guarded' in caplog.text and os.strerror(number) in caplog.text


def test_what_can_not_be_a_work_directory(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='file/run cannot be a work directory: Not a directory'):
    hold(tmp_path / 'file' / 'run').__enter__()
