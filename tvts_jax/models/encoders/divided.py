"""A ViT whose tubelets attend over time and over space apart, as Frozen, MILES, MCQ and TVTSv2 have it.

A tubelet asks [CLS] and those of its own place, then [CLS] and those of its own time slot; [CLS] asks all, both times.
The attention over space is added to what came in before that over time (Bain et al., 2021). TimeSformer's is another.

Shapes: as in encoder.py, and n places that each time slot shows, H heads, C width of one head.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange, repeat

from tvts_jax.errors import UserError
from tvts_jax.models import attention, layers
from tvts_jax.models.encoders import vit

# Who is asked beside [CLS]: those of each group.
GROUPS = {'time': 'b h (t n) c -> (b n) h t c', 'space': 'b h (t n) c -> (b t) h n c'}


@dataclasses.dataclass(frozen=True)
class DividedConfig(vit.ViTConfig):
  tubelet: int = 1
  time: bool = True  # Whether there is an attention over time, with positions of time slots.

  SAME_PLACES: ClassVar[bool] = True

  @property
  def timed(self) -> bool:
    return self.time

  def module(self, **how) -> nn.Module:
    return Divided(self, **how)

  def block(self, initial, dtype, param_dtype) -> nn.Module:
    own = self.block_settings(initial, dtype, param_dtype)
    return DividedBlock(*own, slots=self.slots, time=self.time, parent=None)

  def flops(self, visible: int) -> float:
    N, D, T = visible + 1, self.width, self.slots
    asked = {'time': 1 + T, 'space': 1 + visible // T}
    attention = sum(4 * 2 * N * D**2 + 2 * 2 * (N + visible * asked[over]) * D for over in self.over)
    return self.depth * (attention + 2 * 2 * N * self.mlp_ratio * D**2)

  @property
  def over(self) -> tuple[str, ...]:
    """What the attentions of a block go over."""
    return ('time', 'space') if self.time else ('space',)


class Divided(vit.ViT):
  def embed(self, patches_BxNxP, positions_BxN):
    N, T = positions_BxN.shape[1], self.config.slots
    if N % T:
      raise UserError(
        f'{N} tubelets are not as many in each of {T} time slots, which divided attention needs; set input.mask="tube" '
        f'and model.video.frames to those of the clips'
      )
    return super().embed(patches_BxNxP, positions_BxN)


class DividedBlock(layers.PreNormBlock):
  """t = x + time(norm(x)), s = x + space(norm(t)), then s + mlp(norm(s))."""

  slots: int = 1
  time: bool = True

  MAY_PAD = False

  @nn.compact
  def __call__(self, x_BxNxD, mask_BxN=None, *, read: int | None = None, train: bool = False, drop=None):
    types = (self.dtype, self.param_dtype)
    attend = lambda name: DividedAttention(self.heads, self.slots, self.initial, *types, name=name)
    norm = lambda name: layers.layer_norm(self.eps, *types, name=name)
    t_BxNxD = x_BxNxD
    if self.time:
      t_BxNxD += attend('time_attn')(norm('time_norm')(x_BxNxD), 'time')
    y_BxNxD = attend('attn')(norm('norm1')(t_BxNxD), 'space')
    return self.think(x_BxNxD + self.drop_path(y_BxNxD, drop), drop)


class DividedAttention(layers.Module):
  heads: int
  slots: int
  initial: layers.Initial
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BxNxD, over: str):
    types = (self.initial, self.dtype, self.param_dtype)
    q, k, v = (layers.Heads(self.heads, *types, name=name)(x_BxNxD) for name in 'qkv')
    out_BxHxNxC = attention.attend(q[:, :, :1], k, v)  # Of [CLS].
    if x_BxNxD.shape[1] > 1:
      group = lambda x: rearrange(x[:, :, 1:], GROUPS[over], t=self.slots)
      with_cls = lambda x: jnp.concatenate([repeat(x[:, :, :1], 'b h 1 c -> (b g) h 1 c', g=groups), group(x)], axis=2)
      asking = group(q)
      groups = asking.shape[0] // x_BxNxD.shape[0]
      left, right = GROUPS[over].split(' -> ')
      answers = attention.attend(asking, with_cls(k), with_cls(v))
      answers = rearrange(answers, f'{right} -> {left}', b=x_BxNxD.shape[0], t=self.slots)
      out_BxHxNxC = jnp.concatenate([out_BxHxNxC, answers], axis=2)
    return layers.Merge(*types, name='out')(out_BxHxNxC)
