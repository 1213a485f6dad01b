"""A page of the nearest videos of texts: those that the whole model gives, one clip and one text at a time."""

import re

import jax
import numpy as np
import pytest

from tests.data.inspect.test_inspect import read as read_page
from tests.support import clips, folders
from tvts_jax import convert, human, nearest
from tvts_jax.models import tvts

TEXTS = ['a falling thing', 'rising stone 1', '<b>rolling</b>']


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """(folder of shards and weights, oracle)"""
  root = tmp_path_factory.mktemp('nearest')
  _, records = clips.make(root)
  model = tvts.build(clips.config(root, {}).model)
  params = jax.device_get(clips.random_parameters(model))
  convert.save_folder(root / 'weights', model.config, params, tokenizer=root / 'pieces')
  (root / 'texts.txt').write_text('\n'.join(TEXTS))
  return root, clips.Oracle(root, model, params, records, pieces=16)


def run(root, *arguments, code=0):
  given = [root / 'weights', root / 'shards', '--texts', root / 'texts.txt', '--out', root / 'page.html', *arguments]
  assert nearest.main([*map(str, given)]) == code
  return read_page(root / 'page.html')


def test_the_five_nearest_are_those_of_the_model(made):
  root, oracle = made
  page = run(root, '--split', 'test')
  unit = lambda x: x / np.linalg.norm(x)
  middles = [clips.MS * (2 * m + 1) // 16 for m in range(8)]
  there = [id_ for id_ in oracle.records if id_.startswith('test') and id_ not in (clips.MISSING, clips.DAMAGED)]
  found = {id_: unit(oracle.clip(id_, middles)['embed']) for id_ in there}
  expected = []
  for text in TEXTS:
    scores = {id_: float(unit(oracle.text(text)) @ embed) for id_, embed in found.items()}
    expected += sorted(scores.items(), key=lambda item: -item[1])[: nearest.NEAREST]
  shown = re.findall(r'<b>(-?[\d.]+)</b> <bdi>(.*?)</bdi>', (root / 'page.html').read_text())
  assert [id_ for _, id_ in shown] == [id_ for id_, _ in expected]
  np.testing.assert_allclose([float(score) for score, _ in shown], [score for _, score in expected], atol=1e-3)
  assert sum(tag == 'img' and bool(a['src']) for tag, a in page.tags) == len(TEXTS) * nearest.NEAREST
  assert all(text in page.text for text in TEXTS) and '1 records could not be read' in page.text


def test_what_cannot_be_read_is_named_and_left_out(made, tmp_path, capsys, monkeypatch):
  root, _ = made
  monkeypatch.setattr(human, 'EVERY_S', -1.0)
  good, spoilt = (folders.record(name, width=32) for name in ('good', 'spoilt'))
  shards = folders.write(tmp_path / 'shards', {'train': [[spoilt, good]]})
  folders.flip(shards / 'train-00000-of-00001.tfrecord', 40)
  given = [root / 'weights', shards, '--texts', root / 'texts.txt', '--out', tmp_path / 'page.html']
  assert nearest.main([*map(str, given)]) == 0
  said = capsys.readouterr()
  assert 'with the nearest of 1 videos' in said.out and 'left out: ' in said.err and 'record 0 at byte 0' in said.err
  assert '1/2 videos' in said.err and 'ETA' in said.err
  page = read_page(tmp_path / 'page.html')
  assert '1 records could not be read' in page.text and 'good' in page.text and 'spoilt' not in page.text
  given[1] = folders.write(tmp_path / 'small', {'train': [[folders.record('tiny', height=16, width=15)]]})
  assert nearest.main([*map(str, given)]) == 0 and 'tiny' in read_page(tmp_path / 'page.html').text
  folders.flip(given[1] / 'train-00000-of-00001.tfrecord', 40)
  assert nearest.main([*map(str, given)]) == 1 and 'not one record' in capsys.readouterr().err
  (tmp_path / 'many.txt').write_text('a\n' * 201)
  assert nearest.main([str(root / 'weights'), str(shards), '--texts', str(tmp_path / 'many.txt')]) == 1
  assert 'at most 200' in capsys.readouterr().err
