"""What a run starts from: another run or converted weights, also where their clips had another length or size."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import saved, weights
from tvts_jax import config as config_lib
from tvts_jax import convert, sharding, step, warm_start
from tvts_jax.convert import names
from tvts_jax.run.checkpoint import CheckpointConfig, Checkpoints
from tvts_jax.run.checkpoint_folder import CheckpointError
from tvts_jax.run.checkpoint_reader import FOLDER

DEVICES = 8

OLD = weights.config_of()
PARAMS = weights.random_params(OLD)


@pytest.fixture(scope='module', params=['run', 'folder'])
def origin(request, tmp_path_factory):
  """The work directory of a run, or a folder of converted weights, with a model of OLD."""
  path = tmp_path_factory.mktemp('origin') / request.param
  if request.param == 'folder':
    convert.save_folder(path, OLD, PARAMS)
  else:
    with Checkpoints(path / FOLDER, CheckpointConfig()) as checkpoints:
      state = step.State(jnp.zeros((), jnp.int32), jax.tree.map(jnp.asarray, PARAMS), None, None)
      checkpoints.save(3, state, {**saved.META, 'model': config_lib.plain(OLD)})
  return path


def start(path, config):
  """Parameters on a mesh of eight devices."""
  shapes = names.unflatten(names.spec(config))
  place = sharding.layout(shapes, sharding.RULES, sharding.make_mesh({'data': 4, 'fsdp': 2}))
  fresh = jax.tree.map(lambda leaf, at: jnp.zeros(leaf.shape, leaf.dtype, device=at), shapes, place)
  run = types.SimpleNamespace(model=config, init={'run': str(path), 'video': '', 'text': ''})
  params = warm_start.start_from(run, fresh, shapes, place)
  assert jax.tree.map(lambda leaf: leaf.sharding, params) == place
  return params


def test_the_same_model_starts_with_every_bit(origin):
  weights.equal(start(origin, OLD), PARAMS)


@pytest.mark.parametrize('frames, image_size', [(8, 20), (2, 8), (4, 20), (8, 12)])
def test_positions_of_other_clips_are_resized(origin, frames, image_size, caplog):
  clips = dataclasses.replace(OLD.video, frames=frames, image_size=image_size)
  with caplog.at_level('INFO'):
    params = start(origin, dataclasses.replace(OLD, video=clips))
  assert f'4 frames of 12 pixels are resized to those of {frames} frames of {image_size} pixels' in caplog.text
  expected = PARAMS | {'video': clips.resized(PARAMS['video'], OLD.video)}
  for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_any_other_difference_is_refused_by_name(origin):
  for change, words in (({'depth': 1}, 'video'), ({'patch': 2, 'image_size': 6}, 'embed'), ({'width': 30}, '30')):
    with pytest.raises((CheckpointError, convert.LoadError), match=words):
      start(origin, dataclasses.replace(OLD, video=dataclasses.replace(OLD.video, **change)))
