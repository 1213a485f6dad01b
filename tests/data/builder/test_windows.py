"""Windows where somebody talks, and records out of real files."""

import bisect
import dataclasses
import hashlib
import json
import math
import tarfile
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data.builder import windows
from data.builder.windows import Window, WindowConfig, choose
from data.sources.items import Item
from data.transcripts.formats import Word
from tests.support import media
from tvts_jax.errors import UserError
from tvts_jax.media import pictures
from tvts_jax.media.errors import MediaError
from tvts_jax.shards import records, sampling

# Two transcripts of 0.5 or 1 s, 0.5 s apart: a sample spans at most 2.5 s.
SMALL = WindowConfig(window_s=4, transcripts=2, seconds=(0.5, 1), gap_s=0.5, min_words=2, short_side=32)
STEP = 50  # ms; everything in these tests is a multiple of it, so that all windows can be tried


def at(starts):
  return [Word(f'w{i}', s, s + STEP) for i, s in enumerate(sorted(starts))]


def is_valid(words, start, end, config):
  """Whether training will find a sample of every length in a record of this window."""
  inside = [w.start_ms for w in words if w.start_ms <= end and w.end_ms >= start]
  return all(
    sampling.valid_starts(inside, start, end, round(s * 1000), config.sampling)[0].size for s in config.seconds
  )


def count(words, start, end):
  return sum(start <= w.start_ms <= end for w in words)


def code_of(call, *args):
  with pytest.raises(MediaError) as caught:
    call(*args)
  return caught.value.code


starts = st.lists(st.integers(0, 200), max_size=60).map(lambda x: [STEP * i for i in x])


@given(starts=starts, duration=st.integers(30, 200).map(lambda i: STEP * i))
@settings(max_examples=60, deadline=None)
def test_the_first_window_is_the_best_of_all(starts, duration):
  words = at([s for s in starts if s < duration])
  length = min(4000, duration)
  possible = [s for s in range(0, duration - length + 1, STEP) if is_valid(words, s, s + length, SMALL)]
  if duration < 2500:
    assert code_of(choose, words, duration, SMALL) == 'too_short'
  elif not possible:
    assert code_of(choose, words, duration, SMALL) == 'too_few_words'
  else:
    [window] = choose(words, duration, SMALL)
    assert window.end_ms - window.start_ms == length
    assert is_valid(words, window.start_ms, window.end_ms, SMALL)
    assert count(words, window.start_ms, window.end_ms) == max(count(words, s, s + length) for s in possible)


@given(starts=st.lists(st.integers(0, 400), min_size=60, max_size=200).map(lambda x: [STEP * i for i in x]))
@settings(max_examples=30, deadline=None)
def test_several_windows(starts):
  words = at(starts)
  assume(any(is_valid(words, s, s + 4000, SMALL) for s in range(0, 16_051, STEP)))
  chosen = choose(words, 20_050, dataclasses.replace(SMALL, windows_per_video=9))
  assert [w.index for w in chosen] == list(range(len(chosen)))
  for n in range(1, 9):
    assert choose(words, 20_050, dataclasses.replace(SMALL, windows_per_video=n)) == chosen[:n]
  by_time = sorted(chosen, key=lambda w: w.start_ms)
  assert all(a.end_ms <= b.start_ms for a, b in zip(by_time, by_time[1:]))
  assert all(w.start_ms >= 0 and w.end_ms <= 20_050 and is_valid(words, w.start_ms, w.end_ms, SMALL) for w in chosen)


def test_the_only_sample_may_begin_long_after_a_word():
  # From 9.0 s on the second transcript loses its words; the last word before that is 9 s away.
  words = at([0, 9900, 9950, 10_500, 10_550])
  assert choose(words, 30_000, SMALL) == [Window(0, 9000, 13_000)]


def test_of_equal_windows_the_earliest_is_taken():
  words = at([s + 500 * i for s in (1000, 9000, 15_000) for i in range(8)])
  assert choose(words, 20_000, SMALL) == [Window(0, 1000, 5000)]
  both = choose(words, 20_000, dataclasses.replace(SMALL, windows_per_video=2))
  assert both == [Window(0, 1000, 5000), Window(1, 9000, 13_000)]


@given(duration=st.integers(2500, 30_000), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_all_windows_miss_no_sample(duration, seed):
  every = dataclasses.replace(SMALL, windows_per_video=0, min_words=1)
  words = at(np.cumsum(np.random.default_rng(seed).integers(100, 400, duration // 250)).tolist())
  words = [w for w in words if w.start_ms < duration]
  chosen = choose(words, duration, every)
  assert [w.index for w in chosen] == list(range(len(chosen)))
  assert [w.start_ms for w in chosen] == sorted({w.start_ms for w in chosen})
  length = min(4000, duration)
  assume(all(is_valid(words, s, s + length, every) for s in range(0, duration - length, 100)))
  for begin in range(0, duration - 2500 + 1, 10):
    assert any(w.start_ms <= begin and begin + 2500 <= w.end_ms for w in chosen)


def test_windows_without_a_sample_are_left_out():
  words = at([*range(0, 5000, 200), *range(20_000, 26_000, 200)])
  chosen = choose(words, 30_000, dataclasses.replace(SMALL, windows_per_video=0))
  assert chosen
  assert all(is_valid(words, w.start_ms, w.end_ms, SMALL) for w in chosen)
  assert not any(6000 < w.start_ms < 15_000 for w in chosen)


def test_a_short_video_is_one_window():
  words = at(range(0, 3000, 100))
  for n in (0, 1, 5):
    assert choose(words, 3000, dataclasses.replace(SMALL, windows_per_video=n)) == [Window(0, 0, 3000)]


@pytest.mark.parametrize(
  'change',
  [
    *({'window_s': 2.4}, {'fps': 0}, {'window_s': -1}, {'windows_per_video': -1}, {'quality': 101}, {'short_side': 8}),
    *({name: value} for name in ('window_s', 'fps', 'gap_s') for value in (math.nan, math.inf)),
    *({'seconds': (1, math.nan)}, {'seconds': (math.inf,)}),
    {'windows_per_video': 0, 'window_s': 3.4},
  ],
  ids=str,
)
def test_configurations_that_make_no_sense(change):
  with pytest.raises(UserError):
    dataclasses.replace(SMALL, **change)
  assert dataclasses.replace(SMALL, window_s=2.5).span_ms == 2500
  assert dataclasses.replace(SMALL, window_s=3.5, windows_per_video=0).window_ms == 3500


def whisper(words):
  spoken = [{'word': f' {w.text}', 'start': w.start_ms / 1000, 'end': w.end_ms / 1000} for w in words]
  return json.dumps({'segments': [{'text': '', 'words': spoken}], 'language': 'en'})


UNEVEN = np.cumsum([0, *np.random.default_rng(5).choice([30, 100, 700, 1900], 24)]).tolist()


@pytest.fixture(scope='module')
def talk(tmp_path_factory):
  """(item, when each frame appears, duration, words): a talk of uneven frames and words."""
  folder = tmp_path_factory.mktemp('talk')
  end = UNEVEN[-1] + 1000
  media.make_video(folder / 'talk.mkv', times_ms=UNEVEN, end_ms=end, b_frames=2, gop=6, rotation=0)
  words = [Word(f'word{i}', s, s + 200) for i, s in enumerate(range(100, UNEVEN[-1], 250))]
  (folder / 'talk.json').write_text(whisper(words))
  item = Item('a/../talk', str(folder / 'talk.mkv'), str(folder / 'talk.json'), None, 'en', 'train', None)
  return item, words


def index_of(jpeg):
  return media.read_index(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))


def test_records_hold_the_words_and_frames_of_their_windows(talk):
  item, words = talk
  config = dataclasses.replace(SMALL, windows_per_video=2, fps=7)
  made, quality = windows.records(item, config)
  assert [r.window_index for r in made] == [0, 1]
  for r in made:
    assert records.decode(records.encode(r)) == r
    grid = [r.start_ms + Fraction(1000 * k, 7) for k in range(28)]
    expected = sorted({bisect.bisect_right(UNEVEN, t) - 1 for t in grid})
    assert [index_of(f) for f in r.frames] == expected
    assert r.frame_times_ms == [UNEVEN[i] for i in expected]
    inside = [w for w in words if w.start_ms <= r.end_ms and w.end_ms > r.start_ms]
    assert (r.words, r.word_starts_ms) == ([w.text for w in inside], [w.start_ms for w in inside])
    assert (r.height, r.width, r.lang) == (32, 48, 'en')
    assert (r.transcript_source, r.transcript_timing) == ('whisper', 'word')
    assert r.video_id == 'a/../talk'
  assert all(type(v) is float for v in quality.values())
  assert quality['words_per_s'] == pytest.approx(4, abs=0.3)
  assert quality['silence'] == pytest.approx(0.2, abs=0.05)
  assert quality['usable'] == 1


def test_samples_of_a_record_show_what_was_on_screen(talk):
  """From the file to a training sample: frames in their segments, words in their windows."""
  item, words = talk
  [record], _ = windows.records(item, dataclasses.replace(SMALL, fps=30))
  for seed in range(20):
    config = dataclasses.replace(SMALL.sampling, frames=4)
    drawn = sampling.draw(record, config, np.random.default_rng(seed))
    begin, end = drawn.windows_ms[0][0], drawn.windows_ms[-1][1]
    for m, frame in enumerate(drawn.frames.tolist()):
      edges = [begin + (end - begin) * Fraction(j, 4) for j in (m, m + 1)]
      # Any frame that was on screen in the segment, up to one interval of the 30 frames a second that are kept.
      first, last = (bisect.bisect_right(UNEVEN, t) - 1 for t in (edges[0] - 34, edges[1]))
      assert first <= index_of(record.frames[frame]) <= last
    for text, place in zip(drawn.texts, drawn.order.tolist()):
      s, e = drawn.windows_ms[place]
      assert text == ' '.join(w.text for w in words if s <= w.start_ms <= e)


def test_the_same_bytes_every_time_and_from_an_archive(talk, tmp_path):
  item, _ = talk
  made, quality = windows.records(item, SMALL)
  again, same_quality = windows.records(item, SMALL)
  assert [records.encode(r) for r in made] == [records.encode(r) for r in again]
  assert quality == same_quality
  with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
    tar.add(item.video, '-talk.mkv')
    tar.add(item.transcript, 'talk')
  inside = dataclasses.replace(item, video=f'{tmp_path}/a.tar::-talk.mkv', transcript=f'{tmp_path}/a.tar::talk')
  assert windows.records(inside, SMALL)[0] == made
  with open(item.video, 'rb') as file:
    assert made[0].source_sha256 == hashlib.sha256(file.read()).hexdigest()


def caption_item(path, caption='a number in black and white', **changes):
  return dataclasses.replace(Item('c', str(path), None, None, 'en', 'train', caption), **changes)


def test_a_captioned_video_is_one_record_of_few_frames(tmp_path):
  media.make_video(tmp_path / 'clip.mp4', frames=40, audio=True)
  [record], quality = windows.records(caption_item(tmp_path / 'clip.mp4'), SMALL)
  assert [index_of(f) for f in record.frames] == [5, 15, 25, 35]
  assert (record.start_ms, record.end_ms, record.duration_ms) == (0, 4000, 4000)
  assert record.words == ['a', 'number', 'in', 'black', 'and', 'white']
  assert set(record.word_starts_ms) == {0} and set(record.word_ends_ms) == {4000}
  assert (record.transcript_timing, record.lang) == ('caption', 'en')
  assert 'silence' not in quality and 'stills' in quality
  records.encode(record)
  media.make_video(tmp_path / 'short.mp4', frames=2)
  [record], _ = windows.records(caption_item(tmp_path / 'short.mp4'), SMALL)
  assert [index_of(f) for f in record.frames] == [0, 1]


def test_a_captioned_image_is_a_record_of_one_frame(tmp_path):
  for name in ('a.jpg', 'b.png', 'c.webp', 'd.jpg'):
    suffix = '.png' if name == 'd.jpg' else name[1:]  # the name has no say
    (tmp_path / name).write_bytes(cv2.imencode(suffix, media.draw_index(99))[1].tobytes())
    [record], quality = windows.records(caption_item(tmp_path / name), SMALL)
    records.encode(record)
    assert (index_of(record.frames[0]), record.frame_times_ms) == (99, [0])
    assert (record.height, record.width) == (32, 48)
    drawn = sampling.draw(record, sampling.SamplingConfig(transcripts=1, frames=4), np.random.default_rng(0))
    assert (drawn.texts, drawn.frames.tolist()) == (['a number in black and white'], [0, 0, 0, 0])


def test_what_is_wrong_has_a_name(talk, tmp_path, monkeypatch):
  item, _ = talk

  def code(**changes):
    return code_of(windows.records, dataclasses.replace(item, **changes), SMALL)

  (tmp_path / 'page.mp4').write_text('<!DOCTYPE html><html></html>')
  (tmp_path / 'few').write_text(whisper([Word('one', 100, 200), Word('two', 5000, 5100)]))
  (tmp_path / 'empty').write_text('')
  (tmp_path / 'picture.jpg').write_bytes(cv2.imencode('.jpg', media.draw_index(1))[1].tobytes())
  (tmp_path / 'late').write_text(whisper([Word('late', 100_000, 100_100)]))
  media.make_video(tmp_path / 'short.mp4', frames=20)
  assert code(video=str(tmp_path / 'none.mp4')) == 'missing_video'
  assert code(video=str(tmp_path / 'page.mp4')) == 'not_a_video'
  (tmp_path / 'sound.mp4').write_bytes(b'RIFF\x24\0\0\0WAVEfmt ' + bytes(100))
  assert code(video=str(tmp_path / 'sound.mp4')) == 'not_a_video'
  assert code(transcript=str(tmp_path / 'none')) == 'missing_transcript'
  assert code(transcript=None) == 'missing_transcript'
  assert code(transcript=str(tmp_path / 'empty')) == 'missing_transcript'
  assert code(transcript=str(tmp_path / 'few')) == 'too_few_words'
  assert code(transcript=None, video=str(tmp_path / 'picture.jpg')) == 'missing_transcript'
  assert code(transcript=None, caption=' ') == 'no_words'
  assert code(transcript=str(tmp_path / 'late')) == 'times_beyond_duration'
  assert code(transcript=None, caption='x', video=str(tmp_path / 'few')) == 'not_a_video'
  (tmp_path / 'early').write_text(whisper([Word('one', 100, 200), Word('two', 300, 400)]))
  assert code(transcript=str(tmp_path / 'early'), video=str(tmp_path / 'short.mp4')) == 'too_short'
  monkeypatch.setattr(pictures, 'IMAGE_BYTES', 100)
  assert code_of(windows.records, caption_item(tmp_path / 'picture.jpg'), SMALL) == 'oversized_video'
