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

from etils import epath

from tvts_jax.errors import UserError

HALF = re.compile(r'\..+-[0-9a-f]{8}')  # The name of a file that write_whole has not finished.


def is_local(path) -> bool:
  return '://' not in os.fspath(path)


@functools.cache
def local(path) -> pathlib.Path:
  """The path as it is, or a copy, which lasts as long as this process, of a file or flat folder in a bucket."""
  if is_local(path):
    return pathlib.Path(path)
  source = epath.Path(path)
  if not source.exists():
    raise UserError(f'{source} is not there, or may not be read from here')
  own = tempfile.mkdtemp(prefix='tvts_jax-')
  atexit.register(shutil.rmtree, own, ignore_errors=True)
  copy = pathlib.Path(own, source.name)
  if source.is_dir():
    copy.mkdir()
  for file in source.iterdir() if source.is_dir() else [source]:
    if not file.is_dir():
      file.copy(copy / file.name if copy.is_dir() else copy)
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
