"""Variants of a run: their configs, what their batches hold beyond the usual, a run of one, and how they are scored."""

import dataclasses
import itertools
import json
import re
import types

import jax
import numpy as np
import pytest

from configs import variants
from tests.faults import small
from tests.test_config import load
from tvts_jax import config as config_lib
from tvts_jax import objectives, sharding
from tvts_jax.convert.workdir import load_workdir
from tvts_jax.errors import UserError
from tvts_jax.evaluators import sorting
from tvts_jax.input import pipeline
from tvts_jax.input.settings import InputConfig
from tvts_jax.models.tvts import HEADS
from tvts_jax.pages import sorting as sorting_lib


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return small.make(tmp_path_factory.mktemp('variants'))


@pytest.mark.parametrize('name', variants.VARIANTS)
def test_a_variant_is_what_it_says(name):
  asked, changes = variants.VARIANTS[name]
  for file in ('demo', 'pretrain'):
    run, usual = (config_lib.resolve(load(f'{file}:objective={x}')) for x in (name, 'tvts'))
    assert run.objectives == asked
    assert set(run.input.fields) == {field for name in asked for field in objectives.OBJECTIVES[name].fields}
    differ = [line for line in config_lib.text(run).splitlines() if line not in config_lib.text(usual).splitlines()]
    changed = [line.partition(':')[0] for line in config_lib.text_of(config_lib.plain(changes)).splitlines()]
    free = 'objectives.', 'input.fields', *changed
    assert all(line.startswith(free) for line in differ), differ


def test_an_unknown_variant_lists_the_known():
  with pytest.raises(UserError, match='pairwize.*pairwise'):
    load('demo:objective=pairwize')


def test_what_the_ablations_change_are_flags(root):
  """λ, τ, mask ratio, K, l and M, as configs/variants.py says."""
  flags = [flag.replace("'", '') for flag in re.findall(r"--config\.\S+='\S+'|--config\.\S+=[\d.]+", variants.__doc__)]
  assert len(flags) == 6
  run = small.config(root, '--config.model.video.image_size=32', *flags)
  assert run.objectives == {'contrastive': {'temperature': 0.1, 'weight': 1.0}, 'sort': {'weight': 1.0}}
  given = run.input
  assert (given.mask_ratio, given.transcripts, given.seconds, given.frames) == (0.9, 2, (3.0,), 8)


# Batches.


def input_of(root, **changes) -> InputConfig:
  sizes = {'image_size': 16, 'patch': 4, 'frames': 8, 'max_tokens': 12, 'batch': 8, 'seconds': (2.0,), 'min_words': 1}
  sizes |= {'folder': str(root / 'shards'), 'tokenizer': str(root / 'text'), 'decoder': 'cv'}
  return InputConfig(**sizes | changes)


def all_tubelets(batch, name: str):
  return dict(zip(batch[f'{name}positions'].tolist(), batch[f'{name}patches']))


@pytest.mark.parametrize('mask', ['random', 'tube'])
def test_masked_tubelets_are_all_that_are_not_visible(root, mask):
  with_ = pipeline.open(input_of(root, mask=mask, fields=('masked',)))
  batch, seen = with_.batch(1), pipeline.open(input_of(root, mask_ratio=0.0)).batch(1)
  assert {name: (x.shape, x.dtype) for name, x in batch.items()} == with_.spec
  for b in range(8):
    clip = {name: x[b] for name, x in batch.items()}
    visible, masked = all_tubelets(clip, ''), all_tubelets(clip, 'masked_')
    assert sorted([*visible, *masked]) == list(range(4 * 16)) and len(masked) == 4 * 12
    assert np.all(np.diff(clip['masked_positions']) > 0)
    for position, patch in (visible | masked).items():
      np.testing.assert_array_equal(patch, seen['patches'][b, position])


def test_fields_change_nothing_else_and_come_to_those_alone_who_ask(root):
  plain, asked = (pipeline.open(input_of(root, fields=fields)).batch(2) for fields in ((), ('part_order', 'masked')))
  assert asked.keys() - plain.keys() == {'part_order', 'masked_patches', 'masked_positions'}
  for name, value in plain.items():
    np.testing.assert_array_equal(asked[name], value)


def test_parts_are_shuffled_evenly_and_anew_in_every_epoch(root):
  source = pipeline.open(input_of(root, batch=40, fields=('part_order',)))
  order_ExNx4 = np.stack([b['part_order'][np.argsort(b['example_id'])] for b in map(source.batch, range(12))])
  assert (np.sort(order_ExNx4, axis=-1) == np.arange(4)).all()
  assert len({order.tobytes() for order in order_ExNx4}) == 12
  # Each of 24 orders is drawn 20 times of 480 on average; five deviations.
  orders, counts = np.unique(order_ExNx4.reshape(-1, 4), axis=0, return_counts=True)
  assert len(orders) == 24 and np.abs(counts - 20).max() < 5 * 20**0.5


def test_nothing_masked_is_nothing_to_reconstruct(root):
  with pytest.raises(UserError, match='mask_ratio=0.0 masks nothing'):
    pipeline.open(input_of(root, mask_ratio=0.0, fields=('masked',)))


# A run, and scores.


@pytest.mark.long
def test_a_variant_runs_by_the_command(root):
  settings = '--config.model.video.frames=8', '--config.steps=3', '--config.checkpoint.every_steps=3'
  run = small.fork(root, 'vcop', *settings, objective='vcop')
  said, _ = run.communicate(timeout=240)
  assert run.returncode == 0, said[-3000:]
  rows = [json.loads(line) for line in (root / 'vcop' / 'metrics.jsonl').read_text().splitlines()]
  losses = [row['vcop/loss'] for row in rows if 'vcop/loss' in row]
  assert len(losses) == 3 and all(0 < loss < 10 for loss in losses)
  assert 'vcop item' in said and 'assigned' in said and '(chance 4.2%)' in said
  assert 'heads_vcop/layouts/out' in (root / 'vcop' / 'parameters.txt').read_text()
  _, params, _ = load_workdir(root / 'vcop')  # As exports and features open it.
  assert {'video', 'text', 'sorter'} <= params.keys() and not any(name.startswith(HEADS) for name in params)


def test_a_variant_is_scored_by_the_orders_that_it_reads_off(root):
  """A made-up model, whose preferences depend on words and pictures, against plain numpy."""

  def apply(params, batch):
    strength_BxK = batch['tokens'][..., 1] * (1 + batch['patches'][..., 0].sum(axis=1, keepdims=True) % 3)
    strength_BxK = strength_BxK % params
    return {'sort_pairs': (strength_BxK[:, :, None] - strength_BxK[:, None]).astype('float32')}

  run = dataclasses.replace(small.config(root), objectives={'contrastive': {}, 'sort_pairwise': {'weight': 2.0}})
  mesh = sharding.make_mesh(run.mesh)
  evaluator = sorting.Sorting(run, {'split': 'train'}, types.SimpleNamespace(apply=apply), mesh)
  result = evaluator.result(7)
  numbers = result.numbers()
  assert numbers['clips'] == 40 and not any('exact' in name for name in numbers)
  right = {'own': [], 'blank': []}
  for batch in evaluator.source.batches():
    for name, seen in right.items():
      given = batch
      if name == 'blank':
        given = {**batch, 'patches': np.asarray(sorting.blank(batch['patches'], run.model.video))}
      made = apply(7, {key: np.int32(value) for key, value in given.items() if key != 'example_id'})['sort_pairs']
      for logits, order in zip(made, batch['order']):
        before = (1 / (1 + np.exp(-logits.astype(np.float64)))).sum(axis=1)
        place = [sum(b > a or (b == a and j < i) for j, b in enumerate(before)) for i, a in enumerate(before)]
        concordant = [
          np.sign((place[i] - place[j]) * (order[i] - order[j])) for i, j in itertools.combinations(range(4), 2)
        ]
        seen.append((np.mean(place == order), np.all(place == order), np.mean(concordant)))
  for name, seen in right.items():
    for score, expected in zip(('item', 'assigned', 'kendall_tau'), np.mean(seen, axis=0)):
      assert numbers[f'{name}/{score}'] == pytest.approx(expected, abs=1e-6), (name, score)
  assert 'Sorting by sort_pairwise' in result.protocol and 'chance 4.2%' in result.protocol
  page = sorting_lib.hero({3: numbers}, 4, 3)
  assert 'chance is 4.2%' in page and 'blind permutation' not in page


@pytest.mark.parametrize('asked, scored', [('tvts', 'sort'), ('factorial', 'sort_factorial'), ('vcop', 'sort')])
def test_a_run_is_scored_by_its_own_objective(asked, scored):
  assert sorting.sorter_of(config_lib.resolve(load(f'demo:objective={asked}'))) == scored


def test_every_way_to_sort_transcripts_gives_permutations():
  keys = jax.random.split(jax.random.key(0), 3)
  outputs = {
    name: jax.random.normal(key, shape)
    for key, (name, shape) in zip(
      keys, {'sort_logits': (9, 4, 4), 'sort_pairs': (9, 4, 4), 'sort_orders': (9, 24)}.items()
    )
  }
  ways = [one.order for one in objectives.OBJECTIVES.values() if one.order]
  assert len(ways) == 3
  for order in ways:
    assert (np.sort(jax.jit(order)(outputs), axis=1) == np.arange(4)).all()
