"""Attention of several heads, by the kernel that is fast where it runs.

Shapes: B batch, N tokens, Q query tokens, H heads, C width of one head. A mask is true for the first tokens of a row,
those before the padding.

cuDNN's fused kernel keeps no logits, whose traffic would be half as much again as all other of a step. Elsewhere the
gradient is written out, so that compilers can make weights and slopes within the products; by that of TPUs it saves a
fifth of a step.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

KERNELS = ('cudnn', 'xla')
WIDEST = 128  # Head that cuDNN takes on every GPU it supports.


def kernel(dtype, width: int) -> str:
  """Of KERNELS, for heads of so many values on the devices of this process."""
  fits = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16) and width % 8 == 0 and width <= WIDEST
  return 'cudnn' if fits and nvidia() else 'xla'


def nvidia() -> bool:
  """Whether the devices are NVIDIA GPUs of the Ampere generation or later."""
  device = jax.devices()[0]
  capability = getattr(device, 'compute_capability', '0')
  return device.device_kind.startswith('NVIDIA') and float(capability) >= 8


def evened(x_BxNxD, mask_BxN=None):
  """Tokens and mask with one token of padding more: for all blocks at once, as even numbers of tokens are what cuDNN's
  kernel can be differentiated for whatever else it is given."""
  if mask_BxN is None:
    mask_BxN = jnp.ones(x_BxNxD.shape[:2], bool)
  return jnp.pad(x_BxNxD, ((0, 0), (0, 1), (0, 0))), jnp.pad(mask_BxN, ((0, 0), (0, 1)))


def attend(q_BxHxQxC, k_BxHxNxC, v_BxHxNxC, mask_BxN=None, drop=None, causal: bool = False):
  """[B, H, Q, C], kept for the backward pass as 'attention'. drop: what becomes of the weights in training, where they
  drop out. causal: a token sees itself and those before it."""
  Q, C = q_BxHxQxC.shape[2:]
  N = k_BxHxNxC.shape[2]
  # What JAX makes of cuDNN has no dropout here, and is not asked for a gradient of odd numbers of tokens.
  if drop is None and Q % 2 == N % 2 == 0 and kernel(q_BxHxQxC.dtype, C) == 'cudnn':
    return fused(q_BxHxQxC, k_BxHxNxC, v_BxHxNxC, mask_BxN, causal)
  return plain(q_BxHxQxC, k_BxHxNxC, v_BxHxNxC, mask_BxN, drop, causal)


def fused(q_BxHxQxC, k_BxHxNxC, v_BxHxNxC, mask_BxN=None, causal=False):
  # A row of nothing but padding, which nobody reads, still needs a number.
  length_B = None if mask_BxN is None else jnp.maximum(mask_BxN.sum(-1, dtype=jnp.int32), 1)
  # Tokens go before heads, as the products that made them have it: nothing moves.
  q, k, v = (x.swapaxes(1, 2) for x in (q_BxHxQxC, k_BxHxNxC, v_BxHxNxC))
  lengths = dict(key_value_seq_lengths=length_B, is_causal=causal)
  out = jax.nn.dot_product_attention(q, k, v, **lengths, implementation='cudnn')
  return checkpoint_name(out.swapaxes(1, 2), 'attention')


def plain(q_BxHxQxC, k_BxHxNxC, v_BxHxNxC, mask_BxN=None, drop=None, causal=False):
  if drop is None:
    return plain_vjp(q_BxHxQxC, k_BxHxNxC, v_BxHxNxC, mask_BxN, causal)
  weights_BxHxQxN = drop(weights(q_BxHxQxC, k_BxHxNxC, mask_BxN, causal))
  return checkpoint_name(jnp.einsum('bhqn,bhnc->bhqc', weights_BxHxQxN, v_BxHxNxC), 'attention')


def weights(q_BxHxQxC, k_BxHxNxC, mask_BxN, causal):
  """A softmax. A block that is computed again has each row's largest logit and its sum, and makes weights in one go."""
  wide = jnp.promote_types(q_BxHxQxC.dtype, jnp.float32)
  scale = q_BxHxQxC.shape[-1] ** -0.5
  logits_BxHxQxN = scale * jnp.einsum('bhqc,bhnc->bhqn', q_BxHxQxC, k_BxHxNxC, preferred_element_type=wide)
  if mask_BxN is not None:
    logits_BxHxQxN = jnp.where(mask_BxN[:, None, None], logits_BxHxQxN, jnp.finfo(wide).min)
  if causal:
    earlier_QxN = jnp.tri(*logits_BxHxQxN.shape[2:], dtype=bool)
    logits_BxHxQxN = jnp.where(earlier_QxN[None, None], logits_BxHxQxN, jnp.finfo(wide).min)
  most_BxHxQx1 = checkpoint_name(logits_BxHxQxN.max(-1, keepdims=True), 'attention')
  powers_BxHxQxN = jnp.exp(logits_BxHxQxN - jax.lax.stop_gradient(most_BxHxQx1))
  sum_BxHxQx1 = checkpoint_name(powers_BxHxQxN.sum(-1, keepdims=True), 'attention')
  return (powers_BxHxQxN / sum_BxHxQx1).astype(q_BxHxQxC.dtype)


def forward(q_BxHxQxC, k_BxHxNxC, v_BxHxNxC, mask_BxN, causal):
  weights_BxHxQxN = weights(q_BxHxQxC, k_BxHxNxC, mask_BxN, causal)
  out_BxHxQxC = checkpoint_name(jnp.einsum('bhqn,bhnc->bhqc', weights_BxHxQxN, v_BxHxNxC), 'attention')
  return out_BxHxQxC, (q_BxHxQxC, k_BxHxNxC, v_BxHxNxC, weights_BxHxQxN, out_BxHxQxC)


def backward(causal, kept, toward_BxHxQxC):
  """What a row of weights takes from its slopes is one number, which the result tells as well (Dao et al., 2022)."""
  del causal  # The weights of later tokens are zero, and so are their slopes.
  q_BxHxQxC, k_BxHxNxC, v_BxHxNxC, weights_BxHxQxN, out_BxHxQxC = kept
  dtype = q_BxHxQxC.dtype
  wide = jnp.promote_types(dtype, jnp.float32)
  scale = q_BxHxQxC.shape[-1] ** -0.5
  mean_BxHxQx1 = (toward_BxHxQxC.astype(wide) * out_BxHxQxC.astype(wide)).sum(-1, keepdims=True)
  slope_BxHxQxN = jnp.einsum('bhqc,bhnc->bhqn', toward_BxHxQxC, v_BxHxNxC, preferred_element_type=wide)
  slope_BxHxQxN = (scale * weights_BxHxQxN.astype(wide) * (slope_BxHxQxN - mean_BxHxQx1)).astype(dtype)
  dq_BxHxQxC = jnp.einsum('bhqn,bhnc->bhqc', slope_BxHxQxN, k_BxHxNxC)
  dk_BxHxNxC = jnp.einsum('bhqn,bhqc->bhnc', slope_BxHxQxN, q_BxHxQxC)
  dv_BxHxNxC = jnp.einsum('bhqn,bhqc->bhnc', weights_BxHxQxN, toward_BxHxQxC)
  return dq_BxHxQxC, dk_BxHxNxC, dv_BxHxNxC, None


plain_vjp = jax.custom_vjp(lambda q, k, v, mask, causal: forward(q, k, v, mask, causal)[0], nondiff_argnums=(4,))
plain_vjp.defvjp(forward, backward)
