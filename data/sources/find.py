"""Finds the items of a source, whatever its layout: the one door from the user's files to the builder.

A kind of source is one line in KINDS: what tells it apart, and how its items are found. Ids are data:
nothing is ever named after one, so '../../x' or '-rf' do no harm; what would break a log or a reader
(control characters, NUL, more than MAX_ID characters, bytes that are no UTF-8) and duplicates are refused
with the place of both. Ids that differ in case are different: YouTube's do.

A file that is missing is an outcome of its item, not an error here, unless all of them are.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from data.sources import folders, items, published
from data.sources.items import UNPRINTABLE, Item, SourceError
from tvts_jax.media import paths
from tvts_jax.media.errors import MediaError
from tvts_jax.shards import storage

MAX_ID = 255


class Kind(NamedTuple):
  what: str
  matches: Callable[[str], object]  # Given a path that exists; something true if it is of this kind.
  find: Callable[[str, str | None, str | None], Iterator[tuple[str, Item]]]  # (path, media, lang) → (where, item).


def find(
  source: str, kind: str | None = None, *, media: str | None = None, lang: str | None = None, val_fraction: float = 0.0
) -> list[Item]:
  """All items by id. SourceError, in one sentence, where the source as a whole makes no sense.

  kind: one of KINDS, where the source does not tell (`detect`).
  media: the folder of the videos or images, for layouts that keep it apart from the lists.
  lang: which captions to take where a folder has several languages.
  val_fraction: of the items, by a hash of the id, to put into split 'val' where the source names no splits.
  """
  if not 0 <= val_fraction < 1:
    raise ValueError(f'val_fraction is {val_fraction}, not in [0, 1)')
  source = items.absolute(source)
  name = kind or detect(source)
  if name not in KINDS:
    raise SourceError('unknown_kind', f'no kind of source is called {name!r}; known: {", ".join(KINDS)}')
  media = items.absolute(media) if media else None
  for path in filter(None, (source, media)):
    if not storage.path(path).exists():
      raise SourceError('no_source', f'there is nothing at {path}')
  if kind and not KINDS[kind].matches(source):
    raise SourceError('unknown_kind', f'{source} is not what --kind {kind} reads: {KINDS[kind].what}')
  try:
    found = collect(KINDS[name].find(source, media, lang))
  except MediaError as error:
    raise SourceError('bad_archive', error.detail) from error
  check_presence(found, source, name)
  if any(item.split for item in found) and val_fraction:
    raise SourceError('bad_table', f'{source} names splits of its own, so a val fraction has no place')
  found = [item if item.split else with_split(item, val_fraction) for item in found]
  return sorted(found, key=lambda item: item.id)


def detect(source: str) -> str:
  """The name of the one kind that a source can be."""
  source = items.absolute(source)
  if not storage.path(source).exists():
    raise SourceError('no_source', f'there is nothing at {source}')
  names = [name for name, kind in KINDS.items() if kind.matches(source)]
  if 'tree' in names and {'tvts', 'merlot'} & set(names):
    names.remove('tree')  # Whose folders also hold the videos.
  if len(names) == 1:
    return names[0]
  offer = '; '.join(f'{name}: {KINDS[name].what}' for name in names or KINDS)
  reason = 'could be several kinds of source' if names else 'is no kind of source that is known'
  raise SourceError('ambiguous_kind', f'{source} {reason}, so say which with --kind ({offer})')


def collect(found):
  """Items, or what else has an id, out of (where, item) pairs; ids checked."""
  places = {}
  out = []
  for where, item in found:
    check_id(item.id, where)
    if item.id in places:
      raise SourceError('duplicate_id', f'{where}: the id {item.id!r} was taken before, at {places[item.id]}')
    places[item.id] = where
    out.append(item)
  return out


def check_id(id, where):
  if not id.strip():
    fault = 'is empty'
  elif len(id) > MAX_ID:
    fault = f'has {len(id)} characters, more than {MAX_ID}'
  elif bad := UNPRINTABLE.search(id):
    fault = f'holds the character {bad[0]!r}'
  else:
    return
  raise SourceError('bad_id', f'{where}: the id {id[:60]!r} {fault}')


def check_presence(found, source, kind):
  """One item that can work is enough: what the others lack, the build will say."""
  if not found:
    raise SourceError('nothing_found', f'{source}, as {kind}, lists not one item')
  if not any(paths.exists(item.video) for item in found):
    first = paths.split_ref(found[0].video)[0]
    raise SourceError('nothing_found', f'not one of the {len(found)} videos of {source} is there, the first at {first}')
  if not any(item.caption is not None or item.transcript and paths.exists(item.transcript) for item in found):
    first = found[0].transcript
    near = f', the first at {paths.split_ref(first)[0]}' if first else ''
    if kind == 'tree':
      stem, ending = os.path.splitext(os.path.basename(found[0].video))
      near = f'; beside {stem}{ending} belongs {stem}.json, {stem}.en.vtt or the like'
    raise SourceError('nothing_found', f'not one transcript for the {len(found)} videos of {source} is there{near}')


def with_split(item, val_fraction):
  draw = int.from_bytes(hashlib.sha256(b'split ' + item.id.encode()).digest()[:8], 'big') / 2**64
  return dataclasses.replace(item, split='val' if draw < val_fraction else 'train')


KINDS = {
  'index': Kind(
    'a JSONL, CSV or TSV table with columns id, video, and transcript or caption', folders.is_index, folders.index
  ),
  'tree': Kind('a folder of videos with captions beside them', folders.is_tree, folders.tree),
  'tvts': Kind('the TVTS tree, or its csv with the column Name', published.tvts_tables, published.tvts),
  'merlot': Kind('yttemporal180m_*.jsonl(.gz) and a folder of videos', published.merlot_files, published.merlot),
  'cc3m': Kind(
    'a table of captions and images',
    lambda path: published.captioned(path) in ('image', 'either'),
    functools.partial(published.captions, ending=''),
  ),
  'webvid': Kind(
    "a table of captions and videos, or WebVid's csv",
    lambda path: published.captioned(path) in ('video', 'either'),
    functools.partial(published.captions, ending='.mp4'),
  ),
  'webdataset': Kind('a tar or a folder of tars', published.tars, published.webdataset),
}
