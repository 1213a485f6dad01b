import dataclasses
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvts_jax.errors import UserError
from tvts_jax.shards import rng as keyed
from tvts_jax.shards import sampling
from tvts_jax.shards.sampling import SamplingConfig


def record(starts=(), frames=(), start=0, end=64000, words=None, timing='word'):
  words = words or [f'w{i}' for i in range(len(starts))]
  return types.SimpleNamespace(
    start_ms=start, end_ms=end, words=words, word_starts_ms=list(starts), frame_times_ms=list(frames),
    transcript_timing=timing,
  )  # fmt: skip


def holds(word_starts, begin, l_ms, config):
  """Eq. (1) of the paper read literally, for one begin."""
  for k in range(config.transcripts):
    s = begin + k * (l_ms + config.gap_ms)
    e = s + l_ms
    inside = range(s, e + 1) if config.windows == 'closed' else range(s + 1, e)
    if sum(w in inside for w in word_starts) < config.min_words:
      return False
  return True


@settings(max_examples=150, deadline=None)
@given(
  words=st.lists(st.integers(0, 80), max_size=30),
  start=st.integers(0, 10),
  length=st.integers(0, 70),
  l_ms=st.integers(1, 12),
  transcripts=st.integers(1, 4),
  gap=st.integers(0, 3),
  min_words=st.integers(0, 3),
  windows=st.sampled_from(sorted(sampling.WINDOWS)),
)
def test_valid_starts_equal_brute_force(words, start, length, l_ms, transcripts, gap, min_words, windows):
  words.sort()
  config = SamplingConfig(transcripts, gap_s=gap / 1000, min_words=min_words, windows=windows)
  end = start + length
  expected = [
    s for s in range(start, end + 1)
    if s + transcripts * l_ms + (transcripts - 1) * gap <= end and holds(words, s, l_ms, config)
  ]  # fmt: skip
  intervals = list(zip(*sampling.valid_starts(words, start, end, l_ms, config)))
  assert [s for lo, hi in intervals for s in range(lo, hi + 1)] == expected
  assert all(hi + 1 < lo for (_, hi), (lo, _) in zip(intervals, intervals[1:])), 'intervals touch'


def test_begins_and_lengths_are_uniform():
  rng = np.random.default_rng(0)
  config = SamplingConfig(transcripts=2, seconds=(0.003, 0.004), gap_s=0.001, min_words=1, frames=1)
  made = record(starts=[2, 3, 9, 14, 15, 21], frames=[0], end=26)
  draws = [sampling.draw(made, config, rng).windows_ms for _ in range(6000)]
  for l_ms in (3, 4):
    begins = [w[0][0] for w in draws if w[0][1] - w[0][0] == l_ms]
    assert abs(len(begins) - 3000) < 200
    intervals = list(zip(*sampling.valid_starts(made.word_starts_ms, 0, 26, l_ms, config)))
    valid = [s for lo, hi in intervals for s in range(lo, hi + 1)]
    assert len(intervals) > 1, 'the example should have a hole in its valid set'
    counts = [begins.count(s) for s in valid]
    assert sum(counts) == len(begins)
    assert max(counts) - min(counts) < 6 * np.sqrt(len(begins) / len(valid))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), windows=st.sampled_from(sorted(sampling.WINDOWS)))
def test_texts_are_the_words_of_their_windows(seed, windows):
  """In so few milliseconds that words often start just when a window begins or ends."""
  rng = np.random.default_rng(seed)
  starts = np.sort(rng.integers(5, 69, 90)).tolist()
  made = record(starts, frames=range(5, 69, 3), start=5, end=69)
  config = SamplingConfig(windows=windows, min_words=1, seconds=(0.003, 0.004, 0.005), gap_s=0.001)
  drawn = sampling.draw(made, config, rng)
  (s1, e1), (s2, _), _, (_, e4) = drawn.windows_ms
  assert e1 - s1 in (3, 4, 5) and s2 == e1 + 1 and s1 >= 5 and e4 <= 69
  assert sorted(drawn.order.tolist()) == [0, 1, 2, 3]
  for text, o in zip(drawn.texts, drawn.order):
    s, e = drawn.windows_ms[o]
    times = range(s, e + 1) if windows == 'closed' else range(s + 1, e)
    assert text.split() == [w for w, t in zip(made.words, starts) if t in times] != []


def oracle_frames(times, begin, end, m, segments):
  """The frames each segment may give: those inside it, else the one on screen when it starts."""
  allowed = []
  for i in range(m):
    lo, hi = begin + (end - begin) * i / m, begin + (end - begin) * (i + 1) / m
    inside = [j for j, t in enumerate(times) if lo <= t < hi or (i == m - 1 and t == hi)]
    if segments == 'not_last' and len(inside) > 1:
      inside = inside[:-1]
    before = [j for j, t in enumerate(times) if t < lo]
    allowed.append(inside or [before[-1] if before else 0])
  return allowed


@settings(max_examples=80, deadline=None)
@given(
  times=st.lists(st.integers(0, 400), min_size=1, max_size=40, unique=True),
  begin=st.integers(0, 100),
  span=st.sampled_from([0, 16, 64, 256]),  # with m a power of two the oracle's float bounds are exact
  m=st.sampled_from([1, 2, 4, 16]),
  segments=st.sampled_from(sorted(sampling.SEGMENTS)),
)
def test_frames_come_from_their_segments_by_real_time(times, begin, span, m, segments):
  times.sort()
  config = SamplingConfig(frames=m, segments=segments)
  rng = np.random.default_rng(0)
  allowed = oracle_frames(times, begin, begin + span, m, segments)
  seen = [set() for _ in range(m)]
  for _ in range(60):
    frames = sampling.choose_frames(times, begin, begin + span, config, rng)
    assert frames.shape == (m,)
    for i, j in enumerate(frames.tolist()):
      assert j in allowed[i]
      seen[i].add(j)
  for found, wanted in zip(seen, allowed):
    assert len(found) == len(wanted) or len(wanted) > 8  # 60 draws out of <= 8 miss one in 3e-3 of cases


def test_a_still_picture_shows_its_frame_everywhere():
  config = SamplingConfig()
  assert set(sampling.choose_frames([1000], 5000, 24000, config, np.random.default_rng(0))) == {0}


def test_center_mode_is_one_fixed_sample():
  config = SamplingConfig(transcripts=1, seconds=(5, 2, 4), min_words=1, frames=4, pick='center')
  made = record(starts=[1000, 9000, 9500], frames=[0, 400, 1600, 2500, 4100], end=12000)
  drawn = sampling.draw(made, config, keyed.generator(0))
  # l = 4 s; begins: [0, 1000] and [5000, 8000] (a window must end by 12 s): 4002 of them, 6000 in the middle
  assert drawn.windows_ms == [(6000, 10000)] and drawn.texts == ['w1 w2']
  assert sampling.choose_frames(made.frame_times_ms, 0, 4000, config, None).tolist() == [1, 1, 3, 3]


def test_caption_is_one_transcript_over_the_whole_clip():
  made = record([0, 0, 0], [0, 100, 200, 300], end=400, words=['a', 'red', 'ball'], timing='caption')
  drawn = sampling.draw(made, SamplingConfig(transcripts=1, frames=4), np.random.default_rng(0))
  assert drawn.texts == ['a red ball'] and drawn.order.tolist() == [0]
  assert drawn.frames.tolist() == [0, 1, 2, 3] and drawn.windows_ms == [(0, 400)]
  image = record([0], [0], end=0, words=['ball'], timing='caption')
  drawn = sampling.draw(image, SamplingConfig(transcripts=1, frames=2), np.random.default_rng(0))
  assert drawn.frames.tolist() == [0, 0]
  with pytest.raises(UserError, match='transcripts=1'):
    sampling.draw(image, SamplingConfig(), np.random.default_rng(0))


def test_identity_order():
  made = record(range(0, 64000, 300), [0])
  for seed in range(5):
    drawn = sampling.draw(made, SamplingConfig(order='identity'), np.random.default_rng(seed))
    assert drawn.order.tolist() == [0, 1, 2, 3]


def test_a_draw_is_a_function_of_its_key():
  made = record(range(0, 64000, 300), range(0, 64000, 333))
  first, again, epoch, other = (
    sampling.draw(made, SamplingConfig(), keyed.generator(7, epoch=e, example=x))
    for e, x in ((3, 2**63 + 5), (3, 2**63 + 5), (4, 2**63 + 5), (3, 6))
  )
  assert (first.texts, first.windows_ms) == (again.texts, again.windows_ms)
  np.testing.assert_array_equal(first.frames, again.frames)
  assert first.windows_ms not in (epoch.windows_ms, other.windows_ms)


def test_no_valid_begin_is_an_error_that_says_what_to_do():
  with pytest.raises(UserError, match='rebuild the shards'):
    sampling.draw(record([1, 2, 3], [0]), SamplingConfig(), np.random.default_rng(0))


@pytest.mark.parametrize(
  'change, reason',
  [
    ({'transcripts': 5}, 'transcripts=5'), ({'seconds': (3, 6)}, 'seconds has 6'),
    ({'gap_s': 2}, 'gap_s=2'), ({'min_words': 4}, 'min_words=4'), ({'windows': 'open'}, 'min_words=0'),
    ({'windows': 'open', 'min_words': 0}, ''), ({'transcripts': 1, 'gap_s': 2}, ''),
    ({'seconds': (4,), 'min_words': 2, 'frames': 64}, ''),
  ],
)  # fmt: skip
def test_shortfall_names_what_the_shards_lack(change, reason):
  built = SamplingConfig()
  found = sampling.shortfall(built, dataclasses.replace(built, **change))
  assert reason in found and bool(reason) == bool(found)


@pytest.mark.parametrize(
  'bad', [{'windows': 'half'}, {'transcripts': 0}, {'seconds': ()}, {'frames': 0}, {'min_words': -1}]
)
def test_bad_settings_are_refused(bad):
  with pytest.raises(UserError):
    SamplingConfig(**bad)
