"""Sorting transcripts: by a place for each (the paper's K-way), by pairs, by whole orders.

Shapes: B clips, K transcripts, D width of the sorter, P = K! permutations. Labels order_BxK: the true place of the i-th
transcript given. How orders are learned and read off is in orders.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvts_jax.errors import UserError
from tvts_jax.models.tvts import TVTSConfig
from tvts_jax.objectives import orders
from tvts_jax.objectives.objective import Objective


def sort(outputs, batch):
  """K-way: cross-entropy of each transcript's true place among K."""
  return orders.learn_places(places_of(outputs, batch), batch['order'])


def scores(logits_BxKxK, order_BxK) -> dict[str, jax.Array]:
  """How right K-way logits are, for each clip, [B].

  item: share of transcripts whose likeliest place is the true one; exact: all of them so, each by itself;
  assigned: the likeliest permutation is the true order; kendall_tau: rank correlation of that permutation, in [-1, 1].
  """
  right_BxK = logits_BxKxK.argmax(-1) == order_BxK
  own = {'item': right_BxK.mean(-1), 'exact': right_BxK.all(-1).astype(jnp.float32)}
  return orders.scores(orders.assign(logits_BxKxK), order_BxK) | own


def places_of(outputs, batch):
  logits_BxKxK, order_BxK = outputs['sort_logits'], batch['order']
  if logits_BxKxK.shape[1:] != (order_BxK.shape[1],) * 2:
    raise UserError(
      f'the batch has {order_BxK.shape[1]} transcripts a clip, but the sorter was built for '
      f'{logits_BxKxK.shape[2]}; set model.transcripts and input.transcripts to the same number'
    )
  return logits_BxKxK


SORT = Objective(
  sort,
  ('sort_logits',),
  order=lambda outputs: orders.assign(outputs['sort_logits']),
  logits=lambda outputs: outputs['sort_logits'],
  chance=orders.PLACES_CHANCE,
)


class PairwiseHead(nn.Module):
  config: TVTSConfig

  @nn.compact
  def __call__(self, outputs, batch, encode_video, train):
    return {'sort_pairs': orders.Pairs(self.config, name='pairs')(outputs['sort_tokens'])}


SORT_PAIRWISE = Objective(
  lambda outputs, batch: orders.learn_pairs(outputs['sort_pairs'], batch['order']),
  ('sort_pairs',),
  head=PairwiseHead,
  order=lambda outputs: orders.borda(outputs['sort_pairs']),
  chance=orders.PAIRS_CHANCE,
)


class FactorialHead(nn.Module):
  config: TVTSConfig

  @nn.compact
  def __call__(self, outputs, batch, encode_video, train):
    return {'sort_orders': orders.Layouts(self.config, name='layouts')(outputs['sort_tokens'])}


SORT_FACTORIAL = Objective(
  lambda outputs, batch: orders.learn_whole(outputs['sort_orders'], batch['order']),
  ('sort_orders',),
  head=FactorialHead,
  order=lambda outputs: orders.likeliest(outputs['sort_orders']),
  chance=orders.WHOLE_CHANCE,
)
