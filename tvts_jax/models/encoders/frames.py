"""A ViT that sees each frame by itself, as CLIP is made for; the mean of its frames stands for the clip.

Shapes: as in encoder.py.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from einops import rearrange, reduce

from tvts_jax.models.encoders import encoder, vit


@dataclasses.dataclass(frozen=True)
class FramesConfig(vit.ViTConfig):
  tubelet: int = 1

  SAME_PLACES: ClassVar[bool] = True

  @property
  def timed(self) -> bool:
    return False

  def module(self, **how):
    return Frames(self, **how)

  def flops(self, visible: int) -> float:
    return self.slots * super().flops(visible // self.slots)


class Frames(vit.ViT):
  def __call__(self, patches_BxNxP, positions_BxN, train: bool = False, slots: int | None = None):
    T = slots or self.config.slots
    encoder.check_slots(T, positions_BxN.shape[1])
    by_frame = lambda x: rearrange(x, 'b (t n) ... -> (b t) n ...', t=T)
    tokens_RxVxD, sorted_RxVxD = super().__call__(by_frame(patches_BxNxP), by_frame(positions_BxN), train)
    mean_Bx1xD = reduce(tokens_RxVxD[:, 0], '(b t) d -> b 1 d', 'mean', t=T)
    by_clip = lambda x: rearrange(x, '(b t) n d -> b (t n) d', t=T)
    return jnp.concatenate([mean_Bx1xD, by_clip(tokens_RxVxD[:, 1:])], axis=1), by_clip(sorted_RxVxD)
