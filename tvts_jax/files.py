"""Files that readers find whole, whatever happens while they are written; local paths and buckets alike."""

import atexit
import functools
import json
import os
import pathlib
import re
import secrets
import shutil
import tempfile
from collections.abc import Collection

from etils import epath

from tvts_jax.errors import UserError

FETCHED = 'tvts_jax-'  # Before the number of the process that has fetched what is in such a folder.
HALF = re.compile(r'\..+-[0-9a-f]{8}')  # The name of a file that write_whole has not finished.


def is_local(path) -> bool:
  return '://' not in os.fspath(path)


def local(path, only: Collection[str] | None = None) -> pathlib.Path:
  """The path as it is; of a file or flat folder in a bucket a copy, with all its files or those named in `only`."""
  return pathlib.Path(path) if is_local(path) else _fetched(os.fspath(path), only)


@functools.cache
def _fetched(path: str, only: Collection[str] | None) -> pathlib.Path:
  """Lasts as long as this process, or if it is killed, until the next one."""
  source = epath.Path(path)
  if not source.exists():
    raise UserError(f'{source} is not there, or may not be read from here')
  for old in pathlib.Path(tempfile.gettempdir()).glob(f'{FETCHED}*-*'):
    try:
      os.kill(int(old.name.removeprefix(FETCHED).partition('-')[0]), 0)
    except ProcessLookupError:
      shutil.rmtree(old, ignore_errors=True)
    except (ValueError, PermissionError):
      pass  # Not ours.
  own = tempfile.mkdtemp(prefix=f'{FETCHED}{os.getpid()}-')
  atexit.register(shutil.rmtree, own, ignore_errors=True)
  copy = pathlib.Path(own, source.name)
  if not source.is_dir():
    source.copy(copy)
    return copy
  copy.mkdir()
  for file in source.iterdir():
    if not file.is_dir() and (only is None or file.name in only):
      file.copy(copy / file.name)
  return copy


def write_whole(path, text: str):
  """Puts `text` in the place of what `path` holds: whoever reads sees the old or the new, never a half."""
  path = epath.Path(path)
  temp = path.with_name(f'.{path.name}-{secrets.token_hex(4)}')
  try:
    with temp.open('wb') as file:
      file.write(text.encode())
      file.flush()
      if is_local(path):
        os.fsync(file.fileno())
    temp.replace(path)
  except BaseException as error:
    temp.unlink(missing_ok=True)
    if isinstance(error, OSError) and error.filename is None:
      error.filename = str(path)  # Which an error of writing lacks.
    raise


def sweep(folder):
  """Removes what processes that died amid write_whole have left in a local folder. For the folder's owner alone."""
  folder = epath.Path(folder)
  if is_local(folder) and folder.exists():
    for path in folder.iterdir():
      if HALF.fullmatch(path.name):
        path.unlink()


def read_rows(path) -> tuple[list[dict], list[int]]:
  """The lines of a JSONL file that are objects with a "step", and the numbers, from 1, of those that are not."""
  path = epath.Path(path)
  rows, broken = [], []
  for number, line in enumerate(path.read_bytes().split(b'\n') if path.exists() else [], 1):
    if not line:
      continue
    try:
      row = json.loads(line)
    except (ValueError, RecursionError):
      row = None
    if isinstance(row, dict) and type(step := row.get('step')) is int and 0 <= step < 2**53:
      rows.append(row)
    else:
      broken.append(number)
  return rows, broken
