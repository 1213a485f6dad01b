"""Optimizers: what turns gradients into updates."""

import jax
import jax.numpy as jnp
import optax


def scale_by_reference_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
  """Adam as the reference code runs it: eps is added to √v *before* the bias correction.

  So the eps that counts at step t is eps / √(1 - b2^t), some thirty times larger at the first step than in optax.adam.
  """

  def update(gradients, state, params=None):
    del params
    count = optax.safe_increment(state.count)
    mu = optax.tree.update_moment(gradients, state.mu, b1, 1)
    nu = optax.tree.update_moment(gradients, state.nu, b2, 2)
    t = count.astype(jnp.promote_types(jnp.float32, jax.tree.leaves(nu)[0].dtype))
    correction = jnp.sqrt(1 - b2**t) / (1 - b1**t)
    updates = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu)
    return updates, optax.ScaleByAdamState(count, mu, nu)

  return optax.GradientTransformation(optax.scale_by_adam(b1, b2, eps).init, update)
