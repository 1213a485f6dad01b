import json
import string

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from data.outcomes import ItemError
from data.transcripts import align
from tests.support.paths import GOLDEN

RECORD = json.loads((GOLDEN / 'WAaKRUoY6Io.grover.json').read_text())
EXPECTED = json.loads((GOLDEN / 'transcript_sampling.json').read_text())


def corrected():
  return [token for part in RECORD['denoised'] for token in part['cleanasr'].split(' ')]


def test_cleaning_and_alignment_equal_the_reference():
  words = [align.clean_word(item['word']) for item in RECORD['subtitles']]
  assert words == EXPECTED['words'] and len(words) == EXPECTED['n_words']
  assert len(corrected()) == EXPECTED['n_denoised']
  assert align.align(words, corrected()) == EXPECTED['aligned']


def test_clean_word():
  assert align.clean_word('&gt;&gt;') == ''
  assert align.clean_word('&amp') == ''
  assert align.clean_word('amp;') == ''
  assert align.clean_word('R&B') == 'R&B'
  assert align.clean_word('schÃ¶n') == 'schön'
  assert align.clean_word('') == ''


def plain(word):
  return ''.join(c for c in word if c not in string.punctuation).strip().lower()


def levenshtein(a, b):
  row = list(range(len(b) + 1))
  for i, x in enumerate(a):
    row, above = [i + 1], row
    for j, y in enumerate(b):
      row.append(min(above[j + 1] + 1, row[j] + 1, above[j] + (x != y)))
  return row[-1]


def naive(words, tokens):
  """The published method, written down as slowly and as plainly as it goes."""
  radius = int(max(len(words) * 0.1, 32))
  if len(tokens) > len(words):
    tokens = tokens[: len(words) + radius]
  inf = float('inf')
  total = np.full((len(words) + 1, len(tokens) + 1), inf)
  total[0, 0] = 0
  for i, word in enumerate(words):
    for j, token in enumerate(tokens):
      inside = max(i - radius, 0) <= j < min(i + radius, len(tokens))
      cost = levenshtein(plain(word), plain(token)) if inside else 9999
      total[i + 1, j + 1] = cost + min(total[i, j], total[i, j + 1], total[i + 1, j])
  i, j = len(words), len(tokens)
  path = [(i, j)]
  while (i, j) != (1, 1):
    i, j = min([(i - 1, j - 1), (i - 1, j), (i, j - 1)], key=lambda at: total[at])
    path.append((i, j))
  out, seen = [[] for _ in words], 0
  for i, j in reversed(path):
    if j > seen:
      out[i - 1].append(tokens[j - 1])
    seen = j
  return [' '.join(each) for each in out]


spoken = st.lists(st.text("abAB.,' é😀", max_size=4), min_size=1, max_size=9)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(spoken, spoken)
def test_equals_the_plain_method(words, tokens):
  assert align.align(words, tokens) == naive(words, tokens)


@pytest.mark.parametrize('n, m', [(1, 60), (60, 1), (70, 35), (35, 70), (80, 80)])
def test_equals_the_plain_method_where_the_band_matters(n, m):
  rng = np.random.default_rng(n + m)
  words, tokens = ([''.join(rng.choice(list('abc'), rng.integers(0, 4))) for _ in range(size)] for size in (n, m))
  assert align.align(words, tokens) == naive(words, tokens)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(spoken, spoken)
def test_every_token_is_kept_once_and_in_order(words, tokens):
  aligned = align.align(words, tokens)
  assert len(aligned) == len(words)
  assert ' '.join(aligned).split() == ' '.join(tokens).split()


def test_a_text_that_goes_on_and_on_is_cut():
  aligned = align.align(['one', 'two'], ['one', 'two'] + ['and'] * 500)
  assert sum(len(each.split()) for each in aligned) == 2 + 32


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(spoken, spoken)
def test_edit_distances(left, right):
  expected = [[levenshtein(a, b) for b in right] for a in left]
  np.testing.assert_array_equal(align.edit_distances(left, right), expected)


def test_edit_distances_in_several_chunks(monkeypatch):
  monkeypatch.setattr(align, 'CHUNK', 20)
  words = ['abc', 'abd', 'xyz', 'a', '', 'bca']
  expected = [[levenshtein(a, b) for b in words] for a in words]
  np.testing.assert_array_equal(align.edit_distances(words, words), expected)


def test_too_long_to_align_is_refused_before_any_work():
  with pytest.raises(ItemError, match='oversized_transcript'):
    align.align(['a'] * 30_000, ['a'] * 30_000)
  with pytest.raises(ItemError, match='oversized_transcript'):
    align.align([f'a{i}' for i in range(19_000)], [f'b{i}' for i in range(19_000)])
