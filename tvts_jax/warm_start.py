"""What a run starts from (`config.init`): weights of encoders, converted weights, or another run."""

import dataclasses
import math

import jax
from absl import logging

from tvts_jax import convert
from tvts_jax.convert.read_weights import build
from tvts_jax.models import tvts
from tvts_jax.run.checkpoint_reader import of_run
from tvts_jax.shards import storage


def start_from(config, params, shapes, place):
  """Fresh parameters with those of `config.init` in their places."""
  run = config.init.get('run')
  if run and not (storage.path(run) / 'config.json').exists():
    given = from_run(run, config.model.video, shapes, place)
    if fresh := sorted(set(params) - set(given)):
      logging.info('%s has no %s, which start afresh', run, ', '.join(fresh))
    return {**params, **given}
  given = shapes
  paths = dict.fromkeys(shapes, run) if run else {part: path for part, path in config.init.items() if path}
  if config.model.projection == 'clip':  # Encoders that share a space bring their ways into it.
    paths |= {f'{part}_projection': path for part, path in paths.items() if convert.has(path, f'{part}_projection')}
  for part, path in paths.items():
    if part.startswith(tvts.HEADS):
      continue
    given, loaded = convert.load_part(given, config.model, part, path)
    logging.info('%s', loaded)
  take = lambda new, old: old if isinstance(new, jax.ShapeDtypeStruct) else jax.device_put(new, old.sharding)
  return jax.tree.map(take, given, params)


def from_run(run, video, shapes, place, part='params'):
  """Parameters of another run; positions of another clip length or image size are resized.

  Heads of objectives are those that both have.
  """
  abstract = jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, place)
  checkpoints = of_run(run)
  step = checkpoints.latest()
  theirs = build(tvts.TVTSConfig.from_dict, checkpoints.read_run(step)['model'], run).video
  # Theirs but for what restoring compares, so that it refuses any other difference by name.
  grid = math.isqrt(theirs.places)
  old = dataclasses.replace(video, frames=theirs.slots * video.tubelet, image_size=grid * video.patch)
  abstract['video'] = jax.tree.map(of_shape, abstract['video'], old.shapes())
  params = checkpoints.restore_part(part, abstract, step, optional=tvts.HEADS)
  resize = jax.jit(lambda params: video.resized(params, old), out_shardings=place['video'])
  return {**params, 'video': resize(params['video'])}


def of_shape(leaf, theirs):
  """A leaf as it is in their run, where that has another shape on every device."""
  if leaf.shape == theirs.shape:
    return leaf
  return jax.ShapeDtypeStruct(theirs.shape, leaf.dtype, sharding=jax.NamedSharding(leaf.sharding.mesh, jax.P()))
