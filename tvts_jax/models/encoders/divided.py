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

from tvts_jax.models import attention, layers
from tvts_jax.models.encoders import vit
from tvts_jax.roles import setting


def ones_init(fan_in: int):
  del fan_in
  return nn.initializers.ones, nn.initializers.zeros


# How the attention over time starts: its queries, keys and values, and what is made of them. Both are silent at first,
# so that a model that knows single images gives what it gave.
TIME_STARTS = {
  'silent': (None, layers.zeros_init),  # Only its output is zero, so all of it learns.
  # As TVTSv2 and Frozen start. Gradients of queries and keys are products of the two, which stay zero for ever.
  'published': (layers.zeros_init, ones_init),
}

# Who is asked beside [CLS]: those of each group.
GROUPS = {'time': 'b (t n) h c -> (b n) t h c', 'space': 'b (t n) h c -> (b t) n h c'}


@dataclasses.dataclass(frozen=True)
class DividedConfig(vit.ViTConfig):
  tubelet: int = 1
  time: bool = True  # Whether there is an attention over time, with positions of time slots.
  time_start: str = setting('silent', 'loads')

  SAME_PLACES: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    self.known('time_start', TIME_STARTS)

  @property
  def timed(self) -> bool:
    return super().timed and self.time

  def module(self, **how) -> nn.Module:
    return vit.SlottedViT(self, **how)

  def block(self, initial, dtype, param_dtype) -> nn.Module:
    own = self.block_settings(initial, dtype, param_dtype)
    return DividedBlock(*own, slots=self.slots, time=self.time, time_start=self.time_start, parent=None)

  def flops(self, visible: int) -> float:
    N, D, T = visible + 1, self.width, self.slots
    asked = [1 + T, 1 + visible // T][not self.time :]  # By a tubelet: over time and over space.
    attention = sum(4 * 2 * N * D**2 + 2 * 2 * (N + visible * tokens) * D for tokens in asked)
    return self.depth * (attention + 2 * 2 * N * self.mlp_ratio * D**2)


class DividedBlock(layers.PreNormBlock):
  """t = x + time(norm(x)), s = x + space(norm(t)), then s + mlp(norm(s))."""

  slots: int = 1
  time: bool = True
  time_start: str = 'silent'

  MAY_PAD = False

  @nn.compact
  def __call__(self, x_BxNxD, mask_BxN=None, *, read: int | None = None, train: bool = False, drop=None):
    types = (self.dtype, self.param_dtype)
    norm = lambda name: layers.LayerNorm(self.eps, *types, name=name)
    t_BxNxD = x_BxNxD
    if self.time:
      initial, out_initial = TIME_STARTS[self.time_start]
      how = dict(slots=self.slots, out_initial=out_initial, name='time_attn')
      time_attention = DividedAttention(self.heads, initial or self.initial, *types, **how)
      t_BxNxD += time_attention(norm('time_norm')(x_BxNxD), 'time')
    space_attention = DividedAttention(self.heads, self.initial, *types, slots=self.slots, name='attn')
    y_BxNxD = space_attention(norm('norm1')(t_BxNxD), 'space')
    return self.think(x_BxNxD + self.drop_path(y_BxNxD, drop), drop)


class DividedAttention(layers.Attention):
  slots: int = 1

  @nn.compact
  def __call__(self, x_BxNxD, over: str):
    q, k, v = self.project(x_BxNxD)
    out_BxNxHxC = attention.attend(q[:, :1], k, v)  # Of [CLS].
    if x_BxNxD.shape[1] > 1:
      group = lambda x: rearrange(x[:, 1:], GROUPS[over], t=self.slots)
      with_cls = lambda x: jnp.concatenate([repeat(x[:, :1], 'b 1 h c -> (b g) 1 h c', g=groups), group(x)], axis=1)
      asking = group(q)
      groups = asking.shape[0] // x_BxNxD.shape[0]
      left, right = GROUPS[over].split(' -> ')
      answers = attention.attend(asking, with_cls(k), with_cls(v))
      answers = rearrange(answers, f'{right} -> {left}', b=x_BxNxD.shape[0], t=self.slots)
      out_BxNxHxC = jnp.concatenate([out_BxNxHxC, answers], axis=1)
    return self.merge(out_BxNxHxC)
