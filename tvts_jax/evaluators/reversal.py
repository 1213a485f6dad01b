"""Does the encoder know in which direction time runs? Each clip is played forward and backward; no labels are needed.

An encoder that averages frames sees no difference. One that does should find that what is said of a clip fits it better
forward: a rising stone falls when it is played backward.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

from tvts_jax.evaluators.features import everywhere
from tvts_jax.evaluators.results import Result
from tvts_jax.evaluators.streamed import Streamed

TIE = 1e-6  # Cosines that differ by less are equal: a sum in another order makes as much.


def backward(patches_BxNxP, positions_BxN, slices: int, grid: int, tubelet: int) -> dict[str, jax.Array]:
  """The same clips with their last frame first; of `slices` time slots with `grid` places each."""
  patches_BxNxP = rearrange(patches_BxNxP, 'b n (u p) -> b n u p', u=tubelet)[:, :, ::-1]
  patches_BxNxP = rearrange(patches_BxNxP, 'b n u p -> b n (u p)')
  mirrored_BxN = (slices - 1 - positions_BxN // grid) * grid + positions_BxN % grid
  order_BxN = jnp.argsort(mirrored_BxN, axis=1)
  return {
    'patches': jnp.take_along_axis(patches_BxNxP, order_BxN[..., None], axis=1),
    'positions': jnp.take_along_axis(mirrored_BxN, order_BxN, axis=1),
  }


def cosine(a_BxC, b_BxC):
  unit = lambda x_BxC: x_BxC / jnp.maximum(jnp.linalg.norm(x_BxC, axis=-1, keepdims=True), 1e-12)
  return (unit(a_BxC) * unit(b_BxC)).sum(-1)


class Reversed(Streamed):
  """forward: the share of clips whose own transcripts lie nearer to them forward, where equal counts half; distance and
  cls_distance: one minus the cosine of a clip forward and backward, in the common space and of [CLS]."""

  NAME = 'an evaluator of reversed clips'
  DEFAULTS = {'mask_ratio': 0.0, 'keep': None}

  def __init__(self, config, settings, model, mesh):
    super().__init__(config, settings, model, mesh)
    given = self.input

    def look(params, batch):
      played = backward(batch['patches'], batch['positions'], given.slices, given.grid, given.tubelet)
      one, other = model.apply(params, batch), model.embed_video(params, {**batch, **played})
      text_BxC = one['text_embed']
      ahead_B = cosine(one['video_embed'], text_BxC) - cosine(other['video_embed'], text_BxC)
      cls = lambda outputs: outputs['video_tokens'][:, 0].astype(text_BxC.dtype)
      return {
        'forward': jnp.where(jnp.abs(ahead_B) < TIE, 0.5, ahead_B > 0),
        'distance': 1 - cosine(one['video_embed'], other['video_embed']),
        'cls_distance': 1 - cosine(cls(one), cls(other)),
        'valid': batch['valid'],
      }

    self.look = jax.jit(look, out_shardings=everywhere(mesh))

  def result(self, params) -> Result:
    found, valid_N = self.collect(self.look, params)
    metrics = {name: float(value_N.sum()) / self.clips for name, value_N in found.items()}
    protocol = (
      f'Reversed; {self.asked()}; {self.heard()}, all of which is seen, forward and backward; forward: the mean of '
      'the own transcripts is nearer by cosine to the clip as it was, chance 50%; clips that are damaged count as wrong'
    )
    return Result(metrics, self.clips, int(valid_N.sum()), protocol, self.items(found, valid_N))
