"""The report: what it says of a run, of half a run, of a damaged one and of a hostile one."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvts_jax import config, report
from tvts_jax.errors import UserError
from tvts_jax.pages import sorting
from tvts_jax.run.background import Background
from tvts_jax.run.clock import Clock

VOID = {'meta', 'img'}
ADDRESSES = {'src', 'href', 'action', 'data', 'poster', 'srcset', 'xlink:href'}


class Page(HTMLParser):
  """A page as a browser would take it: its tags must fit, and it may reach for nothing."""

  def __init__(self, path):
    super().__init__()
    self.open, self.tags, self.parts, self.pictures = [], [], [], []
    self.feed(path.read_text('utf-8'))
    assert not self.open, f'never closed: {self.open}'
    self.text = re.sub(r'\s+', ' ', ' '.join(self.parts))

  def handle_starttag(self, tag, attrs):
    assert tag not in ('script', 'iframe', 'object', 'embed', 'link', 'base', 'form'), tag
    for name, value in attrs:
      assert not name.startswith('on'), (tag, name)
      if name in ADDRESSES:
        assert value.startswith('data:image/jpeg;base64,'), value
        self.pictures.append(base64.b64decode(value.split(',')[1]))
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    if tag not in VOID:
      self.open.pop()

  def handle_endtag(self, tag):
    assert self.open and self.open.pop() == tag, tag

  def handle_data(self, data):
    if self.open and self.open[-1] == 'style':
      assert 'url(' not in data and '@import' not in data
    elif self.open:
      self.parts.append(data)


def jpeg(value, size=32):
  return base64.b64encode(cv2.imencode('.jpg', np.full((size, size, 3), value, np.uint8))[1]).decode()


def example(**changes):
  order = [2, 0, 3, 1]
  logits = (6 * np.eye(4)[order] + np.arange(4)).tolist()
  words = ['the red ball moves', 'then it spins', 'it grows', 'the ball is gone']
  given = {'id': 'val-7 #0', 'frames': [jpeg(50), jpeg(200)], 'transcripts': words, 'order': order, 'logits': logits}
  return {**given, **changes}


def sorting_rows(own=0.9, blank=0.0, other=0.03, clips=512.0):
  for step in (50, 100):
    exact = {'own': own * step / 100, 'blank': blank, 'other': other}
    row = {f'{video}/exact': share for video, share in exact.items() if share is not None}
    row |= {f'{video}/item': 0.25 + 0.7 * share for video, share in exact.items() if share is not None}
    yield {'step': step, **row, 'own/kendall_tau': 0.875, 'clips': clips}


def write_lines(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def make_run(folder, **scores):
  """What the trainer leaves after 100 steps of 32 clips."""
  (folder / 'eval').mkdir(parents=True)
  run = config.RunConfig(steps=100)
  text = config.text(run).replace('input.batch: 1024', 'input.batch: 32')
  (folder / 'config.txt').write_text(text)
  rows = [
    {'step': s, 'time': 1.7e9 + s / 4, 'loss': 3 - s / 50, 'sort/item': s / 100, 'contrastive/v2t_r1': 0.5, 'lr': 1e-4}
    for s in range(10, 101, 10)
  ]
  evaluated = list(sorting_rows(**scores))
  again = [
    {'step': r['step'], 'time': 1.7e9, **{f'sorting/{n}': v for n, v in r.items() if n != 'step'}} for r in evaluated
  ]
  write_lines(folder / 'metrics.jsonl', rows + again)
  write_lines(folder / 'eval' / 'sorting.jsonl', evaluated)
  now = iter([0.0, 10.0, 85.0, 100.0])
  clock = Clock(monotonic=lambda: next(now), wall=lambda: 1.7e9)
  with clock.span('step'):
    pass
  clock.write(folder, Background())
  (folder / 'eval' / 'examples.json').write_text(json.dumps([example()]))
  return folder


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp('runs') / 'my run')


@pytest.fixture
def run(whole, tmp_path):
  return shutil.copytree(whole, tmp_path / 'my run')


# A whole run.


def test_a_page_of_a_run(whole):
  out = report.write(whole)
  assert os.fspath(out) == str(whole / 'report.html')
  page = Page(whole / 'report.html')
  for words in (
    'my run',
    'steps 100 ',
    'clips a batch 32',
    'clips seen 3,200',
    'in 2 min',
    'The model has learned to sort by what it sees',
    'for 90.0% of 512 evaluation clips; chance is 0.39%, and 4.2% for a blind permutation. The same model gets 0% with '
    "the video blanked, 3% with another clip's video.",
    'Exact order after step 100, beside chance ( 0.39% )'.replace('( ', '(').replace(' )', ')'),
    'sort: transcripts placed right last 100.0% chance 25.0%',
    'contrastive: video to text R@1 last 50.0% chance 3.1%',
    'lr last 0.0001',
    'training 75.0% 75 s starting 10.0% 10 s everything else 15.0% 15 s',
    'clips per second all pauses included clips/s 128',
    'val-7 #0 exact order',
    "optim.name: 'adamw'",
  ):
    assert words in page.text, words
  assert 'missing' not in page.text and 'unreadable' not in page.text
  assert len(page.pictures) == 2
  assert [cv2.imdecode(np.frombuffer(p, np.uint8), 1).mean().round() for p in page.pictures] == [50, 200]
  assert page.text.count('Evaluation:') == 1 and 'sorting/own' not in page.text, 'evaluations are told once'


def test_a_page_is_a_function_of_the_run(whole, tmp_path):
  first = report.write(whole).read_text()
  assert report.write(whole).read_text() == first
  assert report.write(whole, tmp_path / 'deep' / 'page.html').read_text() == first


def test_a_step_that_was_evaluated_twice_counts_once(run):
  with (run / 'eval' / 'sorting.jsonl').open('a') as file:
    file.write(json.dumps(list(sorting_rows(own=0.8))[1]) + '\n')
  report.write(run)
  assert 'for 80.0% of 512 evaluation clips' in Page(run / 'report.html').text


def test_other_evaluators_have_their_curves(run):
  write_lines(run / 'eval' / 'retrieval.jsonl', [{'step': 100, 't2v_r1': 0.5, 'median_rank': 3.0, 'clips': 512.0}])
  report.write(run)
  text = Page(run / 'report.html').text
  assert 'Evaluation: retrieval step 100, 512 clips median_rank last 3' in text and 't2v_r1 last 50.0%' in text


# The verdict.


@pytest.mark.parametrize(
  'own, blank, other, look, headline',
  [
    (0.93, 0.0, 0.03, 'good', 'The model has learned to sort by what it sees'),
    (0.20, 0.0, 0.01, 'good', 'The model has begun to sort by what it sees'),
    (0.93, 0.0, 0.06, 'good', 'The model has learned to sort by what it sees'),
    (0.93, 0.0, 0.30, 'mixed', 'The model sorts, but not only by what it sees'),
    (0.93, 0.5, 0.30, 'mixed', 'The model sorts, but not only by what it sees'),
    (0.010, 0.0, 0.0, 'none', 'The model has not learned to sort'),
    (0.0, 0.3, 0.0, 'none', 'The model has not learned to sort'),
    (0.93, None, None, 'good', 'The model has learned to sort'),
  ],
)
def test_verdicts(own, blank, other, look, headline):
  scores = list(sorting_rows(own, blank, other))[-1]
  found = sorting.verdict(scores, 4)
  assert found[:2] == (look, headline)
  assert ('with the video blanked' in found[2]) == (blank is not None)
  if look == 'mixed':
    assert ('the video blanked and with another' in found[2]) == (blank == 0.5)


@pytest.mark.parametrize('clips', [64, 512, 4096])
@pytest.mark.parametrize('K', [2, 3, 4])
def test_chance_is_called_chance(K, clips):
  """Models that guess each place, and models that guess a permutation under every video."""
  rng = np.random.default_rng(0)
  order = np.stack([rng.permutation(K) for _ in range(clips)])
  wrong = 0
  for _ in range(100):
    guessed = {v: (rng.integers(K, size=(clips, K)) == order).all(1).mean() for v in sorting.VIDEOS}
    wrong += sorting.verdict({f'{v}/exact': s for v, s in guessed.items()} | {'clips': clips}, K)[0] != 'none'
    blind = {f'{v}/exact': (np.argsort(rng.random((clips, K))) == order).all(1).mean() for v in ('blank', 'other')}
    wrong += sorting.verdict({'own/exact': 1.0, **blind, 'clips': clips}, K)[0] != 'good'
  assert wrong <= 3, 'of 200 verdicts, each wrong at most three times in a thousand'


# Clips.


@given(st.integers(2, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_clips_are_judged_place_by_place(K, seed):
  rng = np.random.default_rng(seed)
  order, logits = rng.permutation(K), rng.normal(size=(K, K)) + 2 * rng.random() * np.eye(K)
  html = sorting.clip(
    {'id': 'x', 'frames': [], 'transcripts': ['word'] * K, 'order': order.tolist(), 'logits': logits.tolist()}
  )
  right = logits.argmax(1) == order
  assert re.findall('[✓✗]', html) == ['✓' if good else '✗' for good in right]
  assert ('exact order' in html) == right.all()
  odds = np.array([int(p) for p in re.findall(r'>\d: (\d+)%<', html)]).reshape(K, K)
  softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  np.testing.assert_allclose(odds, 100 * softmax, atol=0.51)
  true = [int(place) for place in re.findall(r'class=true[^>]*>(\d):', html)]
  assert true == (order + 1).tolist()
  assert [int(n) for n in re.findall(r'class="chip"[^>]*>(\d)<', html)][1::2] == true


def test_logits_of_any_size(run):
  huge = example(logits=[[1e300, -1e300, 0, 5]] * 4)
  (run / 'eval' / 'examples.json').write_text(json.dumps([huge]))
  report.write(run)
  assert '1: 100%' in Page(run / 'report.html').text


FAULTS = {
  'it is no object': 'clip',
  'its id is not a text': example(id=3),
  'its logits is not a list': example(logits=None),
  'its transcripts and frames are not texts': example(transcripts=['a', 'b', 'c', {}]),
  'its order is not one of 4 transcripts': example(order=[0, 1, 2, 2]),
  'its logits are not 4 finite numbers': example(logits=[[0.0, 1.0, 2.0, float('nan')]] * 4),
  'its logits are not 4 finite': example(logits=[[0.0, 1.0]] * 4),
}


def test_clips_that_are_none_are_told_and_the_others_shown(run):
  clips = [*FAULTS.values(), example(order=[True, False, 2, 3]), example(frames=['!!', jpeg(9)[:-40], 'YWJj'])]
  (run / 'eval' / 'examples.json').write_text(json.dumps(clips))
  report.write(run)
  page = Page(run / 'report.html')
  for reason in FAULTS:
    assert f'A clip cannot be shown: {reason}' in page.text, reason
  assert page.text.count('val-7 #0') == 1 and 'a frame that is no picture' in page.text


# What is missing or damaged.

MISSING = {
  'metrics.jsonl': 'metrics.jsonl has no numbers of training steps',
  'config.txt': 'There is no config.txt, so neither the settings nor the chance levels are known',
  'clock.json': 'There is no clock.json',
  'eval/sorting.jsonl': 'No sorting was evaluated',
  'eval/examples.json': 'There is no eval/examples.json',
}


@pytest.mark.parametrize('missing', MISSING)
def test_a_missing_piece_is_named(run, missing):
  (run / missing).unlink()
  report.write(run)
  text = Page(run / 'report.html').text
  assert [name for name, said in MISSING.items() if said in text] == [missing]


@pytest.mark.parametrize('kept', MISSING)
def test_one_piece_is_enough(run, kept):
  for name in set(MISSING) - {kept}:
    (run / name).unlink()
  report.write(run)
  text = Page(run / 'report.html').text
  assert [name for name, said in MISSING.items() if said in text] == [name for name in MISSING if name != kept]


def test_damaged_files_are_told(run):
  for name in ('metrics.jsonl', 'eval/sorting.jsonl'):
    content = (run / name).read_bytes()
    (run / name).write_bytes(
      b'\xff\x00{"step": -1}\n[]\n{"step": 10, "time": 1e999, "loss": "x", "y": NaN}\n' + content[:-9]
    )
  (run / 'clock.json').write_text('{"seconds"')
  (run / 'eval' / 'examples.json').write_text('[{"id"')
  (run / 'config.txt').write_bytes(b'\xff\xfe: \x00\nmodel.transcripts: many\nsteps: 0\n')
  report.write(run)
  text = Page(run / 'report.html').text
  for words in (
    'metrics.jsonl: 3 unreadable lines are left out, the first is line 1',
    'sorting.jsonl: 3 unreadable lines',
    'clock.json is damaged',
    'eval/examples.json cannot be read',
  ):
    assert words in text, words


@given(st.lists(st.dictionaries(st.text(max_size=8), st.floats() | st.text(max_size=5), max_size=4), max_size=5))
@settings(max_examples=30, deadline=None)
def test_any_numbers_make_a_page(tmp_path_factory, rows):
  folder = tmp_path_factory.mktemp('run')
  (folder / 'eval').mkdir()
  for name in ('metrics.jsonl', 'eval/x.jsonl'):
    write_lines(folder / name, [{**row, 'step': i} for i, row in enumerate(rows)])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('os.fsync', lambda handle: None)
    report.write(folder)
  Page(folder / 'report.html')


# What others wrote.


@pytest.mark.parametrize(
  'evil', ['<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "' onload='x", '&lt;b&gt;']
)
def test_hostile_words_stay_words(run, evil):
  hostile = evil + ' \u202ekcab \x00 \ud800'
  words = [hostile, '', evil * 500, 'plain']
  (run / 'eval' / 'examples.json').write_text(json.dumps([example(id=hostile, transcripts=words)]))
  write_lines(run / 'eval' / 'evil &.jsonl', [{'step': 9, hostile: 1.0}])
  with (run / 'metrics.jsonl').open('a') as file:
    file.write(json.dumps({'step': 9, hostile: 1.0, f'sort/{evil}': 2.0}) + '\n')
  (run / 'config.txt').write_text(f'model.video.width: {evil}\nmodel.video.depth: {evil}\ninput.folder: {evil}\n')
  (run / 'parameters.txt').write_text(f'{evil}\n')
  report.write(run)
  page = Page(run / 'report.html')  # Which refuses tags and attributes that run or fetch.
  shown = re.sub(r'\s+', ' ', evil)
  assert page.text.count(shown) >= 8 and '\u202e' not in page.text and '\x00' not in page.text
  assert f'{shown} \ufffdkcab \ufffd \ufffd' in page.text


# Refusals.


def refused(capsys, *args):
  assert report.main([str(arg) for arg in args]) == 1
  out, err = capsys.readouterr()
  assert not out and len(err.splitlines()) == 1, err
  return err


def test_no_work_directory(tmp_path, capsys):
  (tmp_path / 'empty').mkdir()
  for name in ('empty', 'nowhere'):
    said = refused(capsys, tmp_path / name)
    assert f'{name} is no work directory of a run: it has none of metrics.jsonl, config.txt' in said
  assert not list((tmp_path / 'empty').iterdir()) and not (tmp_path / 'nowhere').exists()
  with pytest.raises(UserError, match='is no work directory'):
    report.write(tmp_path / 'empty')


def test_no_place_for_the_page(whole, tmp_path, capsys):
  (tmp_path / 'file').write_text('')
  assert 'the report cannot be written to' in refused(capsys, whole, '--out', tmp_path / 'file' / 'page.html')
  (tmp_path / 'folder').mkdir()
  assert 'name another place' in refused(capsys, whole, '--out', tmp_path / 'folder')
  assert not list((tmp_path / 'folder').iterdir()) and {p.name for p in tmp_path.iterdir()} == {'file', 'folder'}


def test_the_command(whole, tmp_path):
  run = lambda *args: subprocess.run(
    [sys.executable, '-m', 'tvts_jax.report', *args], capture_output=True, text=True, timeout=120
  )
  done = run(str(whole), '--out', str(tmp_path / 'page.html'))
  assert done.returncode == 0 and done.stdout == f'{tmp_path / "page.html"}; open it in a browser\n', done.stderr
  Page(tmp_path / 'page.html')
  assert run().returncode == 2
