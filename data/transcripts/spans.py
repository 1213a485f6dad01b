"""From what a transcript file says to words with times that can be trusted, or a code that says why not.

The rules, once for every format:

- A span is a piece of text with the times that the file gives it, in ms. Its first word takes its start;
  every further word has no time of its own. Past `MAX_UNTIMED` of such words the file is not word-timed.
- A missing end is the next later start, at most `MAX_WORD_MS` after the start.
- Small disorder is mended: times up to `SLIP_MS` below 0 or ending before they start, starts up to
  `MAX_DISORDER_MS` behind an earlier one (stable sort), a few words past the end of the video (dropped).
- Everything beyond that is refused by name.
- Sound tags ([Music]), speaker marks (>>), music notes, control characters, halves of surrogate pairs and
  replacement characters are no words.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from data.outcomes import ItemError

MAX_WORD_MS = 1_000
MAX_WORD_CHARS = 256
MAX_UNTIMED = 0.2
SLIP_MS = 500
MAX_DISORDER_MS = 5_000
MAX_TIME_MS = 100 * 3600 * 1000
LATE_MS, LATE_WORDS, LATE_SHARE = 30_000, 3, 0.02  # Whisper fills its last 30 s window past the end.
MAX_TAG_WORDS = 8
MIN_SPACED = 0.25  # English has 0.6 and more, Chinese with English names in it under 0.1.

NOISE = re.compile('[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff\ufffd\ud800-\udfff\u2669-\u266c]')
SPEAKER = re.compile('^>{2,}')


class Span(NamedTuple):
  """Text, and its times in ms where the file has them."""

  text: str
  start: float | None
  end: float | None


class Parsed(NamedTuple):
  """What a format's reader returns. `variant` goes behind the format's name in `Transcript.source`."""

  spans: list[Span]
  lang: str = ''
  variant: str = ''


@dataclass(frozen=True, slots=True)
class Word:
  text: str
  start_ms: int
  end_ms: int


def split(text: str) -> list[str]:
  """The words of a text, without what is not speech; sound tags stay, as they may run over several spans."""
  words = [SPEAKER.sub('', word) for word in NOISE.sub('', text).split()]
  for word in words:
    if len(word) > MAX_WORD_CHARS:
      raise ItemError('oversized_word', f'a word of {len(word)} characters: {word[:40]!r}...')
  return [word for word in words if word]


def join(groups: list[list[Span]]) -> list[Span]:
  """All spans, pieces of words put together where the format marks new words by a leading space.

  A group (line, segment) starts a new word. Formats and languages that write no spaces are left alone.
  """
  rest = [span for group in groups for span in group[1:] if span.text.strip()]
  if sum(span.text[:1].isspace() for span in rest) <= MIN_SPACED * len(rest):
    return [span for group in groups for span in group]
  out = []
  for group in groups:
    for number, span in enumerate(group):
      if number and span.text[:1].strip() and out[-1].text.strip():
        out[-1] = Span(out[-1].text + span.text, out[-1].start, span.end)
      else:
        out.append(span)
  return out


def settle(spans: list[Span], duration_ms: int | None, interpolate: bool) -> tuple[tuple[Word, ...], str]:
  """Words in order of time within [0, duration_ms], and 'word' or 'interpolated'."""
  for number, span in enumerate(spans, 1):
    check(span, number)
  words_of = without_tags([split(span.text) for span in spans])
  pairs = [(span, words) for span, words in zip(spans, words_of) if words]
  if not pairs:
    raise ItemError('no_words', 'nothing but sound tags and blanks' if spans else 'the transcript is empty')
  timing = timing_of(pairs, interpolate)
  words = clip(sort(place(pairs)), duration_ms)
  return tuple(ends(words, duration_ms)), timing


def check(span, number):
  """Refuse times that no mending makes sense of."""
  for time in (span.start, span.end):
    if time is None:
      continue
    # The first test also catches NaN, which is on neither side of anything.
    if not abs(time) <= MAX_TIME_MS:
      raise ItemError('bad_times', f'word {number} has the time {time} ms')
    if time < -SLIP_MS:
      raise ItemError('negative_times', f'word {number} has the time {time} ms')
  if span.start is not None and span.end is not None and span.end < span.start - SLIP_MS:
    raise ItemError('end_before_start', f'word {number} starts at {span.start} ms and ends at {span.end} ms')


def without_tags(words_of):
  """The lists of words without [...]: a tag may cross spans, and a bracket that never closes is text."""
  where = [(i, k) for i, words in enumerate(words_of) for k in range(len(words))]
  kept = [list(words) for words in words_of]
  at = 0
  while at < len(where):
    i, k = where[at]
    before, bracket, _ = kept[i][k].partition('[')
    if not bracket:
      at += 1
      continue
    for last in range(at, min(at + MAX_TAG_WORDS, len(where))):
      j, l = where[last]
      inside = kept[j][l][len(before) :] if last == at else kept[j][l]
      if last > at and '[' in inside.partition(']')[0]:
        at = last  # The earlier one never closed.
        break
      if ']' in inside:
        rest = inside.partition(']')[2]
        for i2, k2 in where[at : last + 1]:
          kept[i2][k2] = ''
        kept[i][k] = before
        kept[j][l] += rest
        at = last if rest else last + 1
        break
    else:
      at += 1
  return [[word for word in words if word] for words in kept]


def timing_of(pairs, interpolate):
  total = sum(len(words) for _, words in pairs)
  untimed = sum(len(words) - (span.start is not None) for span, words in pairs)
  if untimed <= MAX_UNTIMED * total:
    return 'word'
  if not interpolate:
    raise ItemError('no_word_times', f'{untimed} of {total} words have no time of their own')
  if all(span.start is None for span, _ in pairs):
    raise ItemError('no_word_times', 'no word has any time, so there is nothing to interpolate between')
  return 'interpolated'


def place(pairs):
  """[text, start, end or None] in ms for each word, the untimed ones laid out between their neighbours."""
  placed = []
  pending = []  # Words before the next known start.
  for at, (span, words) in enumerate(pairs):
    if span.start is None:
      pending += words
      continue
    if pending:
      fill(placed, pending, span.start)
      pending = []
    end = None if span.end is None else max(span.end, span.start)
    if len(words) == 1:
      placed.append([words[0], span.start, end])
      continue
    room = span.start + len(words) * MAX_WORD_MS if end is None else end
    later = next((s.start for s, _ in pairs[at + 1 : at + 50] if s.start is not None and s.start > span.start), room)
    placed += spread(words, span.start, min(room, later))
  if pending:
    fill(placed, pending, None)
  return placed


def fill(placed, words, until):
  """Lay out words that have no start: behind the last placed one, before `until`."""
  reach = len(words) * MAX_WORD_MS
  if placed:
    _, start, end = placed[-1]
    if end is None:
      placed[-1][2] = end = start + MAX_WORD_MS if until is None else min(start + MAX_WORD_MS, (start + until) / 2)
    left = end if until is None else min(end, until)
  else:
    left = max(0.0, until - reach)
  right = left + reach if until is None else max(left, min(until, left + reach))
  placed += spread(words, left, right)


def spread(words, start, end):
  """The words over [start, end], each in proportion to its length plus the pause behind it."""
  weight = sum(len(word) + 1 for word in words)
  out, passed = [], 0
  for word in words:
    here = start + (end - start) * passed / weight
    passed += len(word) + 1
    out.append([word, here, start + (end - start) * passed / weight])
  return out


def sort(placed):
  """[text, start_ms, end_ms or None] in whole ms from 0 on, by start."""
  words = [[text, max(0, round(start)), None if end is None else round(end)] for text, start, end in placed]
  latest = 0
  for text, start, _ in words:
    if start < latest - MAX_DISORDER_MS:
      raise ItemError('unsorted_times', f'{text!r} starts at {start} ms, behind a word at {latest} ms')
    latest = max(latest, start)
  return sorted(words, key=lambda word: word[1])


def clip(words, duration_ms):
  """The words without the few that start too late."""
  if duration_ms is None:
    return words
  inside = [word for word in words if word[1] < duration_ms]
  late, last = len(words) - len(inside), words[-1][1]
  if last > duration_ms + LATE_MS or late > max(LATE_WORDS, LATE_SHARE * len(words)) or not inside:
    raise ItemError(
      'times_beyond_duration',
      f'{late} of {len(words)} words start after the end of the video, the last at {last} of {duration_ms} ms:'
      ' a transcript of another cut, or a video that was cut short',
    )
  return inside


def ends(words, duration_ms):
  """Words whose ends are later than their starts and inside the video."""
  later = None  # The first start behind this word's own.
  out = []
  for at in range(len(words) - 1, -1, -1):
    text, start, end = words[at]
    if at + 1 < len(words) and words[at + 1][1] > start:
      later = words[at + 1][1]
    if end is None or end <= start:
      end = start + MAX_WORD_MS if later is None else min(later, start + MAX_WORD_MS)
    out.append(Word(text, start, end if duration_ms is None else min(end, duration_ms)))
  return out[::-1]
