import contextlib
import gzip
import json
import math
import re

import hypothesis
import hypothesis.strategies as st
import pytest

from data.outcomes import ItemError
from data.transcripts import formats
from data.transcripts import spans as spans_lib
from data.transcripts.spans import Word
from tests.support.paths import GOLDEN

VTT, RECORD = GOLDEN / 'WAaKRUoY6Io.en.vtt', GOLDEN / 'WAaKRUoY6Io.grover.json'
MINUTE = 60_000


def read(content, **kwargs):
  """The transcript of text, bytes, or something that becomes JSON."""
  if not isinstance(content, bytes | str):
    content = json.dumps(content)
  return formats.read(content.encode('utf-8', 'surrogatepass') if isinstance(content, str) else content, **kwargs)


def plain(transcript):
  return [(word.text, word.start_ms, word.end_ms) for word in transcript.words]


def said(transcript):
  return ' '.join(word.text for word in transcript.words)


def refused(code, content, **kwargs):
  with pytest.raises(ItemError) as caught:
    read(content, **kwargs)
  assert caught.value.code == code, caught.value
  return caught.value.detail


# One file of each format, all of them saying the same, as the tools write them.

WORDS = [('so', 1000, 1200), ('here', 1200, 1500), ('we', 1500, 1600), ('go', 3000, 3400), ('again.', 3400, 4000)]


def clock(ms, mark='.'):
  return f'{ms // 3600000:02d}:{ms // 60000 % 60:02d}:{ms // 1000 % 60:02d}{mark}{ms % 1000:03d}'


def json3(words=WORDS, cut=3):
  events = [{'tStartMs': 0, 'dDurationMs': 9000, 'id': 1, 'wpWinPosId': 1}]
  for line in (words[:cut], words[cut:]):
    start = line[0][1]
    segs = [{'utf8': line[0][0], 'acAsrConf': 0}]
    segs += [{'utf8': f' {text}', 'tOffsetMs': at - start} for text, at, _ in line[1:]]
    events.append({'tStartMs': start, 'dDurationMs': 5000, 'wWinId': 1, 'segs': segs})
    events.append({'tStartMs': start, 'dDurationMs': 5000, 'aAppend': 1, 'segs': [{'utf8': '\n'}]})
  return {'wireMagic': 'pb3', 'events': events}


def vtt(words=WORDS, cut=3, tag='c'):
  cues, above = 'WEBVTT\nKind: captions\nLanguage: en\n\n', ' '
  for line in (words[:cut], words[cut:]):
    tagged = line[0][0] + ''.join(f'<{clock(at)}><{tag}> {text}</c>' for text, at, _ in line[1:])
    settled = ' '.join(text for text, _, _ in line)
    start, end = line[0][1], line[-1][2]
    cues += f'{clock(start)} --> {clock(end)} align:start position:0%\n{above}\n{tagged}\n\n'
    cues += f'{clock(end)} --> {clock(end + 10)} align:start position:0%\n{settled}\n \n\n'
    above = settled
  return cues


def seconds(words, key='word', space=' '):
  return [{key: space + text, 'start': start / 1000, 'end': end / 1000} for text, start, end in words]


def whisper(words=WORDS, cut=3, **kwargs):
  parts = [part for part in (words[:cut], words[cut:]) if part]
  segments = [
    {'start': part[0][1] / 1000, 'end': part[-1][2] / 1000, 'text': 'x', 'words': seconds(part, **kwargs)}
    for part in parts
  ]
  return {'text': 'x', 'segments': segments, 'language': 'en'}


def whisperx(words=WORDS):
  content = whisper(words, space='')
  for segment in content['segments']:
    for word in segment['words']:
      word['score'] = 0.9
  return content | {'word_segments': []}


def whisper_cpp(words=WORDS):
  items = [{'offsets': {'from': start, 'to': end}, 'text': f' {text}'} for text, start, end in words]
  return {'systeminfo': '', 'result': {'language': 'en'}, 'transcription': items}


def transformers(words=WORDS):
  chunks = [{'text': f' {text}', 'timestamp': [start / 1000, end / 1000]} for text, start, end in words]
  return {'text': 'x', 'chunks': chunks}


def merlot(words=WORDS, **more):
  return {'info': {'id': 'x', 'duration': 9}, 'subtitles': [{'word': w, 'time': s / 1000} for w, s, _ in words]} | more


def srt(words=WORDS):
  lines = [(words[0][1], words[2][2], words[:3]), (words[3][1], words[-1][2], words[3:])]
  return '\n'.join(
    f'{n}\n{clock(start, ",")} --> {clock(end, ",")}\n{" ".join(w for w, _, _ in line)}\n'
    for n, (start, end, line) in enumerate(lines, 1)
  )


MAKERS = {
  'json3': json3,
  'vtt': vtt,
  'whisper': whisper,
  'whisper_timestamped': lambda words=WORDS: whisper(words, key='text', space=''),
  'whisperx': whisperx,
  'whisper_cpp': whisper_cpp,
  'transformers': transformers,
  'merlot': merlot,
}
STARTS_ONLY = {'json3', 'vtt', 'merlot'}


@pytest.mark.parametrize('name', MAKERS)
def test_every_format_says_the_same(name):
  transcript = read(MAKERS[name](), duration_ms=MINUTE)
  assert transcript.source.removesuffix('_raw') == name and transcript.timing == 'word'
  # A missing end is the next start, at most a second away.
  ends = [1200, 1500, 2500, 3400, 4400] if name in STARTS_ONLY else [end for _, _, end in WORDS]
  assert plain(transcript) == [(text, start, end) for (text, start, _), end in zip(WORDS, ends)]


spoken = st.lists(
  st.tuples(
    st.text(st.characters(codec='utf-8', categories=['L', 'N']), min_size=1, max_size=8),
    st.integers(1, 4000),
    st.integers(1, 900),
  ),
  min_size=4,
  max_size=12,
)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(spoken, st.sampled_from(sorted(set(MAKERS) - {'merlot'})))
def test_words_and_starts_survive_every_format(steps, name):
  words, now = [], 0
  for text, gap, length in steps:
    hypothesis.assume(text.split() == [text] and spans_lib.split(text) == [text])
    now += gap
    words.append((text, now, now + min(gap, length)))
  fmt = 'vtt_lone_words' if name == 'vtt' else None
  transcript = read(MAKERS[name](words), fmt=fmt, duration_ms=now + 1)
  assert [(word.text, word.start_ms) for word in transcript.words] == [(text, start) for text, start, _ in words]
  assert all(word.start_ms < word.end_ms <= now + 1 for word in transcript.words)


@pytest.mark.parametrize('name', [name for name in formats.FORMATS if name not in ('video2dataset', 'vtt_lone_words')])
def test_a_format_can_be_named_and_is_then_insisted_on(name):
  content = (MAKERS | {'srt': srt})[name]()
  assert read(content, fmt=name, interpolate=True).source.removesuffix('_raw') == name
  other = 'whisper_cpp' if name != 'whisper_cpp' else 'json3'
  assert other in refused('bad_transcript', content, fmt=other)


def test_an_unknown_format_lists_the_known_ones():
  for content, kwargs in [({'foo': 1}, {}), ('just some text', {}), (json3(), {'fmt': 'foo'}), ('[1, 2]', {})]:
    detail = refused('unknown_format', content, **kwargs)
    assert all(name in detail for name in formats.FORMATS)


# Real files.


def test_merlots_vtt_gives_the_words_and_times_of_its_record():
  record = json.loads(RECORD.read_text())['subtitles']
  expected = [(item['word'], round(item['time'] * 1000)) for item in record]
  transcript = formats.read(VTT, duration_ms=255_000)
  assert len(expected) == 641
  assert [(word.text, word.start_ms) for word in transcript.words] == expected
  assert (transcript.lang, transcript.timing) == ('en', 'word')


def test_a_line_of_one_word_has_no_tag_but_was_said():
  record = json.loads(RECORD.read_text())['subtitles']
  expected = {(item['word'], round(item['time'] * 1000)) for item in record}
  heard = [(word.text, word.start_ms) for word in formats.read(VTT, fmt='vtt_lone_words').words]
  assert expected < set(heard) and len(heard) == 642
  assert set(heard) - expected == {('sweetness', 188_380)}  # "what can we do to counter the / sweetness"


def test_the_record_gives_the_corrected_text_on_word_times():
  golden = json.loads((GOLDEN / 'transcript_sampling.json').read_text())
  transcript = formats.read(RECORD, duration_ms=255_000)
  assert (transcript.source, transcript.timing, transcript.lang) == ('merlot', 'word', '')
  pairs = [(token, round(at * 1000)) for text, at in zip(golden['aligned'], golden['times']) for token in text.split()]
  assert [(word.text, word.start_ms) for word in transcript.words] == pairs
  # The windows of the reference hold the same text, whatever the seed.
  for sample in golden['samples']:
    for start, end, text in zip(sample['start'], sample['end'], sample['text']):
      inside = [word.text for word in transcript.words if start * 1000 < word.start_ms < end * 1000]
      assert inside == text.split()


def test_without_corrected_text_the_raw_words_are_taken():
  for content in (merlot(), merlot(denoised=[]), merlot(denoised=None), merlot(denoised=[{'cleanasr': ' '}])):
    transcript = read(content)
    assert transcript.source == 'merlot_raw' and said(transcript) == 'so here we go again.'


def test_corrected_text_that_shares_a_word_shares_its_time():
  transcript = read(merlot(denoised=[{'cleanasr': 'So here we all go again.'}]), duration_ms=MINUTE)
  assert said(transcript) == 'So here we all go again.'
  assert all(word.start_ms in {start for _, start, _ in WORDS} for word in transcript.words)
  assert read(merlot(WORDS + [('&gt;&gt;', 4100, 0)])).words[-1].text == 'again.'


# Details of single formats.


def test_vtt_as_it_comes():
  file = vtt()
  expected = plain(read(file))
  assert plain(read('\ufeff' + file)) == expected
  assert plain(read(file.replace('\n', '\r\n'))) == expected
  assert plain(read(file.replace('00:00:0', '00:0'))) == expected  # hours are optional
  assert plain(read(vtt(tag='c.colorE5E5E5'))) == expected
  assert plain(read(re.sub(' +\n', '\n', file))) == expected  # by an editor
  notes = 'NOTE\nthis is\nno speech\n\nSTYLE\n::cue(c) { color: red }\n\nidentifier-7\n'
  assert plain(read(file.replace('en\n\n', 'en\n\n' + notes, 1))) == expected
  middle = file.index('00:00:04.000 -->')
  assert plain(read(file[:middle] + notes + file[middle:])) == expected


def test_vtt_of_the_older_kind_with_tags_around_times():
  file = """WEBVTT
Style:
::cue(c.colorCCCCCC) { color: rgb(204,204,204); }
##

00:00:07.000 --> 00:00:09.000 align:start position:0%
at<00:00:07.109><c> the</c><c.colorE5E5E5><00:00:07.170><c> RNC</c></c><c.colorCCCCCC><00:00:07.589><c> Alex</c></c>

00:00:09.000 --> 00:00:09.120 align:start position:0%
at the<c.colorE5E5E5> RNC</c><c.colorCCCCCC> Alex</c>


00:00:09.120 --> 00:00:10.980 align:start position:0%
at the<c.colorE5E5E5> RNC</c><c.colorCCCCCC> Alex</c>
<c.colorCCCCCC>Mr.<00:00:09.389><c> Turks</c></c>
"""
  starts = [(word.text, word.start_ms) for word in read(file).words]
  assert starts == [('at', 7000), ('the', 7109), ('RNC', 7170), ('Alex', 7589), ('Mr.', 9120), ('Turks', 9389)]


def test_vtt_lines_of_one_word():
  cue = '{} --> {} align:start position:0%\n{}\n{}\n\n'
  file = 'WEBVTT\n\n'
  file += cue.format('00:01.000', '00:02.000', ' ', 'oh<00:01.500><c> yes</c>')
  file += cue.format('00:02.000', '00:02.010', 'oh yes', ' ')
  file += cue.format('00:02.010', '00:04.000', 'oh yes', 'yeah')
  file += cue.format('00:04.000', '00:04.010', 'yeah', ' ')
  file += cue.format('00:04.010', '00:09.000', 'yeah', 'yeah')  # once more, not a repetition of the line
  file += cue.format('00:09.000', '00:09.010', 'yeah', ' ')
  file += cue.format('00:09.010', '00:12.000', 'yeah', 'so<00:09.500><c> there</c>')
  words = [(word.text, word.start_ms) for word in read(file, fmt='vtt_lone_words').words]
  assert words == [('oh', 1000), ('yes', 1500), ('yeah', 2010), ('yeah', 4010), ('so', 9010), ('there', 9500)]


def test_vtt_entities():
  file = 'WEBVTT\n\n00:01.000 --> 00:02.000\n&gt;&gt; rock<00:01.500><c> &amp;</c><00:01.600><c> roll&nbsp;</c>\n'
  assert said(read(file)) == 'rock & roll'


def test_json3_as_it_comes():
  pieces = json3([('col', 1000, 0), ('now', 1200, 0), ('and', 2000, 0), ('then', 2500, 0)], cut=2)
  pieces['events'][1]['segs'].insert(1, {'utf8': 'lege', 'tOffsetMs': 100})
  pieces['events'][1]['segs'].append({'utf8': '.', 'tOffsetMs': 300})
  assert said(read(pieces)) == 'college now. and then'
  chinese = {'events': [{'segs': [{'utf8': '今天'}, {'utf8': '台股', 'tOffsetMs': 300}]}]}  # and no tStartMs: 0
  assert plain(read(chinese)) == [('今天', 0, 300), ('台股', 300, 1300)]


def test_json3_without_word_times():
  manual = {
    'events': [
      {'tStartMs': 1000, 'dDurationMs': 3000, 'segs': [{'utf8': 'one two\nthree'}]},
      {'tStartMs': 5000, 'dDurationMs': 1000, 'segs': [{'utf8': 'four'}, {'utf8': ' five six'}]},
    ]
  }
  assert '4 of 6 words' in refused('no_word_times', manual)
  transcript = read(manual, interpolate=True)
  assert transcript.timing == 'interpolated' and said(transcript) == 'one two three four five six'
  first, last = plain(transcript)[:3], plain(transcript)[3:]
  assert first[0][1] == 1000 and first[-1][2] == 4000 and last[0][1] == 5000 and last[-1][2] == 6000
  assert all(before[2] <= after[1] for before, after in zip(first, first[1:]))


def test_json3_words_with_a_blank_between_them():
  lines = [{'utf8': 'one two'}, {'utf8': '\n'}, {'utf8': 'three'}]
  timed = [{'utf8': 'so'}, {'utf8': ' here', 'tOffsetMs': 200}, {'utf8': ' '}, {'utf8': 'we', 'tOffsetMs': 500}]
  for segs, expected in ((lines, 'one two three'), (timed, 'so here we')):
    content = {'events': [{'tStartMs': 1000, 'dDurationMs': 3000, 'segs': segs}]}
    assert said(read(content, interpolate=True)) == expected


def test_interpolated_lines_that_overlap_end_at_the_next():
  manual = {
    'events': [
      {'tStartMs': at, 'dDurationMs': 9000, 'segs': [{'utf8': 'a line of words'}]} for at in (1000, 3000, 5000)
    ]
  }
  starts = [word.start_ms for word in read(manual, interpolate=True).words]
  assert starts == sorted(starts) and starts[3] < 3000 <= starts[4]


def test_line_formats_are_refused_unless_interpolated():
  plain_vtt = 'WEBVTT\n\n' + srt().replace(',', '.')
  segments = whisper()
  for segment in segments['segments']:
    segment['text'] = 'so here we' if segment.pop('words')[0]['start'] == 1 else 'go again.'
  lines = {'chunks': [{'text': ' so here we', 'timestamp': [1, 1.6]}, {'text': ' go again.', 'timestamp': [3, None]}]}
  items = {'transcription': [{'offsets': {'from': 1000, 'to': 4000}, 'text': ' so here we go again.'}]}
  for content in (srt(), plain_vtt, segments, lines, items):
    refused('no_word_times', content)
    transcript = read(content, interpolate=True, duration_ms=MINUTE)
    assert (said(transcript), transcript.timing) == ('so here we go again.', 'interpolated')
    assert transcript.words[0].start_ms == 1000


def test_lines_of_single_words_are_word_times():
  file = '\n'.join(f'{n}\n{clock(s, ",")} --> {clock(e, ",")}\n{w}\n' for n, (w, s, e) in enumerate(WORDS, 1))
  transcript = read(file)
  assert (transcript.source, transcript.timing, plain(transcript)) == ('srt', 'word', WORDS)


def test_automatic_captions_turned_into_srt_are_not_heard_twice():
  cues = [('so here we',), ('so here we',), ('so here we', 'go again and'), ('go again and',), ('go again and', 'on')]
  file = '\n'.join(
    f'{n}\n{clock(n * 1000)} --> {clock(n * 1000 + 900)}\n' + '\n'.join(c) + '\n' for n, c in enumerate(cues, 1)
  )
  assert said(read(file, interpolate=True)) == 'so here we go again and on'


@pytest.mark.parametrize('line', ['and so my fellow', 'and so\nmy fellow'])
def test_a_line_that_whisper_underlines_word_by_word_lasts_to_its_end(line):
  cues = [line.replace(word, f'<u>{word}</u>') for word in line.split()]
  times = [f'{clock(1000 * n)} --> {clock(1000 * n + 1000)}' for n in range(len(cues))]
  file = 'WEBVTT\n\n' + ''.join(f'{time}\n{cue}\n\n' for time, cue in zip(times, cues))
  words = read(file, interpolate=True).words
  assert [word.text for word in words] == line.split() and words[-1].end_ms == 4000


@pytest.mark.parametrize('start, end, lasts_to', [(2500, 4000, 4000), (1000, 1500, 2000), (30_000, 32_000, 2000)])
def test_a_line_that_is_said_again_lasts_through_no_silence(start, end, lasts_to):
  times = [f'{clock(a)} --> {clock(b)}' for a, b in ((0, 2000), (start, end))]
  words = read('WEBVTT\n\n' + ''.join(f'{time}\nand so\n\n' for time in times), interpolate=True).words
  assert [word.text for word in words] == ['and', 'so'] and words[-1].end_ms == lasts_to


def test_whisper_relatives():
  bare = whisper()['segments']  # what people dump from faster-whisper
  service = {'text': 'x', 'language': 'english', 'words': seconds(WORDS, space='')}
  for content in (bare, service):
    assert plain(read(content)) == WORDS
  split = whisper([('all', 0, 300), ('well', 900, 1200)])
  split['segments'][0]['words'].insert(1, {'word': '-nighters', 'start': 0.3, 'end': 0.6})
  assert plain(read(split)) == [('all-nighters', 0, 600), ('well', 900, 1200)]


def test_whisperx_words_without_times_lie_between_their_neighbours():
  words = [(f'w{i}', 1000 * i, 1000 * i + 400) for i in range(12)]
  for missing in ({}, {'start': math.nan, 'end': math.nan}, {'start': None, 'end': None}):
    content = whisperx(words)
    content['segments'][1]['words'][2] = {'word': '2014'} | missing
    transcript = read(content)
    assert transcript.timing == 'word'
    assert plain(transcript)[5] == ('2014', 4400, 5400)  # after w4, at most a second long
  content = whisperx(words)
  for at in (0, 1, 2):
    content['segments'][1]['words'][at] = {'word': f'{at}'}
  refused('no_word_times', content)  # a quarter of the words is too many to guess
  assert read(content, interpolate=True).timing == 'interpolated'
  refused('bad_times', whisper([('a', math.nan, 1)]))


def test_whisperx_words_without_times_at_either_end():
  words = [(f'w{i}', 500 + 1000 * i, 1000 * i + 900) for i in range(12)]
  content = whisperx(words)
  content['segments'][0]['words'].insert(0, {'word': 'first'})
  content['segments'][1]['words'].append({'word': 'last'})
  out = plain(read(content, duration_ms=12_500))
  assert out[0] == ('first', 0, 500) and out[-1] == ('last', 11_900, 12_500)


def test_whisper_cpp_tokens_and_pieces():
  def token(text, start, end):
    return {'text': text, 'offsets': {'from': start, 'to': end}, 'id': 1, 'p': 0.9, 't_dtw': -1}

  tokens = [token('[_BEG_]', 0, 0), token(' Hel', 100, 200), token('lo', 200, 400), token(',', 400, 450)]
  tokens += [token(' it', 500, 600), token("'s", 600, 700), token(' me', 800, 1000), token('[_TT_75]', 1500, 1500)]
  whole = {'offsets': {'from': 0, 'to': 1500}, 'text': " Hello, it's me", 'tokens': tokens}
  assert plain(read({'transcription': [whole]})) == [('Hello,', 100, 450), ("it's", 500, 700), ('me', 800, 1000)]
  two = [(' so', 0, 200), (' here', 200, 400), (' we go', 400, 800), (' Gab', 800, 900), ('riel', 900, 1000)]
  items = [{'offsets': {'from': s, 'to': e}, 'text': text} for text, s, e in two + [(' and', 1000, 1100)]]
  assert plain(read({'transcription': items})) == [
    ('so', 0, 200),
    ('here', 200, 400),
    ('we', 400, 600),
    ('go', 600, 800),
    ('Gabriel', 800, 1000),
    ('and', 1000, 1100),
  ]


def test_whisper_cpp_characters_cut_into_tokens():
  one = b'{"transcription": [{"offsets": {"from": 0, "to": 900}, "text": "\xe4\xbb\x8a\xe5\xa4\xa9", "tokens": ['
  cut = [(b'\xe4\xbb\x8a', 0), (b'\xe5\xa4', 300), (b'\xa9', 500)]
  parts = [b'{"text": "%s", "offsets": {"from": %d, "to": %d}}' % (text, at, at + 200) for text, at in cut]
  assert plain(read(one + b','.join(parts) + b']}]}')) == [('今', 0, 200), ('天', 300, 700)]


def test_transformers_without_a_last_end():
  content = transformers()
  content['chunks'][-1]['timestamp'][1] = None
  assert plain(read(content))[-1] == ('again.', 3400, 4400)


def test_video2dataset_is_refused_by_name():
  line = {'start': '00:00:07.749', 'end': '00:00:07.759', 'lines': ['so here we go']}
  for content in (
    {'yt_meta_dict': {'info': {}, 'subtitles': [line]}, 'clips': [[0, 1]]},
    {'info': {}, 'subtitles': [line]},
  ):
    assert 'json3' in refused('video2dataset_transcript', content)


# What is not speech.


def test_sound_tags_and_speaker_marks_are_no_words():
  line = '[Music] >> so [sound of throat] in[laughs]deed ♪ oh ♪ [never closed >>> yes [_BEG_]'
  words = line.split()
  spaced = [(word, 100 * i, 100 * i + 90) for i, word in enumerate(words, 1)]
  expected = 'so indeed oh [never closed yes'
  assert said(read(whisper(spaced))).replace('in deed', 'indeed') == expected
  assert said(read(json3(spaced))) == expected
  untimed = {'events': [{'tStartMs': 0, 'dDurationMs': 9000, 'segs': [{'utf8': line}]}]}
  assert said(read(untimed, interpolate=True)) == expected


@pytest.mark.parametrize('content', [{'events': []}, merlot([]), {'segments': []}, whisper([('[Music]', 0, 900)])])
def test_no_words(content):
  refused('no_words', content)


@pytest.mark.parametrize('content', [b'', b'   \n\n', gzip.compress(b'', mtime=0)])
def test_an_empty_file_is_missing_not_silent(content, tmp_path):
  assert 'not silence' in refused('missing_transcript', content)
  refused('missing_transcript', content, fmt='json3')
  (tmp_path / 'x.json3').write_bytes(content)
  with pytest.raises(ItemError, match='missing_transcript'):
    formats.read(tmp_path / 'x.json3')


def test_a_file_that_is_not_there(tmp_path):
  for path in (tmp_path / 'no.vtt', tmp_path):
    with pytest.raises(ItemError, match='missing_transcript'):
      formats.read(path)


def test_characters_that_break_readers_are_left_out():
  odd = [
    ('a\x00b\x07', 0, 100),
    ('\ud83d', 100, 200),
    ('c\udc80', 200, 300),
    ('\ufffd', 300, 400),
    ('\u200bd', 400, 500),
  ]
  for name in ('whisper', 'whisper_cpp', 'merlot'):
    transcript = read(MAKERS[name](odd))
    assert said(transcript) == 'ab c d'
    said(transcript).encode()
  transcript = read(merlot(odd, denoised=[{'cleanasr': 'ab \ud83d c d'}]))
  assert said(transcript) == 'ab c d'


# Times.


def times(*pairs):
  return whisper([('w', start, end) for start, end in pairs])


def test_small_disorder_is_mended():
  assert plain(read(times((1000, 1200), (900, 950), (2000, 2100)))) == [
    ('w', 900, 950),
    ('w', 1000, 1200),
    ('w', 2000, 2100),
  ]
  assert plain(read(times((-300, 200), (500, 400), (900, 900)))) == [('w', 0, 200), ('w', 500, 900), ('w', 900, 1900)]
  late = times(*((1000 * i, 1000 * i + 500) for i in range(10)))
  assert [word.end_ms for word in read(late, duration_ms=8300).words][-1] == 8300
  assert len(read(late, duration_ms=8000).words) == 8  # two of whisper's words in the padding


def test_order_of_equal_starts_is_kept():
  words = [('a', 1000, 1100), ('b', 1000, 1100), ('c', 1000, 1100), ('d', 900, 950)]
  assert said(read(whisper(words))) == 'd a b c'
  starts_only = read(merlot([('a', 1000, 0), ('b', 1000, 0), ('c', 1400, 0)]))
  assert plain(starts_only) == [('a', 1000, 1400), ('b', 1000, 1400), ('c', 1400, 2400)]


@pytest.mark.parametrize(
  'code, content',
  [
    ('negative_times', times((-5000, 100))),
    ('negative_times', json3([('a', -5000, 0), ('b', 0, 0)], cut=1)),
    ('end_before_start', times((5000, 1000))),
    ('unsorted_times', times((60_000, 60_100), (1000, 1100))),
    ('bad_times', times((1e12, 1e12))),
    ('bad_times', times((1000, 1e12))),
    ('bad_times', times((math.nan, math.nan))),
    ('bad_times', times((math.inf, math.inf))),
    ('bad_times', '{"segments": [{"text": "a", "words": [{"word": "a", "start": 1e999, "end": 1}]}]}'),
    ('bad_times', '{"segments": [{"text": "a", "words": [{"word": "a", "start": 1%s, "end": 1}]}]}' % ('0' * 4000)),
    ('bad_times', '{"segments": [{"text": "a", "words": [{"word": "a", "start": "1", "end": 1}]}]}'),
    ('bad_times', '{"segments": [{"text": "a", "words": [{"word": "a", "start": true, "end": 1}]}]}'),
    ('bad_times', merlot([('a', 1e15, 0)])),
    ('bad_times', {'events': [{'tStartMs': math.nan, 'segs': [{'utf8': 'a'}]}]}),
    ('bad_times', {'transcription': [{'offsets': {'from': '0', 'to': 1}, 'text': 'a'}]}),
    ('no_word_times', merlot([]) | {'subtitles': [{'word': 'a'}]}),
    ('no_word_times', {'transcription': [{'text': ' a'}]}),
  ],
)
def test_nonsense_times_are_refused_by_name(code, content):
  refused(code, content)
  refused(code, content, duration_ms=MINUTE, interpolate=True)


def test_a_transcript_of_another_cut():
  words = times(*((1000 * i, 1000 * i + 500) for i in range(300)))
  assert 'another cut' in refused('times_beyond_duration', words, duration_ms=200_000)
  refused('times_beyond_duration', times((1000, 1100), (50_000, 50_100)), duration_ms=10_000)
  refused('times_beyond_duration', times((1000, 1100)), duration_ms=500)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
  st.lists(st.tuples(st.integers(-400, 9000), st.none() | st.integers(-400, 9000)), min_size=1, max_size=12),
  st.none() | st.integers(1, 12_000),
)
def test_what_comes_out_is_in_order_and_inside(pairs, duration_ms):
  spans = [spans_lib.Span(f'w{i}', start, end) for i, (start, end) in enumerate(pairs)]
  try:
    words, kind = spans_lib.settle(spans, duration_ms, interpolate=False)
  except ItemError as error:
    assert error.code in ('end_before_start', 'times_beyond_duration', 'unsorted_times')
    return
  assert kind == 'word'
  starts = [word.start_ms for word in words]
  assert starts == sorted(starts) and min(starts) >= 0
  assert all(word.start_ms < word.end_ms for word in words)
  assert duration_ms is None or max(word.end_ms for word in words) <= duration_ms
  given_ = {f'w{i}': start for i, (start, _) in enumerate(pairs)}
  assert all(word.start_ms == max(0, given_[word.text]) for word in words)
  assert duration_ms is None or {word.text for word in words} == {t for t, s in given_.items() if s < duration_ms}


# Hostile and broken files.


@pytest.mark.parametrize(
  'code, content',
  [
    ('bad_json', '[' * 200_000),
    ('bad_json', '{"a":' * 200_000),
    ('bad_json', '{"events": [{"tStartMs": 1' + '0' * 5000 + '}]}'),
    ('bad_json', '{"events": [{"segs"'),
    ('bad_json', json.dumps(merlot()) + '\n' + json.dumps(merlot())),
    ('html_transcript', '<!DOCTYPE html><html><title>429 Too Many Requests</title>'),
    ('html_transcript', '\n  <HTML lang="en">'),
    ('unknown_format', '<?xml version="1.0"?><timedtext format="3"></timedtext>'),
    ('unknown_format', '<?xml version="1.0"?><transcript><text start="0" dur="1">a</text></transcript>'),
    ('unknown_format', '[ti: a song]'.replace('[', '', 1)),
    ('bad_encoding', vtt().replace('so', 'schön').encode('latin-1')),
    ('bad_encoding', json.dumps(json3()).encode('utf-16-le')),
    ('bad_encoding', b'\xff\xfe\x00'),
    ('bad_encoding', b'\x89PNG\r\n\x1a\n\x00\x00'),
    ('bad_transcript', {'events': {'a': 1}, 'segments': 1, 'subtitles': 1} | {'events': [1, 2]}),
    ('bad_transcript', {'events': [{'segs': [{'utf8': 7}]}]}),
    ('bad_transcript', {'events': [{'segs': 'ab'}]}),
    ('bad_transcript', merlot([]) | {'subtitles': [{'word': None, 'time': 0}]}),
    ('bad_transcript', merlot(denoised={'cleanasr': 'x'})),
    ('bad_transcript', {'segments': [{'words': [{'word': ['a'], 'start': 0, 'end': 1}]}]}),
    ('bad_transcript', {'chunks': [{'text': 'a', 'timestamp': 3}]}),
    ('bad_transcript', {'transcription': ['a']}),
    ('oversized_word', whisper([('x' * 10_000_000, 0, 1)])),
    ('oversized_word', vtt([('x' * 10_000_000, 0, 1), ('a', 1, 2), ('b', 3, 4)], cut=2)),
    ('oversized_word', merlot(denoised=[{'cleanasr': 'x' * 1_000_000}])),
    ('oversized_transcript', b' ' * formats.MAX_BYTES + b'{}'),
    ('oversized_transcript', gzip.compress(b' ' * (formats.MAX_BYTES + 1), mtime=0)),
    ('bad_archive', gzip.compress(b'{"events": []}', mtime=0)[:-4]),
    ('bad_archive', b'\x1f\x8bnonsense'),
  ],
)
def test_hostile_and_broken_files_are_refused_by_name(code, content):
  refused(code, content)


def test_markup_that_never_closes_takes_no_time():
  line = '<' * 300_000 + '&' * 300_000
  refused('oversized_word', f'WEBVTT\n\n00:01.000 --> 00:02.000\na<00:01.500><c> b</c>{line}\n')
  refused('unknown_format', ' ' * 300_000 + '1' * 300_000)


def test_a_file_over_the_limit_is_not_read(tmp_path):
  path = tmp_path / 'x.json'
  with open(path, 'wb') as file:
    file.truncate(formats.MAX_BYTES + 1)
  with pytest.raises(ItemError, match='oversized_transcript'):
    formats.read(path)


def test_encodings_that_are_fine(tmp_path):
  text = vtt().replace('so', 'schön')
  for data in (text.encode(), text.encode('utf-8-sig'), text.encode('utf-16'), gzip.compress(text.encode())):
    (tmp_path / 'x.bin').write_bytes(data)  # the name has no say
    assert said(formats.read(tmp_path / 'x.bin')).startswith('schön')


KEYS = """events segs utf8 tStartMs tOffsetMs segments words word start end text subtitles time denoised cleanasr
transcription offsets from to tokens chunks timestamp language result"""
json_values = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=4),
  max_leaves=20,
)


@hypothesis.settings(max_examples=300, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
@hypothesis.given(json_values, st.booleans())
def test_any_json_is_read_or_refused_by_name(content, interpolate):
  try:
    transcript = read(json.dumps(content), interpolate=interpolate, duration_ms=MINUTE)
  except ItemError:
    return
  assert transcript.words and transcript.timing in ('word', 'interpolated')


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
  st.binary(max_size=60), st.sampled_from(['WEBVTT\n\n00:01.000 --> 00:02.000\n', '', '1\n00:01,000 --> 00:02,000\n'])
)
def test_any_bytes_are_read_or_refused_by_name(tail, head):
  with contextlib.suppress(ItemError):
    assert read(head.encode() + tail, interpolate=True).words


def test_captions():
  transcript = formats.caption('A dog\truns. ', 4000)
  assert transcript.words == tuple(Word(text, 0, 4000) for text in ('A', 'dog', 'runs.'))
  assert (transcript.source, transcript.timing) == ('caption', 'caption')
  for text in ('', ' \n', '\u200b'):
    with pytest.raises(ItemError, match='no_words'):
      formats.caption(text, 4000)
