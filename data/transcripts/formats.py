"""Transcript files in the formats people have -> one normal form of timed words.

A format is one line in FORMATS: what tells it apart, and how its spans of text and time are read. Which
times are believed, mended or refused is decided in one place for all, `data.transcripts.spans`.
"""

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import ftfy

from data import archives
from data.outcomes import ItemError
from data.transcripts import cues
from data.transcripts.align import align, clean_word
from data.transcripts.spans import Span, Word, join, settle, split

MAX_BYTES = 32 << 20  # of a file, and of what a gzipped one inflates to

_LONE = re.compile('[\ud800-\udc7f\udd00-\udfff]')  # halves of pairs, but not the bytes that surrogateescape keeps
_PAGE = re.compile(r'<\s*(!doctype\s+html|html|head|body)\b', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Transcript:
  """Words by start within the video; `source` is the format, `timing` 'word', 'interpolated' or 'caption'."""

  words: tuple[Word, ...]
  lang: str
  source: str
  timing: str


class Parsed(NamedTuple):
  """What a format's reader returns. `variant` goes behind the format's name in `Transcript.source`."""

  spans: list[Span]
  lang: str = ''
  variant: str = ''


class Format(NamedTuple):
  matches: Callable[[Any], bool]  # given text, or parsed JSON
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


def detect(content: Any) -> str:
  """The format, or an ItemError that lists the known ones."""
  if name := matching(content):
    return name
  seen = f'JSON with {_outline(content)}' if not isinstance(content, str) else f'text like {content[:40]!r}'
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
  if _PAGE.match(head):
    raise ItemError('html_transcript', f'is a web page: {" ".join(head.split())[:60]!r}')
  if not head.startswith(('{', '[')):
    return text, damaged
  try:
    return json.loads(text), damaged
  except (ValueError, RecursionError) as error:
    raise ItemError('bad_json', f'is no readable JSON: {error or "nested too deeply"}') from error


def _outline(content):
  keys = content.keys() if isinstance(content, dict) else {}
  return f'the keys {", ".join(sorted(keys)[:8])}' if keys else f'a {type(content).__name__}'


def _items(value, what) -> list[dict]:
  if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
    raise ItemError('bad_transcript', f'{what} is no list of objects')
  return value


def _text(item, *keys) -> str:
  for key in keys:
    if isinstance(item.get(key), str):
      return item[key]
  raise ItemError('bad_transcript', f'{" or ".join(keys)} is missing or no text in {str(item)[:80]}')


def _time(value, scale=1000):
  """Seconds (or `scale` times ms) in ms; None stays None."""
  if value is None:
    return None
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise ItemError('bad_times', f'{value!r:.40} is no time')
  # Python's own integers have no end; what is this far out is refused as infinite.
  return value * scale if abs(value) < 1e15 else math.inf


def _first(content, *keys):
  """The first object in the list at a path of keys, or {}: enough to tell formats apart."""
  for key in keys:
    content = content.get(key) if isinstance(content, dict) else None
    if isinstance(content, list):
      content = next((item for item in content if isinstance(item, dict)), None)
  return content if isinstance(content, dict) else {}


def _is(content, key, kind=list):
  return isinstance(content, dict) and isinstance(content.get(key), kind)


def _json3(content):
  """YouTube: a word is at tStartMs + tOffsetMs. Lines overlap (they scroll), so durations end no word."""
  groups = []
  for event in _items(content['events'], 'events'):
    segs = _items(event.get('segs', []), 'segs')
    said = [seg for seg in segs if _text(seg, 'utf8').strip()]
    if not said:  # a window's definition, or a line feed
      continue
    start = _time(event.get('tStartMs', 0), 1)
    # Blank ones are kept, for they part the words on either side.
    if all('tOffsetMs' in seg for seg in said[1:]) and (len(said) > 1 or len(said[0]['utf8'].split()) == 1):
      groups.append([Span(seg['utf8'], start + _time(seg.get('tOffsetMs', 0), 1), None) for seg in segs])
    else:
      line = ''.join(seg['utf8'] for seg in segs)
      shown = _time(event.get('dDurationMs'), 1)
      groups.append([Span(line, start, None if shown is None else start + shown)])
  return Parsed(join(groups))


def _merlot(content):
  """YT-Temporal and TVTS: starts only, and a corrected text that has to be carried onto them."""
  raw = [
    (clean_word(_text(item, 'word')), _time(item.get('time'))) for item in _items(content['subtitles'], 'subtitles')
  ]
  raw = [(word, time) for word, time in raw if word]
  corrected = []
  for part in _items(content.get('denoised') or [], 'denoised'):
    corrected += ftfy.fix_text(_text(part, 'cleanasr')).split(' ')
  if not raw or not any(corrected):
    return Parsed([Span(word, time, None) for word, time in raw], variant='_raw')
  for token in [word for word, _ in raw] + corrected:
    split(token)  # refuses what is too long to align
  texts = align([word for word, _ in raw], corrected)
  # Tokens that share a word share its time: none of them is known any better.
  return Parsed([Span(token, time, None) for text, (_, time) in zip(texts, raw) for token in text.split()])


def _whisper(content, nan_is_missing=False):
  """openai-whisper and its relatives: segments with words, or without (then times are those of lines)."""

  def time(value):
    missing = nan_is_missing and isinstance(value, float) and math.isnan(value)
    return None if missing else _time(value)

  def word(item):
    start, end = time(item.get('start')), time(item.get('end'))
    return Span(_text(item, 'word', 'text'), start, None if start is None else end)

  lang = content.get('language') if isinstance(content, dict) else None
  lang = lang if isinstance(lang, str) else ''
  segments = content if isinstance(content, list) else content.get('segments') or []
  groups = []
  for segment in _items(segments, 'segments'):
    words = [word(item) for item in _items(segment.get('words') or [], 'words')]
    if any(span.start is not None for span in words):
      groups.append(words)
    else:
      groups.append([Span(_text(segment, 'text'), time(segment.get('start')), time(segment.get('end')))])
  if _is(content, 'words') and not any(segment.get('words') for segment in segments):  # OpenAI's service
    groups = [[word(item) for item in _items(content['words'], 'words')]]
  return Parsed(join(groups), lang)


def _whisper_cpp(content):
  """whisper.cpp: offsets in ms, of tokens (full JSON) or of items that hold a word, a part of one, or a line."""
  pieces = []
  for item in _items(content['transcription'], 'transcription'):
    tokens = _items(item.get('tokens') or [], 'tokens')
    tokens = [token for token in tokens if not _text(token, 'text').startswith('[_')]  # [_BEG_], [_TT_50]
    cut, start = b'', None
    for part in tokens if tokens and all(_first(token, 'offsets') for token in tokens) else [item]:
      offsets = _first(part, 'offsets')
      text = cut + _LONE.sub('', _text(part, 'text')).encode('utf-8', 'surrogateescape')
      start = start if cut else _time(offsets.get('from'), 1)
      cut = text if _is_cut(text) else b''  # a character whose last bytes are in the next token
      if not cut:
        pieces.append(Span(text.decode('utf-8', 'replace'), start, _time(offsets.get('to'), 1)))
  lang = _first(content, 'result').get('language')
  return Parsed(join([pieces]), lang if isinstance(lang, str) else '')


def _is_cut(text: bytes) -> bool:
  try:
    text.decode('utf-8')
  except UnicodeDecodeError as error:
    return error.reason == 'unexpected end of data'
  return False


def _transformers(content):
  """The pipeline of transformers: chunks with [start, end], whose end may be null."""
  spans = []
  for chunk in _items(content['chunks'], 'chunks'):
    times = chunk.get('timestamp')
    if not isinstance(times, list) or len(times) != 2:
      raise ItemError('bad_transcript', f'timestamp is no pair in {str(chunk)[:80]}')
    spans.append(Span(_text(chunk, 'text'), _time(times[0]), _time(times[1])))
  return Parsed(join([spans]))


def _refuse_video2dataset(content):
  raise ItemError(
    'video2dataset_transcript', 'video2dataset drops all word times; use the json3 or vtt file that it was made from'
  )


FORMATS = {
  'json3': Format(lambda c: _is(c, 'events'), _json3, endings=('.json3', '.json')),
  'video2dataset': Format(
    lambda c: _is(c, 'yt_meta_dict', dict) or bool(_first(c, 'subtitles').keys() & {'lines', 'line'}),
    _refuse_video2dataset,
    refused=True,
  ),
  'merlot': Format(lambda c: _is(c, 'subtitles'), _merlot),
  'whisper_cpp': Format(lambda c: _is(c, 'transcription'), _whisper_cpp, cut=True),  # Tokens hold parts of characters.
  'transformers': Format(lambda c: _is(c, 'chunks'), _transformers),
  'whisper_timestamped': Format(lambda c: 'text' in _first(c, 'segments', 'words'), _whisper),
  'whisperx': Format(
    lambda c: _is(c, 'segments') and ('word_segments' in c or 'score' in _first(c, 'segments', 'words')),
    lambda c: _whisper(c, nan_is_missing=True),
  ),
  'whisper': Format(  # openai-whisper, faster-whisper (also as a bare list of segments), OpenAI's service
    lambda c: _is(c, 'segments') or _is(c, 'words') or 'end' in _first({'segments': c}, 'segments'), _whisper
  ),
  # As YT-Temporal-180M was made, word for word: in a file with word tags, a line of one word has none and is left out.
  'vtt': Format(cues.is_vtt, lambda c: Parsed(*cues.vtt(c, tagged_only=True)), endings=('.vtt',)),
  # Never detected, only asked for: those words too, at the times of their lines.
  'vtt_lone_words': Format(cues.is_vtt, lambda c: Parsed(*cues.vtt(c)), endings=('.vtt',)),
  'srt': Format(cues.is_srt, lambda c: Parsed(*cues.srt(c)), endings=('.srt',)),
}


def endings() -> list[str]:
  """Of files that may be transcripts, those of formats with more in them first."""
  return list(dict.fromkeys(ending for known in FORMATS.values() for ending in known.endings))
