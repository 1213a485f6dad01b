"""Orders of K things: ways to predict one, to learn it and to read it off.

Shapes: B clips, K things in the order in which they are given, D width, P = K! permutations, H width of a hidden layer.
An order [B, K] holds the true place of the i-th thing given. What is read off a prediction is always a permutation, so
chance levels are those of permutations. Things given in another order give the same prediction in that other order: no
way of predicting can know how they were given.
"""

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tvts_jax.errors import UserError
from tvts_jax.models import layers
from tvts_jax.models.tvts import TVTSConfig

MOST = 7  # Things whose permutations are still few enough to be classes.

# What each score is when a prediction knows nothing, as a function of K. `exact` and `assigned` both ask for the whole
# order, but only the second decodes to a permutation: their chance levels differ, so never compare the two.
CHANCE = {
  'item': lambda K: 1 / K,
  'exact': lambda K: K**-K,
  'assigned': lambda K: 1 / math.factorial(K),
  'kendall_tau': lambda K: 0.0,
  'pairs': lambda K: 1 / 2,
}


def chance_of(loss, *scores: str) -> dict:
  """Chance levels of an objective as its line in OBJECTIVES has them; the batch has no part in any."""
  levels = {'loss': loss} | {score: CHANCE[score] for score in scores}
  return {name: lambda K, B, level=level: level(K) for name, level in levels.items()}


PLACES_CHANCE = chance_of(math.log, 'item', 'exact')
PAIRS_CHANCE = chance_of(lambda K: math.log(2), 'pairs', 'item', 'assigned')
WHOLE_CHANCE = chance_of(lambda K: math.log(math.factorial(K)), 'item', 'assigned')


@functools.cache
def permutations(K: int) -> np.ndarray:
  """All orders of K things, int32 [P, K]."""
  if K > MOST:
    raise UserError(f'{K} things have {math.factorial(K):,} orders, too many to be classes; sort at most {MOST}')
  return np.array(list(itertools.permutations(range(K))), np.int32)


def assign(logits_BxKxK):
  """The likeliest permutation of each clip, [B, K], where [i, j] are the logits of the i-th thing at place j."""

  def best(logits_KxK):
    rows, places = optax.assignment.hungarian_algorithm(-logits_KxK)
    return jnp.zeros_like(places).at[rows].set(places)

  return jax.vmap(best)(logits_BxKxK)


def borda(logits_BxKxK):
  """The order [B, K] by how many others each thing is expected to precede, out of the logits that i precedes j."""
  before_BxK = jax.nn.sigmoid(logits_BxKxK).sum(-1)
  return jnp.argsort(jnp.argsort(-before_BxK, axis=1), axis=1)


def likeliest(logits_BxP):
  """The order [B, K] of the largest logit."""
  K = next(K for K in itertools.count(1) if math.factorial(K) >= logits_BxP.shape[1])
  return jnp.asarray(permutations(K))[logits_BxP.argmax(-1)]


def scores(places_BxK, order_BxK) -> dict[str, jax.Array]:
  """How right permutations are, for each clip, [B].

  item: share of things at their true places; assigned: all of them; kendall_tau: rank correlation, in [-1, 1].
  """
  first, second = np.triu_indices(order_BxK.shape[1], 1)
  before = lambda order: jnp.sign(order[:, second] - order[:, first])
  right_BxK = places_BxK == order_BxK
  return {
    'item': right_BxK.mean(-1),
    'assigned': right_BxK.all(-1).astype(jnp.float32),
    'kendall_tau': (before(places_BxK) * before(order_BxK)).mean(-1),
  }


def learn_places(logits_BxKxK, order_BxK):
  """Cross-entropy of each thing's true place among K, and how many are right, each by itself."""
  loss = optax.softmax_cross_entropy_with_integer_labels(logits_BxKxK, order_BxK).mean()
  right_BxK = logits_BxKxK.argmax(-1) == order_BxK
  return loss, {'item': right_BxK.mean(), 'exact': right_BxK.all(-1).mean()}


def learn_pairs(logits_BxKxK, order_BxK):
  """Cross-entropy of which of two things comes first, over all K (K - 1) / 2 pairs."""
  first, second = np.triu_indices(order_BxK.shape[1], 1)
  logits_BxQ, before_BxQ = logits_BxKxK[:, first, second], order_BxK[:, first] < order_BxK[:, second]
  loss = optax.sigmoid_binary_cross_entropy(logits_BxQ, before_BxQ).mean()
  right = scores(borda(logits_BxKxK), order_BxK)
  metrics = {'pairs': ((logits_BxQ > 0) == before_BxQ).mean()}
  return loss, metrics | {name: right[name].mean() for name in ('item', 'assigned')}


def learn_whole(logits_BxP, order_BxK):
  """Cross-entropy of the whole order among all permutations."""
  permutations_PxK = permutations(order_BxK.shape[1])
  true_BxP = (permutations_PxK[None] == order_BxK[:, None]).all(-1)
  loss = optax.softmax_cross_entropy(logits_BxP, true_BxP.astype(logits_BxP.dtype)).mean()
  right = scores(likeliest(logits_BxP), order_BxK)
  return loss, {name: right[name].mean() for name in ('item', 'assigned')}


class Pairs(nn.Module):
  """From things to the logits that the i-th comes before the j-th, [B, K, K]; those of (j, i) are their opposites."""

  config: TVTSConfig

  @nn.compact
  def __call__(self, x_BxKxD):
    hidden_BxKxKxH = layers.gelu(beside(self.config, x_BxKxD))
    score_BxKxK = output(self, self.config, hidden_BxKxKxH, 1)[..., 0]
    return score_BxKxK - score_BxKxK.swapaxes(1, 2)


class Layouts(nn.Module):
  """From things to logits of all their orders, [B, P]: each by what a small network makes of the things laid out so."""

  config: TVTSConfig

  @nn.compact
  def __call__(self, x_BxKxD):
    B, K, D = x_BxKxD.shape
    # What each thing adds to the hidden layer at each place: the first layer over K concatenated things is a sum.
    at_BxKxKxH = linear(self.config, K * D, 'at')(x_BxKxD).reshape(B, K, K, D)
    order_PxK = permutations(K)
    hidden_BxPxH = sum(at_BxKxKxH[:, i, order_PxK[:, i]] for i in range(K))
    return output(self, self.config, layers.gelu(hidden_BxPxH), 1)[..., 0]


class PairLayouts(nn.Module):
  """The same as VCOP does it: what is seen in each two of the things, read as the pair of places they would have."""

  config: TVTSConfig

  @nn.compact
  def __call__(self, x_BxKxD):
    K = x_BxKxD.shape[1]
    hidden_BxKxKxH = jax.nn.relu(beside(self.config, x_BxKxD))
    first, second = np.triu_indices(K, 1)
    score_BxKxKxQ = output(self, self.config, hidden_BxKxKxH, len(first))
    thing_PxK = np.argsort(permutations(K), axis=1)  # The thing at each place.
    return sum(score_BxKxKxQ[:, thing_PxK[:, a], thing_PxK[:, b], q] for q, (a, b) in enumerate(zip(first, second)))


def linear(config: TVTSConfig, features: int, name: str) -> layers.Linear:
  """As the layers of the sorter, which it extends."""
  types = (jnp.dtype(config.dtype), jnp.dtype(config.param_dtype))
  return layers.Linear(features, layers.STARTS[config.start].sorter, *types, name=name)


def beside(config: TVTSConfig, x_BxKxD):
  """The first layer over each two things side by side, [B, K, K, H], H = D."""
  D = x_BxKxD.shape[-1]
  first_BxKxH, second_BxKxH = linear(config, D, 'first')(x_BxKxD), linear(config, D, 'second')(x_BxKxD)
  return first_BxKxH[:, :, None] + second_BxKxH[:, None]


def output(module: nn.Module, config: TVTSConfig, hidden, features: int):
  """Logits out of the last axis. They have no bias: it would be the same for all that are compared."""
  kernel_init, _ = layers.STARTS[config.start].sorter(hidden.shape[-1])
  kernel_HxQ = module.param('out', kernel_init, (hidden.shape[-1], features), jnp.dtype(config.param_dtype))
  wide = layers.wide(config.dtype)
  return jnp.matmul(hidden.astype(wide), kernel_HxQ.astype(wide), precision=jax.lax.Precision.HIGHEST)
