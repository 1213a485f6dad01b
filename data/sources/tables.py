"""Tables (JSONL, CSV, TSV), line by line."""

import codecs
import csv
import io
import json
import os
from collections.abc import Iterator
from typing import Any

from data import archives
from data.outcomes import ItemError
from data.sources.items import SourceError
from tvts_jax.shards import storage

MAX_LINE_BYTES = 32 << 20
DELIMITERS = {'.csv': ',', '.tsv': '\t'}


def is_table(path: str) -> bool:
  return storage.path(path).is_file() and path.lower().endswith((*DELIMITERS, '.jsonl', '.jsonl.gz'))


def head(path: str) -> list[str]:
  """The fields of a table's first line, or the keys of its first object: enough to tell layouts apart."""
  for _, fields in objects(path) if is_jsonl(path) else records(path):
    return list(fields)
  return []


def rows(path: str, columns: list[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
  """(Where, row) of a table, one line in memory at a time; empty fields and nulls are left out.

  columns: names for a delimited table without a header.
  """
  for where, row in objects(path) if is_jsonl(path) else named(path, columns):
    yield where, {key: value for key, value in row.items() if value not in ('', None)}


def text(row: dict, key: str, where: str) -> str | None:
  """A field as text; numbers are taken too, as ids often look like some."""
  value = row.get(key)
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)
  if value is not None and not isinstance(value, str):
    raise SourceError('bad_table', f'{where}: {key} must be text, not {str(value)[:60]}')
  return value


def is_jsonl(path):
  return path.lower().endswith(('.jsonl', '.jsonl.gz'))


def objects(path):
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


def named(path, columns):
  for where, fields in records(path):
    if columns is None:
      columns = [field.strip() for field in fields]
      if len(set(columns)) < len(columns):
        raise SourceError('bad_table', f'{where}: two columns have the same name')
      continue
    if len(fields) != len(columns):
      raise SourceError('bad_table', f'{where}: {len(fields)} fields where {len(columns)} are expected')
    yield where, dict(zip(columns, fields))


def records(path):
  """(Where, list of fields) of the lines of a delimited file that are not blank."""
  line = 0
  try:
    with io.TextIOWrapper(storage.path(path).open('rb'), encoding='utf-8-sig', newline='') as file:
      delimiter = '\t' if '\t' in file.readline(1 << 20) else DELIMITERS[os.path.splitext(path)[1].lower()]
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
