"""Processes that add numbers together, and what may happen to them: python -m tests.support.adders WHAT"""

import itertools
import socket
import subprocess
import sys
import time

import jax
import numpy as np

from launch.local_pod import environment, free_port
from tests.support.paths import ROOT
from tvts_jax.pod import distributed
from tvts_jax.pod.peers import LIBC
from tvts_jax.run.clock import Clock
from tvts_jax.run.watchdog import Watchdog

TROUBLE = 20  # The step at which it comes.


def start(what: str, count: int, **variables) -> list[subprocess.Popen]:
  """Without a launcher, which would have its own ways with those that are left."""
  address = f'127.0.0.1:{free_port()}'
  pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
  command = [sys.executable, '-m', 'tests.support.adders', what]
  return [
    subprocess.Popen(command, env=environment(address, count, index, 1) | variables, **pipes) for index in range(count)
  ]


def end(processes) -> None:
  for process in processes:
    process.kill()
    process.communicate()


def wait_for_word(process, word: str) -> None:
  for line in process.stdout:
    if line == f'{word}\n':
      return
  raise AssertionError(process.stderr.read())


def strangers(address, timeout, connect=socket.create_connection):
  """Who else may come to an open port before this process does."""
  for word in (b'', b'GET / HTTP/1.0\r\n\r\n', b'\xff' * 2000):
    with connect(address, timeout) as stranger:
      stranger.sendall(word)
  return connect(address, timeout)


def sleep_in_python():
  while True:
    time.sleep(1)


def wait_in_c():
  LIBC.pause()


def run(what: str) -> None:
  if what == 'strangers':
    socket.create_connection = strangers
  distributed.initialize()
  index, count = jax.process_index(), jax.process_count()
  mesh = jax.make_mesh((count,), ('data',))
  x = jax.make_array_from_callback(
    (count,), jax.NamedSharding(mesh, jax.P('data')), lambda at: np.arange(count, dtype=float)[at]
  )
  clock = Clock()
  with Watchdog(clock):
    with clock.span('compile'):
      add = jax.jit(lambda x: x + x.sum() / 1e3, out_shardings=x.sharding)
      add(x).block_until_ready()
    for step in itertools.count():
      if step == TROUBLE:
        print('running', flush=True)
        if what in ('strangers', 'end'):
          break
      with clock.span('input'):
        if step == TROUBLE and index == count - 1:
          {'hang': sleep_in_python, 'stuck': wait_in_c, 'bug': lambda: {}['key']}.get(what, lambda: None)()
        time.sleep(0.02)
      with clock.span('step'):
        x = add(x)
        x.block_until_ready()
  if index == 0:
    time.sleep(1000 if what == 'end' else 2)  # The others have to wait for this one.


if __name__ == '__main__':
  run(sys.argv[1])
