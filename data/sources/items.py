"""One item of a source, and where items come from: folders of videos, and tables (JSONL, CSV, TSV) line by line."""

import codecs
import csv
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data import archives
from data.outcomes import BuildError, ItemError
from tvts_jax.media import paths

MAX_LINE_BYTES = 32 << 20
# Control characters, line separators, and bytes of a file name that are no UTF-8.
UNPRINTABLE = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
_DELIMITERS = {'.csv': ',', '.tsv': '\t'}


@dataclass(frozen=True, slots=True)
class Item:
  """A video or image with its transcript or caption. References are as in `data.archives`."""

  id: str
  video: str
  transcript: str | None
  fmt: str | None  # of the transcript; None: found out when it is read
  lang: str  # '' where nobody says
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
  if '://' in path:
    raise SourceError('bad_table', f'{where}: {path[:80]!r} is an address; download it first and give the file')
  if '\0' in path:
    raise SourceError('bad_table', f'{where}: a path holds a NUL character')
  return os.path.join(folder, path) + (f'::{inside}' if inside else '')


def is_table(path: str) -> bool:
  return os.path.isfile(path) and path.lower().endswith((*_DELIMITERS, '.jsonl', '.jsonl.gz'))


def head(path: str) -> list[str]:
  """The fields of a table's first line, or the keys of its first object: enough to tell layouts apart."""
  for _, fields in _objects(path) if _is_jsonl(path) else _records(path):
    return list(fields)
  return []


def rows(path: str, columns: list[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
  """(Where, row) of a table, one line in memory at a time; empty fields and nulls are left out.

  columns: names for a delimited table without a header.
  """
  for where, row in _objects(path) if _is_jsonl(path) else _named(path, columns):
    yield where, {key: value for key, value in row.items() if value not in ('', None)}


def text(row: dict, key: str, where: str) -> str | None:
  """A field as text; numbers are taken too, as ids often look like some."""
  value = row.get(key)
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)
  if value is not None and not isinstance(value, str):
    raise SourceError('bad_table', f'{where}: {key} must be text, not {str(value)[:60]}')
  return value


def _is_jsonl(path):
  return path.lower().endswith(('.jsonl', '.jsonl.gz'))


def _objects(path):
  try:
    for number, (_, line) in enumerate(archives.lines(path, MAX_LINE_BYTES), 1):
      if line.strip():
        yield f'{path}, line {number}', parse_object(line, f'{path}, line {number}')
  except ItemError as error:
    raise SourceError('bad_archive', error.detail) from error


def parse_object(line: bytes, where: str) -> dict[str, Any]:
  """A line of JSON that holds an object."""
  try:
    row = json.loads(line.removeprefix(codecs.BOM_UTF8))
  except (ValueError, RecursionError) as error:
    raise SourceError('bad_table', f'{where}: no readable JSON ({error})') from error
  if not isinstance(row, dict):
    raise SourceError('bad_table', f'{where}: holds {type(row).__name__}, not an object with named fields')
  return row


def _named(path, columns):
  for where, fields in _records(path):
    if columns is None:
      columns = [field.strip() for field in fields]
      if len(set(columns)) < len(columns):
        raise SourceError('bad_table', f'{where}: two columns have the same name')
      continue
    if len(fields) != len(columns):
      raise SourceError('bad_table', f'{where}: {len(fields)} fields where {len(columns)} are expected')
    yield where, dict(zip(columns, fields))


def _records(path):
  """(Where, list of fields) of the lines of a delimited file that are not blank."""
  line = 0
  try:
    with open(path, encoding='utf-8-sig', newline='') as file:
      delimiter = '\t' if '\t' in file.readline(1 << 20) else _DELIMITERS[os.path.splitext(path)[1].lower()]
      file.seek(0)
      # In a TSV a quote is a quote: captions are full of single ones.
      quoting = csv.QUOTE_NONE if delimiter == '\t' else csv.QUOTE_MINIMAL
      reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
      for fields in reader:
        line = reader.line_num
        if fields:
          yield f'{path}, line {line}', fields
  except UnicodeDecodeError as error:
    raise SourceError('bad_table', f'{path} is not UTF-8 somewhere behind line {line}: {error.reason}') from error
  except csv.Error as error:
    raise SourceError('bad_table', f'{path}, line {line + 1}: {error}') from error
