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

  def __init__(self, config, settings, model, mesh):
    known = [field.name for field in dataclasses.fields(config.input)]
    if unknown := sorted(set(settings) - set(known)):
      raise UserError(f'a sorting evaluator has no setting {unknown[0]!r}; it has every_steps, {", ".join(known)}')
    self.input = dataclasses.replace(config.input, **{'split': 'val', 'mode': 'eval', **settings})
    self.source = pipeline.open(self.input)
    self.mesh = mesh
    place = NamedSharding(mesh, PartitionSpec())

    def score(params, batch):
      result = {}
      for name, change in VIDEOS.items():
        outputs = model.apply(params, {**batch, **change(batch)})
        scores = sorting.scores(outputs['sort_logits'], batch['order'])
        result |= {f'{name}/{key}': (value * batch['valid']).sum() for key, value in scores.items()}
      return result | {'count': batch['valid'].sum()}

    self.score = jax.jit(score, out_shardings=place)

  def __call__(self, params) -> dict[str, float]:
    sums: dict = {}
    for batch in self.source.batches(0, jax.process_index(), jax.process_count()):
      batch.pop('example_id')
      device_batch = sharding.put(batch, self.mesh)
      for name, value in jax.device_get(self.score(params, device_batch)).items():
        sums[name] = sums.get(name, 0.0) + float(value)
    count = sums.pop('count')
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
