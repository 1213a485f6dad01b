"""How much arithmetic a step is. Compiled counts see a scanned layer once, so they cannot tell.

One multiply-add counts 2. Only matrix products count: the rest is below two parts in a hundred. What the backward pass
computes again to save memory does not. For the paper's objectives there is a formula; with others, which add heads or
leave out a part of the model, the products of the traced step are counted, which takes seconds. Of frozen parameters
the backward pass is counted, although nothing computes it.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
from jax.extend.core import jaxprs_in_params

from tvts_jax.models import layers, tvts
from tvts_jax.models.tvts import TVTSConfig

PAPER = {'video_embed', 'text_embed', 'sort_logits'}  # The outputs that its objectives read.


def train_flops(config: TVTSConfig, visible: int, length: int) -> float:
  """FLOPs of one clip in one training step: forward, and twice that backward, but for the pixels' own gradient.

  visible: tubelets of a clip; length: word pieces of a transcript.
  """
  video, text, K = config.video, config.text, config.transcripts
  embed = 2 * visible * video.pixels * video.width
  W = config.sort_width
  sorter = layers.flops_of_blocks(visible + 1 + K, W, 4 * W, config.sort_depth, read=K)
  sorter += 2 * K * W * config.transcripts
  common = 0 if config.projection == 'none' else 2 * config.common * (video.width + text.dim)
  if config.projection == 'clip':
    sorter += 2 * config.common * ((visible + 1) * video.width + K * text.dim)
  return 3 * (embed + video.flops(visible) + K * text.flops(length) + sorter + common) - embed


def of_clip(config: TVTSConfig, loss_fn, spec: Mapping[str, jax.ShapeDtypeStruct]) -> float:
  """FLOPs of one clip in one training step. loss_fn: an objectives.Loss; spec: shapes and types of a batch."""
  _, transcripts, length = spec['tokens'].shape
  if set(loss_fn.reads) == PAPER:
    return train_flops(dataclasses.replace(config, transcripts=transcripts), spec['patches'].shape[1], length)
  return counted(config, loss_fn, spec)


def counted(config: TVTSConfig, loss_fn, spec: Mapping[str, jax.ShapeDtypeStruct]) -> float:
  """The same out of the gradient of any objectives, of which what nothing reads is left out."""
  from jax.interpreters import partial_eval  # A corner of JAX that may move: no other run should break with it.

  model = tvts.build(dataclasses.replace(config, remat='none'), loss_fn.heads)
  rng = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(lambda rng: model.init(rng, spec), rng)

  def loss(params, batch, rng):
    batch = batch | loss_fn.ask(model.apply, params, batch, rng)
    return loss_fn(model.apply(params, batch, rng, True), batch)[0]

  program = jax.make_jaxpr(jax.grad(loss))(params, dict(spec), rng).jaxpr
  read, _ = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
  return products(read) / spec['patches'].shape[0]


def products(program) -> float:
  """FLOPs of all matrix products in a jaxpr, those in a scan as often as it runs."""
  total = 0.0
  for equation in program.eqns:
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    often = equation.params['length'] if equation.primitive.name == 'scan' else 1
    total += often * sum(products(inner) for inner in jaxprs_in_params(equation.params))
  return total
