"""Losses and scores against plain numpy, and against what chance gives."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tvts_jax import objectives
from tvts_jax.errors import UserError
from tvts_jax.objectives import contrastive, orders, sorting


def embeddings(B=6, C=5, seed=0):
  rng = np.random.default_rng(seed)
  return {'video_embed': rng.normal(size=(B, C)), 'text_embed': rng.normal(size=(B, C))}


def test_contrastive_loss_by_hand():
  outputs = embeddings()
  v, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in outputs.values())
  e = np.exp(v @ t.T / 0.05)
  expected = -np.mean(np.log(np.diag(e) / e.sum(1))) - np.mean(np.log(np.diag(e) / e.sum(0)))
  loss, metrics = contrastive.contrastive(jax.tree.map(jnp.float32, outputs), {})
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  assert metrics['v2t_r1'] == np.mean(e.argmax(1) == np.arange(6))
  assert metrics['t2v_r1'] == np.mean(e.argmax(0) == np.arange(6))


def test_gradient_scale_scales_the_gradient_and_not_the_loss():
  outputs = jax.tree.map(jnp.float32, embeddings())
  loss_of = lambda outputs, scale: contrastive.contrastive(outputs, {}, gradient_scale=scale)[0]
  run = jax.jit(jax.value_and_grad(loss_of))
  (loss, gradient), (scaled_loss, scaled_gradient) = run(outputs, 1.0), run(outputs, 1 / 32)
  np.testing.assert_allclose(loss, scaled_loss, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a / 32, b, rtol=1e-4, atol=1e-8), gradient, scaled_gradient)


def test_a_collapsed_embedding_scores_chance():
  constant = {'video_embed': jnp.ones((8, 4)), 'text_embed': jnp.ones((8, 4))}
  loss, metrics = contrastive.contrastive(constant, {})
  np.testing.assert_allclose(loss, 2 * math.log(8), rtol=1e-6)
  assert metrics['v2t_r1'] == metrics['t2v_r1'] == 1 / 8


def test_a_zero_embedding_has_a_finite_gradient():
  outputs = {**jax.tree.map(jnp.float32, embeddings()), 'video_embed': jnp.zeros((6, 5))}
  gradient = jax.jit(jax.grad(lambda outputs: contrastive.contrastive(outputs, {})[0]))(outputs)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_sort_loss_by_hand():
  rng = np.random.default_rng(0)
  logits, order = rng.normal(size=(5, 4, 4)), np.stack([rng.permutation(4) for _ in range(5)])
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  expected = -np.mean([np.log(p[b, i, order[b, i]]) for b in range(5) for i in range(4)])
  loss, metrics = jax.jit(sorting.sort)({'sort_logits': np.float32(logits)}, {'order': np.int32(order)})
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  assert metrics['exact'] == np.mean([(logits[b].argmax(-1) == order[b]).all() for b in range(5)])


@pytest.mark.parametrize('K', [2, 3, 5])
def test_assignment_is_the_best_of_all_permutations(K):
  logits = np.random.default_rng(K).normal(size=(20, K, K)).astype(np.float32)
  for given, got in zip(logits, np.asarray(jax.jit(orders.assign)(logits))):
    best = max(itertools.permutations(range(K)), key=lambda p: sum(given[i, p[i]] for i in range(K)))
    assert tuple(got) == best


def test_perfect_and_reversed_orders_score_their_extremes():
  order, scores, one_hot = np.array([[2, 0, 1, 3]]), jax.jit(sorting.scores), np.eye(4, dtype=np.float32)
  perfect = scores(one_hot[order], order)
  assert {name: float(value[0]) for name, value in perfect.items()} == dict(item=1, exact=1, assigned=1, kendall_tau=1)
  backward = scores(one_hot[3 - order], order)
  assert {name: float(value[0]) for name, value in backward.items()} == dict(
    item=0, exact=0, assigned=0, kendall_tau=-1
  )


@pytest.mark.parametrize('K', [2, 3, 4])
def test_transcripts_that_tie_score_chance_over_all_orders(K):
  order = np.asarray(orders.permutations(K))
  both = jax.jit(lambda ties: (sorting.scores(ties, order), orders.scores(orders.borda(ties), order)))
  found = jax.device_get(both(np.zeros((len(order), K, K), np.float32)))
  for way in found:
    for name in ('item', 'assigned', 'kendall_tau'):
      np.testing.assert_allclose(way[name].mean(), orders.CHANCE[name](K), atol=1e-6, err_msg=name)
  assert not found[0]['exact'].any()  # All argmaxes name the first place.


@pytest.mark.parametrize('K', [2, 3, 4])
def test_random_logits_score_chance(K):
  n, rng = 20_000, np.random.default_rng(0)
  logits = rng.standard_normal((n, K, K), np.float32)
  order = rng.permuted(np.tile(np.arange(K), (n, 1)), axis=1)
  for name, value in jax.device_get(jax.jit(sorting.scores)(logits, order)).items():
    chance, spread = orders.CHANCE[name](K), float(value.std()) / math.sqrt(n)
    assert abs(float(value.mean()) - chance) < 4 * spread, name


def test_the_sum_is_weighted_and_named():
  outputs = {**jax.tree.map(jnp.float32, embeddings()), 'sort_logits': jnp.zeros((6, 4, 4))}
  batch = {'order': jnp.tile(jnp.arange(4), (6, 1))}
  loss, metrics = objectives.build({'contrastive': {'temperature': 0.1}, 'sort': {'weight': 2.0}})(outputs, batch)
  np.testing.assert_allclose(metrics['sort/loss'], math.log(4), rtol=1e-6)
  np.testing.assert_allclose(loss, metrics['contrastive/loss'] + 2 * metrics['sort/loss'], rtol=1e-6)
  assert metrics['loss'] == loss


@pytest.mark.parametrize(
  'config, words',
  [({}, 'contrastive'), ({'sorting': {}}, 'sort'), ({'contrastive': {'tau': 0.1}}, 'temperature')]
  + [({'contrastive': {'temperature': 0.0}}, 'above 0'), ({'classify': {'smoothing': 1.0}}, 'smoothing=1.0')],
)
def test_unknown_names_list_the_known(config, words):
  with pytest.raises(UserError, match=words):
    objectives.build(config)
