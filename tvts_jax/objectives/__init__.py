"""Objectives by name: what makes a loss of the model's outputs. One file, and one line here."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn

from tvts_jax.errors import UserError
from tvts_jax.objectives import classify, contrastive, orders, reconstruct, sorting, video_order


class Objective(NamedTuple):
  """`head` is a module with parameters of its own: built as head(model config, **settings), and called as
  head(outputs, batch, encode_video, train) → {name: array}, which join the outputs. encode_video(patches, positions,
  train) → {'video_tokens': [B, 1+N, D], 'video_embed': [B, C]} is the model's video encoder, for those that look at a
  clip in a way of their own.
  """

  loss: Callable  # A pure function (outputs, batch, **settings) → (loss, metrics).
  reads: tuple[str, ...]  # Outputs that it needs: what an accumulated step keeps of every micro-batch, so small ones.
  fields: tuple[str, ...] = ()  # Of tvts_jax/input/fields.py: what the batch must hold beyond the usual.
  head: type[nn.Module] | None = None
  even: bool = False  # Whether it needs as many tubelets of each time slot, which input.keep does not leave.
  order: Callable | None = None  # How it sorts transcripts: outputs → places [B, K], each place once.

  def settings(self) -> tuple[list[str], list[str]]:
    """Names of those of the loss, and of the head."""
    own = list(inspect.signature(self.loss).parameters)[2:]
    # Linen adds the fields `parent` and `name` to every module.
    fields = [field.name for field in dataclasses.fields(self.head)] if self.head else []
    return own, [name for name in fields if name not in ('config', 'parent', 'name')]


EMBEDS = ('video_embed', 'text_embed')
OBJECTIVES = {
  'classify': Objective(
    classify.classify, ('class_logits', 'class_targets'), fields=('label',), head=classify.Classifier
  ),
  'contrastive': Objective(contrastive.contrastive, EMBEDS),
  'contrastive_learned': Objective(
    contrastive.contrastive_learned, (*EMBEDS, 'contrastive_scale'), head=contrastive.ScaleHead
  ),
  'sigmoid': Objective(contrastive.sigmoid, (*EMBEDS, 'sigmoid_scale', 'sigmoid_bias'), head=contrastive.SigmoidHead),
  'frame_transcript': Objective(
    contrastive.frame_transcript, ('frame_embed', 'transcript_embed'), head=contrastive.FrameHead, even=True
  ),
  'sort': Objective(sorting.sort, ('sort_logits',), order=lambda outputs: orders.assign(outputs['sort_logits'])),
  'sort_pairwise': Objective(
    sorting.sort_pairwise,
    ('sort_pairs',),
    head=sorting.PairwiseHead,
    order=lambda outputs: orders.borda(outputs['sort_pairs']),
  ),
  'sort_factorial': Objective(
    sorting.sort_factorial,
    ('sort_orders',),
    head=sorting.FactorialHead,
    order=lambda outputs: orders.likeliest(outputs['sort_orders']),
  ),
  # The best permutation is the same before and after Sinkhorn, which adds to whole rows and columns.
  'sort_sinkhorn': Objective(
    sorting.sort_sinkhorn, ('sort_logits',), order=lambda outputs: orders.assign(outputs['sort_logits'])
  ),
  'merlot_sort': Objective(
    video_order.merlot_sort, ('merlot_logits',), fields=('part_order',), head=video_order.MerlotSortHead, even=True
  ),
  'merlot_pairs': Objective(
    video_order.merlot_pairs, ('merlot_pairs',), fields=('part_order',), head=video_order.MerlotPairsHead, even=True
  ),
  'vcop': Objective(video_order.vcop, ('vcop_orders',), fields=('part_order',), head=video_order.VcopHead, even=True),
  'reconstruct': Objective(
    reconstruct.reconstruct, ('reconstruct_error',), fields=('masked',), head=reconstruct.Decoder, even=True
  ),
}


@dataclasses.dataclass(frozen=True)
class Loss:
  """The weighted sum of some objectives: loss_fn(outputs, batch) → (loss, metrics).

  Metrics are named 'objective/metric', each objective's own unweighted loss 'objective/loss'.
  """

  config: Mapping[str, Mapping]  # {name: {'weight': w, **settings}}

  def __call__(self, outputs, batch):
    total, metrics = 0.0, {}
    for name, given in self.config.items():
      own, _ = OBJECTIVES[name].settings()
      loss, own_metrics = OBJECTIVES[name].loss(outputs, batch, **{k: v for k, v in given.items() if k in own})
      total += given.get('weight', 1.0) * loss
      metrics |= {f'{name}/{key}': value for key, value in {'loss': loss, **own_metrics}.items()}
    return total, {'loss': total, **metrics}

  @property
  def reads(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys(output for name in self.config for output in OBJECTIVES[name].reads))

  @property
  def fields(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys(field for name in self.config for field in OBJECTIVES[name].fields))

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
    known = ['weight', *sum(OBJECTIVES[name].settings(), [])]
    if unknown := sorted(set(settings) - set(known)):
      raise UserError(f'objective {name!r} has no setting {unknown[0]!r}; it has {", ".join(known)}')
    if (temperature := settings.get('temperature', 1.0)) <= 0:
      raise UserError(f'objectives.{name}.temperature={temperature!r} must be above 0')
    if not 0 <= (smoothing := settings.get('smoothing', 0.0)) < 1:
      raise UserError(f'objectives.{name}.smoothing={smoothing!r} must be from 0 to below 1')
  return Loss(config)
