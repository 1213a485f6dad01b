"""Joins the processes of a run. Called once, before anything touches a device.

Three variables say who takes part; launch/local_pod.py sets them, and so can any other launcher:

JAX_COORDINATOR_ADDRESS  host:port of process 0
JAX_NUM_PROCESSES        how many processes there are; 1 means that this one is alone, whatever machine it is on
JAX_PROCESS_ID           which of them this one is, from 0

Without the latter two, JAX itself looks for a cluster it knows: Cloud TPU, Slurm, Open MPI, Kubernetes.
"""

import os

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
      # No cluster that JAX knows: this process is alone.
    return
  if missing := [name for name, value in values.items() if not value]:
    raise UserError(f'{missing[0]} is not set, but {COUNT} or {INDEX} is; set all three of {", ".join(VARIABLES)}')
  if not (values[COUNT].isdecimal() and values[INDEX].isdecimal() and int(values[INDEX]) < int(values[COUNT])):
    raise UserError(
      f'{INDEX}={values[INDEX]} is none of the {COUNT}={values[COUNT]} processes; they are counted from 0'
    )
  jax.distributed.initialize(values[ADDRESS], int(values[COUNT]), int(values[INDEX]))
