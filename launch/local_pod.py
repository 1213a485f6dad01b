"""Starts N processes on this machine as a pod in miniature: the code path of many machines, on one.

  python launch/local_pod.py --processes 2 --devices 4 -- python -m tvts_jax.main --config=... --workdir=...

Each process has virtual CPU devices of its own and is one of the N of a run: it gets the variables that
tvts_jax.pod.distributed reads. Each line that it prints is shown behind its number.

SIGINT (Ctrl-C), SIGTERM and SIGHUP are passed on to all processes, each time. Once a process has failed, the others get
SIGTERM, and SIGKILL after --grace seconds; after 75, which says "saved, run me again", they get the time but no
SIGTERM, for they are leaving too. What a process leaves running behind itself is ended with it.

With --restarts N all processes are then started again, up to N times, and a run goes on from its last checkpoint: but
not after 0 or 75, nor after 1 or 2, which would only come again, nor once a signal was passed on.

Exit codes: 0 if all processes left with 0; otherwise that of the first that did not, where 128 + n is a death by
signal n; 2 if the command line is wrong or the command cannot be started; 70 if they failed after N restarts, too.
"""

import argparse
import contextlib
import ctypes
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time

LIBC = ctypes.CDLL(None)

# Where one of these is set, gRPC would ask a proxy the way even to this machine.
PROXIES = ('grpc_proxy', 'https_proxy', 'HTTPS_PROXY', 'http_proxy')

FINAL = (0, 1, 2, os.EX_TEMPFAIL)  # Done, an error that a person must mend, a wrong command, saved as asked.
GAVE_UP = os.EX_SOFTWARE  # 70.
TICK = 0.5  # Seconds.


def main(argv=None) -> int:
  args = arguments(argv)
  pod, received, waiting, started = Pod(), [], [], False

  def pass_on(number, frame):
    received.append(number)
    waiting.append(number)
    if started:
      send_waiting()

  def send_waiting():
    # Each once, whether it comes before all are started, after that, or amid this.
    with contextlib.suppress(IndexError):
      while True:
        pod.send(waiting.pop(0))

  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, pass_on)
  for restart in range(args.restarts + 1):
    if restart:
      print(f'local_pod: starting all again, {restart} of {args.restarts}', file=sys.stderr, flush=True)
      pod, started = Pod(), False
    address = f'127.0.0.1:{free_port()}'
    try:
      for index in range(args.processes):
        pod.start(args.command, environment(address, args.processes, index, args.devices))
    except OSError as e:
      pod.kill()
      print(f'local_pod: {args.command[0]} cannot be started: {e.strerror}', file=sys.stderr)
      return 2
    started = True
    send_waiting()
    code = pod.wait(args.grace)
    if code in FINAL or received:
      return code
  return GAVE_UP if args.restarts else code


def arguments(argv):
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--processes', type=positive, default=2, metavar='N', help='how many to start (default: 2)')
  parser.add_argument('--devices', type=positive, default=4, metavar='N', help='CPU devices of each (default: 4)')
  parser.add_argument(
    '--grace', type=float, default=20, metavar='SECONDS', help='left to the others once one failed (default: 20)'
  )
  count = lambda text: 0 if text == '0' else positive(text)
  parser.add_argument('--restarts', type=count, default=0, metavar='N', help='after failures, at most (default: 0)')
  parser.add_argument('command', nargs='+', help='after --, a program and its arguments')
  return parser.parse_args(argv)


def positive(text: str) -> int:
  if not text.isdecimal() or int(text) == 0:
    raise argparse.ArgumentTypeError(f'{text!r} is not a number from 1 up')
  return int(text)


def free_port() -> int:
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def environment(address: str, count: int, index: int, devices: int) -> dict:
  own = dict(os.environ)
  if any(own.get(name) for name in PROXIES):
    own['no_proxy'] = ','.join(filter(None, [own.get('no_proxy', own.get('NO_PROXY')), '127.0.0.1']))
  return {
    **own,
    'JAX_COORDINATOR_ADDRESS': address,
    'JAX_COORDINATOR_BIND_ADDRESS': address,  # Not seen from other machines.
    'JAX_NUM_PROCESSES': str(count),
    'JAX_PROCESS_ID': str(index),
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(devices),
    # Programs of several CPU processes that come out of JAX's cache wait for each other for ever (jax 0.10.2).
    'JAX_ENABLE_COMPILATION_CACHE': 'false',
    'PYTHONUNBUFFERED': '1',
  }


class Pod:
  def __init__(self):
    self._processes, self._threads = [], []
    self._ended = queue.SimpleQueue()  # (index, exit code), in the order of the deaths.
    self._print = threading.Lock()

  def start(self, command, env) -> None:
    # In a session of its own, or a Ctrl-C would come twice: from the terminal and from here.
    process = subprocess.Popen(
      command,
      env=env,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      start_new_session=True,
      preexec_fn=die_with_parent if sys.platform == 'linux' else None,
    )
    index = len(self._processes)
    self._processes.append(process)
    self._thread(self._copy, index, process.stdout, sys.stdout.buffer)
    self._thread(self._copy, index, process.stderr, sys.stderr.buffer)
    self._thread(self._watch, index, process)

  def wait(self, grace: float) -> int:
    """Exit code of the first that failed, or 0."""
    first, deadline = 0, None
    for _ in self._processes:
      try:
        index, code = self._next(deadline)
      except queue.Empty:
        print(f'local_pod: {grace:g} s are over, killing the others', file=sys.stderr, flush=True)
        self.kill()
        break
      if code and not first:
        first, deadline = code, time.monotonic() + grace
        print(f'local_pod: process {index} left with {code}', file=sys.stderr, flush=True)
        if code != os.EX_TEMPFAIL:
          self.send(signal.SIGTERM)
    for thread in self._threads:
      thread.join()
    return first

  def _next(self, deadline: float | None) -> tuple[int, int]:
    """Which process ended, and how. It looks up now and then, for a signal just before a wait does not end that."""
    while True:
      left = TICK if deadline is None else min(TICK, max(0, deadline - time.monotonic()))
      try:
        return self._ended.get(timeout=left)
      except queue.Empty:
        if deadline is not None and time.monotonic() >= deadline:
          raise

  def send(self, number: int) -> None:
    for process in self._processes:
      process.send_signal(number)

  def kill(self) -> None:
    for process in self._processes:
      end_group(process)

  def _thread(self, target, *args) -> None:
    self._threads.append(threading.Thread(target=target, args=args, daemon=True))
    self._threads[-1].start()

  def _watch(self, index: int, process) -> None:
    code = process.wait()
    end_group(process)
    self._ended.put((index, code if code >= 0 else 128 - code))

  def _copy(self, index: int, stream, out) -> None:
    for line in stream:
      with self._print:
        try:
          out.write(b'[%d] %s\n' % (index, line.rstrip(b'\r\n')))
          out.flush()
        except BrokenPipeError:
          # Nobody reads any more: the run must not stand still for it, nor fail when at its end the rest is flushed.
          os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def die_with_parent() -> None:
  """Or a pod whose launcher is killed would go on, out of reach of Ctrl-C."""
  LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG.


def end_group(process) -> None:
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)


if __name__ == '__main__':
  sys.exit(main())
