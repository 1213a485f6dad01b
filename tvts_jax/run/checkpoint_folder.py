"""One checkpoint as it lies in a folder: arrays as orbax writes them, JSON beside them, and a list of all files.

Not orbax's CheckpointManager: all processes must agree that a save has failed, and go on.

FOLDER/state holds arrays under flat names, so that no class of another library is part of the format; FOLDER/meta.json
what the caller gave and what the arrays are; FOLDER/checksums.sha256 the list, which is written last.
"""

import asyncio
import json
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import jax
import orbax.checkpoint as ocp
from absl import logging

from tvts_jax.errors import UserError
from tvts_jax.files import write_whole
from tvts_jax.run import checksums
from tvts_jax.run.orbax_files import orbax_path
from tvts_jax.sharding import path_name
from tvts_jax.shards import storage

STATE = 'state'
META = 'meta.json'
SHOWN = 3  # How many of the differing arrays a refusal names.
SETTLE = 60  # Seconds left to the other threads of a write that failed.
ERRORS = OSError, ValueError, RuntimeError, KeyError  # What orbax and tensorstore raise.


class CheckpointError(UserError):
  """A checkpoint that cannot be written, read or used, in one sentence."""


def begin(folder, arrays: dict) -> list:
  """Starts to write; the arrays may be donated once this returns. What it gives is for wait(), and so are errors."""
  try:
    (folder / STATE).mkdir(parents=True, exist_ok=True)
    return run(ocp.PyTreeCheckpointHandler().async_save(orbax_path(folder / STATE), args=ocp.args.PyTreeSave(arrays)))
  except ERRORS as e:
    return [failed(e)]


def failed(error: Exception) -> Future:
  write = Future()
  write.set_exception(error)
  return write


def wait(writes: list) -> str | None:
  """Until this process has written its part: None. Or has not, and no thread of it is still at it: why."""
  try:
    for write in writes:
      write.result()
  except ERRORS as e:
    settle()
    return reason(e)
  return None


def complete(folder, content: str, final, before: Callable[[], None]) -> str | None:
  """For one process, when all have written: adds what is lacking, and the name under which it counts. → why not."""
  try:
    ocp.PyTreeCheckpointHandler().finalize(orbax_path(folder / STATE))
    write_whole(folder / META, content)
    before()
    checksums.write(folder)
    if folder != final:
      folder.rename(final)
  except ERRORS as e:
    return reason(e)
  return None


def is_complete(folder) -> bool:
  """A bucket cannot rename a folder: there it has its name from the start, and its list tells that all has come."""
  return storage.is_local(folder) or (folder / checksums.LIST).exists()


def read_content(folder) -> dict:
  try:
    content = json.loads((folder / META).read_text())
  except storage.StorageError:
    raise
  except ERRORS as e:
    raise CheckpointError(f'{folder} cannot be read: {reason(e)}') from e
  return content if isinstance(content, dict) else {}


def is_content(content: dict) -> bool:
  """Whether it has the fields that save() writes, of their types."""
  arrays, fingerprints, meta = map(content.get, ('arrays', 'fingerprints', 'meta'))
  if not all(isinstance(field, dict) for field in (arrays, fingerprints, meta)):
    return False
  is_size = lambda size: type(size) is int and size >= 0
  is_array = lambda array: (
    isinstance(array, dict)
    and isinstance(array.get('dtype'), str)
    and isinstance(array.get('shape'), list)
    and all(map(is_size, array['shape']))
  )
  return all(map(is_array, arrays.values())) and arrays.keys() == fingerprints.keys()


def read_arrays(folder, wanted: dict) -> tuple[dict, str | None]:
  """(arrays, None), or ({}, why not). wanted: jax.ShapeDtypeStructs with shardings, by the names of some of them."""
  args = ocp.args.PyTreeRestore(
    wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted), partial_restore=True
  )
  try:
    restored = ocp.PyTreeCheckpointHandler().restore(orbax_path(folder / STATE), args=args)
    return {name: restored[name] for name in wanted}, None
  except ERRORS as e:
    return {}, reason(e)


def remove(folder) -> str | None:
  """→ why it cannot. A folder that stays does no harm but to the space it takes."""
  try:
    storage.remove_tree(folder)
  except OSError as e:
    logging.warning('%s could not be removed: %s', folder, reason(e))
    return f'{folder} could not be removed: {reason(e)}'
  return None


def run(coroutine):
  """What asyncio.run does, but for a look at the tasks of all threads, of which orbax has some."""
  loop = asyncio.new_event_loop()
  try:
    return loop.run_until_complete(coroutine)
  finally:
    loop.close()


def settle() -> None:
  """Waits for the threads of a failed write."""
  end = time.monotonic() + SETTLE
  for thread in threading.enumerate():
    if type(thread).__module__.startswith('orbax.'):
      threading.Thread.join(thread, max(0, end - time.monotonic()))  # Not their own join, which raises the error again.


def quieter(hook):
  """A sys.unraisablehook that leaves out what follows a failed write: of each that still runs, tensorstore tells a
  loop that orbax has closed, which would bury the sentence that matters under hundreds of traces."""
  closed = lambda error: isinstance(error, RuntimeError) and str(error) == 'Event loop is closed'
  return lambda unraisable: None if closed(unraisable.exc_value) else hook(unraisable)


def reason(error: Exception) -> str:
  """The part of an error of the storage libraries that a person needs."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  if found := re.search(r"os_error_code='(\d+)'", str(error)):
    return os.strerror(int(found[1]))
  first = str(error).strip().partition('\n')[0]
  return f'{type(error).__name__}: {first[:300]}'


def named(tree) -> dict:
  return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def describe(array) -> dict:
  return {'shape': list(array.shape), 'dtype': str(array.dtype)}


def refuse_differing(held: dict, wanted: dict, where) -> None:
  """Raises CheckpointError if names, shapes or types differ: orbax itself would cast silently."""
  wanted = {name: describe(x) for name, x in wanted.items()}
  text = lambda array: f'{array["dtype"]} {array["shape"]}'
  found = []
  for name in sorted(held.keys() | wanted.keys(), key=lambda name: (not name.startswith('params/'), name)):
    if name not in held:
      found.append(f'{name} is missing there')
    elif name not in wanted:
      found.append(f'{name} is only there')
    elif held[name] != wanted[name]:
      found.append(f'{name} is {text(held[name])} there and {text(wanted[name])} here')
  if found:
    more = f' (and {len(found) - SHOWN} more)' if len(found) > SHOWN else ''
    raise CheckpointError(
      f'{where} is of another model: {"; ".join(found[:SHOWN])}{more}; '
      'take the configuration it was made with, or an empty work directory'
    )
