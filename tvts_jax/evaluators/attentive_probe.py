"""An attentive classifier: one learned query looks at all frozen tokens of a clip.

Tokens are far too many to keep, so each step makes those of its batch anew.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tvts_jax import sharding
from tvts_jax.errors import UserError
from tvts_jax.evaluators import answers
from tvts_jax.evaluators.features import advance, everywhere
from tvts_jax.evaluators.frozen import put_everywhere
from tvts_jax.evaluators.probes import Probe, check_finite, loss_of
from tvts_jax.human import Progress
from tvts_jax.input import pipeline
from tvts_jax.models import layers
from tvts_jax.shards.index import video_hash


class Head(nn.Module):
  """Tokens [B, N, D] → logits [B, K]."""

  classes: int
  heads: int

  @nn.compact
  def __call__(self, tokens_BxNxD):
    types, D = (jnp.float32, jnp.float32), tokens_BxNxD.shape[-1]
    part = lambda name: layers.Heads(self.heads, layers.normal_init, *types, name=name)
    query_D = self.param('query', nn.initializers.normal(0.02), (D,))
    tokens_BxNxD = layers.LayerNorm(1e-6, *types, name='norm')(tokens_BxNxD)
    q_1x1xHxC = part('q')(query_D[None, None])
    k_BxNxHxC, v_BxNxHxC = part('k')(tokens_BxNxD), part('v')(tokens_BxNxD)
    logits_BxHxN = jnp.einsum('hc,bnhc->bhn', q_1x1xHxC[0, 0], k_BxNxHxC) * k_BxNxHxC.shape[-1] ** -0.5
    seen_Bx1xHxC = jnp.einsum('bhn,bnhc->bhc', jax.nn.softmax(logits_BxHxN), v_BxNxHxC)[:, None]
    seen_BxD = layers.Merge(layers.normal_init, *types, name='out')(seen_Bx1xHxC)[:, 0]
    seen_BxD = layers.LayerNorm(1e-6, *types, name='norm_out')(seen_BxD)
    return layers.Linear(self.classes, layers.normal_init, *types, name='classes')(seen_BxD)


class AttentiveProbe(Probe):
  """Trained with AdamW on the middle clip and crop of each training video."""

  OWN = Probe.OWN | {'epochs': 20, 'warmup_epochs': 2, 'lr': 1e-3, 'weight_decay': 0.05, 'train_batch': 256}

  def __init__(self, config, settings, model, mesh):
    super().__init__(config, settings, model, mesh)
    own, rows = self.settings, self.answers.rows[self.settings['train_split']]
    sharding.check_batch(own['train_batch'], 1, mesh, 'train_batch')
    # Shuffled as in pre-training, but always the same view of a clip; a damaged one has another stand in for it.
    shuffled = dict(mode='train', pick='center', crop='center', batch=own['train_batch'], seed=own['probe_seed'])
    self.source = pipeline.open(dataclasses.replace(self.train_clips.views.input, **shuffled))
    label_of = dict(zip((video_hash(row['id']) for row in rows), self.answers.labels(rows).tolist()))
    labels = [label_of.get(video, -1) for video in self.source.videos.tolist()]
    self.label_of = dict(zip(self.source.example_ids.tolist(), labels))
    if max(labels) < 0:
      raise UserError(f'not one clip of {self.train_clips} is in {self.answers.path}; name another of the two')
    self.head = Head(len(self.answers.classes), model.config.video.heads)

  def result(self, params):
    def score(params_and_head, batch):
      return {'logits': self.logits(*params_and_head, batch), 'valid': batch['valid']}

    score = jax.jit(score, out_shardings=everywhere(self.mesh))
    found = self.clips.see(score, (params, self.fit(params)), 'tokens')
    seen = answers.pick(found, self.clips, self.rows)
    how = f'one query attends to all tokens in {self.head.heads} heads, AdamW'
    known = sum(label >= 0 for label in self.label_of.values())
    return self.score(seen.features['logits'], seen, [how, self.trained(self.settings['train_batch'], known)])

  def logits(self, params, head, batch):
    tokens_BxNxD = jax.lax.stop_gradient(self.model.embed_video(params, batch)['video_tokens'])
    with jax.default_matmul_precision('highest'):
      return self.head.apply({'params': head}, tokens_BxNxD.astype(jnp.float32))

  def fit(self, params):
    """The head after all epochs, on all devices."""
    own, source = self.settings, self.source
    total = max(1, len(self.train_clips) * own['epochs'] // own['train_batch'])
    tx = optax.adamw(self.rate(total, own['train_batch']), weight_decay=own['weight_decay'])

    def step(head, state, params, batch):
      loss_fn = lambda head: loss_of(self.logits(params, head, batch), batch['label'])
      loss, gradient = jax.value_and_grad(loss_fn)(head)
      updates, state = tx.update(gradient, state, head)
      return optax.apply_updates(head, updates), state, loss

    width = self.model.config.video.width
    init = lambda key: self.head.init(key, jnp.zeros((1, 1, width)))['params']
    head = jax.device_get(jax.jit(init)(jax.random.key(own['probe_seed'])))
    head, state = put_everywhere((head, tx.init(head)), self.mesh)
    step = jax.jit(step, out_shardings=everywhere(self.mesh))
    progress = Progress('steps of the attentive probe', total)
    with source.batches(0, sharding.rows(own['train_batch'], self.mesh)) as batches:
      for done in range(1, total + 1):
        batch = next(batches)
        label_B = np.array([self.label_of[id_] for id_ in batch['example_id'].tolist()], np.int32)
        batch = {'patches': batch['patches'], 'positions': batch['positions'], 'label': label_B}
        head, state, loss = step(head, state, params, sharding.put(batch, self.mesh))
        advance(progress, done, lambda loss=loss: f'loss {float(loss):.3g}')
    check_finite(float(loss), 'attentive probe')
    return head
