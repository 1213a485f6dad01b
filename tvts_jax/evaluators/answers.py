"""What is right about each clip, and where in the features the clip is.

Rows come from an annotations.jsonl (annotations.py). The settings `label` and `captions` name other fields of it to
read; a label is a number, or the name of a class: then the classes of the splits that are looked at are numbered by
name.
"""

from typing import NamedTuple

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.evaluators import annotations
from tvts_jax.evaluators.features import STORE, Clips
from tvts_jax.input.index import video_hash


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


def read(path: str, splits: tuple[str, ...], label: str = '', captions: str = '') -> Answers:
  """Of some splits of a file. UserError if one of them has no row."""
  rows, classes = annotations.read(path)
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


def where(ids: list[str], clips: Clips, valid_N: np.ndarray) -> np.ndarray:
  """int64 [R]: which of the clips each id is, -1 where it is missing or damaged."""
  place = {video: n for n, video in enumerate(clips.videos.tolist()) if valid_N[n]}
  found_R = np.array([place.get(video_hash(id_), -1) for id_ in ids], np.int64)
  if (found_R < 0).all():
    raise UserError(f'not one of {len(ids)} clips that are asked for, such as {ids[0]!r}, is in {clips}')
  return found_R


class Seen(NamedTuple):
  """Rows of a split whose clips could be seen, with their features, and the rows of the others."""

  rows: list[dict]
  features: dict[str, np.ndarray]  # 'cls' and 'embed', [R, V, ...]
  missing: list[dict]


def look(clips: Clips, rows: list[dict], params) -> Seen:
  found = STORE.features(clips, params)
  place_R = where([row['id'] for row in rows], clips, found['valid'].all(axis=1))
  seen_R = place_R[place_R >= 0]
  return Seen(
    [row for row, place in zip(rows, place_R) if place >= 0],
    {name: found[name][seen_R] for name in ('cls', 'embed')},
    [row for row, place in zip(rows, place_R) if place < 0],
  )
