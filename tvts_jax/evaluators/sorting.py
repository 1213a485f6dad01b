"""Does the model order transcripts by what it sees? The clip's own video, none, and that of another clip.

A model that reads the order from the words alone, or from a leak in the data, keeps its score without the video.
"""

import base64
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tvts_jax import sharding
from tvts_jax.errors import UserError
from tvts_jax.input import pipeline
from tvts_jax.models import video
from tvts_jax.objectives import sorting

# The mean colour: what is left of a video when all that it shows is taken away.
GREY = np.round(255 * np.array(video.PIXEL_MEAN)).astype(np.uint8)


def blank(patches_BxNxP):
  return jnp.broadcast_to(jnp.tile(GREY, patches_BxNxP.shape[-1] // 3)[None, None], patches_BxNxP.shape)


# What the model gets to see in place of the clip's own video.
VIDEOS = {
  'own': lambda batch: {},
  'blank': lambda batch: {'patches': blank(batch['patches'])},
  'other': lambda batch: {name: jnp.roll(batch[name], 1, axis=0) for name in ('patches', 'positions')},
}


class Sorting:
  """Scores of `objectives.sorting` over a split, under each of VIDEOS, as '<video>/<score>'."""

  @staticmethod
  def input_of(config, settings):
    known = [field.name for field in dataclasses.fields(config.input)]
    if unknown := sorted(set(settings) - set(known)):
      raise UserError(f'a sorting evaluator has no setting {unknown[0]!r}; it has every_steps, {", ".join(known)}')
    return dataclasses.replace(config.input, **{'split': 'val', 'mode': 'eval', **settings})

  def __init__(self, config, settings, model, mesh):
    self.input = self.input_of(config, settings)
    self.source = pipeline.open(self.input)
    self.mesh = mesh

    def score(params, batch):
      scores = sorting.scores(model.apply(params, batch)['sort_logits'], batch['order'])
      return {name: (value * batch['valid']).sum() for name, value in scores.items()}

    self.score = jax.jit(score, out_shardings=NamedSharding(mesh, PartitionSpec()))
    self.videos = {name: jax.jit(change) for name, change in VIDEOS.items()}

  def __call__(self, params) -> dict[str, float]:
    sums, count = dict.fromkeys([f'{name}/{key}' for name in VIDEOS for key in sorting.CHANCE], 0.0), 0
    for step, batch in enumerate(self.source.batches(0, jax.process_index(), jax.process_count())):
      count += min(self.input.batch, self.source.num_examples - step * self.input.batch)
      batch.pop('example_id')
      batch = sharding.put(batch, self.mesh)
      for name, change in self.videos.items():
        for key, value in jax.device_get(self.score(params, {**batch, **change(batch)})).items():
          sums[f'{name}/{key}'] += float(value)
    return {name: value / count for name, value in sums.items()} | {'clips': count}


def examples(evaluator: Sorting, model, params, count: int) -> list[dict]:
  """The first clips of the split as pictures, with what the model makes of them, for the report."""
  import cv2

  config = evaluator.input
  batch = evaluator.source.batch(0)
  keep = {name: value[:count] for name, value in batch.items() if name not in ('example_id', 'valid')}
  logits = jax.device_get(jax.jit(model.apply)(params, keep)['sort_logits'])
  names = evaluator.source.examples(0)[:count]
  decode = evaluator.source.decode_tokens
  result = []
  for i, (video_id, window) in enumerate(names):
    frames = unpatchify(keep['patches'][i], keep['positions'][i], config)
    jpegs = [cv2.imencode('.jpg', frame[..., ::-1])[1].tobytes() for frame in frames[:: config.tubelet]]
    result.append(
      {
        'id': f'{video_id} #{window}',
        'frames': [base64.b64encode(jpeg).decode() for jpeg in jpegs],
        'transcripts': decode(keep['tokens'][i], keep['token_mask'][i]),
        'order': keep['order'][i].tolist(),
        'logits': logits[i].tolist(),
      }
    )
  return result


def unpatchify(patches_NxP, positions_N, config) -> np.ndarray:
  """What of a clip the model sees, uint8 [frames, Y, X, 3], grey where it is masked."""
  grid, p = config.image_size // config.patch, config.patch
  frames = np.empty((config.frames, config.image_size, config.image_size, 3), np.uint8)
  frames[:] = GREY
  for patch, position in zip(patches_NxP.reshape(-1, config.tubelet, p, p, 3), positions_N):
    t, s = divmod(int(position), grid * grid)
    y, x = divmod(s, grid)
    frames[t * config.tubelet : (t + 1) * config.tubelet, y * p : (y + 1) * p, x * p : (x + 1) * p] = patch
  return frames
