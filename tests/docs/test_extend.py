"""The worked examples of docs/extend.md, as they stand there: against plain numpy, in the places they are made for."""

import json
import types
from unittest import mock

import jax
import numpy as np
import pytest

from data import benchmarks, check
from data.benchmarks import media_files
from data.outcomes import ItemError
from data.sources import folders
from data.sources.items import SourceError
from data.transcripts import formats
from tests.support import clips, pages
from tvts_jax import config as config_lib
from tvts_jax import evaluators, objectives
from tvts_jax.errors import UserError
from tvts_jax.evaluators import features
from tvts_jax.models import tvts
from tvts_jax.run import metrics
from tvts_jax.shards import annotations

PAGE = 'docs/extend.md'


def module(path: str):
  """What the page shows as the whole of a file."""
  made = types.ModuleType(path.rpartition('/')[2].removesuffix('.py'))
  exec(compile(pages.file(PAGE, path), path, 'exec'), made.__dict__)
  return made


def line(table: str, own, names: dict):
  """Does with a table what the page's line for it does."""
  (code,) = (block.text for block in pages.blocks(PAGE) if block.text.startswith(f'{table}['))
  exec(code, {**names, own.__name__: own})


def setting(name: str) -> dict:
  """What the page gives a config."""
  (code,) = (block.text for block in pages.blocks(PAGE) if block.text.startswith(f'config.{name} ='))
  given = types.SimpleNamespace()
  exec(code, {'config': given})
  return getattr(given, name)


@pytest.fixture
def tables():
  with (
    mock.patch.dict(objectives.OBJECTIVES),
    mock.patch.dict(evaluators.EVALUATORS),
    mock.patch.dict(formats.FORMATS),
    mock.patch.dict(benchmarks.BENCHMARKS),
  ):
    yield


def test_the_objective_is_part_of_a_loss(tables):
  line('OBJECTIVES', module('tvts_jax/objectives/align_uniform.py'), vars(objectives))
  asked = setting('objectives')
  rng = np.random.default_rng(0)
  video_BxC, text_BxC = rng.standard_normal((2, 6, 5)).astype(np.float32)
  outputs = {'video_embed': video_BxC, 'text_embed': text_BxC, 'sort_logits': np.zeros((6, 4, 4), np.float32)}
  loss, metrics = objectives.build(asked)(outputs, {'order': np.tile(np.arange(4), (6, 1))})

  v, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (video_BxC, text_BxC))
  align = np.mean([((v[i] - t[i]) ** 2).sum() for i in range(6)])
  pairs = [np.exp(-2 * ((v[i] - v[j]) ** 2).sum()) for i in range(6) for j in range(6) if i != j]
  own = align + asked['align_uniform']['uniform'] * np.log(np.mean(pairs))
  np.testing.assert_allclose(metrics['align_uniform/align'], align, rtol=1e-5)
  np.testing.assert_allclose(metrics['align_uniform/loss'], own, rtol=1e-5)
  np.testing.assert_allclose(loss, own + 2 * np.log(4), rtol=1e-5)


def test_the_objective_says_what_chance_is_and_what_is_wrong(tables):
  line('OBJECTIVES', module('tvts_jax/objectives/align_uniform.py'), vars(objectives))
  progress = metrics.progress_line(1, 9, {'align_uniform/align': 1.9}, None, transcripts=4, batch=8)
  assert progress == 'step 1/9', 'only scores are part of it'
  x_2xNxC = np.random.default_rng(0).standard_normal((2, 4000, 16))
  x_2xNxC /= np.linalg.norm(x_2xNxC, axis=2, keepdims=True)
  by_chance = np.square(x_2xNxC[0] - x_2xNxC[1]).sum(axis=1).mean()
  assert objectives.chance('align_uniform/align', 4, 8) == pytest.approx(by_chance, abs=0.05)
  assert objectives.chance('align_uniform/potential', 4, 8) is None
  with pytest.raises(UserError, match=r'objectives.align_uniform.uniform=-1.0 must be at least 0'):
    objectives.build({'align_uniform': {'uniform': -1.0}})


def test_the_evaluator_looks_at_frozen_features(tables, tmp_path):
  line('EVALUATORS', module('tvts_jax/evaluators/effective_rank.py'), vars(evaluators))
  clips.make(tmp_path)
  (asked,) = setting('evals').values()
  own = {name: value for name, value in asked.items() if name in ('features', 'crops')}
  config, mesh = clips.config(tmp_path, {'effective_rank': own}), clips.mesh()
  model = tvts.build(config.model)
  params = clips.random_parameters(model)
  with jax.set_mesh(mesh):
    evaluator = evaluators.build(config, model, mesh)['effective_rank']
    result = evaluator.result(params)
    seen = features.STORE.features(evaluator.clips, params)
  found = seen['embed'][seen['valid'][:, 0], 0].astype(np.float64)
  found /= np.linalg.norm(found, axis=1, keepdims=True)
  # Singular values, as square roots of the eigenvalues of the covariance.
  values = np.sqrt(np.clip(np.linalg.eigvalsh(np.cov(found, rowvar=False, bias=True) * len(found)), 0, None))
  share = values[values > 1e-6] / values.sum()
  np.testing.assert_allclose(result.metrics['rank'], np.exp(-(share * np.log(share)).sum()), rtol=1e-3)
  assert 1 < result.metrics['rank'] < config.model.common
  assert set(result.missing) == {clips.MISSING, clips.DAMAGED} and len(result.items) == result.evaluated


def test_the_transcript_format_is_found_out_and_read(tables):
  line('FORMATS', module('data/transcripts/ctm.py'), vars(formats))
  said = b';; made by hand\ntalk 1 0.50 0.25 Hello 0.98\n\ntalk 1 1.25 0.5 there\ntalk 1 20 0.1 again 0.5\n'
  found = formats.read(said, duration_ms=30_000)
  assert (found.source, found.timing) == ('ctm', 'word')
  assert [(word.text, word.start_ms, word.end_ms) for word in found.words] == [
    ('Hello', 500, 750),
    ('there', 1250, 1750),
    ('again', 20_000, 20_100),
  ]
  assert formats.endings() == ['.json3', '.json', '.vtt', '.srt', '.ctm']
  with pytest.raises(ItemError, match="'talk 1 x 0.1 oh' is no line of a CTM file"):
    formats.read(said + b'talk 1 x 0.1 oh\n')
  assert formats.detect('WEBVTT\n\n00:01.000 --> 00:02.000\nhello') == 'vtt'


def test_the_transcript_format_is_found_beside_videos(tables, tmp_path):
  line('FORMATS', module('data/transcripts/ctm.py'), vars(formats))
  for name in ('talk.mp4', 'talk.en.ctm', 'talk.json', 'other.mp4', 'other.txt'):
    (tmp_path / name).write_bytes(b'')
  found = {item.id: item.transcript for _, item in folders.tree(str(tmp_path), None, None)}
  assert found == {'talk': str(tmp_path / 'talk.en.ctm'), 'other': None}


def test_the_benchmark_is_read_and_checked(tables, tmp_path):
  line('BENCHMARKS', module('data/benchmarks/diving48.py'), vars(benchmarks))
  lists = {
    'vocab': [['Back', '15som', '05Twis', 'FREE'], ['Forward', '35som', 'NoTwis', 'PIKE']],
    'V2_train': [{'vid_name': 'b', 'label': 1, 'start_frame': 0}, {'vid_name': 'a', 'label': 0}],
    'V2_test': [{'vid_name': 'c', 'label': 1}],
  }
  for name, content in lists.items():
    (tmp_path / f'Diving48_{name}.json').write_text(json.dumps(content))
  for name in 'ac':
    (tmp_path / f'{name}.mp4').write_bytes(b'')
  clips = benchmarks.read('diving48', str(tmp_path), str(tmp_path))
  paths, _ = media_files.locate(clips, benchmarks.BENCHMARKS['diving48'], str(tmp_path))
  assert paths == {'a': f'{tmp_path}/a.mp4', 'c': f'{tmp_path}/c.mp4'}
  (tmp_path / 'annotations.jsonl').write_text(''.join(json.dumps(annotations.row_of(clip)) + '\n' for clip in clips))
  known = annotations.answers(f'{tmp_path}/annotations.jsonl', ('train', 'test'))
  assert known.classes == ['Back 15som 05Twis FREE', 'Forward 35som NoTwis PIKE']
  assert known.labels(known.rows['train']).tolist() == [0, 1] and known.labels(known.rows['test']).tolist() == [1]
  assert check.parse(['diving48', 'lists']).name == 'diving48'
  (tmp_path / 'Diving48_V2_test.json').write_text(json.dumps([{'vid_name': 'c', 'label': 48}]))
  with pytest.raises(SourceError, match='test.json, entry 1: needs a vid_name, and a label below 2'):
    benchmarks.read('diving48', str(tmp_path), str(tmp_path))


def test_a_config_takes_what_the_page_gives_it(tables):
  line('OBJECTIVES', module('tvts_jax/objectives/align_uniform.py'), vars(objectives))
  line('EVALUATORS', module('tvts_jax/evaluators/effective_rank.py'), vars(evaluators))
  config = config_lib.base()
  config.steps = 1
  del config.objectives, config.evals
  config.objectives, config.evals = setting('objectives'), setting('evals')
  assert config_lib.resolve(config).evals['effective_rank']['batch'] == 128
