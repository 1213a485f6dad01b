"""Transcript files in the formats people have → one normal form of timed words.

A format is a file here and a line in FORMATS: what tells it apart, how its spans of text and time are read, and what
is odd about it. Which times are believed, mended or refused is decided in one place for all, `data.transcripts.spans`.
"""

import functools
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from data import archives
from data.outcomes import ItemError
from data.transcripts import cues, json3, merlot, video2dataset, whisper
from data.transcripts.fields import first, has
from data.transcripts.spans import Parsed, Word, settle, split

MAX_BYTES = 32 << 20  # Of a file, and of what a gzipped one inflates to.

PAGE = re.compile(r'<\s*(!doctype\s+html|html|head|body)\b', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Transcript:
  """Words by start within the video; `source` is the format, `timing` 'word', 'interpolated' or 'caption'."""

  words: tuple[Word, ...]
  lang: str
  source: str
  timing: str


class Format(NamedTuple):
  matches: Callable[[Any], bool]  # Given text, or parsed JSON.
  parse: Callable[[Any], Parsed]
  endings: tuple[str, ...] = ('.json',)  # Of such files beside a video.
  cut: bool = False  # Whether a character's bytes may lie in several strings, so that none of them is UTF-8.
  refused: bool = False  # Whether there is nothing in it to read, so that any other file beside a video is preferred.


def read(
  source: str | os.PathLike | bytes,
  *,
  fmt: str | None = None,
  duration_ms: int | None = None,
  interpolate: bool = False,
  lang: str = '',
) -> Transcript:
  """The transcript in a file, an archive member (see `data.archives`) or bytes; ItemError where there is none.

  interpolate: accept files that time lines instead of words, and mark their words' timing 'interpolated'.
  """
  data = source if isinstance(source, bytes) else archives.open_bytes(os.fspath(source), MAX_BYTES, 'transcript')
  if len(data) > MAX_BYTES:
    raise ItemError('oversized_transcript', f'{len(data)} bytes, more than {MAX_BYTES}')
  content, damaged = load(data)
  name = fmt or matching(content)
  if damaged and not (name in FORMATS and FORMATS[name].cut):
    raise ItemError('bad_encoding', f'is not UTF-8 ({damaged}); convert it, e.g. with iconv')
  name = name or detect(content)
  if name not in FORMATS:
    raise ItemError('unknown_format', f'no format is called {name!r}; known: {", ".join(FORMATS)}')
  if not FORMATS[name].matches(content):
    raise ItemError('bad_transcript', f'is no {name} file')
  parsed = FORMATS[name].parse(content)
  words, timing = settle(parsed.spans, duration_ms, interpolate)
  return Transcript(words, lang or parsed.lang, name + parsed.variant, timing)


def caption(text: str, duration_ms: int) -> Transcript:
  """One caption over a whole image or video: every word spans [0, duration_ms]."""
  words = tuple(Word(word, 0, duration_ms) for word in split(text))
  if not words:
    raise ItemError('no_words', 'the caption is empty')
  return Transcript(words, '', 'caption', 'caption')


def matching(content: Any) -> str | None:
  """The name of the first format that text, or parsed JSON, is in. The file's name has no say."""
  return next((name for name, known in FORMATS.items() if known.matches(content)), None)


def is_transcript(content: Any) -> bool:
  """Whether text, or parsed JSON, is in a format that can be read."""
  name = matching(content)
  return name is not None and not FORMATS[name].refused


def endings() -> list[str]:
  """Of transcripts beside a video, the best first: .json may be whisper's, with word times."""
  return list(dict.fromkeys(ending for known in FORMATS.values() for ending in known.endings))


def detect(content: Any) -> str:
  """The format, or an ItemError that lists the known ones."""
  if name := matching(content):
    return name
  seen = f'JSON with {outline(content)}' if not isinstance(content, str) else f'text like {content[:40]!r}'
  raise ItemError('unknown_format', f'{seen} is in no known format; known: {", ".join(FORMATS)}')


def load(data: bytes) -> tuple[Any, str | None]:
  """(Text or parsed JSON, what is wrong with its UTF-8 or None), of bytes that may be gzipped."""
  if data.startswith(archives.GZIP_MAGIC):
    data = archives.inflate(data, MAX_BYTES, 'transcript')
  if not data.strip():
    raise ItemError('missing_transcript', f'{len(data)} bytes and nothing in them: a fetch that failed, not silence')
  damaged = None
  try:
    utf16 = data.startswith((b'\xff\xfe', b'\xfe\xff'))
    text = data.decode('utf-16') if utf16 else data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    damaged = f'{error.reason} at byte {error.start}'
    text = data.decode('utf-8-sig', 'surrogateescape')
  if '\0' in text:
    raise ItemError('bad_encoding', 'holds NUL characters: binary data, or UTF-16 without its mark')
  head = text[:1000].lstrip()
  if PAGE.match(head):
    raise ItemError('html_transcript', f'is a web page: {" ".join(head.split())[:60]!r}')
  if not head.startswith(('{', '[')):
    return text, damaged
  try:
    return json.loads(text), damaged
  except (ValueError, RecursionError) as error:
    raise ItemError('bad_json', f'is no readable JSON: {error or "nested too deeply"}') from error


def outline(content):
  keys = content.keys() if isinstance(content, dict) else {}
  return f'the keys {", ".join(sorted(keys)[:8])}' if keys else f'a {type(content).__name__}'


# Files are in the first format that matches; of several files beside a video the one with the first ending is taken.
FORMATS = {
  'json3': Format(lambda content: has(content, 'events'), json3.json3, ('.json3',)),
  'video2dataset': Format(video2dataset.is_video2dataset, video2dataset.refuse, refused=True),
  'merlot': Format(lambda content: has(content, 'subtitles'), merlot.merlot),
  'whisper_cpp': Format(lambda content: has(content, 'transcription'), whisper.whisper_cpp, cut=True),
  'transformers': Format(lambda content: has(content, 'chunks'), whisper.transformers),
  'whisper_timestamped': Format(lambda content: 'text' in first(content, 'segments', 'words'), whisper.whisper),
  'whisperx': Format(whisper.is_whisperx, functools.partial(whisper.whisper, nan_is_missing=True)),
  'whisper': Format(whisper.is_whisper, whisper.whisper),
  'vtt': Format(cues.is_vtt, cues.vtt, ('.vtt',)),
  # Never detected, only asked for.
  'vtt_lone_words': Format(cues.is_vtt, functools.partial(cues.vtt, tagged_only=False), ('.vtt',)),
  'srt': Format(cues.is_srt, cues.srt, ('.srt',)),
}
