"""A page of what clips were taken for: its names and shares are those of the results, and its clips the right ones."""

import json
import re

import pytest

from tests.data.inspect.test_inspect import read as read_page
from tests.support import folders
from tvts_jax import predictions

BEST = [['<b>up</b>', 0.6], ['down', 0.2], ['left', 0.1], ['right', 0.06], ['spin', 0.04]]


def item(id_, truth, best=BEST):
  return {'id': id_, 'label': 0, 'class': truth, 'right': float(best[0][0] == truth), 'best': best}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp('predictions')
  clips = [folders.record(f'clip {i}') for i in range(6)]
  folders.write(root / 'shards', {'train': [clips[:3]], 'test': [clips[3:]]})
  signed = [['down', 0.5], ['<b>up</b>', 0.25], ['left', -0.25]]
  results = {
    'a/result': [item('clip 3', '<b>up</b>'), item('clip 4', 'down'), item('clip 5', 'left')],
    'b/result': [item('clip 4', 'down', signed), item('clip 3', '<b>up</b>', signed), item('lost', 'left', signed)],
  }
  for name, items in results.items():
    path = root / f'{name}.json'
    path.parent.mkdir()
    path.write_text(json.dumps({'items': items}))
  return root


def run(root, *arguments, code=0, results='a/result.json b/result.json'):
  given = [root / 'shards', *(root / name for name in results.split()), '--out', root / 'page.html', *arguments]
  assert predictions.main([*map(str, given)]) == code
  return read_page(root / 'page.html') if code == 0 else None


def shown(root):
  return re.findall(r'<p class="soft"><bdi>(clip \d)</bdi>', (root / 'page.html').read_text())


def test_the_page_shows_what_the_results_say(root):
  page = run(root)
  assert shown(root) == ['clip 3', 'clip 4']  # Those that both results have, in storage order.
  assert sum(tag == 'img' and bool(a['src']) for tag, a in page.tags) == 2 * predictions.FRAMES
  assert 'a/result: right' in page.text and 'b/result: right' in page.text and '<b>up</b>' in page.text
  text = (root / 'page.html').read_text()
  assert all(text.count(f'<b>{share}</b>') == 2 for share in ('60.0%', '20.0%', '10.0%', '6.0%', '4.0%'))
  assert all(text.count(f'<b>{score}</b>') == 2 for score in ('0.500', '0.250', '-0.250'))
  assert re.findall(r'style="width: (\d+)%', text)[:8] == ['60', '20', '10', '6', '4', '100', '50', '0']


@pytest.mark.parametrize('only, ids', [('wrong', ['clip 4', 'clip 5']), ('right', ['clip 3']), ('all', ['clip 3'])])
def test_which_clips(root, only, ids):
  run(root, '--only', only, *(['--count', '1'] if only == 'all' else []), results='a/result.json')
  assert shown(root) == ids


def test_where_models_differ(root, capsys):
  run(root, '--only', 'differ')
  assert shown(root) == ['clip 3', 'clip 4']
  run(root, '--only', 'right', code=1)
  assert 'not one clip' in capsys.readouterr().err


def test_what_is_refused_in_a_sentence(root, capsys):
  (root / 'other.json').write_text('{"items": [{"id": "clip 3", "rank": 1}]}')
  refused = {'none.json': 'is not there', 'other.json': 'no result', 'a/result.json a/result.json': 'twice'}
  for results, words in refused.items():
    run(root, code=1, results=results)
    assert words in capsys.readouterr().err
