"""Small models with random weights, and batches for them, for the tests of tvts_jax.convert."""

import functools

import jax
import numpy as np

from tvts_jax.convert import names
from tvts_jax.models import tvts
from tvts_jax.models.encoders import encoder

TINY = {
  'video': {'width': 24, 'depth': 2, 'heads': 3, 'patch': 4, 'image_size': 12, 'frames': 4},
  'text': {'vocab_size': 40, 'max_position_embeddings': 10, 'dim': 24, 'hidden_dim': 40, 'n_layers': 2, 'n_heads': 2},
  'common': 16,
  'transcripts': 3,
  'dtype': 'float32',
}


def config_of(**changes) -> tvts.TVTSConfig:
  """TINY with changes; those of `video` and `text` change only what they name."""
  values = TINY | changes
  for part in ('video', 'text'):
    values[part] = TINY[part] | changes.get(part, {})
  return tvts.TVTSConfig.from_dict(values)


def random_params(config: tvts.TVTSConfig, seed: int = 0):
  """No two values are equal, so that a swap anywhere shows."""
  rng = np.random.default_rng(seed)
  draw = lambda path, leaf: (path.endswith('scale') + 0.2 * rng.standard_normal(leaf.shape)).astype(leaf.dtype)
  return names.unflatten({path: draw(path, leaf) for path, leaf in names.spec(config).items()})


def random_batch(config: tvts.TVTSConfig, visible: int | None = None, clips: int = 2, length: int = 7, seed: int = 1):
  """A batch and the clips it shows, [B, F, 3, Y, X] floats. One transcript is all padding."""
  rng = np.random.default_rng(seed)
  size, grid = config.video.image_size, config.video.slots * config.video.places
  clips_BxFx3xYxX = rng.standard_normal((clips, config.video.frames, 3, size, size)).astype(np.float32)
  patches = np.asarray(encoder.patchify(np.moveaxis(clips_BxFx3xYxX, 2, 4), config.video))
  if config.video.SAME_PLACES:
    slots = config.video.slots
    draw = lambda: rng.permutation(config.video.places)[: (visible or grid) // slots]
    positions = np.stack([np.add.outer(np.arange(slots) * config.video.places, draw()).ravel() for _ in range(clips)])
  else:
    positions = np.stack([rng.permutation(grid)[: visible or grid] for _ in range(clips)])
  positions = positions.astype(np.int32)
  texts = (clips, config.transcripts, length)
  mask = np.arange(length) < rng.integers(1, length + 1, texts[:2])[..., None]
  mask[0, 0] = False
  return clips_BxFx3xYxX, {
    'patches': np.take_along_axis(patches, positions[..., None], 1),
    'positions': positions,
    'tokens': rng.integers(0, config.text.vocab_size, texts).astype(np.int32),
    'token_mask': mask,
  }


@functools.cache
def compiled(config: tvts.TVTSConfig):
  return jax.jit(tvts.build(config).apply)


def outputs(config: tvts.TVTSConfig, params, batch) -> dict[str, np.ndarray]:
  return jax.device_get(compiled(config)(params, batch))


def close(ours, theirs, tolerance: float):
  """Every value within the tolerance, relative where values exceed one."""
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  assert ours.shape == theirs.shape
  gap = (np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))).max()
  assert gap <= tolerance, gap


def equal(ours, theirs):
  """The same paths, types and bits."""
  ours, theirs = names.flatten(ours), names.flatten(theirs)
  assert set(ours) == set(theirs)
  for path in ours:
    left, right = np.asarray(ours[path]), np.asarray(theirs[path])
    assert left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes(), path
