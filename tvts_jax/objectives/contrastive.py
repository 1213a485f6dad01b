"""The global video-text contrastive loss: bidirectional InfoNCE over the whole batch.

Shapes: B clips of the global batch, C width of the common space.
"""

import jax
import jax.numpy as jnp


def unit(x_BxC):
  """Rows of length one; a row of zeros stays zero and has no gradient."""
  return x_BxC * jax.lax.rsqrt(jnp.maximum(jnp.square(x_BxC).sum(-1, keepdims=True), 1e-16))


def recall_at_1(similarity_QxG):
  """Share of queries whose own item, on the diagonal, is nearest. Tied items share the point."""
  best_QxG = similarity_QxG == similarity_QxG.max(axis=1, keepdims=True)
  return jnp.mean(jnp.diagonal(best_QxG) / best_QxG.sum(axis=1))


def contrastive(outputs, batch, *, temperature: float = 0.05, gradient_scale: float = 1.0):
  """Every clip against every text of the global batch, both directions added.

  The similarity is written once over the global batch and the compiler shards it, so the gradient is the true one on
  any number of devices. The reference code's is the true one divided by its number of processes, because its gather
  passes no gradient to the others' embeddings: `gradient_scale=1/processes` gives that, and leaves the loss as it is.
  """
  del batch
  similarity_BxB = unit(outputs['video_embed']) @ unit(outputs['text_embed']).T
  logits_BxB = similarity_BxB / temperature
  own = lambda log_probabilities: -jnp.mean(jnp.diagonal(log_probabilities))
  loss = own(jax.nn.log_softmax(logits_BxB, axis=1)) + own(jax.nn.log_softmax(logits_BxB, axis=0))
  loss = gradient_scale * loss + jax.lax.stop_gradient((1 - gradient_scale) * loss)
  metrics = {'v2t_r1': recall_at_1(similarity_BxB), 't2v_r1': recall_at_1(similarity_BxB.T)}
  return loss, metrics
