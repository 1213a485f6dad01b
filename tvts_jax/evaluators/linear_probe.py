"""A linear classifier on frozen features (Tables 1, 4 and 9)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tvts_jax.evaluators import answers
from tvts_jax.evaluators.features import FEATURES, advance, everywhere
from tvts_jax.evaluators.frozen import put_everywhere
from tvts_jax.evaluators.probes import Probe, check_finite, loss_of
from tvts_jax.human import Progress


class LinearProbe(Probe):
  """Trained with SGD as Table 9 has it, on one view of each training clip: the middle clip and crop."""

  OWN = Probe.OWN | {'features': 'cls', 'momentum': 0.9}
  CHOICES = Probe.CHOICES | {'features': FEATURES}

  def result(self, params):
    kind = self.settings['features']
    train = answers.look(self.train_clips, self.answers.rows[self.settings['train_split']], params)
    seen = self.look(params)
    batch = min(self.settings['train_batch'], len(train.rows))
    head = self.fit(train.features[kind][:, 0], self.answers.labels(train.rows), batch)
    logits_RxVxK = seen.features[kind] @ head['kernel'] + head['bias']
    how = f'linear classifier on {kind}, SGD with momentum {self.settings["momentum"]}'
    return self.score(logits_RxVxK, seen, [how, self.trained(batch, len(train.rows))])

  def fit(self, feature_NxD, label_N, batch: int) -> dict[str, np.ndarray]:
    """The head after all epochs. Every device does the same: heads are small."""
    own, steps = self.settings, len(feature_NxD) // batch
    rng = np.random.default_rng(own['probe_seed'])
    tx = optax.chain(
      optax.add_decayed_weights(own['weight_decay']),
      optax.sgd(self.rate(steps * own['epochs'], batch), own['momentum'], nesterov=True),
    )

    def epoch(head, state, feature_NxD, label_N, chosen_SxB):
      def step(carry, chosen_B):
        head, state = carry
        multiply = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        logits = lambda head: multiply(feature_NxD[chosen_B], head['kernel']) + head['bias'][None]
        loss, gradient = jax.value_and_grad(lambda head: loss_of(logits(head), label_N[chosen_B]))(head)
        updates, state = tx.update(gradient, state, head)
        return (optax.apply_updates(head, updates), state), loss

      (head, state), losses = jax.lax.scan(step, (head, state), chosen_SxB)
      return head, state, losses.mean()

    epoch = jax.jit(epoch, out_shardings=everywhere(self.mesh))
    classes = len(self.answers.classes)
    head = {'kernel': np.zeros((feature_NxD.shape[1], classes), np.float32), 'bias': np.zeros(classes, np.float32)}
    head, state = put_everywhere((head, tx.init(head)), self.mesh)
    data = put_everywhere((feature_NxD, label_N.astype(np.int32)), self.mesh)
    progress = Progress('epochs of the linear probe', own['epochs'])
    for done in range(1, own['epochs'] + 1):
      # The rest that fills no batch has its turn in another epoch.
      chosen_SxB = rng.permutation(len(feature_NxD))[: steps * batch].reshape(steps, batch).astype(np.int32)
      head, state, loss = epoch(head, state, *data, put_everywhere(chosen_SxB, self.mesh))
      advance(progress, done, lambda loss=loss: f'loss {float(loss):.3g}')
    check_finite(float(loss), 'linear probe')
    return jax.device_get(head)
