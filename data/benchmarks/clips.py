"""What the readers of benchmarks share: the normal form of a clip, and the files that annotations come in.

A reader takes `Files` and the number of the split; it yields (where, Clip) pairs, where being a place for messages.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from data.sources.items import SourceError
from tvts_jax.media.paths import IMAGES, VIDEOS

KINDS = ('.json', '.jsonl', '.jsonl.gz', '.csv', '.tsv', '.txt', '.pkl')


@dataclass(frozen=True, slots=True)
class Clip:
  """What a line of annotations.jsonl holds (FIELDS of tvts_jax/shards/annotations.py), and the place of the video."""

  id: str
  split: str
  video: str  # Below the folder of the media; its ending may lack or be another one.
  label: int | None = None
  name: str | None = None  # Of the class, in words.
  captions: tuple[str, ...] = ()
  pairs: tuple[dict[str, Any], ...] = ()

  @property
  def caption(self) -> str | None:
    """What is said of the clip in the shards."""
    return self.captions[0] if self.captions else self.name


Found = Iterator[tuple[str, Clip]]


class Benchmark(NamedTuple):
  layout: str  # The files that it reads.
  read: Callable[['Files', int], Found]
  # Clips of each split, by the paper or the published lists; an entry a split number.
  sizes: tuple[dict[str, int], ...]
  classes: int = 0  # 0: there are none, or nobody knows how many.
  endings: tuple[str, ...] = VIDEOS


class Files:
  """The annotation files in a folder and those below it, or the one file that was given."""

  def __init__(self, path: str):
    if not os.path.exists(path):
      raise SourceError('no_source', f'there is nothing at {path}')
    self.path = path
    if os.path.isfile(path):
      self._paths = [path]
    else:
      found = (os.path.join(at, name) for at, _, names in os.walk(path) for name in names)
      self._paths = sorted(p for p in found if p.lower().endswith(KINDS))

  def find(self, *names: str) -> str | None:
    """The file with one of the names, or None."""
    return self._only([p for p in self._paths if os.path.basename(p) in names])

  def get(self, *names: str) -> str:
    """The file with one of the names; SourceError if it is not there."""
    if (path := self.find(*names)) is None:
      raise SourceError('no_source', f'{self.path} holds no {" or ".join(names)}')
    return path

  def ending(self, *endings: str) -> str:
    """The only file with one of the endings."""
    if (path := self._only([p for p in self._paths if p.lower().endswith(endings)])) is None:
      raise SourceError('no_source', f'{self.path} holds no file that ends in {" or ".join(endings)}')
    return path

  def matching(self, pattern: str) -> dict[str, str]:
    """What the first group of a pattern is in a file's name → the file."""
    found = {}
    for path in self._paths:
      if match := re.fullmatch(pattern, os.path.basename(path)):
        found.setdefault(match[1], []).append(path)
    return {key: self._only(paths) for key, paths in sorted(found.items())}

  def _only(self, paths):
    if len(paths) > 1:
      raise SourceError('ambiguous_kind', f'{paths[0]} and {paths[1]} could both be meant; give the folder of one')
    return paths[0] if paths else None


def stem(path: str) -> str:
  """A file's name without its folder and its endings, of which videos that were converted can have two."""
  name = os.path.basename(path)
  while name.lower().endswith((*VIDEOS, *IMAGES)):
    name = os.path.splitext(name)[0]
  return name


def lines(path: str) -> Iterator[tuple[str, str]]:
  """(Where, line) of a text file, without blank lines and blanks around them."""
  try:
    with open(path, encoding='utf-8-sig') as file:
      for number, line in enumerate(file, 1):
        if line.strip():
          yield f'{path}, line {number}', line.strip()
  except UnicodeDecodeError as error:
    raise SourceError('bad_table', f'{path} is not UTF-8: {error.reason} at byte {error.start}') from error


def entries(path: str, key: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
  """(Where, object) of a JSON file that is a list of objects, or has one under a key."""
  content = load(path)
  if key is not None:
    content = content.get(key) if isinstance(content, dict) else None
  if not isinstance(content, list):
    raise SourceError('bad_table', f'{path} holds no list{f" {key!r}" if key else ""}')
  for number, entry in enumerate(content, 1):
    where = f'{path}, {key or "entry"} {number}'
    if not isinstance(entry, dict):
      raise SourceError('bad_table', f'{where}: holds {type(entry).__name__}, not an object with named fields')
    yield where, entry


def load(path: str) -> Any:
  """What a JSON file holds."""
  try:
    with open(path, encoding='utf-8-sig') as file:
      return json.load(file)
  except (ValueError, RecursionError) as error:
    raise SourceError('bad_table', f'{path} is no readable JSON ({error})') from error


def whole(text: str, where: str) -> int:
  """A number out of a list."""
  if not re.fullmatch(r'\d{1,9}(\.0{1,6})?', text):
    raise SourceError('bad_table', f'{where}: {text[:60]!r} is no whole number from 0')
  return int(text.partition('.')[0])
