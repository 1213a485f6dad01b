"""The K-way sort loss, and what a sorter may be scored by.

Shapes: B clips, K transcripts. Labels order_BxK: the true place of the i-th transcript given.
"""

import math

import jax
import jax.numpy as jnp
import optax

from tvts_jax.errors import UserError

# What each score is when the logits know nothing, as a function of K. `exact` and `assigned` both ask for the whole
# order, but only the second decodes to a permutation: their chance levels differ, so never compare the two.
CHANCE = {
  'item': lambda K: 1 / K,
  'exact': lambda K: K**-K,
  'assigned': lambda K: 1 / math.factorial(K),
  'kendall_tau': lambda K: 0.0,
}


def assign(logits_BxKxK):
  """The likeliest permutation of each clip, [B, K]: no place is given twice."""

  def best(logits_KxK):
    rows, places = optax.assignment.hungarian_algorithm(-logits_KxK)
    return jnp.zeros_like(places).at[rows].set(places)

  return jax.vmap(best)(logits_BxKxK)


def scores(logits_BxKxK, order_BxK) -> dict[str, jax.Array]:
  """Each score of CHANCE for each clip, [B].

  item: share of transcripts whose likeliest place is the true one; exact: all of them so, each by itself;
  assigned: the likeliest permutation is the true order; kendall_tau: rank correlation of that permutation, in [-1, 1].
  """
  right_BxK = logits_BxKxK.argmax(-1) == order_BxK
  permutation_BxK = assign(logits_BxKxK)
  K = order_BxK.shape[1]
  first, second = jnp.triu_indices(K, 1)
  before = lambda order: jnp.sign(order[:, second] - order[:, first])
  return {
    'item': right_BxK.mean(-1),
    'exact': right_BxK.all(-1).astype(jnp.float32),
    'assigned': (permutation_BxK == order_BxK).all(-1).astype(jnp.float32),
    'kendall_tau': (before(permutation_BxK) * before(order_BxK)).mean(-1),
  }


def sort(outputs, batch):
  """Cross-entropy of each transcript's true place among K."""
  logits_BxKxK, order_BxK = outputs['sort_logits'], batch['order']
  if logits_BxKxK.shape[1:] != (order_BxK.shape[1],) * 2:
    raise UserError(
      f'the batch has {order_BxK.shape[1]} transcripts a clip, but the sorter was built for '
      f'{logits_BxKxK.shape[2]}; set model.transcripts and input.transcripts to the same number'
    )
  loss = optax.softmax_cross_entropy_with_integer_labels(logits_BxKxK, order_BxK).mean()
  right_BxK = logits_BxKxK.argmax(-1) == order_BxK
  return loss, {'item': right_BxK.mean(), 'exact': right_BxK.all(-1).mean()}
