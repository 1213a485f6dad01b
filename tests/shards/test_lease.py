"""A folder in a bucket has one owner: real processes, a real server."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.support import bucket
from tests.support.paths import ROOT
from tvts_jax.shards import lease, storage

OWN = """
import sys, time
from tvts_jax.shards import lease, storage
lease.RENEW_S, lease.LEASE_S = 0.2, 2.0
with lease.held(storage.path(sys.argv[1])) as owner:
  print(owner, flush=True)
  sys.stdin.readline()
"""


@pytest.fixture(scope='module', autouse=True)
def server():
  with bucket.server() as client:
    yield client


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(lease, 'RENEW_S', 0.2)
  monkeypatch.setattr(lease, 'LEASE_S', 2.0)


def own(folder):
  pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  process = subprocess.Popen([sys.executable, '-c', OWN, folder], cwd=ROOT, **pipes)
  return process, process.stdout.readline().strip()


def test_a_second_owner_is_refused_until_the_first_one_leaves():
  first, owner = own('gs://b/one')
  assert owner == 'None'
  with lease.held(storage.path('gs://b/one')) as other:
    assert other == f'process {first.pid} on {socket.gethostname()}'
  assert json.loads(storage.read_bytes('gs://b/one/owner.json'))['pid'] == first.pid
  assert first.communicate('\n', timeout=20)[1] == '' and first.returncode == 0
  assert not storage.path('gs://b/one/owner.json').exists()
  with lease.held(storage.path('gs://b/one')) as other:
    assert other is None
    lease.renew()


def test_one_that_was_killed_here_is_followed_at_once():
  first, owner = own('gs://b/two')
  first.send_signal(signal.SIGKILL)
  first.communicate()
  begin = time.monotonic()
  with lease.held(storage.path('gs://b/two')) as other:
    assert other is None and time.monotonic() - begin < 1


def test_one_of_another_machine_that_gives_no_sign_of_life_is_followed_after_a_while():
  storage.path('gs://b/three/owner.json').write(b'{"host": "elsewhere", "pid": 1}')
  begin = time.monotonic()
  with lease.held(storage.path('gs://b/three')) as other:
    assert other is None and 2 <= time.monotonic() - begin < 10


def test_who_was_paused_and_followed_ends_before_it_writes():
  first, owner = own('gs://b/four')
  os.kill(first.pid, signal.SIGSTOP)
  storage.path('gs://b/four/owner.json').write(b'{"host": "elsewhere", "pid": 7}')
  os.kill(first.pid, signal.SIGCONT)
  assert first.wait(timeout=20) == 1
  _, said = first.communicate()
  assert said.startswith('error: gs://b/four was taken over by process 7 on elsewhere, for this process gave no sign')
  assert json.loads(storage.read_bytes('gs://b/four/owner.json'))['pid'] == 7
