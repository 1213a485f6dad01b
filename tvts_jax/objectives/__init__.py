"""Objectives by name: what makes a loss of the model's outputs. One file, and one line here."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax

from tvts_jax.errors import UserError
from tvts_jax.objectives import classify, contrastive, reconstruct, sorting, svt, video_order

OBJECTIVES = {
  'classify': classify.CLASSIFY,
  'contrastive': contrastive.CONTRASTIVE,
  'contrastive_learned': contrastive.CONTRASTIVE_LEARNED,
  'sigmoid': contrastive.SIGMOID,
  'frame_transcript': contrastive.FRAME_TRANSCRIPT,
  'sort': sorting.SORT,
  'sort_pairwise': sorting.SORT_PAIRWISE,
  'sort_factorial': sorting.SORT_FACTORIAL,
  'merlot_sort': video_order.MERLOT_SORT,
  'merlot_pairs': video_order.MERLOT_PAIRS,
  'vcop': video_order.VCOP,
  'reconstruct': reconstruct.RECONSTRUCT,
  'svt': svt.SVT,
}


@dataclasses.dataclass(frozen=True)
class Loss:
  """The weighted sum of some objectives: loss_fn(outputs, batch) → (loss, metrics).

  Metrics are named 'objective/metric', each objective's own unweighted loss 'objective/loss'. A batch of one transcript
  a clip leaves out what sorts transcripts.
  """

  config: Mapping[str, Mapping]  # {name: {'weight': w, **settings}}

  def __call__(self, outputs, batch):
    total, metrics = 0.0, {}
    for name, given in self.config.items():
      if OBJECTIVES[name].order and batch['order'].shape[1] == 1:
        continue
      own, _ = OBJECTIVES[name].settings()
      loss, own_metrics = OBJECTIVES[name].loss(outputs, batch, **{k: v for k, v in given.items() if k in own})
      total += given.get('weight', 1.0) * loss
      metrics |= {f'{name}/{key}': value for key, value in {'loss': loss, **own_metrics}.items()}
    if not metrics:
      raise UserError(
        f'objectives {", ".join(self.config)} learn nothing from one transcript a clip; set transcripts to 2 or more, '
        'or add an objective that learns from clips'
      )
    return total, {'loss': total, **metrics}

  @property
  def reads(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys(output for name in self.config for output in OBJECTIVES[name].reads))

  @property
  def fields(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys(field for name in self.config for field in OBJECTIVES[name].fields))

  @property
  def taught(self) -> tuple[str, ...]:
    return tuple(output for name in self.config for output in OBJECTIVES[name].taught)

  def ask(self, apply: Callable, teacher, batch, rng) -> dict:
    """What a model with the teacher's parameters gives of a batch, for objectives that learn from one."""
    outputs = apply(teacher, batch, rng) if self.taught else {}
    return {f'teacher/{name}': jax.lax.stop_gradient(outputs[name]) for name in self.taught}

  @property
  def heads(self) -> dict[str, Callable]:
    """Those that have parameters, as functions of the model's config."""
    made = {}
    for name, given in self.config.items():
      _, own = OBJECTIVES[name].settings()
      if head := OBJECTIVES[name].head:
        made[name] = functools.partial(head, **{k: v for k, v in given.items() if k in own})
    return made


def build(config: Mapping[str, Mapping]) -> Loss:
  if not config:
    raise UserError(f'no objective is given; known: {", ".join(OBJECTIVES)}')
  for name, settings in config.items():
    if name not in OBJECTIVES:
      raise UserError(f'objective {name!r} is unknown; known: {", ".join(OBJECTIVES)}')
    loss, head = OBJECTIVES[name].settings()
    known = {'weight': 1.0, **loss, **head}
    if unknown := sorted(set(settings) - set(known)):
      raise UserError(f'objective {name!r} has no setting {unknown[0]!r}; it has {", ".join(known)}')
    if wrong := OBJECTIVES[name].check({**known, **settings}):
      raise UserError(f'objectives.{name}.{wrong}')
  return Loss(config)


def chance(metric: str, transcripts: int, batch: int) -> float | None:
  """What a metric 'objective/metric' is when the model knows nothing, where that is known.

  transcripts: of a clip; batch: clips among which contrastive retrieval searches.
  """
  objective, _, score = metric.partition('/')
  level = OBJECTIVES[objective].chance.get(score) if objective in OBJECTIVES else None
  return None if level is None else level(transcripts, batch)
