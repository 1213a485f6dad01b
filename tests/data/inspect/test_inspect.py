"""The page about records: what it shows is what training draws, and nothing in the data can harm its reader."""

import base64
import dataclasses
import html.parser
import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.builder import quality
from data.inspect import __main__ as inspect
from data.inspect import record_page
from tests.support import folders
from tvts_jax.input.order import Order
from tvts_jax.pages import kit
from tvts_jax.shards import index, records
from tvts_jax.shards.rng import generator
from tvts_jax.shards.sampling import SamplingConfig, draw

VOID = {'meta', 'img'}
TAGS = 'html head meta title style body main section div span p b i bdi h1 h2 h3 h4 table tr td figure img'
TAGS += ' svg text rect line image'


class Reader(html.parser.HTMLParser):
  """A page as its tags and its text; fails where tags don't nest."""

  def __init__(self, content):
    super().__init__()
    self.tags, self.open, self.words = [], [], []
    self.feed(content)
    self.close()
    assert not self.open, self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open and self.open.pop() == tag, f'</{tag}> closes nothing'

  def handle_data(self, data):
    self.words.append(data)

  @property
  def text(self):
    return ''.join(self.words)


def read(path):
  """The page, checked to be harmless and to need nothing from outside."""
  reader = Reader(path.read_text())
  assert {tag for tag, _ in reader.tags} <= set(TAGS.split())
  for tag, attrs in reader.tags:
    assert not [a for a in attrs if a.startswith('on')], (tag, attrs)
    for a in {'src', 'href'} & attrs.keys():
      assert attrs[a].startswith('data:image/jpeg;base64,') or attrs[a] == ''
  policy = [a['content'] for t, a in reader.tags if a.get('http-equiv') == 'Content-Security-Policy']
  assert len(policy) == 1 and "default-src 'none'" in policy[0] and 'script' not in policy[0]
  assert 'url(' not in path.read_text() and '@import' not in path.read_text()
  return reader


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  made = [folders.record(f'video {i // 2}', i % 2, seconds=40, frames=60, words=90 + i) for i in range(24)]
  return folders.write(tmp_path_factory.mktemp('shards'), {'train': [made[:15], made[15:]], 'val': [made[:1]]})


def run(folder, out, *args):
  assert inspect.main([str(folder), '--out', str(out), *map(str, args)]) == 0
  return read(out)


def test_a_step_shows_what_training_was_given(folder, tmp_path):
  out = tmp_path / 'step.html'
  reader = run(folder, out, '--seed', 7, '--step', 5, '--batch', 6)
  manifest = index.load(folder, 'train')
  ids = index.load_index(manifest)
  order, config = Order(ids.video, 6, 7), SamplingConfig(**manifest.sampling)
  expected, frames = [], []
  for row, epoch in zip(order.ids(5), order.epochs(5)):
    assert epoch == 1, 'a step of the second epoch, so that the epoch matters'
    record = records.decode(index.read_record(manifest, ids, row))
    d = draw(record, config, generator(7, epoch=int(epoch), example=int(ids.example_id[row])))
    expected += [(int(o) + 1, text) for o, text in zip(d.order, d.texts)]
    frames += [f'frame {i}' for i in d.frames]
    assert record.video_id in reader.text and f'{ids.example_id[row]:016x}' in reader.text
  shown = re.findall(r'class="chip"[^>]*>(\d+)</span><bdi class="words">([^<]*)</bdi>', out.read_text())
  assert [(int(place), text) for place, text in shown] == expected
  assert [a['alt'] for t, a in reader.tags if t == 'img'] == frames
  # Another step, seed or epoch draws otherwise; the same one gives the same page.
  again = run(folder, tmp_path / 'again.html', '--seed', 7, '--step', 5, '--batch', 6)
  assert again.text == reader.text
  assert run(folder, tmp_path / 'other.html', '--seed', 8, '--step', 5, '--batch', 6).text != reader.text


@pytest.fixture(scope='module')
def other_folder(tmp_path_factory):
  """Of another split and sampling, with records in it whose frames do not decode."""
  made = [folders.record(f'other {i}', seconds=20, frames=40, words=60 + i) for i in range(12)]
  for i in (2, 5, 7):
    made[i] = dataclasses.replace(made[i], frames=[frame[:-12] + records.JPEG_END for frame in made[i].frames])
  sampling = {'transcripts': 4, 'seconds': [2], 'gap_s': 0.5, 'min_words': 1}
  return folders.write(tmp_path_factory.mktemp('other'), {'more': [made]}, sampling=sampling)


@pytest.mark.parametrize('mix', ['weight', pytest.param('alternate', marks=pytest.mark.long)])
def test_a_step_of_a_run_shows_its_batch_whatever_its_config(folder, other_folder, mix, tmp_path):
  from tvts_jax import config as config_lib
  from tvts_jax.input import pipeline, vocab

  vocab.save(vocab.train(vocab.words(folder, 'train'), 200), tmp_path / 'vocab')
  config = config_lib.base()
  config.model.video.update(size='tiny', patch=8, image_size=16, frames=8)
  other = dict(folder=str(other_folder), split='more', seconds=(2,), gap_s=0.5, min_words=1, weight=0.5)
  config.input.update(sources=({'folder': str(folder)}, other), mix=mix, batch=6, seed=11, max_bad=1.0)
  config.input.tokenizer = str(tmp_path / 'vocab')
  config.steps = 10
  run = config_lib.resolve(config)
  (tmp_path / 'config.txt').write_text(config_lib.text(run))
  source = pipeline.open(run.input)
  for step in (0, 1, 2, 13):
    batch = source.batch(step)
    assert inspect.main(['--run', str(tmp_path), '--step', str(step), '--out', str(tmp_path / 'page.html')]) == 0
    text = read(tmp_path / 'page.html').text
    assert re.findall(r'example ([0-9a-f]{16})', text) == [f'{i:016x}' for i in batch['example_id'].tolist()]
    shown = re.findall(r'class="chip"[^>]*>(\d+)</span>', (tmp_path / 'page.html').read_text())
    assert [int(place) - 1 for place in shown] == batch['order'].ravel().tolist()
    assert all(video in text for video, _ in source.examples(step))
  assert str(source.trouble), 'a batch with a stand-in should have been among them'


def test_the_pipeline_draws_the_same(folder):
  from tvts_jax.input.examples import Examples
  from tvts_jax.input.settings import InputConfig

  config = InputConfig(folder=str(folder), image_size=16, patch=8, seed=3, frames=8)
  examples = Examples(config, lambda texts: (texts, texts))
  for row, epoch in ((0, 0), (5, 0), (5, 3)):
    made = examples.load(row, epoch)
    record = records.decode(index.read_record(examples.manifest, examples.index, row))
    d = inspect.drawn(record, int(made.example_id), epoch, 3, config)
    assert d.texts == made.tokens and np.array_equal(d.order, made.order)
    assert [record.frames[i] for i in d.frames] == list(made.jpegs)


def test_all_of_a_video_and_some_of_a_split(folder, tmp_path):
  reader = run(folder, tmp_path / 'id.html', '--id', 'video 3')
  assert reader.text.count('video 3') == 2 and 'window 0: ' in reader.text and 'window 1: ' in reader.text
  assert 'drawn in epoch 0' in reader.text
  assert 'drawn in epoch 2' in run(folder, tmp_path / 'id.html', '--id', 'video 3', '--step', 8, '--batch', 6).text
  reader = run(folder, tmp_path / 'some.html', '--records', 5, '--sample', 3)
  assert sum(t == 'section' for t, _ in reader.tags) == 5
  assert 'of 3 records, evenly spread' in reader.text and '5 of 24' in reader.text
  assert '1 records' in run(folder, tmp_path / 'val.html', '--split', 'val').text


@given(st.integers(1, 500), st.integers(1, 500))
@settings(max_examples=50, deadline=None)
def test_spread(size, count):
  places = inspect.spread(size, min(size, count))
  assert len(places) == min(size, count) and places[0] >= 0 and places[-1] < size
  assert places == sorted(set(places)) and (count > 1 or places == [size // 2])


HOSTILE = [
  '<script>alert(1)</script>',
  '"><img src=x onerror=alert(1)>',
  "'; --><svg onload=alert(1)>",
  '&lt;b&gt;&#x202e;',
  'a\u202eb\u0000c\ud83d\ude00'.encode('utf-16', 'surrogatepass').decode('utf-16'),
  'x' * 3000,
  '</style></title>',
]


def test_hostile_text_stays_text(tmp_path):
  words = [w for w in HOSTILE for _ in range(12)]
  changes = {'lang': HOSTILE[0], 'transcript_source': HOSTILE[1], 'words': words, 'seconds': 40}
  made = [folders.record(id, **{**changes, 'words': len(words)}) for id in HOSTILE]
  made = [dataclasses.replace(r, words=words) for r in made]
  folder = folders.write(tmp_path / HOSTILE[1].replace('/', ''), {'train': [made]})
  reader = run(folder, tmp_path / 'page.html')
  assert '<script>alert(1)</script>' in reader.text, 'it should be there to read'
  assert '\u202e' not in reader.text and '\0' not in reader.text and 'a\ufffdb\ufffdc\U0001f600' in reader.text
  assert '&lt;b&gt;' in reader.text, 'entities of the data are text too'
  assert 'x' * 2100 not in reader.text


def test_pictures_are_small_and_odd_ones_are_named(tmp_path):
  noise = np.random.default_rng(0).integers(0, 255, (1200, 900, 3), np.uint8)
  big = cv2.imencode('.jpg', noise)[1].tobytes()
  end = b'\xff\xd9'
  record = folders.record('big', height=1200, width=900, frames=1)
  record = dataclasses.replace(record, frames=[big] * 40, frame_times_ms=[i * 750 for i in range(40)])
  broken = dataclasses.replace(record, video_id='broken', frames=[big[:700] + end] + [big[:2] + big[20:700] + end] * 39)
  huge = folders.jpeg(8, 8).replace(b'\x00\x08\x00\x08', b'\xff\xff\xff\xff', 1)
  bomb = dataclasses.replace(record, video_id='bomb', frames=[huge] * 40, height=65535, width=65535)
  folder = folders.write(tmp_path / 'shards', {'train': [[record, broken, bomb]]})
  reader = run(folder, tmp_path / 'page.html')
  assert (tmp_path / 'page.html').stat().st_size < 1e6
  pictures = [a.get('src') or a['href'] for t, a in reader.tags if t in ('img', 'image') and a.get('src') != '']
  assert len(pictures) > 30
  for uri in set(pictures):
    image = cv2.imdecode(np.frombuffer(base64.b64decode(uri.split(',')[1]), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (2 * record_page.FRAME_H, 93, 3)
  assert sum(a.get('class') == 'none' for _, a in reader.tags) >= 10, 'frames that cannot be shown leave a frame'


def test_what_can_not_be_drawn_says_why(tmp_path):
  made = [
    dataclasses.replace(folders.record('quiet', words=3), word_starts_ms=[0, 1, 2]),
    folders.record('caption', transcript_timing='caption', words=5, seconds=4, frames=1),
  ]
  folder = folders.write(tmp_path / 'shards', {'train': [made]})
  reader = run(folder, tmp_path / 'page.html')
  assert 'Nothing can be drawn: no begin in [0, 30000] ms' in reader.text
  assert '1 transcripts as given' in reader.text and 'w0 w1 w2 w3 w4' in reader.text
  assert 'Nothing can' not in run(folder, tmp_path / 'page.html', '--sampling', 'min_words=0').text


def test_long_windows_keep_to_a_few_rows(tmp_path):
  record = folders.record('long', seconds=3600, frames=600, words=9000)
  folder = folders.write(tmp_path / 'shards', {'train': [[record]]})
  reader = run(folder, tmp_path / 'page.html')
  assert sum(a.get('class') == 'row' for _, a in reader.tags) == record_page.MAX_ROWS
  assert sum(a.get('class', '').startswith('tick') for _, a in reader.tags) == 600


# Quality.


@settings(max_examples=30, deadline=None)
@given(
  starts=st.lists(st.integers(0, 9990), min_size=1, max_size=30).map(sorted),
  lengths=st.lists(st.integers(1, 900), min_size=30, max_size=30),
  l=st.integers(1, 3),
  min_words=st.integers(1, 3),
)
def test_measures_against_a_count_of_milliseconds(starts, lengths, l, min_words):
  ends = [min(s + n, 10_000) for s, n in zip(starts, lengths)]
  record = folders.record(words=len(starts), seconds=10, frames=4)
  record = dataclasses.replace(record, word_starts_ms=starts, word_ends_ms=ends)
  config = SamplingConfig(transcripts=2, seconds=(l,), min_words=min_words)
  m = quality.measure(record, config)
  said = np.zeros(10_000, bool)
  for a, b in zip(starts, ends):
    said[a:b] = True
  assert m.silence == pytest.approx(1 - said.mean())
  runs = [len(run) for run in re.findall('0+', ''.join('1' if s else '0' for s in said))]
  assert m.pause_s == pytest.approx(max(runs, default=0) / 1000)
  assert m.words_per_s == pytest.approx(len(starts) / 10)
  enough = np.array([sum(b <= s <= b + l * 1000 for s in starts) >= min_words for b in range(10_001 - l * 1000)])
  assert m.heard == pytest.approx(enough.mean())
  second = (l + 1) * 1000
  assert m.usable == pytest.approx((enough[:-second] & enough[second:]).mean())


def test_stills_are_pictures_that_do_not_change():
  grey = [folders.jpeg(64, 64, value=v) for v in (10, 10, 10, 90, 90, 200, 200, 200, 30)]
  record = folders.record(height=64, width=64, frames=9)
  assert quality.measure(dataclasses.replace(record, frames=grey), SamplingConfig()).stills == pytest.approx(5 / 8)
  large = [folders.jpeg(256, 300, value=v) for v in (10, 10, 90)]
  record = folders.record(height=256, width=300, frames=3)
  assert quality.measure(dataclasses.replace(record, frames=large), SamplingConfig()).stills == pytest.approx(1 / 2)
  assert quality.measure(folders.record(frames=1), SamplingConfig()).stills is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_histogram_counts_every_value(values):
  counts = [int(n) for n in re.findall(r': (\d+)</title>', kit.histogram(values, 's'))]
  assert sum(counts) == len(values)


# Refusals.


def test_refusals(folder, tmp_path, capsys):
  out = tmp_path / 'page.html'

  def refused(code, words, *args):
    assert inspect.main([*map(str, args), '--out', str(out)]) == code
    message = capsys.readouterr().err
    assert words in message and len(message.strip().splitlines()) == 1, message
    assert not list(tmp_path.glob('page*')), 'a page was left'

  refused(1, 'is not a finished data set', tmp_path)
  refused(1, "has no split 'test'; it has: train, val", folder, '--split', 'test')
  refused(1, "no video 'nobody'", folder, '--id', 'nobody')
  refused(1, 'batch of at most', folder, '--step', 0, '--batch', 24)
  refused(1, "'frame' is no setting of sampling; known: ", folder, '--sampling', 'frame=8')
  refused(1, 'known: random, center', folder, '--sampling', 'pick=middle')
  refused(1, '--sampling frames=many', folder, '--sampling', 'frames=many')
  refused(1, 'config.txt is not there', '--run', tmp_path, '--step', 3)
  (tmp_path / 'config.txt').write_text('input.batch: 3\ninput.seed: (\n')
  refused(1, "config.txt is damaged at 'input.seed: ('", '--run', tmp_path, '--step', 3)
  wrongs = [[folder, '--step', 3], [folder, '--batch', 3], [folder, '--records', 65], [folder, '--records', 0]]
  wrongs += [[folder, '--sample', 0], [folder, '--run', tmp_path, '--step', 3], [], ['--run', tmp_path]]
  wrongs += [['--run', tmp_path, '--step', 3, '--batch', 3], ['--run', tmp_path, '--step', -1]]
  for wrong in wrongs:
    with pytest.raises(SystemExit) as e:
      inspect.main([str(argument) for argument in wrong])
    assert e.value.code == 2
  capsys.readouterr()
  hurt = folders.write(tmp_path / 'hurt', {'train': [[folders.record(frames=3)]]})
  shard = hurt / 'train-00000-of-00001.tfrecord'
  content = bytearray(shard.read_bytes())
  content[200] ^= 1
  shard.write_bytes(bytes(content))
  refused(1, 'cannot be read', hurt)
