"""The train step: a pure function (state, batch, rng) → (state, metrics)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tvts_jax import sharding

# What an accumulated step keeps of every micro-batch: small enough for the largest global batch.
CACHED = ('video_embed', 'text_embed', 'sort_logits')


class State(NamedTuple):
  step: jax.Array  # int32 []
  params: Any
  opt_state: Any
  ema: Any  # A running mean of the parameters, or None.


def init_state(model, tx, spec, ema: bool, rng) -> State:
  params = model.init(rng, spec)
  # Copies, because a donated buffer must not be two leaves.
  mean = jax.tree.map(jnp.copy, params) if ema else None
  return State(jnp.zeros((), jnp.int32), params, tx.init(params), mean)


def whole_gradient(model, loss_fn, params, batch, rng):
  """(loss, metrics) and gradient of one pass over the batch."""
  return jax.value_and_grad(lambda params: loss_fn(model.apply(params, batch, rng, True), batch), has_aux=True)(params)


def accumulated_gradient(model, loss_fn, params, batch, rng, parts: int):
  """The same in `parts` micro-batches, with the loss still over the global batch.

  The first pass only collects embeddings; the loss and its gradient toward them are taken over all of them at once;
  the second pass carries that gradient on into the parameters, one micro-batch at a time.
  """
  # Each part takes every parts-th row, so that it lies on all devices and nothing moves between them.
  split = lambda x: jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)
  merge = lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])
  inputs = (jax.tree.map(split, batch), jax.random.split(rng, parts))

  def embed(params, part, key):
    outputs = model.apply(params, part, key, True)
    return {name: outputs[name] for name in CACHED}

  _, cached = jax.lax.scan(lambda _, xs: (None, embed(params, *xs)), None, inputs)
  outputs = jax.tree.map(merge, cached)
  loss, pull, metrics = jax.vjp(lambda outputs: loss_fn(outputs, batch), outputs, has_aux=True)
  toward = jax.tree.map(split, pull(jnp.ones_like(loss))[0])

  def backward(gradient, xs):
    inputs, toward_part = xs
    _, pull = jax.vjp(lambda params: embed(params, *inputs), params)
    return jax.tree.map(jnp.add, gradient, pull(toward_part)[0]), None

  zeros = jax.tree.map(jnp.zeros_like, params)
  gradient, _ = jax.lax.scan(backward, zeros, (inputs, toward))
  return (loss, metrics), gradient


def make_train_step(model, loss_fn, tx: optax.GradientTransformation, *, micro_batches: int = 1, ema: float = 0.0):
  def train_step(state: State, batch, rng):
    rng = jax.random.fold_in(rng, state.step)
    if micro_batches == 1:
      (loss, metrics), gradient = whole_gradient(model, loss_fn, state.params, batch, rng)
    else:
      (loss, metrics), gradient = accumulated_gradient(model, loss_fn, state.params, batch, rng, micro_batches)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    mean = optax.incremental_update(params, state.ema, 1 - ema) if ema else None
    norms = {'gradient_norm': gradient, 'update_norm': updates, 'parameter_norm': params}
    metrics |= {name: optax.tree.norm(tree) for name, tree in norms.items()}
    # A loss or gradient that is no number must not reach the parameters: the state stays as it was.
    finite = jnp.isfinite(loss) & jnp.isfinite(metrics['gradient_norm'])
    new = State(state.step + 1, params, opt_state, mean)
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state), metrics | {'finite': finite}

  return train_step


def compile_step(train_step, state, spec, rng, place, mesh):
  """Compiled for exactly these shapes and places: a later change of either is an error, never a silent recompile."""
  batch_place = jax.NamedSharding(mesh, sharding.BATCH)
  everywhere = jax.NamedSharding(mesh, jax.P())
  jitted = jax.jit(
    train_step,
    in_shardings=(place, dict.fromkeys(spec, batch_place), everywhere),
    out_shardings=(place, everywhere),
    donate_argnums=0,
  )
  return jitted.lower(state, spec, rng).compile()
