"""Checks of the work directory: it can be written, nobody else is there, and checkpoints have room."""

import os
import pathlib
import secrets
import shutil
import socket

from tvts_jax.doctor import examination
from tvts_jax.doctor.examination import Run, within
from tvts_jax.doctor.weights import state_bytes
from tvts_jax.errors import UserError
from tvts_jax.human import size
from tvts_jax.shards import storage as storage_lib


def storage(run: Run) -> str:
  from tvts_jax.files import write_whole

  def use(path) -> None:
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      try:
        for text in ('a first text', 'what took its place'):
          write_whole(path, text)
          if (got := path.read_text()) != text:
            raise UserError(f'{run.workdir} gave back {got!r} for {text!r}; take storage that keeps what is written')
      finally:
        path.unlink(missing_ok=True)
    except OSError as e:
      why = e.strerror or str(e)[:300]
      raise UserError(f'{run.workdir} cannot be a work directory: {why}; mend that or give another --workdir') from e

  late = f'{run.workdir} has not answered within {examination.WAIT} s; see that its storage is there'
  within(examination.WAIT, late, use, storage_lib.path(run.workdir) / f'.doctor-{secrets.token_hex(4)}')
  return f'{run.workdir} can be written, read back, renamed in and deleted from'


def lock(run: Run) -> str:
  """No run lives there, and it is one and the same folder to all processes."""
  import jax
  import numpy as np
  from jax.experimental import multihost_utils

  from tvts_jax.files import write_whole
  from tvts_jax.run import workdir_lock

  def share() -> None:
    with workdir_lock.hold(run.workdir):
      if jax.process_count() == 1:
        return
      token = int(multihost_utils.broadcast_one_to_all(np.int32(secrets.randbits(31))))
      path = storage_lib.path(run.workdir) / f'.doctor-{token:x}'
      if run.index == 0:
        write_whole(path, '')
      multihost_utils.sync_global_devices('written')
      seen = path.exists()
      multihost_utils.sync_global_devices('looked')
      if run.index == 0:
        path.unlink()
      if not seen:
        raise UserError(
          f'{run.workdir} on {socket.gethostname()} is not the folder that process 0 writes to; give a --workdir that '
          'all processes share'
        )

  within(
    examination.WAIT,
    f'the processes have not agreed about {run.workdir} within {examination.WAIT} s; see that all reach it',
    share,
  )
  return f'no run lives in {run.workdir}'


def space(run: Run) -> str:
  """Room for all checkpoints that a run keeps and the one that it writes, less those that are there."""
  from tvts_jax.run.checkpoint_reader import FOLDER

  each, keep = state_bytes(run.shapes), run.config.checkpoint.keep
  what = f'a checkpoint takes {size(each)}, and up to {keep + 1} lie in {run.workdir} at a time'
  if not storage_lib.is_local(run.workdir):
    return f'{what}; how much is free there is not known'
  there = sum(path.name.isdigit() for path in (storage_lib.path(run.workdir) / FOLDER).glob('*'))
  need = each * (keep + 1 - min(there, keep))
  path = pathlib.Path(os.path.abspath(run.workdir))
  free = shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free
  if free < need:
    raise UserError(
      f'{what}, so the run needs {size(need)} more than is there, but {size(free)} are free; make room, give another '
      '--workdir, or keep fewer with --config.checkpoint.keep'
    )
  return f'{what}; {size(free)} are free'
