"""Contrastive losses: what belongs together against all else in the global batch.

Shapes: B clips of the global batch, K transcripts of each, C width of the common space, N items on either side.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from tvts_jax.models.tvts import TVTSConfig
from tvts_jax.objectives import video_order
from tvts_jax.objectives.objective import Objective

EMBEDS = ('video_embed', 'text_embed')
RECALL_CHANCE = {f'{way}_r1': lambda K, B: 1 / B for way in ('v2t', 't2v')}
CHANCE = {'loss': lambda K, B: 2 * math.log(B), **RECALL_CHANCE}
LARGEST_SCALE = 100.0  # Of similarities, as CLIP holds it: temperatures stay at 0.01 or above.


def check_temperature(settings) -> str | None:
  temperature = settings['temperature']
  return f'temperature={temperature!r} must be above 0' if temperature <= 0 else None


def unit(x_NxC):
  """Rows of length one; a row of zeros stays zero and has no gradient."""
  return x_NxC * jax.lax.rsqrt(jnp.maximum(jnp.square(x_NxC).sum(-1, keepdims=True), 1e-16))


def cosines(a_NxC, b_MxC):
  """[N, M], of float32 in full: by default accelerators would round both to bfloat16 or TF32."""
  return jnp.matmul(unit(a_NxC), unit(b_MxC).T, precision=jax.lax.Precision.HIGHEST)


def recall_at_1(similarity_QxG):
  """Share of queries whose own item, on the diagonal, is nearest. Tied items share the point."""
  best_QxG = similarity_QxG == similarity_QxG.max(axis=1, keepdims=True)
  return jnp.mean(jnp.diagonal(best_QxG) / best_QxG.sum(axis=1))


def info_nce(logits_NxN):
  """Cross-entropy of the diagonal, of rows and of columns, added."""
  own = lambda log_probabilities: -jnp.mean(jnp.diagonal(log_probabilities))
  return own(jax.nn.log_softmax(logits_NxN, axis=1)) + own(jax.nn.log_softmax(logits_NxN, axis=0))


def similarities(outputs):
  """Cosines of every clip and every text, [B, B], and how well they retrieve."""
  similarity_BxB = cosines(outputs['video_embed'], outputs['text_embed'])
  return similarity_BxB, {'v2t_r1': recall_at_1(similarity_BxB), 't2v_r1': recall_at_1(similarity_BxB.T)}


def contrastive(outputs, batch, *, temperature: float = 0.05, gradient_scale: float = 1.0):
  """Every clip against every text of the global batch, both directions added.

  The similarity is written once over the global batch and the compiler shards it, so the gradient is the true one on
  any number of devices. The reference code's is the true one divided by its number of processes, because its gather
  passes no gradient to the others' embeddings: `gradient_scale=1/processes` gives that, and leaves the loss as it is.
  """
  similarity_BxB, metrics = similarities(outputs)
  loss = info_nce(similarity_BxB / temperature)
  return gradient_scale * loss + jax.lax.stop_gradient((1 - gradient_scale) * loss), metrics


CONTRASTIVE = Objective(contrastive, EMBEDS, chance=CHANCE, check=check_temperature)


@jax.custom_vjp
def held(x, low: float, high: float):
  """x between two bounds. Beyond one, only a gradient that leads back is let through: so x comes back, and never far
  away."""
  return jnp.clip(x, low, high)


held.defvjp(
  lambda x, low, high: (jnp.clip(x, low, high), (x, low, high)),
  lambda kept, g: (jnp.where(((kept[0] <= kept[1]) & (g > 0)) | ((kept[0] >= kept[2]) & (g < 0)), 0, g), None, None),
)


class Scale(nn.Module):
  """A factor of similarities that is learned: one over a temperature."""

  first: float

  @nn.compact
  def __call__(self, B: int):
    """The same for each clip, float32 [B]: an output has a row for each, whichever part of the batch it is in."""
    log_scale = self.param('log_scale', nn.initializers.constant(math.log(self.first)), ())
    return jnp.broadcast_to(jnp.exp(held(log_scale, 0.0, math.log(LARGEST_SCALE))), (B,))


def contrastive_learned(outputs, batch):
  """The same with a temperature that is learned."""
  similarity_BxB, metrics = similarities(outputs)
  scale = outputs['contrastive_scale'].mean()
  return info_nce(scale * similarity_BxB), metrics | {'temperature': 1 / scale}


class ScaleHead(nn.Module):
  config: TVTSConfig
  temperature: float = 0.05  # The first one.

  @nn.compact
  def __call__(self, outputs, batch, encode_video, train):
    return {'contrastive_scale': Scale(1 / self.temperature, name='scale')(outputs['video_embed'].shape[0])}


CONTRASTIVE_LEARNED = Objective(
  contrastive_learned, (*EMBEDS, 'contrastive_scale'), head=ScaleHead, chance=CHANCE, check=check_temperature
)


def sigmoid(outputs, batch):
  """SigLIP: each clip and text by themselves, do they belong together? Summed over texts, the mean over clips."""
  similarity_BxB, metrics = similarities(outputs)
  scale, bias = outputs['sigmoid_scale'].mean(), outputs['sigmoid_bias'].mean()
  signs_BxB = 2 * jnp.eye(similarity_BxB.shape[0]) - 1
  loss = -jax.nn.log_sigmoid(signs_BxB * (scale * similarity_BxB + bias)).sum(axis=1).mean()
  return loss, metrics | {'temperature': 1 / scale, 'bias': bias}


class SigmoidHead(nn.Module):
  config: TVTSConfig
  temperature: float = 0.1  # The first one.
  bias: float = -10.0  # The first one, for nearly all pairs do not belong together.

  @nn.compact
  def __call__(self, outputs, batch, encode_video, train):
    B = outputs['video_embed'].shape[0]
    bias = self.param('bias', nn.initializers.constant(self.bias), ())
    scale_B = Scale(1 / self.temperature, name='scale')(B)
    return {'sigmoid_scale': scale_B, 'sigmoid_bias': jnp.broadcast_to(bias, (B,))}


SIGMOID = Objective(
  sigmoid, (*EMBEDS, 'sigmoid_scale', 'sigmoid_bias'), head=SigmoidHead, chance=RECALL_CHANCE, check=check_temperature
)


def frame_transcript(outputs, batch, *, temperature: float = 0.05):
  """MERLOT: each frame against the transcript of its time, among all of the global batch, both directions added."""
  flat = lambda name: rearrange(outputs[name], 'b k c -> (b k) c')
  similarity_NxN = cosines(flat('frame_embed'), flat('transcript_embed'))
  metrics = {'f2t_r1': recall_at_1(similarity_NxN), 't2f_r1': recall_at_1(similarity_NxN.T)}
  return info_nce(similarity_NxN / temperature), metrics


class FrameHead(nn.Module):
  """It has no parameters: frames are projected as clips are."""

  config: TVTSConfig

  def __call__(self, outputs, batch, encode_video, train):
    """Row [b, i] is of the frame that belongs to the i-th transcript given."""
    frames = video_order.encode_frames(self.config, batch, batch['order'], encode_video, train)
    return {'frame_embed': rearrange(frames['video_embed'], '(b k) c -> b k c', b=batch['order'].shape[0])}


FRAME_TRANSCRIPT = Objective(
  frame_transcript,
  ('frame_embed', 'transcript_embed'),
  head=FrameHead,
  even=True,
  chance={'loss': lambda K, B: 2 * math.log(K * B)} | dict.fromkeys(('f2t_r1', 't2f_r1'), lambda K, B: 1 / (K * B)),
  check=check_temperature,
)
