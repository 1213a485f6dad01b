"""What trained heads on frozen features have in common.

Shapes: B clips of a batch, N clips in all, V views, D features, K classes.
"""

import jax
import numpy as np
import optax

from tvts_jax.errors import UserError
from tvts_jax.evaluators.frozen import Frozen, classified

# What is averaged over the views of a clip.
AVERAGES = {'softmax': 'the probabilities, as VideoMAE does', 'logits': 'the logits, as the code of TVTS does'}


class Probe(Frozen):
  """A head that is trained on `train_split` and tested on `split`: top1, top5 and the mean over classes."""

  OWN = {
    'train_split': 'train',
    'train_batch': 384,
    'epochs': 100,
    'warmup_epochs': 10,
    'lr': 0.1,  # For 256 clips a batch; it grows with them.
    'weight_decay': 0.0,
    'average': 'softmax',
    'probe_seed': 0,
  }
  CHOICES = {'average': AVERAGES}
  TRAIN_MIDDLE = True

  @classmethod
  def settings_of(cls, config, settings):
    values, input = super().settings_of(config, settings)
    for name, least in (('train_batch', 1), ('epochs', 1), ('warmup_epochs', 0), ('lr', 0), ('weight_decay', 0)):
      if not isinstance(values[name], int | float) or values[name] < least:
        raise UserError(f'{name}={values[name]!r} must be a number, at least {least}')
    return values, input

  def rate(self, steps: int, batch: int):
    """The learning rate by step: it rises, then falls along a cosine."""
    own = self.settings
    peak, warmup = own['lr'] * batch / 256, round(steps * own['warmup_epochs'] / own['epochs'])
    if warmup >= steps:
      raise UserError(f'warmup_epochs={own["warmup_epochs"]} leaves nothing of epochs={own["epochs"]}; use fewer')
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, steps)

  def trained(self, batch: int, clips: int) -> str:
    """For a protocol."""
    own = self.settings
    return (
      f'trained on {clips} clips of split {own["train_split"]} for {own["epochs"]} epochs of batches of {batch}, lr '
      f'{own["lr"]} x {batch}/256, {own["warmup_epochs"]} of them warm-up, then cosine, weight decay '
      f'{own["weight_decay"]}, seed {own["probe_seed"]}'
    )

  def score(self, logits_RxVxK, seen, protocol: list[str]):
    """The result of the logits of all that could be seen."""
    scores_RxK = averaged(logits_RxVxK, self.settings['average'])
    metrics, items = classified(scores_RxK, self.answers, seen)
    return self.make(metrics, seen, [*protocol, f'views averaged in {self.settings["average"]}'], items)


def averaged(logits_RxVxK, how: str) -> np.ndarray:
  """float64 [R, K]"""
  logits_RxVxK = np.asarray(logits_RxVxK, np.float64)
  if how == 'softmax':
    powers_RxVxK = np.exp(logits_RxVxK - logits_RxVxK.max(axis=-1, keepdims=True))
    logits_RxVxK = powers_RxVxK / powers_RxVxK.sum(axis=-1, keepdims=True)
  return logits_RxVxK.mean(axis=1)


def loss_of(logits_BxK, label_B):
  """Mean cross-entropy of the clips that have a label, which is not below 0."""
  known_B = label_B >= 0
  each_B = optax.softmax_cross_entropy_with_integer_labels(logits_BxK, jax.numpy.maximum(label_B, 0))
  return (each_B * known_B).sum() / jax.numpy.maximum(known_B.sum(), 1)


def check_finite(loss, what: str):
  if not np.isfinite(loss):
    raise UserError(f'the {what} came to no finite loss; lower its lr, or look at the parameters that were evaluated')
