"""Attention of several heads, by the kernel that is fast where it runs.

Shapes: B batch, N tokens, Q query tokens, H heads, C width of one head. Tokens stand before heads, as the projections
make them, so that nothing has to be moved. A mask is true for the first tokens of a row, those before the padding.

The kernels of cuDNN and of short_attention.py keep no logits, whose traffic would be half as much again as all other of
a step. Elsewhere the gradient is written out, so that compilers can make weights and slopes within the matmuls.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tvts_jax.errors import UserError
from tvts_jax.models import short_attention

KERNELS = {
  'auto': 'cudnn on NVIDIA GPUs from Ampere on, pallas on TPUs, xla elsewhere',
  'xla': 'what the compiler makes of matmuls and a softmax',
  'cudnn': "cuDNN's fused attention",
  'pallas': 'short_attention.py',
}
WIDEST = 128  # Head that cuDNN takes on every GPU it supports.


class Call(NamedTuple):
  """One use of attention by a model."""

  kernel: str  # Of KERNELS, that computes it.
  queries: tuple[int, ...]  # B, Q, H and C.
  tokens: int
  dtype: str
  masked: bool
  causal: bool


chosen = contextvars.ContextVar('chosen', default='auto')
target: contextvars.ContextVar[jax.Device | None] = contextvars.ContextVar('target', default=None)
noted: contextvars.ContextVar[list[Call] | None] = contextvars.ContextVar('noted', default=None)


@contextlib.contextmanager
def within(variable: contextvars.ContextVar, value) -> Iterator[None]:
  token = variable.set(value)
  try:
    yield
  finally:
    variable.reset(token)


def using(kernel: str):
  """A context, or a decorator: all attention that is traced in it is by this kernel, where that takes its shapes."""
  return within(chosen, kernel)


def compiling_for(device: jax.Device):
  """A context: what is traced in it will run on such devices, not on those of this process."""
  return within(target, device)


def calls(function, *args) -> list[Call]:
  """The uses of attention by a function, each once; nothing is computed. args: arrays, or their shapes and types."""
  with within(noted, []):
    jax.eval_shape(function, *args)
    return list(dict.fromkeys(noted.get()))


def of_device(device) -> str:
  """What 'auto' is there."""
  if device.platform == 'tpu':
    return 'pallas'
  ampere = device.device_kind.startswith('NVIDIA') and float(getattr(device, 'compute_capability', '0')) >= 8
  return 'cudnn' if ampere else 'xla'


def wanted() -> str:
  device, asked = target.get() or jax.devices()[0], chosen.get()
  if asked == 'auto':
    return of_device(device)
  if asked not in ('xla', of_device(device)):
    raise UserError(
      f"model.attention={asked!r} cannot run on {device.device_kind}; set model.attention='auto', or 'xla', which runs "
      'everywhere'
    )
  return asked


def cudnn_takes(dtype, width: int) -> bool:
  return jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16) and width % 8 == 0 and width <= WIDEST


def wants_even(dtype, width: int) -> bool:
  """Whether heads of so many values are for a kernel that can be differentiated for even numbers of tokens alone."""
  return wanted() == 'cudnn' and cudnn_takes(dtype, width)


def evened(x_BxNxD, mask_BxN=None):
  """Tokens and mask with one token of padding more: for all blocks at once."""
  if mask_BxN is None:
    mask_BxN = jnp.ones(x_BxNxD.shape[:2], bool)
  return jnp.pad(x_BxNxD, ((0, 0), (0, 1), (0, 0))), jnp.pad(mask_BxN, ((0, 0), (0, 1)))


def kernel_for(shape_4: tuple[int, ...], tokens: int, dtype) -> str:
  """The one that is wanted, if it takes so many queries, heads and tokens; else 'xla'."""
  _, Q, H, C = shape_4
  takes = {
    'xla': lambda: True,
    'cudnn': lambda: cudnn_takes(dtype, C) and Q % 2 == tokens % 2 == 0,
    'pallas': lambda: short_attention.fits(shape_4, tokens, dtype),
  }
  kernel = wanted()
  return kernel if takes[kernel]() else 'xla'


def attend(q_BxQxHxC, k_BxNxHxC, v_BxNxHxC, mask_BxN=None, drop=None, causal: bool = False):
  """[B, Q, H, C], kept for the backward pass as 'attention'. drop: what becomes of the weights in training, where they
  drop out, which only XLA can do. causal: a token sees itself and those before it."""
  dtype, N = q_BxQxHxC.dtype, k_BxNxHxC.shape[1]
  kernel = 'xla' if drop else kernel_for(q_BxQxHxC.shape, N, dtype)
  if (seen := noted.get()) is not None:
    seen.append(Call(kernel, q_BxQxHxC.shape, N, str(dtype), mask_BxN is not None, causal))
  if kernel == 'xla':
    return plain(q_BxQxHxC, k_BxNxHxC, v_BxNxHxC, mask_BxN, drop, causal)
  length_B = None if mask_BxN is None else lengths(mask_BxN)
  return {'cudnn': fused, 'pallas': short_attention.attend}[kernel](q_BxQxHxC, k_BxNxHxC, v_BxNxHxC, length_B, causal)


def lengths(mask_BxN):
  """A row of nothing but padding, which nobody reads, still needs a number."""
  return jnp.maximum(mask_BxN.sum(-1, dtype=jnp.int32), 1)


def fused(q_BxQxHxC, k_BxNxHxC, v_BxNxHxC, length_B=None, causal: bool = False):
  how = dict(key_value_seq_lengths=length_B, is_causal=causal, implementation='cudnn')
  return checkpoint_name(jax.nn.dot_product_attention(q_BxQxHxC, k_BxNxHxC, v_BxNxHxC, **how), 'attention')


def plain(q_BxQxHxC, k_BxNxHxC, v_BxNxHxC, mask_BxN=None, drop=None, causal=False):
  if drop is None:
    return plain_vjp(q_BxQxHxC, k_BxNxHxC, v_BxNxHxC, mask_BxN, causal)
  weights_BxHxQxN = drop(weights(q_BxQxHxC, k_BxNxHxC, mask_BxN, causal))
  return checkpoint_name(jnp.einsum('bhqn,bnhc->bqhc', weights_BxHxQxN, v_BxNxHxC), 'attention')


def weights(q_BxQxHxC, k_BxNxHxC, mask_BxN, causal):
  """A softmax. A block that is computed again has each row's largest logit and its sum, and makes weights in one go."""
  wide = jnp.promote_types(q_BxQxHxC.dtype, jnp.float32)
  scale = q_BxQxHxC.shape[-1] ** -0.5
  logits_BxHxQxN = scale * jnp.einsum('bqhc,bnhc->bhqn', q_BxQxHxC, k_BxNxHxC, preferred_element_type=wide)
  if mask_BxN is not None:
    logits_BxHxQxN = jnp.where(mask_BxN[:, None, None], logits_BxHxQxN, jnp.finfo(wide).min)
  if causal:
    earlier_QxN = jnp.tri(*logits_BxHxQxN.shape[2:], dtype=bool)
    logits_BxHxQxN = jnp.where(earlier_QxN[None, None], logits_BxHxQxN, jnp.finfo(wide).min)
  most_BxHxQx1 = checkpoint_name(logits_BxHxQxN.max(-1, keepdims=True), 'attention')
  powers_BxHxQxN = jnp.exp(logits_BxHxQxN - jax.lax.stop_gradient(most_BxHxQx1))
  sum_BxHxQx1 = checkpoint_name(powers_BxHxQxN.sum(-1, keepdims=True), 'attention')
  return (powers_BxHxQxN / sum_BxHxQx1).astype(q_BxQxHxC.dtype)


def forward(q_BxQxHxC, k_BxNxHxC, v_BxNxHxC, mask_BxN, causal):
  weights_BxHxQxN = weights(q_BxQxHxC, k_BxNxHxC, mask_BxN, causal)
  out_BxQxHxC = checkpoint_name(jnp.einsum('bhqn,bnhc->bqhc', weights_BxHxQxN, v_BxNxHxC), 'attention')
  return out_BxQxHxC, (q_BxQxHxC, k_BxNxHxC, v_BxNxHxC, weights_BxHxQxN, out_BxQxHxC)


def backward(causal, kept, toward_BxQxHxC):
  """What a row of weights takes from its slopes is one number, which the result tells as well (Dao et al., 2022)."""
  del causal  # The weights of later tokens are zero, and so are their slopes.
  q_BxQxHxC, k_BxNxHxC, v_BxNxHxC, weights_BxHxQxN, out_BxQxHxC = kept
  dtype = q_BxQxHxC.dtype
  wide = jnp.promote_types(dtype, jnp.float32)
  scale = q_BxQxHxC.shape[-1] ** -0.5
  mean_BxQxH = (toward_BxQxHxC.astype(wide) * out_BxQxHxC.astype(wide)).sum(-1)
  slope_BxHxQxN = jnp.einsum('bqhc,bnhc->bhqn', toward_BxQxHxC, v_BxNxHxC, preferred_element_type=wide)
  slope_BxHxQxN = (
    scale * weights_BxHxQxN.astype(wide) * (slope_BxHxQxN - mean_BxQxH.swapaxes(1, 2)[..., None])
  ).astype(dtype)
  dq_BxQxHxC = jnp.einsum('bhqn,bnhc->bqhc', slope_BxHxQxN, k_BxNxHxC)
  dk_BxNxHxC = jnp.einsum('bhqn,bqhc->bnhc', slope_BxHxQxN, q_BxQxHxC)
  dv_BxNxHxC = jnp.einsum('bhqn,bqhc->bnhc', weights_BxHxQxN, toward_BxQxHxC)
  return dq_BxQxHxC, dk_BxNxHxC, dv_BxNxHxC, None


plain_vjp = jax.custom_vjp(lambda q, k, v, mask, causal: forward(q, k, v, mask, causal)[0], nondiff_argnums=(4,))
plain_vjp.defvjp(forward, backward)
