"""One live run in each work directory."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from tvts_jax.errors import UserError
from tvts_jax.files import locked
from tvts_jax.shards.storage import StorageError


@contextlib.contextmanager
def hold(workdir) -> Iterator[None]:
  """Taken by process 0, refused in all processes alike, freed when process 0 leaves or dies."""
  with contextlib.ExitStack() as stack:
    owner = None
    if jax.process_index() == 0:
      try:
        owner = stack.enter_context(locked(workdir))
      except StorageError:
        raise
      except OSError as e:
        raise UserError(f'{workdir} cannot be a work directory: {e.strerror}') from e
    refused = owner is not None
    if jax.process_count() > 1:
      refused = bool(multihost_utils.broadcast_one_to_all(np.int32(refused)))
    if refused:
      raise UserError(
        f'{workdir} is in use by {owner or "another run"}; wait for it, stop it, or give another work directory'
      )
    yield
