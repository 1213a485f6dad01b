"""One item of a source, what its paths may be, and the error of a source that makes no sense as a whole."""

import os
import re
from dataclasses import dataclass

from data.outcomes import BuildError
from tvts_jax.errors import UserError
from tvts_jax.media import paths
from tvts_jax.shards import storage

# Control characters, line separators, and bytes of a file name that are no UTF-8.
UNPRINTABLE = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')


@dataclass(frozen=True, slots=True)
class Item:
  """A video or image with its transcript or caption. References are as in `data.archives`."""

  id: str
  video: str
  transcript: str | None
  fmt: str | None  # Of the transcript; None: found out when it is read.
  lang: str  # '' where nobody says.
  split: str
  caption: str | None


SOURCE_CODES = {
  'no_source': 'there is nothing to read at the path',
  'unknown_kind': 'no kind of source has that name',
  'ambiguous_kind': 'the source could be read as several kinds, or as none',
  'ambiguous_lang': 'a video has captions in several languages',
  'bad_table': 'a line of a table lacks a field, has a wrong one, or is unreadable',
  'bad_id': 'an id is empty, too long, or holds what no id may',
  'duplicate_id': 'two items have the same id',
  'bad_archive': 'a tar or gzip file is damaged, or holds links or paths out of it',
  'nothing_found': 'not one item, or not one of their files, is there',
}


def printable(text: str) -> str:
  """File names and ids can hold anything; a message is one line that every terminal can show."""
  return UNPRINTABLE.sub(lambda found: found[0].encode('unicode_escape').decode(), text)


class SourceError(BuildError):
  """A source that makes no sense as a whole: one sentence, and a code of SOURCE_CODES."""

  def __init__(self, code: str, sentence: str):
    if code not in SOURCE_CODES:
      raise KeyError(f'{code!r} is no source code; known: {", ".join(SOURCE_CODES)}')
    super().__init__(printable(sentence), 'request')
    self.code = code


def resolve(folder: str, ref: str, where: str) -> str:
  """A reference out of a table, whose paths are relative to a folder."""
  path, inside = paths.split_ref(ref)
  if '\0' in path:
    raise SourceError('bad_table', f'{where}: a path holds a NUL character')
  if storage.is_local(path):
    path = os.path.join(folder, path)
  try:
    path = path if storage.is_local(path) else absolute(path)
  except UserError as error:
    advice = 'is an address; download it first and give the file'
    raise SourceError('bad_table', f'{where}: {path[:80]!r} {advice}') from error
  return path + (f'::{inside}' if inside else '')


def absolute(path: str) -> str:
  """The path of a file or folder, on a disk or in a bucket; UserError for an address of another kind."""
  if storage.is_local(path):
    return os.path.abspath(path)
  scheme, _, rest = path.partition('://')
  return str(storage.path(f'{scheme}://{os.path.normpath(rest)}'))
