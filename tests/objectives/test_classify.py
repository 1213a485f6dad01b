"""Recognition as a loss: mixed clips and their targets by plain loops, dropped paths, and rates that fall by layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import weights
from tvts_jax import objectives, optim
from tvts_jax.errors import UserError
from tvts_jax.models import layers
from tvts_jax.models.encoders import encoder, vit
from tvts_jax.objectives import classify
from tvts_jax.optim import OptimConfig

CONFIG = weights.config_of(video={'width': 8, 'heads': 2, 'patch': 4, 'image_size': 12, 'frames': 4})
CLIPS, SIDE, CLASSES = 64, 12, 5


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  clips = rng.integers(0, 256, (CLIPS, 4, SIDE, SIDE, 3), np.uint8)
  patches = np.asarray(encoder.patchify(clips, CONFIG.video))
  positions = np.broadcast_to(np.arange(patches.shape[1], dtype=np.int32), patches.shape[:2])
  return {'patches': patches, 'positions': positions, 'label': rng.integers(0, CLASSES, CLIPS).astype(np.int32)}


@functools.cache
def compiled(**settings):
  """(key, batch) → (outputs of the head in training, what the encoder was shown last)."""
  head = classify.Classifier(CONFIG, classes=CLASSES, **settings)

  def run(key, batch):
    shown = []

    def encode(patches_BxNxP, positions_BxN, train, slots):
      shown.append(patches_BxNxP)
      return {'video_tokens': jnp.float32(patches_BxNxP)[:, :, :8]}

    outputs = encode(batch['patches'], batch['positions'], True, None)
    params = head.init(jax.random.key(1), outputs, batch, encode)
    return head.apply(params, outputs, batch, encode, True, rngs={'dropout': key}), shown[-1]

  return jax.jit(run)


def train(batch, seed=0, **settings):
  found, shown = jax.device_get(compiled(**settings)(jax.random.key(seed), batch))
  return shown, found


def frames_of(patches):
  """[B, F, Y, X, 3] back from tubelets in order, by the contract's words."""
  grid, p = SIDE // 4, 4
  made = np.zeros((len(patches), 4, SIDE, SIDE, 3), patches.dtype)
  for b, clip in enumerate(patches):
    for n, values in enumerate(clip.reshape(-1, 2, p, p, 3)):
      t, s = divmod(n, grid * grid)
      y, x = divmod(s, grid)
      made[b, 2 * t : 2 * t + 2, y * p : y * p + p, x * p : x * p + p] = values
  return made


def normal(clips):
  mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
  return (clips / 255 - mean) / deviation


def assert_targets(found, batch, shares):
  for b in range(CLIPS):
    expected = np.zeros(CLASSES)
    expected[batch['label'][b]] += shares[b]
    expected[batch['label'][b - 1]] += 1 - shares[b]
    np.testing.assert_allclose(found['class_targets'][b], expected, atol=1e-5)


@pytest.fixture
def even(monkeypatch):
  """Shares drawn evenly: Beta takes long to compile."""
  monkeypatch.setattr(jax.random, 'beta', lambda key, a, b, shape: jax.random.uniform(key, shape))


def test_mixup_is_a_weighted_mean_of_two_clips_and_of_their_labels(batch, even):
  shown, found = train(batch, mixup=0.8)
  clips, mixed, shares = normal(frames_of(batch['patches'])), frames_of(shown), []
  for b in range(CLIPS):
    own, other = clips[b].ravel(), clips[b - 1].ravel()
    share = np.dot(mixed[b].ravel() - other, own - other) / np.dot(own - other, own - other)
    np.testing.assert_allclose(mixed[b].ravel(), share * own + (1 - share) * other, atol=1e-4)
    shares.append(share)
  assert_targets(found, batch, shares)
  assert min(shares) < 0.1 and max(shares) > 0.9


def test_cutmix_replaces_one_box_of_all_frames_and_as_much_of_the_label(batch, even):
  shown, found = train(batch, cutmix=1.0)
  clips, mixed, shares = normal(frames_of(batch['patches'])), frames_of(shown), []
  for b in range(CLIPS):
    changed = np.abs(mixed[b] - clips[b]).max(axis=-1) > 1e-4
    inside = changed.any(axis=0)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = np.zeros((SIDE, SIDE), bool)
    if len(rows):
      box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    expected = np.where(box[None, :, :, None], clips[b - 1], clips[b])
    np.testing.assert_allclose(mixed[b], expected, atol=1e-4)
    shares.append(1 - box.mean())
  assert_targets(found, batch, shares)
  assert min(shares) < 0.4 and max(shares) > 0.95


def test_half_of_the_clips_are_cut_where_there_are_both(batch):
  shown, found = train(batch, mixup=0.8, cutmix=1.0)
  clips, mixed = normal(frames_of(batch['patches'])), frames_of(shown)
  near = lambda other: np.isclose(mixed, other, atol=1e-4)
  pure = (near(clips) | near(np.roll(clips, 1, axis=0))).mean(axis=(1, 2, 3, 4))
  assert 0.3 < np.mean(pure > 0.99) < 0.7
  shares = found['class_targets'].max(axis=-1)[pure < 0.99]
  # The larger one of Beta(.8, .8) and what it leaves: clips whose two labels are one say 1.
  assert 0.65 < np.mean(shares[shares < 0.999]) < 0.85
  assert (train(batch, seed=1, mixup=0.8, cutmix=1.0)[0] != shown).any()
  np.testing.assert_array_equal(train(batch, mixup=0.8, cutmix=1.0)[0], shown)


def test_without_mixing_the_tokens_of_the_model_are_used(batch):
  shown, found = train(batch)
  np.testing.assert_array_equal(shown, batch['patches'])
  np.testing.assert_array_equal(found['class_targets'], np.eye(CLASSES)[batch['label']])


@pytest.mark.parametrize('pool', classify.POOLS)
def test_what_stands_for_a_clip(pool):
  tokens = np.random.default_rng(0).standard_normal((3, 7, 8)).astype(np.float32)
  head = classify.Classifier(CONFIG, classes=CLASSES, pool=pool)
  params = head.init(jax.random.key(0), {'video_tokens': tokens}, {}, None)
  found = head.apply(params, {'video_tokens': tokens}, {}, None)
  pooled = tokens[:, 0]
  if pool == 'mean':
    mean = tokens[:, 1:].mean(axis=1)
    pooled = (mean - mean.mean(-1, keepdims=True)) / np.sqrt(mean.var(-1, keepdims=True) + 1e-6)
  linear = jax.device_get(params['params']['linear'])
  assert found.keys() == {'class_logits'}, 'no label is asked for'
  np.testing.assert_allclose(found['class_logits'], pooled @ linear['kernel'] + linear['bias'], atol=1e-5)


def test_the_loss_in_closed_form():
  rng = np.random.default_rng(0)
  logits, label = rng.normal(size=(6, CLASSES)), rng.integers(0, CLASSES, 6)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  outputs = {'class_logits': jnp.float32(logits), 'class_targets': jnp.float32(np.eye(CLASSES)[label])}
  loss, metrics = classify.classify(outputs, {}, smoothing=0.1)
  own = log_p[np.arange(6), label]
  np.testing.assert_allclose(loss, np.mean(-0.9 * own - 0.1 * log_p.mean(-1)), rtol=1e-5)
  assert metrics['top1'] == np.mean(logits.argmax(-1) == label)
  np.testing.assert_allclose(classify.classify(outputs, {})[0], -own.mean(), rtol=1e-5)


def test_a_label_beyond_the_classes_is_no_number():
  for label in (-1, CLASSES):
    assert np.isnan(classify.one_hot(jnp.array([label]), CLASSES)).all()


@pytest.mark.parametrize(
  'settings, words',
  [({'pool': 'max'}, "pool='max'.*cls, mean"), ({'classes': 1}, 'classes=1'), ({'mixup': -1.0}, 'at least 0')],
)
def test_what_is_refused(settings, words):
  with pytest.raises(UserError, match=words):
    objectives.build({'classify': {'classes': CLASSES, **settings}})


def test_masked_clips_are_not_mixed(batch):
  few = batch | {'patches': batch['patches'][:, :6], 'positions': batch['positions'][:, :6]}
  with pytest.raises(UserError, match='mask_ratio=0'):
    train(few, mixup=0.8)


def test_paths_are_dropped_as_often_as_each_layer_says():
  """Blocks that only add a vector of their own tell which of them were passed by, and what the others weigh."""
  drop_L, B, D = np.array([0.0, 0.3, 0.6], np.float32), 2000, 8
  block = layers.PreNormBlock(2, 8, layers.normal_init, jnp.float32, jnp.float32, parent=None)
  shapes = jax.eval_shape(lambda key: layers.init_blocks(key, block, 3, D), jax.random.key(0))
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  for branch, name in enumerate(('attn/out', 'mlp/down')):
    of, part = name.split('/')
    params[of][part]['bias'] = np.eye(D, dtype=np.float32)[3 * branch : 3 * branch + 3]
  run = lambda key: layers.apply_blocks(block, params, jnp.zeros((B, 2, D)), train=True, rng=key, drop_L=drop_L)
  out_BxD = np.asarray(jax.jit(run)(jax.random.key(0)))[:, 0]
  for branch in range(2):
    for layer, drop in enumerate(drop_L):
      added_B = out_BxD[:, 3 * branch + layer]
      assert np.isclose(added_B, 0).sum() + np.isclose(added_B, 1 / (1 - drop)).sum() == B
      assert abs(np.isclose(added_B, 0).mean() - drop) < 4 * (drop * (1 - drop) / B) ** 0.5 + 1e-9
      assert abs(added_B.mean() - 1) < 4 * (drop / (1 - drop) / B) ** 0.5 + 1e-6
  # Branches and layers are drawn apart.
  assert abs(np.corrcoef(out_BxD[:, 1], out_BxD[:, 4])[0, 1]) < 0.1


def test_the_encoder_drops_more_in_later_layers_and_nothing_but_in_training(monkeypatch):
  seen, run = [], layers.apply_blocks
  look = lambda *args, **more: seen.append(more.get('drop_L')) or run(*args, **more)
  monkeypatch.setattr(layers, 'apply_blocks', look)
  settings = vit.ViTConfig(8, 5, 2, 4, image_size=8, frames=2, drop_path=0.2)
  encoder = vit.ViT(settings)
  given = jnp.ones((4, 4, settings.pixels)), jnp.zeros((4, 4), jnp.int32)
  params = jax.eval_shape(encoder.init, jax.random.key(0), *given)
  jax.eval_shape(encoder.apply, params, *given)  # Needs no random numbers.
  jax.eval_shape(lambda params: encoder.apply(params, *given, True, rngs={'dropout': jax.random.key(0)}), params)
  np.testing.assert_allclose(seen[-1], [0, 0.05, 0.1, 0.15, 0.2], atol=1e-6)
  assert seen[:-1] == [None, None]


PARAMS = {
  'text': {'blocks': {'kernel': jnp.ones((2, 3))}},
  'video': {
    'cls': jnp.ones(3),
    'embed': {'kernel': jnp.ones((2, 3))},
    'blocks': {'attn': {'q': jnp.ones((4, 2, 3))}, 'norm1': {'scale': jnp.ones((4, 3))}},
    'norm': {'scale': jnp.ones(3)},
  },
  'heads_classify': {'linear': {'kernel': jnp.ones((3, 2))}},
}


def test_the_learning_rate_falls_from_layer_to_layer():
  def updates(**settings):
    tx = optim.build(OptimConfig(weight_decay=0.1, **settings), PARAMS, 10)
    return jax.jit(lambda params: tx.update(params, tx.init(params), params, step=0)[0])(PARAMS)

  plain = updates()
  grouped = updates(layer_decay=0.75, groups=(('attn', {'lr': 0.5}), ('^text', {'frozen': True})))
  expected = {
    'text': {'blocks': {'kernel': np.zeros((2, 3))}},
    'video': {
      'cls': np.full(3, 0.75**5),
      'embed': {'kernel': np.full((2, 3), 0.75**5)},
      'blocks': {
        'attn': {'q': np.stack([np.full((2, 3), 0.5 * 0.75 ** (4 - i)) for i in range(4)])},
        'norm1': {'scale': np.stack([np.full(3, 0.75 ** (4 - i)) for i in range(4)])},
      },
      'norm': {'scale': np.ones(3)},
    },
    'heads_classify': {'linear': {'kernel': np.ones((3, 2))}},
  }
  jax.tree.map(
    lambda new, old, factor: np.testing.assert_allclose(new, old * factor, rtol=1e-6), grouped, plain, expected
  )
  groups = optim.groups_of(OptimConfig(layer_decay=0.75), PARAMS)
  assert optim.rate_text(groups['video/blocks/attn/q']['lr']) == '0.316…0.75'
  assert optim.rate_text(groups['text/blocks/kernel']['lr']) == '1'
  with pytest.raises(UserError, match='layer_decay=0'):
    OptimConfig(layer_decay=0.0)
