"""Clips played backward: what that does to a clip, and encoders whose scores are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from tests.evaluators.test_sorting import CLIPS, root  # noqa: F401 (a fixture)
from tests.support import clips
from tvts_jax import config as config_lib
from tvts_jax import evaluators
from tvts_jax.evaluators import reversal
from tvts_jax.models import tvts

DEVICES = 8
SLICES, GRID, TUBELET = 4, 9, 2


@pytest.mark.parametrize('mask', ['none', 'tube', 'random'])
def test_backward_shows_the_last_frame_first_and_twice_is_the_clip(mask):
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (2, SLICES * TUBELET, GRID, 5), np.uint8)

  def clip_of(frames):
    """Of each time slot the places that are seen: all, the same, or others."""
    seen = {'none': [np.arange(GRID)] * SLICES, 'tube': [np.array([1, 4, 8])] * SLICES}
    seen['random'] = [np.sort(np.random.default_rng(t).permutation(GRID)[:3]) for t in range(SLICES)]
    places = seen[mask] if frames is not flipped else seen[mask][::-1]
    patches = [frames[:, t * TUBELET : (t + 1) * TUBELET, s].reshape(2, -1) for t in range(SLICES) for s in places[t]]
    positions = np.concatenate([t * GRID + places[t] for t in range(SLICES)])
    return np.stack(patches, axis=1), np.tile(positions, (2, 1))

  flipped = frames[:, ::-1]
  played = reversal.backward(*clip_of(frames), SLICES, GRID, TUBELET)
  for found, expected in zip((played['patches'], played['positions']), clip_of(flipped), strict=True):
    np.testing.assert_array_equal(found, expected)
  again = reversal.backward(played['patches'], played['positions'], SLICES, GRID, TUBELET)
  for found, expected in zip((again['patches'], again['positions']), clip_of(frames), strict=True):
    np.testing.assert_array_equal(found, expected)


def build(root, change=lambda model: model, **settings):  # noqa: F811
  """(evaluator, parameters); change: what the model becomes."""
  values = clips.values(root, {}, transcripts=4)
  values['input'] |= {'folder': f'{root}/spoken'}
  values['evals'] = {'reversed': {'split': 'train', 'batch': 8, **settings}}
  config = config_lib.resolve(values)
  model = tvts.build(config.model)
  return evaluators.build(config, change(model), clips.mesh())['reversed'], clips.random_parameters(model)


def of_pixels(embed):
  """A model whose features of a clip are embed(patches, positions), and whose texts are those of the clip forward."""
  features = lambda batch: embed(batch['patches'].astype(jnp.float32), batch['positions'])
  see = lambda params, batch: {'video_tokens': features(batch)[:, None], 'video_embed': features(batch)}
  apply = lambda params, batch: {**see(params, batch), 'text_embed': features(batch)}
  return lambda model: model._replace(apply=apply, embed_video=see)


def test_an_encoder_that_averages_frames_is_at_chance_and_one_that_sees_order_is_above(root):  # noqa: F811
  mean_colour = lambda patches_BxNxP, positions_BxN: rearrange(patches_BxNxP, 'b n (p c) -> b c (n p)', c=3).mean(-1)
  blind, _ = build(root, of_pixels(mean_colour))
  expected = {'forward': 0.5, 'distance': 0, 'cls_distance': 0, 'clips': CLIPS, 'missing': 0}
  assert blind({}) == pytest.approx(expected, abs=1e-6)
  late = lambda patches_BxNxP, positions_BxN: jnp.einsum('bnp,bn->bp', patches_BxNxP, jnp.square(positions_BxN + 1.0))
  seeing, _ = build(root, of_pixels(late))
  found = seeing({})
  assert found['forward'] > 0.9 and found['distance'] > 0 and found['cls_distance'] == found['distance']


def test_a_real_model_and_its_control(root):  # noqa: F811
  evaluator, params = build(root, max_clips=12)
  result = evaluator.result(params)
  assert evaluator.input.visible == evaluator.input.grid and len(result.items) == result.numbers()['clips'] == 12
  assert 0 < result.metrics['distance'] < 2 and 'first 12 in storage' in result.protocol
  still = evaluator(jax.tree.map(np.zeros_like, params))
  assert still['forward'] == 0.5, 'a model that makes all clips equal prefers none'
