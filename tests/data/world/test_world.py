"""The narrated world: reproducible files, readable by anyone, and no way to cheat."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.sources import find
from data.transcripts import dialects
from data.transcripts import formats as formats_lib
from data.world import __main__ as world
from data.world import scene, write
from tvts_jax.shards import sampling

SMALL = ['--clips', '8', '--val', '2', '--probe-train', '0', '--probe-test', '1']
SAMPLING = sampling.SamplingConfig(seconds=(2,))


def tree(folder):
  """Relative path → bytes of all that a user sees."""
  files = [p for p in folder.rglob('*') if p.is_file() and not p.name.startswith('.')]
  return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def decode(path_or_file):
  with av.open(path_or_file) as container:
    return [(float(f.time), f.to_ndarray(format='rgb24')) for f in container.decode(video=0)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('w') / 'world'
  assert world.main(['--out', str(folder), '--workers', '2', *SMALL]) == 0
  return folder


# Files.


def test_bytes_do_not_depend_on_workers_or_day(folder, tmp_path):
  assert world.main(['--out', str(tmp_path / 'again'), '--workers', '1', *SMALL]) == 0
  first, again = tree(folder), tree(tmp_path / 'again')
  assert first.keys() == again.keys() and len(first) == 2 * 12 + 3
  assert [name for name in first if first[name] != again[name]] == []
  with av.open(str(folder / 'val/val-000000.mp4')) as container:
    tags = {**container.metadata, **container.streams.video[0].metadata}
  assert not {'creation_time', 'encoder'} & set(tags), tags


def test_index_names_files_that_hold_what_render_gives(folder):
  index, labels = rows(folder / 'index.jsonl'), rows(folder / 'labels.jsonl')
  assert [r['id'] for r in index] == [r['id'] for r in labels]
  assert Counter(r['split'] for r in index) == {'train': 8, 'val': 2, 'motion_test': 1, 'order_test': 1}
  found = {item.id: (item.video, item.transcript, item.lang, item.split) for item in find.find(folder / 'index.jsonl')}
  assert found == {r['id']: (str(folder / r['video']), str(folder / r['transcript']), 'en', r['split']) for r in index}
  formats = Counter()
  for row, label in zip(index, labels):
    frames, words, expected = scene.render(0, int(row['id'][-6:]), row['split'])
    assert {k: label[k] for k in expected} == json.loads(json.dumps(expected))
    heard = formats_lib.read(folder / row['transcript'], duration_ms=12000)
    assert [(w.text, w.start_ms) for w in heard.words] == [(w.text, w.start_ms) for w in words]
    assert heard.timing == 'word'
    formats[heard.source] += 1
    shown = decode(str(folder / row['video']))
    assert [t for t, _ in shown] == [k / 3 for k in range(36)]
    assert np.abs(np.stack([f for _, f in shown]).astype(int) - frames).mean() < 8
  assert set(formats) == {'json3', 'vtt', 'whisper', 'whisper_cpp'}


@pytest.mark.parametrize('name', ['whisper.json', 'cpp.json'])
def test_dialects_with_word_ends_keep_them(name):
  words = scene.write_script(0, 1).words
  heard = formats_lib.read(dialects.WRITERS[name]([list(words)], 12000).encode(), duration_ms=12000)
  assert [w.end_ms for w in heard.words] == [w.end_ms for w in words]


@pytest.mark.long
def test_killed_and_restarted_equals_undisturbed(tmp_path):
  args = ['--clips', '96', '--val', '0', '--probe-train', '0', '--probe-test', '0']
  command = [sys.executable, '-m', 'data.world', '--out', str(tmp_path / 'killed'), *args]
  run = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
  end = time.monotonic() + 60
  while len(list((tmp_path / 'killed').glob('train/*.mp4'))) < 10 and time.monotonic() < end:
    time.sleep(0.01)
  os.kill(run.pid, signal.SIGKILL)
  assert run.wait() == -signal.SIGKILL
  # Its workers follow at once; until then the folder may change, but never holds half a file.
  done = {name: len(content) for name, content in tree(tmp_path / 'killed').items()}
  assert 'index.jsonl' not in done and len(done) < 2 * 96
  (tmp_path / 'killed/train/train-000000.mp4').write_bytes(b'')  # as a power cut may leave a file
  (tmp_path / 'killed/train/.train-000090.mp4-0123abcd').write_bytes(b'rest of a killed run')
  assert world.main(['--out', str(tmp_path / 'killed'), *args]) == 0
  assert world.main(['--out', str(tmp_path / 'whole'), '--workers', '1', *args]) == 0
  assert tree(tmp_path / 'killed') == tree(tmp_path / 'whole')
  assert not list((tmp_path / 'killed').rglob('*.mp4-*'))


def test_finished_clips_are_left_alone(folder):
  before = {p: p.stat().st_mtime_ns for p in folder.glob('*/*.mp4')}
  assert world.main(['--out', str(folder), *SMALL]) == 0
  assert before == {p: p.stat().st_mtime_ns for p in folder.glob('*/*.mp4')}


def test_refusals(folder, tmp_path, capsys):
  def refused(code, words, *args):
    assert world.main([*map(str, args)]) == code
    message = capsys.readouterr().err
    assert words in message and len(message.strip().splitlines()) == 1, message

  refused(4, 'seed was 0, is 1', '--out', folder, '--seed', 1, *SMALL)
  refused(4, "'train': 9", '--out', folder, *SMALL, '--clips', 9)
  (tmp_path / 'notes.txt').write_text('mine')
  refused(2, 'holds other files', '--out', tmp_path)
  refused(2, 'is no folder', '--out', tmp_path / 'notes.txt')
  with write.claim(tmp_path / 'busy', {}):
    refused(3, f'is being written by process {os.getpid()} on ', '--out', tmp_path / 'busy', *SMALL)
  (tmp_path / 'busy/world.json').write_text('{"version": ')
  refused(4, 'cannot be read', '--out', tmp_path / 'busy', *SMALL)
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full/world.json').mkdir()
  refused(6, 'give the same command again', '--out', tmp_path / 'full', *SMALL)
  assert (tmp_path / 'notes.txt').read_text() == 'mine' and sorted(os.listdir(tmp_path)) == [
    'busy',
    'full',
    'notes.txt',
  ]
  for wrong in (['--clips', '-1'], ['--workers', '0'], ['--seed', '-3'], ['--clips', 'many'], [*SMALL, '--clip', '7']):
    with pytest.raises(SystemExit) as e:
      world.main(['--out', str(tmp_path / 'new'), *wrong])
    assert e.value.code == 2
  assert not (tmp_path / 'new').exists()


# Clips.


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**63), index=st.integers(0, 2**40), split=st.sampled_from(list(scene.SPLITS)))
def test_every_script_is_well_formed(seed, index, split):
  script = scene.write_script(seed, index, split)
  assert script == scene.write_script(seed, index, split)
  assert ' '.join(script.narration) == ' '.join(w.text for w in script.words)
  assert {w.text for w in script.words} <= set(scene.VOCABULARY)
  times = [ms for w in script.words for ms in (w.start_ms, w.end_ms)]
  assert times == sorted(times) and times[0] > 0 and times[-1] < scene.DURATION_MS
  edges = [ms for e in script.events for ms in (e.start_ms, e.end_ms)]
  assert edges[0] == 0 and edges[-1] == scene.DURATION_MS and edges[1:-1:2] == edges[2::2]
  lengths = scene.DURATION_MS / len(script.events)
  assert all(abs(e.start_ms - k * lengths) <= 250 for k, e in enumerate(script.events))
  varies = {k: len({getattr(e, k) for e in script.events}) for k in ('colour', 'shape', 'motion')}
  want = {'same_actor': (1, 4), 'same_motion': (4, 1), 'mixed': (4, 4), 'motion': (1, 1), 'order': (1, 2)}
  assert (varies['colour'], varies['motion']) == want[script.type]
  assert varies['colour'] > 1 or varies['shape'] == 1


def test_clips_differ_and_types_have_their_shares():
  scripts = [scene.write_script(0, i, split) for split in ('train', 'val') for i in range(1000)]
  assert len({s.words for s in scripts}) == 2000
  assert scene.write_script(0, 0) != scene.write_script(1, 0)
  shares = Counter(s.type for s in scripts)
  for name, share in scene.TYPES.items():
    assert abs(shares[name] / 2000 - share) < 4 * np.sqrt(share * (1 - share) / 2000)
  named = np.mean([w in t.split() for s in scripts if s.type == 'same_actor' for t in s.narration for w in ['it']])
  assert 0.6 < named < 0.78


def test_probes_are_balanced_and_order_is_all_that_tells_a_pair_apart():
  motion = [scene.write_script(0, i, 'motion_train') for i in range(64)]
  assert Counter(s.label for s in motion) == dict.fromkeys(scene.MOTIONS, 8)
  assert all([e.motion for e in s.events] == [s.label] for s in motion)
  order = [scene.write_script(0, i, 'order_test') for i in range(64)]
  classes = Counter(tuple(e.motion for e in s.events) for s in order)
  assert set(classes.values()) == {8} and len(classes) == 8
  assert all((b, a) in classes for a, b in classes)
  assert all(s.label == ' then '.join(e.motion for e in s.events) for s in order)


def test_render_is_pure_and_paints_any_even_size():
  frames, words, labels = scene.render(3, 7, size=32, fps=8)
  again, same_words, same_labels = scene.render(3, 7, size=32, fps=8)
  assert frames.shape == (96, 32, 32, 3) and frames.dtype == np.uint8
  assert np.array_equal(frames, again) and words == same_words and labels == same_labels
  assert scene.render(3, 7)[1:] == (words, labels), 'words depend on how a clip is painted'
  with pytest.raises(ValueError, match='multiple of 4'):
    scene.render(0, 0, size=30)
  with pytest.raises(ValueError, match='known: train, val'):
    scene.render(0, 0, 'test')


def test_scene_needs_no_tensorflow():
  code = 'from data.world.scene import render; render(0, 0)'
  code += '; import sys; assert not {"tensorflow", "jax"} & set(sys.modules)'
  subprocess.run([sys.executable, '-c', code], check=True)


# What may tell the order, and what may not.


def draws(count, plant=lambda k, words: words):
  """(texts [K] in true order, starts [K] of their words relative to the window) of sampled clips.

  `plant` may change the words of the utterance in place k before anything is sampled.
  """
  for i in range(count):
    script = scene.write_script(11, i)
    said, at = [], 0
    for k, text in enumerate(script.narration):
      n = len(text.split())
      said += plant(k, list(script.words[at : at + n]))
      at += n

    class record:
      start_ms, end_ms, transcript_timing = 0, scene.DURATION_MS, 'word'
      words, word_starts_ms = [w.text for w in said], [w.start_ms for w in said]
      frame_times_ms = list(range(0, 12000, 250))

    d = sampling.draw(record, SAMPLING, np.random.default_rng(i))
    texts = [d.texts[j].split() for j in np.argsort(d.order)]
    inside = [[t - s for t in record.word_starts_ms if s <= t <= e] for s, e in d.windows_ms]
    yield texts, inside


def text_features(texts, starts):
  """[K, F]: words, counts, first and last word, times inside the window; and each beside the other three."""
  words = {w: i for i, w in enumerate(scene.VOCABULARY)}
  v = len(words)
  x = np.zeros((len(texts), 3 * v + 4))
  for row, text, at in zip(x, texts, starts):
    for word in text:
      row[words[word]] += 1
    row[v + words[text[0]]] = row[2 * v + words[text[-1]]] = 1
    row[3 * v :] = len(text) / 5, at[0] / 1000, at[-1] / 1000, (at[-1] - at[0]) / len(at) / 100
  return np.concatenate([x, x - x.mean(0)], 1)


def linear_accuracy(x_N, y_N, groups_N, train_share=0.6):
  """Held-out accuracy of ridge regression onto classes; groups are whole in one part."""
  train = groups_N < np.quantile(groups_N, train_share)
  mean, std = x_N[train].mean(0), x_N[train].std(0) + 1e-6
  x_N = np.concatenate([(x_N - mean) / std, np.ones((len(x_N), 1))], 1)
  a, onehot = x_N[train], np.eye(y_N.max() + 1)[y_N[train]]
  weights = np.linalg.solve(a.T @ a + 10 * np.eye(a.shape[1]), a.T @ onehot)
  return float(((x_N[~train] @ weights).argmax(1) == y_N[~train]).mean()), int((~train).sum())


def place_accuracy(count, **kw):
  features = [text_features(*d) for d in draws(count, **kw)]
  k = len(features[0])
  return linear_accuracy(np.concatenate(features), np.tile(np.arange(k), count), np.repeat(np.arange(count), k))


def test_text_alone_carries_no_order():
  accuracy, n = place_accuracy(1500)
  assert abs(accuracy - 0.25) < 4 * np.sqrt(0.25 * 0.75 / n), accuracy


@pytest.mark.parametrize('leak', ['word', *(pytest.param(leak, marks=pytest.mark.long) for leak in ('time', 'count'))])
def test_the_text_check_would_see_a_leak(leak):
  rng = np.random.default_rng(0)

  def plant(k, words):
    if k == 0 and rng.random() < 0.3:
      if leak == 'word':
        words[0] = formats_lib.Word('first', words[0].start_ms, words[0].end_ms)
      elif leak == 'time':
        words = [formats_lib.Word(w.text, w.start_ms + 400, w.end_ms + 400) for w in words]
      elif len(words) > 4:
        del words[1:3]
    return words

  accuracy, n = place_accuracy(1500, plant=plant)
  assert accuracy > 0.25 + 4 * np.sqrt(0.25 * 0.75 / n), accuracy


def test_utterances_and_places_are_exchangeable():
  """Any statistic of places must look as it does when the places of each clip are shuffled."""
  rng = np.random.default_rng(0)
  words = {w: i for i, w in enumerate(scene.VOCABULARY)}
  stats = np.zeros((2000, 4, len(words) + 3))
  for i in range(2000):
    script, at = scene.write_script(12, i), 0
    for k, text in enumerate(script.narration):
      said = script.words[at : at + len(text.split())]
      at += len(said)
      for w in said:
        stats[i, k, words[w.text]] += 1
      stats[i, k, -3:] = len(said), said[0].start_ms - 3000 * k, said[-1].end_ms - 3000 * k
  early, late = stats[:, :, -2].min(), stats[:, :, -1].max()
  assert early > 0 and late < 3000, 'an utterance is heard in another window'
  spread = stats.std((0, 1)) + 1e-9
  worst = lambda x: float(np.abs((x.mean(0) - x.mean((0, 1))) / spread).max())
  shuffled = [worst(shuffle_places(rng, stats)) for _ in range(60)]
  assert worst(stats) <= 1.15 * max(shuffled), (worst(stats), sorted(shuffled))


def shuffle_places(rng, x_NxKxF):
  order = rng.random(x_NxKxF.shape[:2]).argsort(1)
  return np.take_along_axis(x_NxKxF, order[..., None], 1)


def tiles(motions, count, times=(2.0, 2.5)):
  """Grey pictures [N, 16, 16] at each time of `count` clips for each motion: a quarter of the torus's frame."""
  names, shown, label = list(scene.MOTIONS), [], []
  for i in range(count * len(names)):
    if names[i % len(names)] in motions:
      frames, _, labels = scene.render(9, i, 'motion_train', size=32)
      shown.append([frames[round(t * 4), :16, :16].max(-1) / 255.0 for t in times])
      label.append(motions.index(labels['label']))
  return np.array(shown), np.array(label)


def one_frame(x_NxHxW):
  """Pixels, edges with their signs, and the spectrum."""
  dx, dy = np.diff(x_NxHxW, axis=2), np.diff(x_NxHxW, axis=1)
  spectrum = np.log(np.abs(np.fft.rfft2(x_NxHxW)) + 1e-3)
  moments = [f(d, axis=(1, 2))[:, None] for d in (dx, dy) for f in (np.mean, np.std)]
  skews = [(d**3).mean((1, 2))[:, None] for d in (dx, dy)]
  return np.concatenate([x_NxHxW.reshape(len(x_NxHxW), -1), spectrum.reshape(len(spectrum), -1), *moments, *skews], 1)


def two_frames(a, b):
  """Circular cross-correlation: where the second picture lies on the first; and whether it holds more."""
  correlation = np.fft.irfft2(np.fft.rfft2(b) * np.conj(np.fft.rfft2(a)), a.shape[1:])
  return np.concatenate([correlation.reshape(len(a), -1), np.sign((b - a).mean((1, 2)))[:, None]], 1)


@pytest.mark.parametrize(
  'motions', [['left', 'right', 'up', 'down'], pytest.param(['grow', 'shrink'], marks=pytest.mark.long)]
)
def test_direction_is_in_two_frames_and_not_in_one(motions):
  shown, label = tiles(motions, 1200 // len(motions))
  clips = np.arange(len(label))
  chance = 1 / len(motions)
  accuracy, n = linear_accuracy(one_frame(shown[:, 0]), label, clips)
  assert abs(accuracy - chance) < 4 * np.sqrt(chance * (1 - chance) / n), accuracy
  accuracy, _ = linear_accuracy(two_frames(shown[:, 0], shown[:, 1]), label, clips)
  assert accuracy > 0.8, 'the check itself is blind'


def test_colours_survive_mp4_and_a_small_jpeg(folder):
  """Of the reddest, brightest .. pixels of an event: their nearest colour of the palette is the one told."""
  names = list(scene.COLOURS)
  palette = np.array([scene.COLOURS[name] for name in names], float)
  palette /= np.linalg.norm(palette, axis=1, keepdims=True)
  right = []
  for label in rows(folder / 'labels.jsonl'):
    shown = dict(decode(str(folder / label['split'] / f'{label["id"]}.mp4')))
    for event in label['events']:
      inside = [f for t, f in shown.items() if event['start_ms'] <= t * 1000 < event['end_ms']]
      small = np.stack([jpeg(cv2.resize(f, (32, 32), interpolation=cv2.INTER_AREA)) for f in inside]).reshape(-1, 3)
      actor = small[small.max(1) > 130].astype(float).mean(0)
      right.append(names[(palette @ (actor / np.linalg.norm(actor))).argmax()] == event['colour'])
  assert np.mean(right) == 1 and len(right) > 40


def jpeg(image):
  ok, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 75])
  assert ok
  return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_pairs_differ_in_what_they_negate():
  scripts = {f'clip {i}': scene.write_script(0, i, 'motion_test') for i in range(200)}
  seen = {'subj': 0, 'verb': 0}
  for id_, pairs in scene.pairs_of(scripts).items():
    own = scripts[id_].events[0]
    for pair in pairs:
      other = scripts[pair['negative']].events[0]
      same_actor = (own.colour, own.shape) == (other.colour, other.shape)
      assert (same_actor, own.motion == other.motion) == {'subj': (False, True), 'verb': (True, False)}[
        pair['negated'][0]
      ]
      assert pair['sentence'] == f'the {own.colour} {own.shape} is {scene.MOTIONS[own.motion][0]}'
      seen[pair['negated'][0]] += 1
  assert seen['subj'] == 200 and seen['verb'] > 150
  assert scene.pairs_of({'only': scripts['clip 0']}) == {'only': []}
