"""Objectives beside the paper's own: losses against plain numpy, gradients against differences, and what may leak."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import alternatives
from tests.support.alternatives import ALL, CONFIG, B, K, S, T, V
from tvts_jax.errors import UserError
from tvts_jax.objectives import OBJECTIVES, contrastive, orders, reconstruct

ORDERS = list(itertools.permutations(range(K)))
softplus = lambda x: np.logaddexp(0, x)
log_softmax = lambda x, axis=-1: x - np.log(np.exp(x).sum(axis, keepdims=True))
unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)


# The same losses in plain numpy, from outputs and batch.


def pairs(logits_BxKxK, order_BxK):
  each = [
    softplus(logits[j, i] if order[i] < order[j] else logits[i, j])
    for logits, order in zip(logits_BxKxK, order_BxK)
    for i, j in itertools.combinations(range(len(order)), 2)
  ]
  return np.mean(each)


def whole(logits_BxP, order_BxK):
  return -np.mean([log_softmax(x)[ORDERS.index(tuple(o))] for x, o in zip(logits_BxP, order_BxK.tolist())])


def places(log_p_BxKxK, order_BxK):
  return -np.mean([log_p_BxKxK[b, i, o] for b, order in enumerate(order_BxK) for i, o in enumerate(order)])


def nce(x, y, scale):
  similarity = scale * unit(x) @ unit(y).T
  return -sum(np.mean(np.diag(log_softmax(similarity, axis))) for axis in (0, 1))


def siglip(o):
  similarity = unit(o['video_embed']) @ unit(o['text_embed']).T
  z = o['sigmoid_scale'][0] * similarity + o['sigmoid_bias'][0]
  return sum(softplus(-z[i, j] if i == j else z[i, j]) for i in range(B) for j in range(B)) / B


NUMPY = {
  'contrastive_learned': lambda o, b: nce(o['video_embed'], o['text_embed'], o['contrastive_scale'][0]),
  'sigmoid': lambda o, b: siglip(o),
  'frame_transcript': lambda o, b: nce(*(o[x].reshape(-1, 8) for x in ('frame_embed', 'transcript_embed')), 1 / 0.05),
  'sort_pairwise': lambda o, b: pairs(o['sort_pairs'], b['order']),
  'sort_factorial': lambda o, b: whole(o['sort_orders'], b['order']),
  'merlot_sort': lambda o, b: places(log_softmax(o['merlot_logits']), b['part_order']),
  'merlot_pairs': lambda o, b: pairs(o['merlot_pairs'], b['part_order']),
  'vcop': lambda o, b: whole(o['vcop_orders'], b['part_order']),
  'reconstruct': lambda o, b: o['reconstruct_error'].mean(),
}


@pytest.fixture(scope='module')
def found():
  """(outputs, metrics, gradient)"""
  return alternatives.run()


def check(after, before, tolerance=1e-5):
  np.testing.assert_allclose(after, before, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope='module')
def gradients(found):
  """{name: (outputs that it reads, its gradient toward them)} in float64."""
  batch = alternatives.batch()
  read = {name: {x: np.float64(found[0][x]) for x in OBJECTIVES[name].reads} for name in NUMPY}
  gradient = lambda read: {n: jax.grad(lambda o, n=n: OBJECTIVES[n].loss(o, batch)[0])(o) for n, o in read.items()}
  with jax.enable_x64(True):
    made = jax.device_get(jax.jit(gradient)(read))
  return {name: (read[name], made[name]) for name in NUMPY}


@pytest.mark.parametrize('name', NUMPY)
def test_a_loss_and_its_gradient_are_those_of_plain_numpy(name, found, gradients):
  """The gradient as differences of the numpy loss along a random direction."""
  batch, rng = alternatives.batch(), np.random.default_rng(0)
  assert found[1][f'{name}/loss'] == pytest.approx(NUMPY[name](found[0], batch), rel=1e-5)
  read, gradient = gradients[name]

  def along(x):
    """A direction that keeps what is one for all clips one, and what has an opposite opposite."""
    d = rng.normal(size=read[x].shape)
    if x.endswith(('scale', 'bias')):
      return np.full_like(d, d[0])
    return d - d.swapaxes(1, 2) if x.endswith('pairs') else d

  ways = {x: along(x) for x in read}
  moved = lambda step: NUMPY[name]({x: read[x] + step * ways[x] for x in read}, batch)
  slope = sum(np.vdot(gradient[x], ways[x]) for x in read)
  assert slope == pytest.approx((moved(1e-5) - moved(-1e-5)) / 2e-5, rel=1e-5)


def test_a_batch_may_be_cut_into_parts(found):
  """What a loss reads has a row for each clip, which no other clip changes; step.accumulated_gradient asks no more.
  That a loss reads nothing else is seen above, where it is given nothing else."""
  others = {name: np.concatenate([x[:2], alternatives.batch(1)[name][2:]]) for name, x in alternatives.batch().items()}
  after = alternatives.run(**others)[0]
  for name in alternatives.made()[1].reads:
    check(after[name][:2], found[0][name][:2])
    assert after[name].shape[0] == B


def test_every_parameter_learns(found):
  for path, leaf in jax.tree.leaves_with_path(found[2]):
    assert np.any(leaf), f'{jax.tree_util.keystr(path)} has no gradient'


def test_every_objective_learns_what_there_is_to_learn():
  """All at once, in 100 steps, on batches of which none comes twice."""
  leaves, tree = jax.tree.flatten(alternatives.made()[2])
  leaves, found = [np.array(leaf) for leaf in leaves], []
  moments = [(np.zeros_like(leaf), np.zeros_like(leaf)) for leaf in leaves]
  for seed in range(100):
    batch = jax.tree.map(jnp.asarray, alternatives.lesson(seed))
    (_, (metrics, _)), gradient = alternatives.compiled()(jax.tree.unflatten(tree, leaves), batch)
    found.append(jax.device_get(metrics))
    rate = 3e-3 * (1 - 0.999 ** (seed + 1)) ** 0.5 / (1 - 0.9 ** (seed + 1))
    for leaf, g, (m, v) in zip(leaves, jax.device_get(jax.tree.leaves(gradient)), moments):
      m += 0.1 * (g - m)  # Adam in numpy, because one more program takes seconds to compile.
      v += 0.001 * (g * g - v)
      leaf -= rate * m / (np.sqrt(v) + 1e-8)
  last = {name: np.mean([metrics[f'{name}/loss'] for metrics in found[-10:]]) for name in ALL}
  whole, chance = math.log(math.factorial(K)), {**dict.fromkeys(ALL, math.log(K)), 'sigmoid': found[0]['sigmoid/loss']}
  chance |= {'sort_factorial': whole, 'vcop': whole, 'sort_pairwise': math.log(2), 'merlot_pairs': math.log(2)}
  chance |= {name: 2 * math.log(B) for name in ('contrastive', 'contrastive_learned')}
  chance |= {'frame_transcript': 2 * math.log(B * K), 'reconstruct': 1.0}
  slow = {'sigmoid': 0.95, 'contrastive': 0.7, 'contrastive_learned': 0.7, 'frame_transcript': 0.5, 'reconstruct': 0.7}
  for name, loss in last.items():
    assert loss < slow.get(name, 0.25) * chance[name], (name, loss, chance[name])


# Orders.


def test_what_is_read_off_is_a_permutation_and_random_logits_score_chance():
  n, rng = 8000, np.random.default_rng(0)
  upper = np.triu(rng.normal(size=(n, K, K)), 1).astype(np.float32)
  order = rng.permuted(np.tile(np.arange(K, dtype=np.int32), (n, 1)), axis=1)
  given = upper - upper.swapaxes(1, 2), rng.normal(size=(n, len(ORDERS))), np.zeros((n, K, K), np.float32)

  def read(pairs, whole, no_preference, order):
    made = orders.borda(pairs), orders.likeliest(whole), orders.borda(no_preference)
    return made, [orders.scores(one, order) for one in made], orders.learn_pairs(pairs, order)[1]

  made, scores, metrics = jax.device_get(jax.jit(read)(*given, order))
  for places, own in zip(made, scores):
    assert (np.sort(places, axis=1) == np.arange(K)).all()
    for score, value in own.items():
      assert abs(value.mean() - orders.CHANCE[score](K)) < 4 * value.std() / math.sqrt(n), score
  assert abs(metrics['pairs'] - orders.CHANCE['pairs'](K)) < 4 * 0.5 / math.sqrt(n * K * (K - 1) / 2)


def test_what_is_certain_is_read_off_as_it_is():
  order = np.array(ORDERS, np.int32)
  surely, classes = 9.0 * np.sign(order[:, None] - order[:, :, None]), 9.0 * np.eye(len(ORDERS))
  read = jax.jit(lambda pairs, whole: (orders.borda(pairs), orders.likeliest(whole)))
  for places in read(surely, classes):
    np.testing.assert_array_equal(places, order)
  learn = jax.jit(lambda pairs, whole: (orders.learn_pairs(pairs, order)[1], orders.learn_whole(whole, order)[1]))
  for metrics in learn(surely, classes):
    assert all(share == 1 for share in metrics.values())


def test_borda_breaks_circles_by_strength():
  """0 before 1 before 2 before 0, the last by little: 2 comes last."""
  logits = np.array([[0, 3, -1], [-3, 0, 2], [1, -2, 0]], np.float32)
  expected = np.argsort(np.argsort(-(1 / (1 + np.exp(-logits))).sum(1)))
  assert orders.borda(jnp.asarray(logits[None]))[0].tolist() == expected.tolist() == [0, 1, 2]


def test_too_many_things_have_too_many_orders():
  with pytest.raises(UserError, match='40,320 orders'):
    orders.permutations(8)


# Nothing tells an order but what is to be looked at.

MIX = np.array([2, 0, 3, 1])


def mixed(orders_BxP):
  """Logits of orders of things, as they are of the things that MIX takes."""
  at = [ORDERS.index(tuple(np.array(order)[np.argsort(MIX)])) for order in ORDERS]
  return orders_BxP[:, at]


@pytest.fixture(scope='module')
def told(found):
  """Outputs after transcripts and their labels were given in another order."""
  batch = alternatives.batch()
  return alternatives.run(**{name: batch[name][:, MIX] for name in ('tokens', 'token_mask', 'order')})


@pytest.fixture(scope='module')
def shown(found):
  """Outputs after the parts of the video were given in another order."""
  return alternatives.run(part_order=alternatives.batch()['part_order'][:, MIX])


def test_transcripts_in_another_order_give_the_same_in_that_order(found, told):
  (before, losses, _), (after, losses_after, _) = found, told
  check(after['sort_logits'], before['sort_logits'][:, MIX])
  check(after['sort_pairs'], before['sort_pairs'][:, MIX][:, :, MIX])
  check(after['sort_orders'], mixed(before['sort_orders']))
  for name in ('frame_embed', 'transcript_embed'):
    check(after[name], before[name][:, MIX])
  for name in ('merlot_logits', 'merlot_pairs', 'vcop_orders', 'reconstruct_error'):
    check(after[name], before[name])  # They are told of transcripts in their true order, or of none.
  for name in losses:
    check(losses_after[name], losses[name])


def test_parts_of_a_video_in_another_order_give_the_same_in_that_order(found, shown):
  (before, losses, _), (after, losses_after, _) = found, shown
  check(after['merlot_logits'], before['merlot_logits'][:, MIX])
  check(after['merlot_pairs'], before['merlot_pairs'][:, MIX][:, :, MIX])
  check(after['vcop_orders'], mixed(before['vcop_orders']))
  for name in losses:
    check(losses_after[name], losses[name])


def test_a_label_is_seen_by_none_but_the_loss(found):
  """The order of transcripts is seen by what sorts frames by it, and by nothing that is to predict it."""
  before, after = found[0], alternatives.run(order=alternatives.batch()['order'][:, MIX])[0]
  for name in ('sort_logits', 'sort_pairs', 'sort_orders', 'transcript_embed', 'vcop_orders', 'reconstruct_error'):
    np.testing.assert_array_equal(after[name], before[name], err_msg=name)
  for name in ('frame_embed', 'merlot_logits', 'merlot_pairs'):
    assert np.abs(after[name] - before[name]).max() > 1e-3, name


def test_a_still_video_has_no_order(found):
  """The same visible pixels in every slot: no part of the video differs from another, so none can be told."""
  batch = alternatives.batch()
  still = lambda x: np.tile(x[:, :V], (1, T, *[1] * (x.ndim - 2)))
  positions = (still(batch['positions'] % S) + np.arange(T).repeat(V) * S).astype(np.int32)
  after = alternatives.run(patches=still(batch['patches']), positions=positions)[0]
  check(after['vcop_orders'], after['vcop_orders'][:, :1] + np.zeros((1, len(ORDERS))))
  check(after['merlot_pairs'], np.zeros((B, K, K)))
  check(after['merlot_logits'], after['merlot_logits'][:, :1] + np.zeros((1, K, 1)))


def test_frames_are_pictures_of_the_middle_of_each_part(found):
  """What is in other slots, or in the second frame of a slot, changes nothing."""
  batch = alternatives.batch()
  patches = batch['patches'].reshape(B, T, V, CONFIG.video.tubelet, -1).copy()
  first_frames = patches[:, :, :, :1].copy()
  patches[:, :, :, 1:] = 7
  check(alternatives.run(patches=patches.reshape(B, T * V, -1))[0]['frame_embed'], found[0]['frame_embed'])
  patches[:, :, :, :1] = 255 - first_frames
  other = alternatives.run(patches=patches.reshape(B, T * V, -1))[0]['frame_embed']
  assert np.abs(other - found[0]['frame_embed']).max(-1).min() > 1e-4


# Pixels.


def test_targets_are_normalised_colour_by_colour():
  patches = alternatives.batch()['masked_patches'][:1, :3]
  for n, patch in enumerate(patches[0].reshape(3, -1, 3) / 255):
    expected = (patch - patch.mean(0)) / patch.std(0, ddof=1)
    check(reconstruct.normalised(jnp.asarray(patches))[0, n].reshape(-1, 3), expected, 1e-4)
  assert not np.any(reconstruct.normalised(jnp.full((1, 1, 12), 7, jnp.uint8)))  # Of one colour: nothing to see.


def test_the_error_is_that_of_masked_tubelets_at_their_places(found):
  batch = alternatives.batch()
  again = np.arange(T * (S - V))[::-1]
  moved = {name: batch[name][:, again] for name in ('masked_patches', 'masked_positions')}
  check(alternatives.run(**moved)[0]['reconstruct_error'], found[0]['reconstruct_error'])
  swapped = alternatives.run(masked_positions=moved['masked_positions'])[0]
  assert np.abs(swapped['reconstruct_error'] - found[0]['reconstruct_error']).min() > 1e-4


def test_fixed_positions_are_sines_and_cosines():
  table = reconstruct.waves(5, 6)
  for position, column in itertools.product(range(5), range(6)):
    angle = position / 10_000 ** (2 * (column // 2) / 6)
    assert table[position, column] == pytest.approx((math.cos if column % 2 else math.sin)(angle), abs=1e-6)


def test_a_decoder_of_half_a_head_is_refused():
  with pytest.raises(UserError, match='width=12'):
    reconstruct.Decoder(CONFIG, width=12).init(jax.random.key(0), {}, {}, None, False)


# A learned temperature.


@pytest.mark.parametrize('x, passed', [(0.5, (1, -1)), (-1.0, (0, -1)), (9.0, (1, 0)), (1.0, (1, 0))])
def test_a_held_number_is_let_back_only(x, passed):
  """passed: what is left of a gradient of 1, which moves it down, and of -1, which moves it up."""
  gradient = lambda sign: float(jax.grad(lambda x: sign * contrastive.held(x, 0.0, 1.0))(x))
  assert float(contrastive.held(x, 0.0, 1.0)) == min(max(x, 0), 1)
  assert (gradient(1.0), gradient(-1.0)) == passed


def test_scales_are_held_as_clip_holds_them():
  scale = contrastive.Scale(20.0)
  params = scale.init(jax.random.key(0), 3)
  np.testing.assert_allclose(scale.apply(params, 3), [20.0] * 3, rtol=1e-6)
  np.testing.assert_allclose(scale.apply({'params': {'log_scale': 50.0}}, 3), [100.0] * 3, rtol=1e-5)
