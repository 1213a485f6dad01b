"""The user's own files: an index that lists them, or a folder that holds each video with its captions beside it.

A finder takes the source's path, the folder of the media where that is apart, and a language; it yields
(where, item) pairs. Items come with split '' where the source names none.
"""

import os
import re
from collections.abc import Iterator

from data import archives
from data.outcomes import ItemError
from data.sources import items, tables
from data.sources.items import Item, SourceError
from data.transcripts import formats
from tvts_jax.media import paths
from tvts_jax.media.paths import VIDEOS
from tvts_jax.shards import storage

NO_TRANSCRIPTS = {'info', 'live_chat'}  # What yt-dlp writes beside a video.

Found = Iterator[tuple[str, Item]]
Sidecar = tuple[str, str, str]  # Tag, ending, name: 'en', '.vtt', 'talk.en.vtt'.

TRANSCRIBERS = re.compile('whisper|cpp|grover|asr|transcri|words', re.IGNORECASE)
# Three letters are a language only where YouTube or others use them so: talk.wav.json and talk.sdh.srt name none.
LONG = (
  'ast|bho|brx|ceb|ckb|doi|fil|gaa|gom|haw|hmn|iba|ilo|jam|kha|kok|kri|lua|luo|lus|mai|mfe|min|mni|nso|pam|pap|sat|scn'
  '|tum|war|yue'
)
LANG = re.compile(f'([a-z][a-z]|{LONG})(-[A-Za-z0-9]+)*')


def is_index(path: str) -> bool:
  return tables.is_table(path) and {'id', 'video'} <= set(tables.head(path))


def index(path: str, media: str | None, lang: str | None) -> Found:
  """A table of id, video, transcript or caption, and if need be transcript_format, lang, split."""
  folder = os.path.dirname(path)
  for where, row in tables.rows(path):
    fields = {key: tables.text(row, key, where) for key in ('id', 'video', 'transcript', 'caption', 'lang', 'split')}
    fmt = tables.text(row, 'transcript_format', where)
    if not fields['id'] or not fields['video']:
      raise SourceError('bad_table', f'{where}: {"video" if fields["id"] else "id"} is missing')
    if fields['transcript'] and fields['caption']:
      raise SourceError('bad_table', f'{where}: has a transcript and a caption; an item is described by one of them')
    if fmt and fmt not in formats.FORMATS:
      raise SourceError('bad_table', f'{where}: transcript_format {fmt!r} is none of {", ".join(formats.FORMATS)}')
    transcript = fields['transcript'] and items.resolve(folder, fields['transcript'], where)
    video = items.resolve(media or folder, fields['video'], where)
    spoken = fields['lang'] or lang or ''
    yield where, Item(fields['id'], video, transcript, fmt, spoken, fields['split'] or '', fields['caption'])


def is_tree(path: str) -> bool:
  return storage.path(path).is_dir() and any(True for _ in paths.videos_under(path))


def tree(path: str, media: str | None, lang: str | None) -> Found:
  """A folder of videos, each with captions beside it: talk.mp4 and talk.en.json3. Ids are paths within it."""
  beside = {}
  for file in paths.videos_under(path):
    folder = os.path.dirname(file)
    if folder not in beside:
      beside = {folder: sidecars_in(folder)}  # Files come folder by folder.
    stem = os.path.splitext(os.path.basename(file))[0]
    name, spoken = choose_transcript(beside[folder].get(stem, []), folder, lang, file)
    transcript = name and os.path.join(folder, name)
    id = os.path.splitext(os.path.relpath(file, path))[0].replace(os.sep, '/')
    yield file, Item(id, file, transcript, None, spoken, '', None)


def sidecars_in(folder) -> dict[str, list[Sidecar]]:
  """Stem of a video → the transcripts beside it."""
  names, endings = [entry.name for entry in storage.path(folder).iterdir()], formats.endings()
  stems = {os.path.splitext(name)[0] for name in names if name.lower().endswith(VIDEOS)}
  out = {}
  for name in sorted(names):
    stem, ending = os.path.splitext(name[:-3] if name.lower().endswith('.gz') else name)
    if ending.lower() not in endings:
      continue
    tags = []
    while stem not in stems and '.' in stem:
      stem, _, tag = stem.rpartition('.')
      tags.append(tag)
    if stem in stems and not NO_TRANSCRIPTS & set(tags):
      out.setdefault(stem, []).append(('.'.join(reversed(tags)), ending.lower(), name))
  return out


def choose_transcript(sidecars: list[Sidecar], folder, lang, where) -> tuple[str | None, str]:
  """As `choose`, but JSON of another kind, as many tools leave it beside a video, gives way to anything else."""
  name, spoken = choose(sidecars, lang, where)
  others = [s for s in sidecars if s[2] != name]
  plain = any(s[2] == name and s[1] == '.json' and not TRANSCRIBERS.search(s[0]) for s in sidecars)
  if plain and others and not is_transcript(os.path.join(folder, name)):
    other = choose_transcript(others, folder, lang, where)
    return other if other[0] else (name, spoken)  # Reading it will say what is wrong with it.
  return name, spoken


def is_transcript(path) -> bool:
  try:
    content, _ = formats.load(archives.open_bytes(path, formats.MAX_BYTES, 'transcript'))
  except ItemError:
    return False
  return formats.is_transcript(content)


def choose(sidecars: list[Sidecar], lang: str | None, where: str) -> tuple[str | None, str]:
  """(Name, language) of the best transcript: in the language asked for, the original one rather than a translation."""

  def language(tag):
    return tag if LANG.fullmatch(tag) else ''

  if lang:
    sidecars = [s for s in sidecars if language(s[0]).split('-')[0] in ('', lang.split('-')[0])]
  elif originals := [s for s in sidecars if s[0].endswith('-orig')]:
    sidecars = originals
  languages = sorted({language(tag).split('-')[0] for tag, _, _ in sidecars} - {''})
  if len(languages) > 1:
    raise SourceError('ambiguous_lang', f'{where} has captions in {", ".join(languages)}; choose one with --lang')
  if not sidecars:
    return None, ''

  def rank(sidecar):
    tag, ending, name = sidecar
    odd = ending == '.json' and tag and not language(tag) and not TRANSCRIBERS.search(tag)
    return bool(odd), tag != f'{lang}-orig', formats.endings().index(ending), tag != lang, len(tag), name

  tag, _, name = min(sidecars, key=rank)
  return name, language(tag).removesuffix('-orig') or lang or ''
