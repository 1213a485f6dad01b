"""The picture of a clip that a run sorted: what it draws is what the run saw and said, and a browser needs no more."""

import itertools
import json
import re
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from docs import picture
from tests.support import folders

SVG = '{http://www.w3.org/2000/svg}'
LOGITS = [[5, 4, 0, 0], [6, 0, 0, 0], [0, 0, 1, 2], [0, 0, 3, 0]]
ORDER = [1, 0, 2, 3]  # Of which the model has the first two right.
FRAME_YxXx3 = np.zeros((32, 48, 3), np.uint8)
FRAME_YxXx3[:, :24], FRAME_YxXx3[8:16, 32:48] = (0, 0, 255), (255, 0, 0)  # Blue on the left, a red box on the right.


@pytest.fixture
def workdir(tmp_path):
  """A run that has sorted a clip, and said so."""
  record = folders.record('a <b> clip', frames=6, height=32, width=48)
  record.frames[:] = [cv2.imencode('.jpg', FRAME_YxXx3[..., ::-1])[1].tobytes()] * 6
  folders.write(tmp_path / 'shards', {'val': [[folders.record('other'), record]]})
  (tmp_path / 'run/eval').mkdir(parents=True)
  (tmp_path / 'run/config.txt').write_text(f"input.folder: '{tmp_path}/shards'\n")
  said = ['first & <i>words</i>', 'x' * 90, 'third', 'fourth']
  example = {'id': 'a <b> clip #0', 'frames': [], 'transcripts': said, 'order': ORDER, 'logits': LOGITS}
  (tmp_path / 'run/eval/examples.json').write_text(json.dumps([example, {**example, 'id': 'gone #0'}]))
  return tmp_path / 'run'


def run(workdir, *arguments, code=0):
  out = workdir / 'out.svg'
  assert picture.main([str(workdir), '--out', str(out), *arguments]) == code
  return ElementTree.parse(out).getroot() if code == 0 else None


def test_it_shows_frames_words_and_the_likeliest_order(workdir):
  root = run(workdir)
  best = max(itertools.permutations(range(4)), key=lambda places: sum(LOGITS[i][p] for i, p in enumerate(places)))
  ways = [path for path in root.iter(f'{SVG}path') if path.get('class') == 'way']
  ends = [float(path.get('d').split()[-1]) for path in ways]
  assert np.argsort(np.argsort(ends)).tolist() == list(best) == [1, 0, 3, 2]
  right = [path.get('stroke') == picture.RIGHT for path in ways]
  assert right == [place == true for place, true in zip(best, ORDER)] == [True, True, False, False]
  texts = [text.text for text in root.iter(f'{SVG}text')]
  assert texts.count('first & <i>words</i>') == 2 and not any(len(text) > 60 for text in texts)
  assert '15.0 s' in texts or '12.5 s' in texts


def test_each_frame_is_drawn_whole(workdir):
  """Painted again by hand, its paths give the picture that was stored."""
  frames = list(run(workdir).iter(f'{SVG}g'))
  painted_YxXx3 = np.full((32, 48, 3), -1)
  for path in frames[0].iter(f'{SVG}path'):
    colour = [17 * int(digit, 16) for digit in path.get('fill')[1:]]
    for x, y, wide in re.findall(r'M(\d+) (\d+)h(\d+)v1h-\3z', path.get('d')):
      painted_YxXx3[int(y), int(x) : int(x) + int(wide)] = colour
  assert (painted_YxXx3 >= 0).all() and np.abs(painted_YxXx3 - FRAME_YxXx3).mean() < 8
  assert len(frames) == 5, 'as many as fit beside each other'


def test_nothing_is_fetched(workdir):
  run(workdir)
  said = (workdir / 'out.svg').read_text()
  assert not re.search(r'href|url\(|@import|<script|<image|foreignObject', said)
  assert re.findall(r'https?://[^"]+', said) == ['http://www.w3.org/2000/svg']


def test_wrong_turns(workdir, tmp_path, capsys):
  for words, folder, arguments in (
    ('is not there; a run with a sorting evaluator writes it', tmp_path / 'none', ()),
    ('has 2 examples, and none is number 3', workdir, ('--example', '3')),
    ("has no clip 'gone #0'", workdir, ('--example', '2')),
  ):
    run(folder, *arguments, code=1)
    error = capsys.readouterr().err
    assert words in error and error.count('\n') == 1
