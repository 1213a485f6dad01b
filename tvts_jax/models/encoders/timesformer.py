"""TimeSformer (Bertasius et al., 2021), as SVT has it.

Tubelets attend over time among those of their place, without [CLS]; then each time slot attends over space by itself,
with a copy of [CLS], whose answers are averaged. Both attentions are added, one behind the other.

Shapes: as in encoder.py, and n places that each time slot shows.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce, repeat

from tvts_jax.errors import UserError
from tvts_jax.models import layers
from tvts_jax.models.encoders import vit


@dataclasses.dataclass(frozen=True)
class TimeSformerConfig(vit.ViTConfig):
  tubelet: int = 1
  frames: int = 8
  statistics: str = 'slowfast'

  SAME_PLACES: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    if self.pool != 'cls':
      raise UserError(f'video.pool={self.pool!r} leaves a timesformer without the [CLS] it attends with; set "cls"')

  def module(self, **how):
    return vit.SlottedViT(self, **how)

  def block(self, initial, dtype, param_dtype) -> nn.Module:
    return TimeSformerBlock(*self.block_settings(initial, dtype, param_dtype), slots=self.slots, parent=None)

  def flops(self, visible: int) -> float:
    D, T, n = self.width, self.slots, visible // self.slots
    time = visible * (4 * 2 * D**2 + 2 * 2 * T * D + 2 * D**2)
    space = T * (n + 1) * (4 * 2 * D**2 + 2 * 2 * (n + 1) * D)
    return self.depth * (time + space + 2 * 2 * (visible + 1) * self.mlp_ratio * D**2)

  def resize(self, table, shape, method: str):
    """The nearest neighbour, as SVT resizes while it runs."""
    del method
    for axis, length in enumerate(shape):
      nearest = np.arange(length) * table.shape[axis] // length
      table = jnp.take(table, nearest, axis)
    return table


class TimeSformerBlock(layers.PreNormBlock):
  slots: int = 1

  MAY_PAD = False

  @nn.compact
  def __call__(self, x_BxNxD, mask_BxN=None, *, read: int | None = None, train: bool = False, drop=None):
    types, (B, _, D), T = (self.dtype, self.param_dtype), x_BxNxD.shape, self.slots
    attend = lambda name: layers.Attention(self.heads, self.initial, *types, name=name)
    norm = lambda name: layers.LayerNorm(self.eps, *types, name=name)
    cls_Bx1xD, p_BxNxD = x_BxNxD[:, :1], x_BxNxD[:, 1:]

    y_RxTxD = norm('time_norm')(rearrange(p_BxNxD, 'b (t n) d -> (b n) t d', t=T))
    y_BxNxD = rearrange(attend('time_attn')(y_RxTxD), '(b n) t d -> b (t n) d', b=B)
    # Zero at first, so that a model that knows single images gives what it gave.
    fc = layers.Linear(D, layers.zeros_init, *types, name='time_fc')
    p_BxNxD = p_BxNxD + self.drop_path(fc(y_BxNxD), drop)

    frames_RxVxD = rearrange(p_BxNxD, 'b (t n) d -> (b t) n d', t=T)
    frames_RxVxD = jnp.concatenate([repeat(cls_Bx1xD, 'b 1 d -> (b t) 1 d', t=T), frames_RxVxD], axis=1)
    y_RxVxD = attend('attn')(norm('norm1')(frames_RxVxD))
    y_Bx1xD = reduce(y_RxVxD[:, 0], '(b t) d -> b 1 d', 'mean', t=T)
    y_BxNxD = jnp.concatenate([y_Bx1xD, rearrange(y_RxVxD[:, 1:], '(b t) n d -> b (t n) d', t=T)], axis=1)
    x_BxNxD = jnp.concatenate([cls_Bx1xD, p_BxNxD], axis=1) + self.drop_path(y_BxNxD, drop)
    return self.think(x_BxNxD, drop)
