"""A kernel for attention on TPUs, for sequences so short that a clip's logits of one head fit the fast memory.

A program takes a whole clip, all heads in turn. Its logits and weights never leave the fast memory, which is what makes
attention slow elsewhere; and as it sees a row whole, it needs neither a running softmax nor tokens of padding.

Tokens stand as the projections make them, [B, N, H·C]. Heads narrower than the LANES of a register share a stretch of
lanes. Where one head of several is meant, the lanes of the others are zeroed in one factor: the matrix unit takes as
long for a few lanes as for all, and nothing needs to be shifted.

Shapes: B clips, Q query tokens, N tokens, H heads, C width of one head, W lanes of a stretch.
"""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tvts_jax.sharding import BATCH

LANES = 128
FAST_MEMORY = 96 << 20  # Bytes that a program may ask for.
SHORTEST, LONGEST = 64, 1200  # Tokens: fewer are not worth a program, and the logits of more do not fit its memory.


def fits(shape_4: tuple[int, ...], tokens: int, dtype) -> bool:
  """Whether it takes queries of this shape, [B, Q, H, C], and so many tokens; all that the mesh splits must come out
  even."""
  B, Q, H, _ = shape_4
  ways, tensor = split()
  short = min(Q, tokens) >= SHORTEST and max(Q, tokens) <= LONGEST
  return jnp.dtype(dtype).itemsize <= 4 and short and B % ways == 0 and H % tensor == 0


def split() -> tuple[int, int]:
  """Into how many parts the mesh that the caller has set splits clips, and heads."""
  mesh = jax.sharding.get_abstract_mesh()
  return math.prod(mesh.shape.get(axis, 1) for axis in BATCH[0]), mesh.shape.get('tensor', 1)


def stretches(heads: int, width: int) -> Iterator[tuple[slice, list[int]]]:
  """Lanes that are taken at once, and where in them each of their heads begins."""
  together = max(1, LANES // width)
  for first in range(0, heads, together):
    mine = min(together, heads - first)
    yield slice(first * width, (first + mine) * width), [i * width for i in range(mine)]


def product(a, b, contract: tuple[int, int]):
  """a · b over one axis of each, in float32."""
  exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
  over = (((contract[0],), (contract[1],)), ((), ()))
  return jax.lax.dot_general(a, b, over, precision=exact, preferred_element_type=jnp.float32)


def alone(x_NxW, own_1xW):
  return x_NxW if own_1xW is None else jnp.where(own_1xW, x_NxW, jnp.zeros_like(x_NxW))


def own_lanes(lanes: slice, starts: list[int], width: int) -> list:
  """For each head of a stretch which lanes are its own; None where it has all of them."""
  if len(starts) == 1:
    return [None]
  lane_1xW = jax.lax.broadcasted_iota(jnp.int32, (1, lanes.stop - lanes.start), 1)
  return [(lane_1xW >= start) & (lane_1xW < start + width) for start in starts]


def logits(q_QxW, k_NxW, scale: float, length, causal: bool):
  """Of one head, [Q, N], in float32; those of padding and of later tokens are the least there is."""
  logits_QxN = scale * product(q_QxW, k_NxW, (1, 1))
  column_QxN = jax.lax.broadcasted_iota(jnp.int32, logits_QxN.shape, 1)
  if length is not None:
    logits_QxN = jnp.where(column_QxN < length, logits_QxN, jnp.finfo(jnp.float32).min)
  if causal:
    row_QxN = jax.lax.broadcasted_iota(jnp.int32, logits_QxN.shape, 0)
    logits_QxN = jnp.where(column_QxN <= row_QxN, logits_QxN, jnp.finfo(jnp.float32).min)
  return logits_QxN


def forward_kernel(length_ref, q_ref, k_ref, v_ref, out_ref, level_ref, *, heads: int, masked: bool, causal: bool):
  width = q_ref.shape[-1] // heads
  length = length_ref[pl.program_id(0)] if masked else None
  levels = []
  for lanes, starts in stretches(heads, width):
    q_QxW, k_NxW, v_NxW = (ref[0, :, lanes] for ref in (q_ref, k_ref, v_ref))
    out_QxW = jnp.zeros(q_QxW.shape, jnp.float32)
    for own in own_lanes(lanes, starts, width):
      logits_QxN = logits(alone(q_QxW, own), k_NxW, width**-0.5, length, causal)
      most_Qx1 = logits_QxN.max(-1, keepdims=True)
      powers_QxN = jnp.exp(logits_QxN - most_Qx1)
      sum_Qx1 = powers_QxN.sum(-1, keepdims=True)
      head_QxW = product(powers_QxN.astype(v_NxW.dtype), v_NxW, (1, 0)) / sum_Qx1
      out_QxW = head_QxW if own is None else jnp.where(own, head_QxW, out_QxW)
      levels.append(most_Qx1 + jnp.log(sum_Qx1))
    out_ref[0, :, lanes] = out_QxW.astype(out_ref.dtype)
  level_ref[0] = jnp.concatenate(levels, axis=1).T


def backward_kernel(*refs, heads: int, masked: bool, causal: bool):
  length_ref, q_ref, k_ref, v_ref, out_ref, level_ref, toward_ref, dq_ref, dk_ref, dv_ref = refs
  width = q_ref.shape[-1] // heads
  scale, length = width**-0.5, length_ref[pl.program_id(0)] if masked else None
  level_QxH = level_ref[0].T
  for lanes, starts in stretches(heads, width):
    q_QxW, k_NxW, v_NxW, toward_QxW = (ref[0, :, lanes] for ref in (q_ref, k_ref, v_ref, toward_ref))
    mean_QxW = toward_QxW.astype(jnp.float32) * out_ref[0, :, lanes].astype(jnp.float32)
    made = [jnp.zeros(x.shape, jnp.float32) for x in (q_QxW, k_NxW, v_NxW)]
    for own, start in zip(own_lanes(lanes, starts, width), starts):
      head = (lanes.start + start) // width
      logits_QxN = logits(alone(q_QxW, own), k_NxW, scale, length, causal)
      weights_QxN = jnp.exp(logits_QxN - level_QxH[:, head : head + 1])
      mean_Qx1 = alone(mean_QxW, own).sum(-1, keepdims=True)
      slope_QxN = product(alone(toward_QxW, own), v_NxW, (1, 1))
      slope_QxN = (weights_QxN * (slope_QxN - mean_Qx1)).astype(q_QxW.dtype)
      dq_QxW = scale * product(slope_QxN, k_NxW, (1, 0))
      dk_NxW = scale * product(slope_QxN, q_QxW, (0, 0))
      dv_NxW = product(weights_QxN.astype(q_QxW.dtype), toward_QxW, (0, 0))
      made = [new if own is None else jnp.where(own, new, old) for new, old in zip((dq_QxW, dk_NxW, dv_NxW), made)]
    for ref, x_NxW in zip((dq_ref, dk_ref, dv_ref), made):
      ref[0, :, lanes] = x_NxW.astype(ref.dtype)


def call(kernel, name: str, products: int, heads: int, causal: bool, length_B, arrays: list, results: list):
  """The kernel, once for each clip. products: of all tokens with all, as many as it computes."""
  (B, Q, D), N = arrays[0].shape, arrays[1].shape[1]
  clip = lambda x: pl.BlockSpec((1, *x.shape[1:]), lambda b, *_: (b, 0, 0))
  masked = length_B is not None
  moved = sum(math.prod(x.shape) * x.dtype.itemsize for x in (*arrays, *results))
  return pl.pallas_call(
    functools.partial(kernel, heads=heads, masked=masked, causal=causal),
    out_shape=results,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(B,),
      in_specs=[clip(x) for x in arrays],
      out_specs=[clip(x) for x in results],
    ),
    cost_estimate=pl.CostEstimate(
      flops=products * 2 * B * Q * N * D, transcendentals=B * heads * Q * N, bytes_accessed=moved
    ),
    compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel',), vmem_limit_bytes=FAST_MEMORY),
    name=name,
  )(length_B if masked else jnp.zeros(1, jnp.int32), *arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def of_clips(q_BxQxD, k_BxNxD, v_BxNxD, length_B, heads: int, causal: bool):
  return forward(q_BxQxD, k_BxNxD, v_BxNxD, length_B, heads, causal)[0]


def forward(q_BxQxD, k_BxNxD, v_BxNxD, length_B, heads: int, causal: bool):
  B, Q, _ = q_BxQxD.shape
  arrays = [q_BxQxD, k_BxNxD, v_BxNxD]
  results = [jax.ShapeDtypeStruct(q_BxQxD.shape, q_BxQxD.dtype), jax.ShapeDtypeStruct((B, heads, Q), jnp.float32)]
  found = call(forward_kernel, 'short_attention', 2, heads, causal, length_B, arrays, results)
  out_BxQxD, level_BxHxQ = (checkpoint_name(x, 'attention') for x in found)
  return out_BxQxD, (*arrays, length_B, out_BxQxD, level_BxHxQ)


def backward(heads: int, causal: bool, kept, toward_BxQxD):
  q_BxQxD, k_BxNxD, v_BxNxD, length_B, out_BxQxD, level_BxHxQ = kept
  arrays = [q_BxQxD, k_BxNxD, v_BxNxD, out_BxQxD, level_BxHxQ, toward_BxQxD]
  results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays[:3]]
  made = call(backward_kernel, 'short_attention_gradient', 5, heads, causal, length_B, arrays, results)
  return *made, None


of_clips.defvjp(forward, backward)


def attend(q_BxQxHxC, k_BxNxHxC, v_BxNxHxC, length_B=None, causal: bool = False):
  """[B, Q, H, C]. Each device computes its own clips and heads: no compiler can split a kernel."""
  heads = q_BxQxHxC.shape[2]
  flat = lambda x_BxNxHxC: x_BxNxHxC.reshape(*x_BxNxHxC.shape[:2], -1)
  ways, tensor = split()

  def own(length_B, *qkv):
    return of_clips(*qkv, length_B, heads // tensor, causal)

  if ways * tensor > 1:
    place = jax.P(*BATCH, None, 'tensor')
    own = jax.shard_map(own, in_specs=(BATCH, place, place, place), out_specs=place, check_vma=False)
  return own(length_B, *map(flat, (q_BxQxHxC, k_BxNxHxC, v_BxNxHxC))).reshape(q_BxQxHxC.shape)
