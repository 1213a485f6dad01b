"""Whether the attention kernels of a model compute on the devices at hand what XLA computes in float32."""

import jax
import jax.numpy as jnp
import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.human import percent
from tvts_jax.models import attention, tvts

TOLERANCE = 0.02  # Of the root mean square; rounding to bfloat16 makes half a percent.
CLIPS = 4
# At such numbers of tokens some releases of cuDNN give gradients that are NaN (pytorch/pytorch#196678).
RISKY = 128, 64


def check(model: tvts.Model, params, spec) -> str:
  """Compares every use of a kernel, forward and gradient, and says what was compared. UserError where one is wrong.

  Args:
    params, spec: of the model and of its batch, shapes and types alone.
  """
  with attention.using(model.config.attention):
    if attention.wanted() == 'xla':
      return 'XLA computes all of it'
  apply = lambda params, batch, rng: model.apply(params, batch, rng, True)
  uses = attention.calls(apply, params, spec, jax.eval_shape(lambda: jax.random.key(0)))
  found = {use: difference(use) for use in uses if use.kernel != 'xla'}
  if wrong := [use for use, worst in found.items() if not worst <= TOLERANCE]:
    use, kind = wrong[0], jax.devices()[0].device_kind
    worst = f'differs by {percent(found[use])}' if np.isfinite(found[use]) else 'is not finite'
    raise UserError(
      f'attention by {use.kernel} on {kind} {worst} from what XLA computes in float32, of {name_of(use)}, where '
      f"{percent(TOLERANCE)} is allowed; set model.attention='xla'"
    )
  said = [f'{use.kernel} of {name_of(use)} within {percent(worst)} of XLA in float32' for use, worst in found.items()]
  every, left = RISKY
  said += [
    f'cuDNN of {use.tokens} tokens with a mask may give NaN in some of its releases: change input.max_tokens or '
    "input.keep by one, or set model.attention='xla'"
    for use in found
    if use.kernel == 'cudnn' and use.masked and use.tokens % every == left
  ]
  return '; '.join(said) or 'XLA computes all of it'


def name_of(use: attention.Call) -> str:
  _, Q, H, C = use.queries
  kind = ', '.join(['masked'] * use.masked + ['causal'] * use.causal)
  return f'{Q} × {use.tokens} tokens, {H} heads of {C}{f" ({kind})" if kind else ""}'


def difference(use: attention.Call) -> float:
  """Of the result and of its three gradients the one that is farthest off, as a share of the right one."""
  B, Q, H, C = use.queries
  B, N = min(B, CLIPS), use.tokens
  draw = lambda seed, tokens: jax.random.normal(jax.random.key(seed), (B, tokens, H, C), use.dtype)
  given = draw(0, Q), draw(1, N), draw(2, N), draw(3, Q)
  mask_BxN = np.arange(N) < np.linspace(1, N, B, dtype=int)[:, None] if use.masked else None

  def run(q_BxQxHxC, k_BxNxHxC, v_BxNxHxC, toward_BxQxHxC):
    attend = lambda *qkv: attention.attend(*qkv, mask_BxN, causal=use.causal)
    out_BxQxHxC, pull = jax.vjp(attend, q_BxQxHxC, k_BxNxHxC, v_BxNxHxC)
    return out_BxQxHxC, *pull(toward_BxQxHxC)

  found = jax.jit(attention.using(use.kernel)(run))(*given)
  exact = jax.default_matmul_precision('highest')(attention.using('xla')(run))
  right = jax.jit(exact)(*(x.astype(jnp.float32) for x in given))
  errors = [
    jnp.linalg.norm((ours.astype(jnp.float32) - theirs).ravel()) / jnp.linalg.norm(theirs.ravel())
    for ours, theirs in zip(found, right, strict=True)
  ]
  return float(jnp.stack(errors).max())  # NaN if one of them is.
