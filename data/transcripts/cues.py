"""Cue files, WebVTT and SRT → spans of text and time.

YouTube's automatic captions scroll: a cue shows the line before once more above the new one, and a short
cue between two repeats what was said. Only new lines count; words inside one are timed by tags, except
that a line of a single word has none.
"""

import html
import re
from typing import NamedTuple

from data.transcripts.spans import Parsed, Span, join

CLOCK = r'(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})'
CUE = re.compile(rf'\s{{0,8}}{CLOCK}\s{{1,8}}-->\s{{1,8}}{CLOCK}')
WORD_TIME = re.compile(rf'<{CLOCK}>')
TAG = re.compile(r'</?[a-zA-Z][^<>]{0,200}>|</>')
LANGUAGE = re.compile(r'^Language:\s*(\S{1,20})', re.MULTILINE)
BLOCKS = {'NOTE', 'STYLE', 'REGION'}
ROLLS = 0.3  # Share of cues that open with the line before, from which a file without tags scrolls.
PAUSE_MS = 1000  # Between two cues that show the same, up to which they are one.


class Cue(NamedTuple):
  start: float
  end: float
  lines: list[str]  # With tags, none without text.


def is_vtt(content) -> bool:
  return isinstance(content, str) and content.lstrip().startswith('WEBVTT')


def is_srt(content) -> bool:
  if not isinstance(content, str) or is_vtt(content):
    return False
  head = [line for line in content[:2000].splitlines() if line.strip()][:2]
  return any(CUE.match(line) for line in head)


def vtt(text: str, tagged_only: bool = True) -> Parsed:
  """In a file with word tags, a line of one word has none: `tagged_only` leaves it out, as YT-Temporal-180M did, word
  for word; else its word is at the time of the line."""
  header = LANGUAGE.search(text[:1000].partition('-->')[0])
  return Parsed(spans_of(read_cues(text), tagged_only), header[1] if header else '')


def srt(text: str) -> Parsed:
  return Parsed(spans_of(read_cues(text)))


def read_cues(text):
  lines = text.splitlines()
  cues, skipping = [], False
  for at, line in enumerate(lines):
    blank_before = at == 0 or not lines[at - 1].strip()
    timing = CUE.match(line)
    if timing:
      skipping = False
      cues.append(Cue(ms(timing.groups()[:4]), ms(timing.groups()[4:]), []))
    elif not line.strip():
      skipping = False
    elif blank_before and line.split()[0] in BLOCKS:
      skipping = True
    elif cues and not skipping:
      is_identifier = at + 1 < len(lines) and CUE.match(lines[at + 1]) and (blank_before or line.strip().isdigit())
      if not is_identifier:
        cues[-1].lines.append(line)
  cues = [cue._replace(lines=[line for line in cue.lines if plain(line)]) for cue in cues]
  return [cue for cue in cues if cue.lines]


def spans_of(cues, tagged_only=False):
  tagged = any(WORD_TIME.search(line) for cue in cues for line in cue.lines)
  said = [[plain(line) for line in cue.lines] for cue in cues]
  repeats = sum(now == before or now[0] == before[-1] for before, now in zip(said, said[1:]))
  rolls = tagged or repeats > ROLLS * len(cues)
  groups, shown = [], []
  for cue, texts in zip(cues, said):
    known = carried(texts, shown) if rolls else 0
    untimed = []
    for number, (line, text) in enumerate(zip(cue.lines, texts)):
      if WORD_TIME.search(line):
        groups.append(timed(line, cue.start))
      elif number >= known:
        untimed.append(text)
    if untimed and not (tagged and tagged_only):
      groups.append([Span(' '.join(untimed), cue.start, None if tagged else cue.end)])
    elif texts == shown and not tagged and cue.start <= groups[-1][0].end + PAUSE_MS:
      # Shown on, as whisper does to underline word after word; after a pause it would last through the silence.
      groups[-1] = [groups[-1][0]._replace(end=max(cue.end, groups[-1][0].end))]
    shown = texts
  return join(groups)


def carried(lines, shown):
  """How many lines at the top of a cue are the last ones of the cue before."""
  return max((k for k in range(1, len(lines) + 1) if lines[:k] == shown[-k:]), default=0)


def timed(line, start):
  """Spans of a line with word tags: text, then (hours, minutes, seconds, thousandths, text) over and over."""
  parts = WORD_TIME.split(line)
  spans = [Span(untag(parts[0]), start, None)]
  spans += [Span(untag(parts[at + 4]), ms(parts[at : at + 4]), None) for at in range(1, len(parts), 5)]
  return [span for span in spans if span.text.strip()]


def ms(clock):
  hours, minutes, seconds, fraction = clock
  whole = (int(hours or 0) * 60 + int(minutes)) * 60 + int(seconds)
  return whole * 1000 + int(fraction.ljust(3, '0'))


def untag(text):
  return html.unescape(TAG.sub('', text)).replace('\xa0', ' ')


def plain(line):
  return ' '.join(untag(WORD_TIME.sub('', line)).split())
