"""Does the model order transcripts by what it sees? The clip's own video, none, and that of another clip.

A model that reads the order from the words alone, or from a leak in the data, keeps its score without the video.
"""

import base64
import functools

import jax
import jax.numpy as jnp
import numpy as np

from tvts_jax import objectives
from tvts_jax.errors import UserError
from tvts_jax.evaluators.features import everywhere
from tvts_jax.evaluators.results import Result
from tvts_jax.evaluators.streamed import Streamed
from tvts_jax.human import percent
from tvts_jax.objectives import orders, sorting

SURE = 20.0  # A logit beside which zero stands for nothing.

# What the model gets to see in place of the clip's own video.
VIDEOS = {
  'own': lambda batch, video: {},
  'blank': lambda batch, video: {'patches': blank(batch['patches'], video)},
  'other': lambda batch, video: {name: jnp.roll(batch[name], 1, axis=0) for name in ('patches', 'positions')},
}


def grey(video) -> np.ndarray:
  """The mean colour, uint8 [3]: what is left of a video when all that it shows is taken away."""
  return np.round(255 * np.array(video.pixel_mean)).astype(np.uint8)


def blank(patches_BxNxP, video):
  return jnp.broadcast_to(jnp.tile(grey(video), patches_BxNxP.shape[-1] // 3)[None, None], patches_BxNxP.shape)


def sorter_of(config) -> str:
  """The objective by which a run sorts transcripts; K-way, with a sorter that is not trained, if it has none."""
  return next((name for name in config.objectives if objectives.OBJECTIVES[name].order), 'sort')


class Sorting(Streamed):
  """Scores over a split, under each of VIDEOS, as '<video>/<score>'. Only K-way gives each transcript a place by
  itself: others have no exact order but that of permutations."""

  NAME = 'a sorting evaluator'

  @classmethod
  def input_of(cls, config, settings):
    given = super().input_of(config, settings)
    if given.transcripts < 2:
      raise UserError(
        'a sorting evaluator has nothing to sort with model.transcripts=1; set it to at least 2, or leave sorting out'
      )
    if given.batch < 2:
      raise UserError('a sorting evaluator with batch=1 has no other clip to show; set its batch to at least 2')
    return given

  def __init__(self, config, settings, model, mesh):
    super().__init__(config, settings, model, mesh)
    self.video, self.name = config.model.video, sorter_of(config)
    self.objective = objectives.OBJECTIVES[self.name]

    def score(params, batch):
      outputs = model.apply(params, batch)
      if self.objective.logits:
        return sorting.scores(self.objective.logits(outputs), batch['order'])
      return orders.scores(self.objective.order(outputs), batch['order'])

    self.score = jax.jit(score, out_shardings=everywhere(mesh))
    self.valid = jax.jit(lambda batch: batch['valid'], out_shardings=everywhere(mesh))
    self.videos = {name: jax.jit(functools.partial(change, video=self.video)) for name, change in VIDEOS.items()}

  def look(self, params, batch) -> dict[str, jax.Array]:
    found = {'valid': self.valid(batch)}
    for name, change in self.videos.items():
      scores = self.score(params, {**batch, **change(batch)})
      found |= {f'{name}/{key}': value_B for key, value_B in scores.items()}
    return found

  def result(self, params) -> Result:
    found, valid_N = self.collect(self.look, params)
    K = self.input.transcripts
    exact = f'exact: all argmaxes right, each by itself, chance {percent(orders.CHANCE["exact"](K))}; '
    protocol = (
      f'Sorting by {self.name}; {self.asked()}; {self.heard()}, {percent(self.input.mask_ratio)} masked; '
      f'{exact if self.objective.logits else ""}assigned: the likeliest permutation is right, chance '
      f'{percent(orders.CHANCE["assigned"](K))}; clips that are damaged count as wrong'
    )
    metrics = {name: float(value_N.sum()) / self.clips for name, value_N in found.items()}
    return Result(metrics, self.clips, int(valid_N.sum()), protocol, self.items(found, valid_N))

  def examples(self, params, count: int) -> list[dict]:
    """The first clips of the split as pictures, with what the model makes of them, for the report."""
    import cv2

    config = self.input
    batch = self.source.batch(0)
    keep = {name: value[:count] for name, value in batch.items() if name not in ('example_id', 'valid')}

    def look(params, batch):
      outputs = self.model.apply(params, batch)
      if self.objective.logits:
        return self.objective.logits(outputs)
      # Others give no odds of places: the place that a transcript gets, and no other.
      return SURE * jax.nn.one_hot(self.objective.order(outputs), config.transcripts)

    logits = jax.device_get(jax.jit(look)(params, keep))
    result = []
    for i, (video_id, window) in enumerate(self.source.examples(0, range(len(logits)))):
      frames = unpatchify(keep['patches'][i], keep['positions'][i], self.video)
      jpegs = [cv2.imencode('.jpg', frame[..., ::-1])[1].tobytes() for frame in frames[:: config.tubelet]]
      result.append(
        {
          'id': f'{video_id} #{window}',
          'frames': [base64.b64encode(jpeg).decode() for jpeg in jpegs],
          'transcripts': self.source.decode_tokens(keep['tokens'][i], keep['token_mask'][i]),
          'order': keep['order'][i].tolist(),
          'logits': logits[i].tolist(),
        }
      )
    return result


def unpatchify(patches_NxP, positions_N, video) -> np.ndarray:
  """What of a clip the model sees, uint8 [frames, Y, X, 3], grey where it is masked."""
  grid, p = video.image_size // video.patch, video.patch
  frames = np.empty((video.frames, video.image_size, video.image_size, 3), np.uint8)
  frames[:] = grey(video)
  for patch, position in zip(patches_NxP.reshape(-1, video.tubelet, p, p, 3), positions_N):
    t, s = divmod(int(position), grid * grid)
    y, x = divmod(s, grid)
    frames[t * video.tubelet : (t + 1) * video.tubelet, y * p : (y + 1) * p, x * p : (x + 1) * p] = patch
  return frames
