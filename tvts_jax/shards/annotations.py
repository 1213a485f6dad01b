"""What is known of the clips of a benchmark: annotations.jsonl, as `data.check NAME PATH --out DIR` writes it.

One JSON object a line, one line a clip, the clips without a video among them:

  id        text, once in the file: the video/id of the clip's record in the shards, which lack the missing ones
  split     'train', 'val' or 'test'
  label     number of its class, from 0. In a file of one's own it may be the name of the class instead: then the
            classes are numbered by name, and '' is no label. Absent where it is not known, of a split as a whole
  class     name of its class in words; absent where there are no classes or they have no names
  captions  list of texts, each about the whole clip. Several: every one is a query, or all of them are one, as the
            evaluator says. Absent or empty where there are none
  pairs     of SVO-Probes, whose clips are images, in the line of the one that the sentences are true of: list of
            {"sentence": text, "negative": id of the other image, "negated": list, of 'subj', 'verb' and 'obj' those
            in which the other image differs: one, but for some sentences, which the official score leaves out}

Over all splits of a file the labels run from 0 without holes, and each has one name. Other fields are left as they are.
"""

import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.shards import storage

NEGATED = ('subj', 'verb', 'obj')
MAKE = 'python -m data.check NAME PATH --out DIR makes one'


def is_text(value) -> bool:
  return isinstance(value, str)


def is_name(value) -> bool:
  return is_text(value) and value != ''


def is_texts(value) -> bool:
  return isinstance(value, list) and all(map(is_text, value))


def is_label(value) -> bool:
  return is_text(value) or type(value) is int and value >= 0


def is_pair(value) -> bool:
  texts = isinstance(value, dict) and is_text(value.get('sentence')) and is_text(value.get('negative'))
  return texts and is_texts(value.get('negated')) and set(value['negated']) <= set(NEGATED)


class Field(NamedTuple):
  of: Callable[[Any], Any]  # Its value, out of a clip as data/benchmarks reads it; None: the line lacks it.
  what: str  # Its type in words.
  fits: Callable[[Any], bool]  # Whether a value is of the type.
  required: bool = False


# Of a line, in this order: data.check writes it by this table, `read` checks it by the same.
FIELDS = {
  'id': Field(lambda clip: clip.id, 'text', is_name, required=True),
  'split': Field(lambda clip: clip.split, 'text', is_name, required=True),
  'label': Field(lambda clip: clip.label, 'a number from 0 or the name of a class', is_label),
  'class': Field(lambda clip: clip.name, 'text', is_text),
  'captions': Field(lambda clip: list(clip.captions), 'a list of texts', is_texts),
  'pairs': Field(
    lambda clip: list(clip.pairs) or None,
    'a list of objects with sentence, negative and negated',
    lambda value: isinstance(value, list) and all(map(is_pair, value)),
  ),
}


class Annotations(NamedTuple):
  """The clips in the order of the file, labels as numbers; `classes[label]` is a name, or None where there is none."""

  rows: list[dict[str, Any]]
  classes: list[str | None]


def read(path, split: str | None = None) -> Annotations:
  """The clips of a split, or of all, and the classes of the whole file; UserError, in one sentence, if it is wrong."""
  path = storage.path(path)
  if not path.exists():
    raise UserError(f'{path} is not there; {MAKE}')
  rows, places = [], {}
  for number, line in enumerate(path.read_bytes().split(b'\n'), 1):
    if line.strip():
      row, where = parse(line, f'{path}, line {number}'), f'{path}, line {number}'
      if row['id'] in places:
        raise UserError(f'{where}: the clip {row["id"]!r} was listed before, in line {places[row["id"]]}')
      places[row['id']] = number
      rows.append(row)
  number_labels(rows, path)
  check_labels(rows, path)
  for row in rows:
    for pair in row.get('pairs', ()):
      if pair['negative'] not in places:
        raise UserError(f'{path}: the image {pair["negative"]!r}, the negative of {row["id"]!r}, has no line')
  classes = classes_of(rows, path)
  chosen = [row for row in rows if split in (None, row['split'])]
  if not chosen:
    known = ', '.join(sorted({row['split'] for row in rows})) or 'none'
    raise UserError(f'{path} has no clip of split {split!r}; its splits: {known}')
  return Annotations(chosen, classes)


class Answers(NamedTuple):
  """Rows by split, each {'id', 'split', 'label', 'class', 'captions'} as far as they have them."""

  path: str
  rows: dict[str, list[dict]]
  classes: list[str]

  def labels(self, rows: list[dict]) -> np.ndarray:
    """int64 [R]"""
    if lacking := next((row['id'] for row in rows if row.get('label') is None), None):
      raise UserError(f'{self.path} has no label for {lacking!r}; name the field that holds it by label=...')
    return np.array([row['label'] for row in rows], np.int64)

  def captions(self, rows: list[dict]) -> list[list[str]]:
    if lacking := next((row['id'] for row in rows if not row.get('captions')), None):
      raise UserError(f'{self.path} has no captions for {lacking!r}; name the field that holds them by captions=...')
    return [row['captions'] for row in rows]


def answers(path: str, splits: tuple[str, ...], label: str = '', captions: str = '') -> Answers:
  """Of some splits of a file. UserError if one of them has no row.

  `label` and `captions` name other fields of it to read; a label is a number, or the name of a class: then the classes
  of the splits that are looked at are numbered by name.
  """
  rows, classes = read(path)
  by_split = {split: [row for row in rows if row['split'] == split] for split in splits}
  if lacking := next((split for split, found in by_split.items() if not found), None):
    known = ', '.join(sorted({row['split'] for row in rows}))
    raise UserError(f'{path} has no clip of split {lacking!r}; its splits: {known}')
  if captions:
    by_split = {split: [row | {'captions': texts(row, captions, path)} for row in by_split[split]] for split in splits}
  if label:
    names = {row['id']: class_of(row, label, path) for split in splits for row in by_split[split]}
    kinds = {type(name) for name in names.values()}
    if len(kinds) > 1:
      raise UserError(f'{path}: {label} is a name for some clips and a number for others; use one of both')
    of_names = kinds == {str}
    classes = sorted(set(names.values())) if of_names else [str(n) for n in range(max(names.values()) + 1)]
    number = {name: n for n, name in enumerate(classes)} if of_names else {n: n for n in names.values()}
    by_split = {split: [row | {'label': number[names[row['id']]]} for row in by_split[split]] for split in splits}
  return Answers(str(path), by_split, classes)


@functools.cache
def captions_of(path: str) -> dict[str, list[str]]:
  """Of each clip of a file."""
  return {row['id']: row['captions'] for row in read(path).rows}


@functools.cache
def labels_of(path: str, split: str, label: str) -> dict[str, int]:
  """The number of the class of each clip of a split."""
  found = answers(path, (split,), label)
  return dict(zip((row['id'] for row in found.rows[split]), found.labels(found.rows[split]).tolist()))


def hashes(config) -> list[str]:
  """sha256 of the files that decide what the batches of an InputConfig hold."""
  parts, _ = config.parts()
  used = [part.annotations for part in parts if 'label' in part.fields or part.caption == 'drawn']
  return [hashlib.sha256(storage.path(path).read_bytes()).hexdigest() for path in used]


def field(row: dict, name: str, path: str):
  if name not in row:
    raise UserError(f'{path}: {row["id"]!r} has no field {name!r}; it has {", ".join(row)}')
  return row[name]


def class_of(row: dict, name: str, path: str) -> str | int:
  # Where the label itself is a name, reading has put a number in its place.
  value = row['class'] if name == 'label' and 'class' in row else field(row, name, path)
  if not (isinstance(value, str) and value) and not (type(value) is int and value >= 0):
    raise UserError(f'{path}: {name} of {row["id"]!r} is {value!r:.60}; it should be a class or its number')
  return value


def texts(row: dict, name: str, path: str) -> list[str]:
  value = field(row, name, path)
  value = [value] if isinstance(value, str) else value
  if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
    raise UserError(f'{path}: {name} of {row["id"]!r} is {value!r:.60}; it should be a text or a list of them')
  return value


def row_of(clip) -> dict[str, Any]:
  """The line of a clip of data/benchmarks, without the fields that it lacks."""
  row = {name: value for name, field in FIELDS.items() if (value := field.of(clip)) is not None}
  check(row, f'clip {clip.id!r}')
  return row


def parse(line: bytes, where: str) -> dict[str, Any]:
  try:
    row = json.loads(line)
  except (ValueError, RecursionError) as e:
    raise UserError(f'{where} is no readable JSON ({e}); {MAKE}') from e
  if not isinstance(row, dict):
    raise UserError(f'{where} holds no object with named fields; {MAKE}')
  if row.get('label') in (None, ''):
    row.pop('label', None)
  row.setdefault('captions', [])
  check(row, where)
  return row


def check(row: dict[str, Any], where: str) -> None:
  """UserError that names the first field that is missing or has a value of another type."""
  for name, field in FIELDS.items():
    if (field.required or name in row) and not field.fits(row.get(name)):
      raise UserError(f'{where}: {name} must be {field.what}, not {str(row.get(name))[:60]!r}')


def number_labels(rows, path) -> None:
  """Turns labels that are names into numbers, by name, and names them."""
  named = [row for row in rows if isinstance(row.get('label'), str)]
  if named and any(type(row.get('label')) is int for row in rows):
    raise UserError(f'{path}: the label of {named[0]["id"]!r} is a name, and others are numbers; use one of both')
  numbers = {name: number for number, name in enumerate(sorted({row['label'] for row in named}))}
  for row in named:
    row['class'] = row['label']
    row['label'] = numbers[row['label']]


def check_labels(rows, path) -> None:
  """Within a split, all clips have a label or none has."""
  labelled = {row['split'] for row in rows if 'label' in row}
  for row in rows:
    if row['split'] in labelled and 'label' not in row:
      raise UserError(f'{path}: {row["id"]!r} has no label, and other clips of split {row["split"]!r} have one')


def classes_of(rows, path) -> list[str | None]:
  names = defaultdict(set)
  for row in rows:
    if 'label' in row:
      names[row['label']].add(row.get('class'))
  if holes := [label for label in range(max(names, default=-1) + 1) if label not in names]:
    raise UserError(
      f'{path}: labels go up to {max(names)}, but {len(holes)} of them, {holes[0]} the first, have no clip: '
      f'count them from 0 without holes'
    )
  for label, of_label in names.items():
    if len(of_label) > 1:
      raise UserError(f'{path}: label {label} has several names: {", ".join(sorted(map(str, of_label)))[:200]}')
  classes = [next(iter(names[label])) for label in range(len(names))]
  if twice := sorted({name for name in classes if name is not None and classes.count(name) > 1}):
    raise UserError(f'{path}: several labels have the name {twice[0]!r}')
  return classes
