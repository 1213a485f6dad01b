"""Carry a corrected text onto the word times of the raw transcript that it was made from.

The method is the one YT-Temporal was published with: both texts lower-cased and stripped of ASCII
punctuation, edit distance as cost inside a band, dynamic time warping, every corrected token attached to
the first raw word on its path. Results equal that method token for token; only the speed is ours.

Legend: N raw words, M corrected tokens, U and V their distinct spellings, C characters.
"""

import string

import ftfy
import numpy as np

from data.outcomes import ItemError

BAND_SHARE, BAND_WORDS = 0.1, 32
OUT_OF_BAND = 9999
MAX_CELLS = 400_000_000  # 20,000 words: two hours of fast speech.
MAX_SPELLING_PAIRS = 50_000_000

NO_PUNCTUATION = str.maketrans('', '', string.punctuation)
CHUNK = 1 << 21  # Cells of one edit distance row that are held at once.


def clean_word(word: str) -> str:
  """The raw word with its text repaired, or '' for what YT-Temporal drops: leftovers of HTML entities."""
  return '' if word.startswith('&') or word.endswith(';') else ftfy.fix_text(word)


def align(words: list[str], corrected: list[str]) -> list[str]:
  """N strings: the corrected tokens that belong to each raw word, joined by spaces, '' where none does."""
  radius = int(max(len(words) * BAND_SHARE, BAND_WORDS))
  if len(corrected) > len(words):
    corrected = corrected[: len(words) + radius]  # A language model that never stopped.
  if not words or not corrected:
    raise ValueError('align needs at least one word on either side')
  if len(words) * len(corrected) > MAX_CELLS:
    raise ItemError(
      'oversized_transcript', f'{len(words)} words against {len(corrected)} corrected ones is too much to align'
    )
  attached = [[] for _ in words]
  for token, owner in zip(corrected, owners(plain(words), plain(corrected), radius)):
    attached[owner].append(token)
  return [' '.join(tokens) for tokens in attached]


def plain(words):
  return [word.translate(NO_PUNCTUATION).strip().lower() for word in words]


def owners(words, tokens, radius):
  """int [M]: the first raw word that the warping path gives to each token."""
  spellings, word_N = np.unique(words, return_inverse=True)
  others, token_M = np.unique(tokens, return_inverse=True)
  if len(spellings) * len(others) > MAX_SPELLING_PAIRS:
    raise ItemError('oversized_transcript', f'{len(spellings)} distinct spellings are too many to align')
  distance_UxV = edit_distances(spellings.tolist(), others.tolist())

  n, m = len(words), len(tokens)
  above_bits, diagonal_bits = [], []
  total_M = None
  far = np.iinfo(np.int64).max // 2
  for i in range(n):
    cost_M = np.full(m, OUT_OF_BAND, np.int64)
    low, high = max(i - radius, 0), min(i + radius, m)
    if low < high:
      cost_M[low:high] = distance_UxV[word_N[i], token_M[low:high]]
    along_M = np.cumsum(cost_M)
    if total_M is None:
      total_M = along_M
      continue
    diagonal_M = np.concatenate([[far], total_M[:-1]])
    from_above_M = np.minimum(diagonal_M, total_M)
    # total[j] = cost[j] + min(from_above[j], total[j-1]), unrolled: enter the row at some k <= j, walk on.
    row_M = along_M + np.minimum.accumulate(from_above_M - along_M + cost_M)
    left_M = np.concatenate([[far], row_M[:-1]])
    # Ties go to the diagonal, then up, then left, as in the method that this repeats.
    above_bits.append(np.packbits(from_above_M <= left_M))
    diagonal_bits.append(np.packbits(diagonal_M <= total_M))
    total_M = row_M

  owner_M = [0] * m
  i, j = n - 1, m - 1
  while i > 0:
    owner_M[j] = i
    byte, shift = j >> 3, 7 - (j & 7)
    if above_bits[i - 1][byte] >> shift & 1:
      j -= int(diagonal_bits[i - 1][byte] >> shift & 1)
      i -= 1
    else:
      j -= 1
  owner_M[j] = 0  # And so do the tokens before it, which the path passes in row 0.
  return owner_M


def edit_distances(left: list[str], right: list[str]) -> np.ndarray:
  """int16 [U, V]: Levenshtein distance of every pair, all pairs with a left word of one length at once."""
  length_V = np.array([len(word) for word in right], np.int64)
  longest = int(length_V.max())
  right_CxV = codes(right, longest).T
  out_UxV = np.empty((len(left), len(right)), np.int16)
  length_U = np.array([len(word) for word in left])
  chunk = max(1, CHUNK // ((longest + 1) * len(right)))
  for length in np.unique(length_U):
    (same,) = np.nonzero(length_U == length)
    for group in np.split(same, range(chunk, len(same), chunk)):
      left_CxG = codes([left[u] for u in group], length).T
      shape = (longest + 1, len(group), len(right))
      row = np.broadcast_to(np.arange(longest + 1, dtype=np.int16)[:, None, None], shape)
      for i in range(length):
        below = np.empty(shape, np.int16)
        below[0] = i + 1
        for j in range(longest):
          replaced = row[j] + (left_CxG[i][:, None] != right_CxV[j][None, :])
          np.minimum(np.minimum(row[j + 1], below[j]) + np.int16(1), replaced, out=below[j + 1])
        row = below
      out_UxV[group] = row[length_V, :, np.arange(len(right))].T
  return out_UxV


def codes(words, length):
  """int32 [len(words), length]: code points, -1 behind the end."""
  out = np.full((len(words), length), -1, np.int32)
  for row, word in zip(out, words):
    row[: len(word)] = np.frombuffer(word.encode('utf-32-le', 'surrogatepass'), np.int32)
  return out
