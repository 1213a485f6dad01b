"""Joins the processes of a run, and ends this one when another of them is gone.

Three variables say who takes part; launch/local_pod.py sets them, and so can any other launcher:

JAX_COORDINATOR_ADDRESS  host:port of process 0
JAX_NUM_PROCESSES        how many processes there are; 1 means that this one is alone, whatever machine it is on
JAX_PROCESS_ID           which of them this one is, from 0

Without the latter two, JAX itself looks for a cluster it knows: Cloud TPU, Slurm, Open MPI, Kubernetes.

A process that dies, fails or stands still ends the others, and they say which it was and where: at once, or, if all of
it stopped or its machine is gone, after TVTS_HEARTBEAT_S seconds (by default 30) without a sign of life. They leave
with the exit code of one that failed, otherwise with RESTART. By itself JAX would wait for minutes, then abort.
"""

import atexit
import os
import re
import signal
import sys
import time
from typing import NoReturn

import jax
from jax._src import distributed as jax_distributed  # Its store of keys and values has no public name.

from tvts_jax.errors import UserError
from tvts_jax.pod.peers import RESTART, Peers

VARIABLES = ADDRESS, COUNT, INDEX = 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'
HEARTBEAT, HEARTBEAT_S = 'TVTS_HEARTBEAT_S', 30
# How libraries begin what they say when another process is lost, and when something else is wrong.
LOSS = re.compile('(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED): ')

peers = None  # Peers, once this process has joined others.


def initialize() -> None:
  """Called once, before anything touches a device. Raises UserError if the variables do not fit together."""
  values = {name: os.environ.get(name) for name in VARIABLES}
  silence_s = seconds(HEARTBEAT, HEARTBEAT_S)
  late = {'heartbeat_timeout_seconds': 2 * silence_s}  # JAX must not abort a process before Peers has spoken.
  if values[COUNT] == '1':
    return
  if values[COUNT] is None and values[INDEX] is None:
    if os.environ.get('SLURM_NTASKS') == '1':
      return  # JAX would take one GPU of all that the task was given.
    try:
      jax.distributed.initialize(**late)
    except ValueError as e:
      if 'coordinator_address' not in str(e):
        raise
      return  # No cluster that JAX knows: this process is alone.
  elif missing := [name for name, value in values.items() if not value]:
    raise UserError(f'{missing[0]} is not set, but {COUNT} or {INDEX} is; set all three of {", ".join(VARIABLES)}')
  elif not (values[COUNT].isdecimal() and values[INDEX].isdecimal() and int(values[INDEX]) < int(values[COUNT])):
    raise UserError(
      f'{INDEX}={values[INDEX]} is none of the {COUNT}={values[COUNT]} processes; they are counted from 0'
    )
  else:
    jax.distributed.initialize(values[ADDRESS], int(values[COUNT]), int(values[INDEX]), **late)
  global peers
  joined = jax_distributed.global_state
  peers = Peers(joined.process_id, joined.num_processes, joined.coordinator_address, joined.client, silence_s)
  atexit.register(peers.say_goodbye)
  show = sys.excepthook
  sys.excepthook = lambda kind, error, trace: (show(kind, error, trace), leave(1, error))


def seconds(variable: str, default: int) -> int:
  text = os.environ.get(variable) or str(default)
  if not text.isdecimal() or int(text) == 0:
    raise UserError(f'{variable}={text} should be a number of seconds, from 1 up')
  return int(text)


def leave(code: int, error: BaseException | None = None) -> NoReturn:
  """sys.exit, which several processes do together. error: what this one alone leaves for, if anything."""
  if peers:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # There is nothing left to save.
    if is_loss(error):
      time.sleep(peers.silence_s + 5)  # If it was one, this process ends here, saying which.
    sys.stdout.flush()
    peers.leave(code, f'left with {code} for what it printed')
  sys.exit(code)


def is_loss(error: BaseException | None) -> bool:
  """Whether the loss of another process may be the root of an error."""
  while error is not None:
    if LOSS.match(str(error)):
      return True
    error = error.__cause__ or error.__context__
  return False


def give_up(what: str) -> NoReturn:
  """Leaves with RESTART, from any thread. what: what is to be said of this process."""
  if peers:
    peers.leave(RESTART, what, stacks=True)
  os._exit(RESTART)
