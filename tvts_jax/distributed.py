"""Joins the processes of a run. Called once, before anything touches a device.

Three variables say who takes part; launch/local_pod.py sets them, and so can any other launcher:

JAX_COORDINATOR_ADDRESS  host:port of process 0
JAX_NUM_PROCESSES        how many processes there are; 1 means that this one is alone, whatever machine it is on
JAX_PROCESS_ID           which of them this one is, from 0

Without the latter two, JAX itself looks for a cluster it knows: Cloud TPU, Slurm, Open MPI, Kubernetes.

A process of several that fails leaves at once, with 1. By itself Python would first let JAX say goodbye to the
others, for minutes, while they wait for the failed one in the middle of a step.
"""

import os
import sys
from typing import NoReturn

import jax

from tvts_jax.errors import UserError

VARIABLES = ADDRESS, COUNT, INDEX = 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'


def initialize() -> None:
  """Raises UserError if the variables do not fit together."""
  values = {name: os.environ.get(name) for name in VARIABLES}
  if values[COUNT] == '1':
    return
  if values[COUNT] is None and values[INDEX] is None:
    try:
      jax.distributed.initialize()
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
    jax.distributed.initialize(values[ADDRESS], int(values[COUNT]), int(values[INDEX]))
  show = sys.excepthook
  sys.excepthook = lambda *error: (show(*error), leave(1))


def leave(code: int) -> NoReturn:
  """sys.exit, but without a goodbye to the other processes where there are some."""
  if jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  sys.exit(code)
