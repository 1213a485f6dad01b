"""SVT: its loss, its views and its teacher, each against plain loops or another library."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_tvts import TINY, assert_close
from tests.support import meshes
from tvts_jax import config as config_lib
from tvts_jax import objectives
from tvts_jax import step as step_lib
from tvts_jax.errors import UserError
from tvts_jax.models import tvts
from tvts_jax.models.encoders.encoder import patchify
from tvts_jax.models.encoders.timesformer import TimeSformerConfig
from tvts_jax.objectives import svt

B, C = 4, 12
SMALL = {'parts': 3, 'prototypes': C, 'hidden': 16, 'bottleneck': 8}
VIDEO = {**TINY['video'], 'tubelet': 1, 'frames': 8, 'depth': 1, 'image_size': 24}
VALUES = {
  'model': {**TINY, **meshes.SHALLOW, 'encoder': 'timesformer', 'video': VIDEO},
  'input': {'batch': B, 'mask': 'tube', 'mask_ratio': 0.0, 'max_tokens': 6},
  'objectives': {'svt': SMALL},
  'optim': {'lr': 0.002, 'weight_decay': 0.0},
  'ema': 0.996,
  'steps': 100,
}
softmax = lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def test_the_loss_is_that_of_plain_loops():
  rng = np.random.default_rng(0)
  whole, parts, teacher = (rng.normal(size=(B, V, C)).astype(np.float32) for V in (2, 3, 2))
  loss, metrics = svt.svt({'svt_whole': whole, 'svt_parts': parts}, {'teacher/svt_whole': teacher})
  student, terms = np.concatenate([whole, parts], axis=1), []
  for w, v in itertools.product(range(2), range(5)):
    if w != v:
      terms.append(np.mean([-(softmax(teacher[b, w] / 0.04) @ np.log(softmax(student[b, v] / 0.1))) for b in range(B)]))
  assert len(terms) == 8 and float(loss) == pytest.approx(np.mean(terms), rel=1e-5)
  taught = np.array([[softmax(x / 0.04) for x in views] for views in teacher])
  mean = taught.mean((0, 1))
  expected = {'sharpness': taught.max(-1).mean(), 'prototypes': np.exp(-(mean * np.log(mean)).sum())}
  assert {name: float(x) for name, x in metrics.items()} == pytest.approx(expected, rel=1e-4)


def test_clips_are_compared_as_torch_compares_them():
  torch = pytest.importorskip('torch')
  config = tvts.TVTSConfig.from_dict(VALUES['model'])
  head, x = svt.Comparison(config, C, 16, 8), np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
  params = head.init(jax.random.key(0), x)
  own = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), params['params'])
  made = torch.tensor(x)
  for i in range(3):
    linear = own[f'mlp{i}']
    made = torch.nn.functional.linear(torch.nn.functional.gelu(made) if i else made, linear['kernel'].T, linear['bias'])
  last = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(8, C, bias=False), dim=0)
  last.parametrizations.weight.original0.data.fill_(1)
  last.parametrizations.weight.original1.data.copy_(own['prototypes'].T)
  expected = last(torch.nn.functional.normalize(made, dim=-1)).detach().numpy()
  np.testing.assert_allclose(head.apply(params, x), expected, rtol=1e-5, atol=1e-6)


@functools.cache
def parts():
  return step_lib.describe(config_lib.resolve(VALUES), 100)


def clips(seed=0) -> dict:
  """A batch of whole clips, whose pixels are smooth."""
  rng, video = np.random.default_rng(seed), parts().model.config.video
  y, x, t = np.ogrid[:24, :24, :8]
  slope = rng.uniform(1, 4, (3, B, 3))
  grid = lambda n: np.broadcast_to((x, y, t)[n].transpose(2, 0, 1), (8, 24, 24))[None, ..., None]
  frames = 20 + sum(grid(n) * slope[n][:, None, None, None] for n in range(3))
  patches = np.asarray(patchify(frames.clip(0, 255).astype(np.uint8), video))
  tokens = rng.integers(0, 50, (B, 4, 6)).astype(np.int32)
  batch = {
    'patches': patches,
    'positions': np.tile(np.arange(patches.shape[1], dtype=np.int32), (B, 1)),
    'tokens': tokens,
    'token_mask': np.ones(tokens.shape, bool),
    'order': rng.permuted(np.tile(np.arange(4, dtype=np.int32), (B, 1)), axis=1),
  }
  return jax.tree.map(jnp.asarray, batch)


def test_frames_come_back_from_whole_clips_alone():
  video = dataclasses.replace(parts().model.config.video, tubelet=2)
  frames = np.random.default_rng(0).integers(0, 256, (2, 8, 24, 24, 3), np.uint8)
  patches = patchify(frames, video)
  np.testing.assert_array_equal(svt.frames_of(patches, video), frames)
  with pytest.raises(UserError, match='whole clips of 36 tubelets, and these have 35; set input.mask_ratio=0'):
    svt.frames_of(patches[:, 1:], video)


@pytest.mark.parametrize('area', [svt.WHOLE_AREA, svt.PART_AREA])
def test_a_view_is_a_part_of_the_right_size_the_same_of_all_frames(area):
  """Of pictures that grow light from left to right, and from top to bottom, slopes tell the sizes of a part."""
  Y, X, side = 200, 240, 64
  frame = np.stack(np.broadcast_arrays(np.arange(X)[None], np.arange(Y)[:, None], 128), axis=-1).astype(np.uint8)
  frames = jnp.asarray(np.stack([frame, frame]))
  cut = jax.jit(lambda key: svt.view(key, frames, side, area, False, False))
  shares, aspects = [], []
  for seed in range(100):
    made = np.asarray(cut(jax.random.key(seed)), np.float32)
    np.testing.assert_array_equal(made[0], made[1])
    assert np.abs(made[0, 5:-5, 5:-5, 2] - 128).max() <= 1
    inner = made[0, 8:-8, 8:-8]
    width = (inner[:, -1, 0] - inner[:, 0, 0]).mean() / (inner.shape[1] - 1) * side
    height = (inner[-1, :, 1] - inner[0, :, 1]).mean() / (inner.shape[0] - 1) * side
    left = inner[0, 0, 0] + 0.5 - 8.5 * width / side
    assert -2 < left < X - width + 2
    shares.append(width * height / X / Y)
    aspects.append(width / height)
  assert area[0] * 0.95 <= min(shares) < area[0] * 1.6 and max(shares) < area[1] * 1.05
  assert max(shares) > 0.8 * area[1] and 0.7 < min(aspects) < 0.85 and 1.2 < max(aspects) < 1.4


def test_views_are_mirrored_and_change_their_colours():
  frame = np.stack(np.broadcast_arrays(np.arange(100)[None] + 50, np.arange(100)[:, None] + 50, 80), axis=-1)
  frames = jnp.asarray(frame[None].astype(np.uint8))
  made = jax.vmap(lambda key: svt.view(key, frames, 32, svt.WHOLE_AREA, True, True))
  views = np.asarray(jax.jit(made)(jax.random.split(jax.random.key(0), 200)), np.float32)[:, 0]
  rising = views[:, 16, -4].sum(-1) > views[:, 16, 3].sum(-1)
  grey = np.abs(views - views.mean(-1, keepdims=True)).max((1, 2, 3)) <= 1
  assert 0.4 < rising.mean() < 0.6 and 0.1 < grey.mean() < 0.3
  assert views.mean((1, 2, 3)).std() > 10


@pytest.mark.parametrize('slots, side, grid, frames', [(8, 14, 14, 8), (1, 6, 14, 8), (2, 3, 7, 16)])
def test_tubelets_of_a_view_have_the_positions_of_the_nearest_of_a_clip(slots, side, grid, frames):
  video = TimeSformerConfig(32, 1, 2, 16, image_size=16 * grid, frames=frames)
  expected = [
    t * frames // slots * grid**2 + y * grid // side * grid + x * grid // side
    for t, y, x in itertools.product(range(slots), range(side), range(side))
  ]
  np.testing.assert_array_equal(svt.places_of(slots, side, video), expected)
  if (slots, side) == (frames, grid):
    np.testing.assert_array_equal(expected, np.arange(frames * grid**2))


def of_teacher(state, batch, micro_batches):
  """What the step is given, by a step that does nothing."""
  seen = {}

  def look(state, batch, rng):
    return state, {'finite': True, **{name: x for name, x in batch.items() if name.startswith('teacher/')}}

  step = step_lib.with_teacher(look, parts().model, parts().loss_fn, micro_batches)
  state, seen = jax.jit(step)(state, batch, jax.random.key(0))
  return state, seen['teacher/svt_whole']


@pytest.fixture(scope='module')
def state():
  state = jax.jit(parts().init)(jax.random.key(0))
  return state._replace(step=jnp.int32(3), centre={'teacher/svt_whole': jnp.linspace(-1, 1, C)})


@pytest.mark.parametrize('micro_batches', [1, pytest.param(2, marks=pytest.mark.long)])
def test_the_teacher_sees_the_views_of_the_student_and_is_centred(state, micro_batches):
  batch, model = clips(), parts().model
  after, taught = of_teacher(state, batch, micro_batches)
  keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 3), micro_batches)
  apply = jax.jit(lambda batch, key: model.apply(state.ema, batch, key, True)['svt_whole'])
  said = np.zeros((B, 2, C), np.float32)
  for i, key in enumerate(keys):
    said[i::micro_batches] = apply({name: x[i::micro_batches] for name, x in batch.items()}, key)
  centre = np.linspace(-1, 1, C, dtype=np.float32)
  np.testing.assert_allclose(taught, said - centre, rtol=1e-4, atol=1e-5)
  assert np.abs(said[:, 0] - said[:, 1]).max() > 1e-4, 'both views are the same'
  found = after.centre['teacher/svt_whole']
  np.testing.assert_allclose(found, 0.9 * centre + 0.1 * said.mean((0, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_steps_learn_to_agree_and_one_without_a_number_keeps_the_centre(state):
  step, losses, used = jax.jit(parts().train_step), [], []
  broken = state._replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params))
  after, metrics = step(broken, clips(), jax.random.key(0))
  assert not metrics['finite']
  np.testing.assert_array_equal(after.centre['teacher/svt_whole'], state.centre['teacher/svt_whole'])
  for seed in range(60):
    before, (state, metrics) = state, step(state, clips(seed), jax.random.key(1))
    losses.append(float(metrics['loss']))
    used.append(float(metrics['svt/prototypes']))
  slow = jax.tree.map(lambda old, new: 0.996 * old + 0.004 * new, before.ema, state.params)
  assert_close(slow, state.ema, 1e-6)
  assert used[2] < 1.1, 'with such a centre it gives the same of all clips'
  assert used[-1] > 4 and np.mean(losses[-5:]) < np.mean(losses[-20:-15]), (losses, used)


def test_it_is_refused_without_a_teacher_or_of_masked_clips():
  for changes, words in (
    ({'ema': 0.0}, "objective 'svt' has the running mean of the parameters for its teacher.*; set ema=0.996"),
    ({'objectives': {'svt': {'parts': -1}}}, 'objectives.svt.parts=-1 is a number of views'),
    ({'objectives': {'svt': {'teacher_temperature': 0}}}, 'objectives.svt.teacher_temperature=0 must be above 0'),
    ({'input': {**VALUES['input'], 'mask_ratio': 0.5}}, 'and these have 32; set input.mask_ratio=0'),
  ):
    with pytest.raises(UserError, match=words):
      step_lib.describe(config_lib.resolve({**VALUES, **changes}), 1)


def test_it_says_nothing_where_there_are_no_parts():
  loss_fn = objectives.build({'svt': {**SMALL, 'parts': 0}})
  model = tvts.build(parts().model.config, loss_fn.heads)
  made = lambda batch, key: model.apply(model.init(key, parts().spec), batch, key)
  outputs = jax.eval_shape(made, parts().spec, jax.random.key(0))
  assert outputs['svt_whole'].shape == (B, 2, C) and outputs['svt_parts'].shape == (B, 0, C)
