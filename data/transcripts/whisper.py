"""What Whisper's many programs write: openai-whisper and its relatives, whisper.cpp, transformers."""

import math
import re

from data.outcomes import ItemError
from data.transcripts.fields import first, has, items, text, time
from data.transcripts.spans import Parsed, Span, join

LONE = re.compile('[\ud800-\udc7f\udd00-\udfff]')  # Halves of pairs, but not the bytes that surrogateescape keeps.


def is_whisperx(content) -> bool:
  return has(content, 'segments') and ('word_segments' in content or 'score' in first(content, 'segments', 'words'))


def is_whisper(content) -> bool:
  """openai-whisper, faster-whisper (also as a bare list of segments), OpenAI's service."""
  return has(content, 'segments') or has(content, 'words') or 'end' in first({'segments': content}, 'segments')


def whisper(content, nan_is_missing=False) -> Parsed:
  """Segments with words, or without (then times are those of lines)."""

  def seconds(value):
    missing = nan_is_missing and isinstance(value, float) and math.isnan(value)
    return None if missing else time(value)

  def word(item):
    start, end = seconds(item.get('start')), seconds(item.get('end'))
    return Span(text(item, 'word', 'text'), start, None if start is None else end)

  lang = content.get('language') if isinstance(content, dict) else None
  lang = lang if isinstance(lang, str) else ''
  segments = content if isinstance(content, list) else content.get('segments') or []
  groups = []
  for segment in items(segments, 'segments'):
    words = [word(item) for item in items(segment.get('words') or [], 'words')]
    if any(span.start is not None for span in words):
      groups.append(words)
    else:
      groups.append([Span(text(segment, 'text'), seconds(segment.get('start')), seconds(segment.get('end')))])
  if has(content, 'words') and not any(segment.get('words') for segment in segments):  # OpenAI's service.
    groups = [[word(item) for item in items(content['words'], 'words')]]
  return Parsed(join(groups), lang)


def whisper_cpp(content) -> Parsed:
  """Offsets in ms, of tokens (full JSON) or of items that hold a word, a part of one, or a line."""
  pieces = []
  for item in items(content['transcription'], 'transcription'):
    tokens = items(item.get('tokens') or [], 'tokens')
    tokens = [token for token in tokens if not text(token, 'text').startswith('[_')]  # [_BEG_], [_TT_50].
    cut, start = b'', None
    for part in tokens if tokens and all(first(token, 'offsets') for token in tokens) else [item]:
      offsets = first(part, 'offsets')
      piece = cut + LONE.sub('', text(part, 'text')).encode('utf-8', 'surrogateescape')
      start = start if cut else time(offsets.get('from'), 1)
      cut = piece if is_cut(piece) else b''  # A character whose last bytes are in the next token.
      if not cut:
        pieces.append(Span(piece.decode('utf-8', 'replace'), start, time(offsets.get('to'), 1)))
  lang = first(content, 'result').get('language')
  return Parsed(join([pieces]), lang if isinstance(lang, str) else '')


def is_cut(text: bytes) -> bool:
  try:
    text.decode('utf-8')
  except UnicodeDecodeError as error:
    return error.reason == 'unexpected end of data'
  return False


def transformers(content) -> Parsed:
  """Its pipeline: chunks with [start, end], whose end may be null."""
  spans = []
  for chunk in items(content['chunks'], 'chunks'):
    times = chunk.get('timestamp')
    if not isinstance(times, list) or len(times) != 2:
      raise ItemError('bad_transcript', f'timestamp is no pair in {str(chunk)[:80]}')
    spans.append(Span(text(chunk, 'text'), time(times[0]), time(times[1])))
  return Parsed(join([spans]))
