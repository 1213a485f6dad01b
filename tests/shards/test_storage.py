"""Storage against a real server on loopback: the client is the one that runs use, and so are its connections."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.support import bucket
from tvts_jax.errors import UserError
from tvts_jax.shards import patience, storage
from tvts_jax.shards.hedge import Hedge

BIG = np.random.default_rng(0).bytes(12 << 20)


@pytest.fixture(scope='module')
def server():
  with bucket.server() as client:
    storage.path('gs://b/big').write(BIG)
    yield client


@pytest.fixture(autouse=True)
def no_faults(request, monkeypatch):
  monkeypatch.setattr(patience, 'WAIT_S', 0.01)
  if 'server' in request.fixturenames:
    server = request.getfixturevalue('server')
    server.set(rules=[], latency=0.0)
    server.zero()


def test_paths_are_those_of_pathlib():
  path = storage.path('gs://b/run//a/./metrics.jsonl')
  assert str(path) == 'gs://b/run/a/metrics.jsonl' == os.fspath(storage.path('gs://b') / 'run' / 'a/metrics.jsonl')
  assert (path.name, path.stem, path.suffix, path.parent.name) == ('metrics.jsonl', 'metrics', '.jsonl', 'a')
  assert str(path.with_suffix('.x')) == 'gs://b/run/a/metrics.x' and str(path.with_name('y')) == 'gs://b/run/a/y'
  assert path.relative_to(storage.path('gs://b/run')).as_posix() == 'a/metrics.jsonl'
  assert path == storage.path('gs://b/run/a/metrics.jsonl') and len({path, path.parent, path.parent}) == 2
  assert str(storage.path('/tmp/x')) == '/tmp/x' and not storage.is_local('s3://b/x')
  with pytest.raises(UserError, match='ftp://b/x is of an unknown kind; known: gs://, s3://, az://'):
    storage.path('ftp://b/x')


def test_files_come_back(server):
  folder = storage.path('gs://b/ru n/#1')
  names = ['a', 'deep/er/b~', 'deep/c %41.bin']
  for name in names:
    (folder / name).write(name.encode())
  assert storage.files_below(folder) == sorted(folder / name for name in names)
  assert [path.name for path in folder.iterdir()] == ['a', 'deep']
  assert [path.name for path in (folder / 'deep').glob('c*')] == ['c %41.bin']
  assert (folder / names[1]).read_text() == names[1] and (folder / 'a').stat().size == 1
  assert folder.is_dir() and folder.exists() and not folder.is_file() and not (folder / 'nothing').exists()
  folder.rename(storage.path('gs://b/moved'))
  assert not folder.exists() and storage.read_bytes('gs://b/moved/deep/er/b~') == b'deep/er/b~'
  storage.remove_tree('gs://b/moved')
  assert not storage.files_below('gs://b/moved')
  assert not storage.path('gs://b/moved/a').unlink(missing_ok=True)
  with pytest.raises(FileNotFoundError, match='gs://b/moved/a'):
    storage.path('gs://b/moved/a').unlink()


def test_ranges_are_read_over_kept_connections(server):
  ranges = [(i * 1000, 500) for i in range(50)]
  assert storage.read_ranges('gs://b/big', ranges) == [BIG[a : a + n] for a, n in ranges]
  for a, n in ranges:
    assert storage.read_range('gs://b/big', a, n) == BIG[a : a + n]
  assert storage.read_range('gs://b/big', len(BIG) - 3, 9) == BIG[-3:]
  assert storage.read_range('gs://b/big', len(BIG) + 3, 9) == b''
  counts = server.counts()
  assert counts['counts'] == {'obstore get': 102}
  assert counts['bytes_out'] == 100 * 500 + 3 and counts['connections'] <= 50
  with storage.path('gs://b/big').open() as file:
    assert (file.seek(7), file.read(5), file.seek(-2, 2), file.read()) == (7, BIG[7:12], len(BIG) - 2, BIG[-2:])


def test_a_local_file_is_read_in_the_same_way(tmp_path):
  (tmp_path / 'f').write_bytes(b'0123456789')
  assert storage.read_ranges(tmp_path / 'f', [(2, 3), (8, 9)]) == [b'234', b'89']
  assert storage.stat(tmp_path / 'f').size == 10 and storage.files_below(tmp_path) == [tmp_path / 'f']


def test_conditional_writes(server):
  path = storage.path('gs://b/owner')
  seen = path.create(b'first')
  with pytest.raises(FileExistsError, match='gs://b/owner'):
    path.create(b'second')
  newer = path.replace_version(b'third', seen)
  with pytest.raises(FileExistsError):
    path.replace_version(b'fourth', seen)
  assert path.read_version() == (b'third', newer)


@pytest.mark.parametrize(
  ('fault', 'requests'),
  [
    ({'do': 'status', 'status': 503, 'count': 3}, 4),
    ({'do': 'status', 'status': 429, 'count': 2}, 3),
    ({'do': 'reset', 'count': 2}, 3),
    ({'do': 'truncate', 'count': 1}, 2),
    ({'do': 'status', 'status': 503, 'count': 9}, 10),  # More than the client tries by itself.
  ],
)
def test_a_blink_is_survived(server, fault, requests):
  server.set(rules=[{'match': 'get', **fault}])
  assert storage.read_range('gs://b/big', 5, 1_000_000) == BIG[5:1_000_005]
  assert server.counts()['counts'] == {'obstore get': requests}


def test_a_write_whose_answer_is_lost_counts_once(server):
  server.set(rules=[{'match': 'put', 'do': 'lost', 'count': 1}])
  seen = storage.path('gs://b/new').create(b'mine')
  server.set(rules=[{'match': 'put', 'do': 'lost', 'count': 1}])
  assert storage.path('gs://b/new').replace_version(b'mine, too', seen)
  assert server.read('b/new') == b'mine, too'


def test_what_is_removed_without_an_answer_is_gone(server):
  folder = storage.path('gs://b/old')
  for name in ('a', 'b', 'c'):
    (folder / name).write(b'')
  server.set(rules=[{'match': 'delete', 'do': 'lost', 'count': 1}])
  storage.remove_tree(folder)
  assert not folder.exists() and server.counts()['counts']['obstore delete'] > 3


def test_what_lasts_is_an_error_at_once(server):
  with pytest.raises(FileNotFoundError, match="No such file or directory: 'gs://b/nothing'"):
    storage.read_bytes('gs://b/nothing')
  server.set(rules=[{'match': 'get', 'do': 'status', 'status': 403}])
  with pytest.raises(PermissionError, match="Permission denied: 'gs://b/big'"):
    storage.read_range('gs://b/big', 0, 1)
  assert server.counts()['counts'] == {'obstore get': 2}


def test_what_outlasts_our_patience_is_a_storage_error(server, monkeypatch):
  monkeypatch.setattr(patience, 'PATIENCE_S', 3.0)
  server.set(rules=[{'match': 'get', 'do': 'status', 'status': 503}])
  before = storage.RETRIES.count
  with pytest.raises(storage.StorageError, match=r'^gs://b/big: .*503.*times in .* s; put the storage right and run'):
    storage.read_range('gs://b/big', 0, 1)
  assert storage.RETRIES.count > before


def test_a_server_that_is_gone_for_a_while(server, tmp_path):
  """A real process reads while its real server is stopped, and goes on when it is back on the same port."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  serve = lambda: subprocess.Popen([sys.executable, '-m', 'tests.support.bucket', str(port)], stdout=subprocess.PIPE)
  first = serve()
  first.stdout.readline()
  code = (
    'from tvts_jax.shards import storage; p = storage.path("gs://b/x"); p.write(b"1"); print("written", flush=True)\n'
    'input(); p.write(b"2"); print(p.read_text())'
  )
  env = {**os.environ, 'STORAGE_EMULATOR_HOST': f'127.0.0.1:{port}'}
  pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  with subprocess.Popen([sys.executable, '-c', code], env=env, **pipes) as reader:
    assert reader.stdout.readline() == 'written\n'
    first.send_signal(signal.SIGKILL)
    first.wait()
    reader.stdin.write('\n')
    reader.stdin.flush()
    time.sleep(1)
    second = serve()
    out, err = reader.communicate(timeout=60)
    second.kill()
    second.wait()
  assert out == '2\n', err


def test_a_read_that_is_late_is_sent_again():
  from concurrent.futures import ThreadPoolExecutor

  with ThreadPoolExecutor(4) as pool:
    hedge, calls = Hedge(pool), []

    def read():
      calls.append(None)
      time.sleep(1 if len(calls) == 201 else 0.001)
      return b''

    for _ in range(200):
      hedge.read(read)
    assert 0.02 <= hedge.late_s < 0.3
    begin = time.monotonic()
    hedge.read(read)
    assert time.monotonic() - begin < 0.7 and len(calls) == 202
