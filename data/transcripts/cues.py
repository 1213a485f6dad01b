"""Cue files, WebVTT and SRT -> spans of text and time.

YouTube's automatic captions scroll: a cue shows the line before once more above the new one, and a short
cue between two repeats what was said. Only new lines count; words inside one are timed by tags, except
that a line of a single word has none.
"""

import html
import re
from typing import NamedTuple

from data.transcripts.spans import Parsed, Span, join

_CLOCK = r'(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})'
_CUE = re.compile(rf'\s{{0,8}}{_CLOCK}\s{{1,8}}-->\s{{1,8}}{_CLOCK}')
_WORD_TIME = re.compile(rf'<{_CLOCK}>')
_TAG = re.compile(r'</?[a-zA-Z][^<>]{0,200}>|</>')
_LANGUAGE = re.compile(r'^Language:\s*(\S{1,20})', re.MULTILINE)
_BLOCKS = {'NOTE', 'STYLE', 'REGION'}
_ROLLS = 0.3  # share of cues that open with the line before, from which a file without tags scrolls
_PAUSE_MS = 1000  # between two cues that show the same, up to which they are one


class Cue(NamedTuple):
  start: float
  end: float
  lines: list[str]  # with tags, none without text


def is_vtt(content) -> bool:
  return isinstance(content, str) and content.lstrip().startswith('WEBVTT')


def is_srt(content) -> bool:
  if not isinstance(content, str) or is_vtt(content):
    return False
  head = [line for line in content[:2000].splitlines() if line.strip()][:2]
  return any(_CUE.match(line) for line in head)


def vtt(text: str, tagged_only: bool = True) -> Parsed:
  """As YT-Temporal-180M was made, word for word: in a file with word tags, a line of one word has none and is left
  out."""
  header = _LANGUAGE.search(text[:1000].partition('-->')[0])
  return Parsed(_spans(_cues(text), tagged_only), header[1] if header else '')


def vtt_lone_words(text: str) -> Parsed:
  """Those words as well, at the times of their lines."""
  return vtt(text, tagged_only=False)


def srt(text: str) -> Parsed:
  return Parsed(_spans(_cues(text)))


def _cues(text):
  lines = text.splitlines()
  cues, skipping = [], False
  for at, line in enumerate(lines):
    blank_before = at == 0 or not lines[at - 1].strip()
    timing = _CUE.match(line)
    if timing:
      skipping = False
      cues.append(Cue(_ms(timing.groups()[:4]), _ms(timing.groups()[4:]), []))
    elif not line.strip():
      skipping = False
    elif blank_before and line.split()[0] in _BLOCKS:
      skipping = True
    elif cues and not skipping:
      is_identifier = at + 1 < len(lines) and _CUE.match(lines[at + 1]) and (blank_before or line.strip().isdigit())
      if not is_identifier:
        cues[-1].lines.append(line)
  cues = [cue._replace(lines=[line for line in cue.lines if _plain(line)]) for cue in cues]
  return [cue for cue in cues if cue.lines]


def _spans(cues, tagged_only=False):
  tagged = any(_WORD_TIME.search(line) for cue in cues for line in cue.lines)
  said = [[_plain(line) for line in cue.lines] for cue in cues]
  repeats = sum(now == before or now[0] == before[-1] for before, now in zip(said, said[1:]))
  rolls = tagged or repeats > _ROLLS * len(cues)
  groups, shown = [], []
  for cue, texts in zip(cues, said):
    known = _carried(texts, shown) if rolls else 0
    untimed = []
    for number, (line, text) in enumerate(zip(cue.lines, texts)):
      if _WORD_TIME.search(line):
        groups.append(_timed(line, cue.start))
      elif number >= known:
        untimed.append(text)
    if untimed and not (tagged and tagged_only):
      groups.append([Span(' '.join(untimed), cue.start, None if tagged else cue.end)])
    elif texts == shown and not tagged and cue.start <= groups[-1][0].end + _PAUSE_MS:
      # Shown on, as whisper does to underline word after word; after a pause it would last through the silence.
      groups[-1] = [groups[-1][0]._replace(end=max(cue.end, groups[-1][0].end))]
    shown = texts
  return join(groups)


def _carried(lines, shown):
  """How many lines at the top of a cue are the last ones of the cue before."""
  return max((k for k in range(1, len(lines) + 1) if lines[:k] == shown[-k:]), default=0)


def _timed(line, start):
  """Spans of a line with word tags: text, then (hours, minutes, seconds, thousandths, text) over and over."""
  parts = _WORD_TIME.split(line)
  spans = [Span(_untag(parts[0]), start, None)]
  spans += [Span(_untag(parts[at + 4]), _ms(parts[at : at + 4]), None) for at in range(1, len(parts), 5)]
  return [span for span in spans if span.text.strip()]


def _ms(clock):
  hours, minutes, seconds, fraction = clock
  whole = (int(hours or 0) * 60 + int(minutes)) * 60 + int(seconds)
  return whole * 1000 + int(fraction.ljust(3, '0'))


def _untag(text):
  return html.unescape(_TAG.sub('', text)).replace('\xa0', ' ')


def _plain(line):
  return ' '.join(_untag(_WORD_TIME.sub('', line)).split())
