"""A tiny model with the heads of every objective, and a batch with every field."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tvts_jax import objectives
from tvts_jax.models import tvts

MODEL = {
  'video': {'width': 16, 'depth': 1, 'heads': 2, 'patch': 8, 'image_size': 16, 'frames': 8},
  'text': {'vocab_size': 50, 'dim': 16, 'hidden_dim': 32, 'n_layers': 1, 'n_heads': 2},
  'common': 8,
  'sort_depth': 1,
  'dtype': 'float32',
}
MODEL['text'] |= {'dropout': 0.0, 'attention_dropout': 0.0}
CONFIG = tvts.TVTSConfig.from_dict(MODEL)
B, K, T, S, V = 4, CONFIG.transcripts, CONFIG.video.slots, CONFIG.video.places, 2
SETTINGS = {'reconstruct': {'depth': 1}}
# Those of videos and their words; `classify` is of clips that have a label instead, and `svt` of a teacher.
ALL = {name: SETTINGS.get(name, {}) for name in objectives.OBJECTIVES if name not in ('classify', 'svt')}


def batch(seed=0) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  place_BxTxS = rng.permuted(np.tile(np.arange(S), (B, T, 1)), axis=2)
  flat = lambda place_BxTxV: (np.sort(place_BxTxV) + np.arange(T)[:, None] * S).reshape(B, -1).astype(np.int32)
  shuffled = lambda: rng.permuted(np.tile(np.arange(K, dtype=np.int32), (B, 1)), axis=1)
  pixels = lambda N: rng.integers(0, 256, (B, T * N, CONFIG.video.pixels), np.uint8)
  return {
    'patches': pixels(V),
    'positions': flat(place_BxTxS[..., :V]),
    'masked_patches': pixels(S - V),
    'masked_positions': flat(place_BxTxS[..., V:]),
    'tokens': rng.integers(0, 50, (B, K, 5)).astype(np.int32),
    'token_mask': np.arange(5) < rng.integers(2, 6, (B, K, 1)),
    'order': shuffled(),
    'part_order': shuffled(),
  }


def lesson(seed: int) -> dict[str, np.ndarray]:
  """A batch with something to learn for all: it grows light with time, clips differ in colour, tubelets shade alike,
  and a transcript has a word for its time and one for the colour."""
  rng, made = np.random.default_rng(seed), batch(seed)
  colour_B = rng.permutation(B)
  tint_Bx3 = 36 * np.stack([colour_B % 2, colour_B // 2, 0 * colour_B], axis=1)
  shade_Q = 20 * np.arange(CONFIG.video.pixels // 3) % 160 / 8
  for name in ('', 'masked_'):
    time_BxN = made[f'{name}positions'] // S
    light = 30 + 40 * time_BxN[..., None, None] + tint_Bx3[:, None, None] + shade_Q[None, None, :, None]
    pixels = (light + rng.normal(0, 4, light.shape)).clip(0, 255)
    made[f'{name}patches'] = pixels.astype(np.uint8).reshape(*time_BxN.shape, -1)
  words = np.stack([np.ones((B, K), int), 2 + made['order'], np.tile(10 + colour_B[:, None], (1, K))], axis=-1)
  made['tokens'][..., :3], made['token_mask'] = words, np.broadcast_to(np.arange(5) < 3, (B, K, 5))
  return made


@functools.cache
def made():
  """(model, loss function, parameters of which every leaf is random) of all objectives at once."""
  loss_fn = objectives.build(ALL)
  model, rng = tvts.build(CONFIG, loss_fn.heads), np.random.default_rng(1)
  spec = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch().items()}
  shapes = jax.eval_shape(lambda key: model.init(key, spec), jax.random.key(0))
  draw = lambda path, leaf: (path[-1].key == 'scale') + 0.3 * rng.standard_normal(leaf.shape).astype(leaf.dtype)
  return model, loss_fn, jax.tree.map_with_path(draw, shapes)


@functools.cache
def compiled():
  """(params, batch) → ((loss, (metrics, outputs)), gradient); one for all tests, for compiling is what takes long."""
  model, loss_fn, _ = made()

  def run(params, batch):
    outputs = model.apply(params, batch, jax.random.key(0), True)
    loss, metrics = loss_fn(outputs, batch)
    return loss, (metrics, outputs)

  return jax.jit(jax.value_and_grad(run, has_aux=True))


def run(**changes) -> tuple[dict, dict, dict]:
  """(outputs, metrics, gradient) of the batch with some of it changed."""
  (_, (metrics, outputs)), gradient = compiled()(made()[2], jax.tree.map(jnp.asarray, batch() | changes))
  return jax.device_get((outputs, metrics, gradient))
