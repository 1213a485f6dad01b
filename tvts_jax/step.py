"""The train step: a pure function (state, batch, rng) → (state, metrics)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tvts_jax import objectives, optim, sharding
from tvts_jax.errors import UserError
from tvts_jax.input import fields
from tvts_jax.models import tvts

# Steps that say what is usual, for the spike rule.
USUAL = 128
CENTRE = 0.9  # Decay of the running mean of what a teacher gives.
# TPUs would else pass on weights that fsdp splits in as many pieces, with a small product for each.
COMPILER_OPTIONS = {
  'tpu': {
    'xla_tpu_enable_windowed_einsum_for_all_gather': False,
    'xla_tpu_enable_windowed_einsum_for_reduce_scatter': False,
  }
}


class Spikes(NamedTuple):
  """What the spike rule remembers."""

  recent: jax.Array  # float32 [2, USUAL]: losses and gradient norms.
  seen: jax.Array  # int32 []: steps that it looked at.
  skipped: jax.Array  # int32 []: of them.


class State(NamedTuple):
  step: jax.Array  # int32 [].
  params: Any
  opt_state: Any
  ema: Any = None  # A running mean of the parameters, or None.
  spikes: Spikes | None = None
  centre: Any = None  # The running mean of each output that a teacher gives, over clips, or None.


class Parts(NamedTuple):
  """What a run trains and how; nothing is allocated."""

  model: tvts.Model
  loss_fn: objectives.Loss
  train_step: Callable  # (state, batch, rng) → (state, metrics).
  spec: dict  # Shapes and types of what the model reads of a batch.
  init: Callable  # A key → State.
  begin: Callable  # Parameters → State of a run that begins with them.
  shapes: State  # Of jax.ShapeDtypeStructs.


def build(config) -> tuple[tvts.Model, objectives.Loss, dict]:
  """Model and loss of a RunConfig, and the shapes and types of what the model reads of a batch."""
  loss_fn, given = objectives.build(config.objectives), config.input
  # A batch may have less transcripts than the sorter was built for.
  texts = dataclasses.replace(config.model, transcripts=given.transcripts)
  spec = tvts.batch_spec(texts, given.batch, given.tubelets, given.max_tokens)
  spec |= {
    name: jax.ShapeDtypeStruct((given.batch, *shape), kind) for name, (shape, kind) in fields.spec(given).items()
  }
  return tvts.build(config.model, loss_fn.heads), loss_fn, spec


def describe(config, steps: int) -> Parts:
  """config: a RunConfig; steps: how long it trains, which changes no shape."""
  for name in ('dtype', 'param_dtype'):
    if getattr(config.model, name) == 'float16':
      raise UserError(
        f"model.{name}='float16' is not for training, because small gradients become zero in it and the loss is not "
        f"scaled; set model.{name}='bfloat16', or 'float32' where that is slow"
      )
  model, loss_fn, spec = build(config)
  params = jax.eval_shape(lambda seed: model.init(jax.random.key(seed), spec), config.seed)
  tx = optim.build(config.optim, params, steps)

  def begin(params) -> State:
    zero = jnp.zeros((), jnp.int32)
    # Copies, because a donated buffer must not be two leaves.
    mean = jax.tree.map(jnp.copy, params) if config.ema else None
    spikes = Spikes(jnp.zeros((2, USUAL), jnp.float32), zero, zero.copy()) if config.spike_sigmas else None
    said = jax.eval_shape(lambda *given: loss_fn.ask(model.apply, *given), params, spec, jax.random.key(0))
    centre = {name: jnp.zeros(x.shape[-1], jnp.float32) for name, x in said.items()} or None
    return State(zero.copy(), params, tx.init(params), mean, spikes, centre)

  trained = model._replace(apply=lambda params, *given: model.apply(optim.stop_frozen(config.optim, params), *given))
  train_step = make_train_step(
    trained, loss_fn, tx, micro_batches=config.micro_batches, ema=config.ema, spike_sigmas=config.spike_sigmas
  )
  init = lambda rng: begin(model.init(rng, spec))
  return Parts(model, loss_fn, tvts.as_set(config.model, train_step), spec, init, begin, jax.eval_shape(begin, params))


def complete(state: State, begin: Callable, place: State) -> State:
  """Fields that the run keeps and the state lacks are those of a run that begins with its parameters."""
  lacking = {
    name: where for name, where in place._asdict().items() if getattr(state, name) is None and where is not None
  }
  make = lambda params: {name: getattr(begin(params), name) for name in lacking}
  return state._replace(**jax.jit(make, out_shardings=lacking)(state.params)) if lacking else state


def scored(loss_fn, outputs, batch):
  """(loss, metrics), and `bad_clip`: the first clip of the batch with an output that is not finite, or -1."""
  loss, metrics = loss_fn(outputs, batch)
  finite_B = lambda x_Bx: jnp.isfinite(x_Bx).all(axis=tuple(range(1, x_Bx.ndim)))
  finite_B = functools.reduce(jnp.logical_and, [finite_B(outputs[name]) for name in loss_fn.reads])
  B = len(finite_B)
  first = jnp.where(finite_B, B, jnp.arange(B)).min()  # An argmin would gather the clips of a mesh.
  return loss, metrics | {'bad_clip': jnp.where(first < B, first, -1)}


def whole_gradient(model, loss_fn, params, batch, rng):
  """(loss, metrics) and gradient of one pass over the batch."""
  score = lambda params: scored(loss_fn, model.apply(params, batch, rng, True), batch)
  return jax.value_and_grad(score, has_aux=True)(params)


def in_parts(batch, rng, parts: int):
  """Micro-batches and a key for each. Each takes every parts-th row, so that it lies on all devices and nothing moves
  between them."""
  return jax.tree.map(lambda x: split(x, parts), batch), jax.random.split(rng, parts)


def split(x, parts: int):
  return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)


def merge(x):
  return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])


def accumulated_gradient(model, loss_fn, params, batch, rng, parts: int):
  """The same in `parts` micro-batches, with the loss still over the global batch.

  The first pass only collects embeddings; the loss and its gradient toward them are taken over all of them at once;
  the second pass carries that gradient on into the parameters, one micro-batch at a time.
  """
  inputs = in_parts(batch, rng, parts)

  def embed(params, part, key):
    outputs = model.apply(params, part, key, True)
    return {name: outputs[name] for name in loss_fn.reads}

  _, cached = jax.lax.scan(lambda _, xs: (None, embed(params, *xs)), None, inputs)
  outputs = jax.tree.map(merge, cached)
  loss, pull, metrics = jax.vjp(lambda outputs: scored(loss_fn, outputs, batch), outputs, has_aux=True)
  toward = jax.tree.map(lambda x: split(x, parts), pull(jnp.ones_like(loss))[0])

  def backward(gradient, xs):
    inputs, toward_part = xs
    _, pull = jax.vjp(lambda params: embed(params, *inputs), params)
    return jax.tree.map(jnp.add, gradient, pull(toward_part)[0]), None

  zeros = jax.tree.map(jnp.zeros_like, params)
  gradient, _ = jax.lax.scan(backward, zeros, (inputs, toward))
  return (loss, metrics), gradient


def make_train_step(
  model,
  loss_fn,
  tx: optax.GradientTransformation,
  *,
  micro_batches: int = 1,
  ema: float = 0.0,
  spike_sigmas: float = 0.0,
):
  """The plain step, with a gradient and an update that do more where more is asked for."""
  gradient = functools.partial(whole_gradient, model, loss_fn)
  if micro_batches > 1:
    gradient = functools.partial(accumulated_gradient, model, loss_fn, parts=micro_batches)
  update = plain_update(tx)
  if ema:
    update = with_ema(update, ema, teaches=bool(loss_fn.taught))
  if spike_sigmas:
    update = without_spikes(update, spike_sigmas)
  step = plain_step(gradient, without_nan(update))
  return with_teacher(step, model, loss_fn, micro_batches) if loss_fn.taught else step


def plain_step(gradient: Callable, update: Callable):
  """gradient: (params, batch, rng) → ((loss, metrics), gradient); update: (state, gradient, metrics) → (state, metrics)
  with the next step's number, and what there is to say of the update."""

  def train_step(state: State, batch, rng):
    rng = jax.random.fold_in(rng, state.step)
    (_, metrics), grads = gradient(state.params, batch, rng)
    metrics |= {'gradient_norm': optax.tree.norm(grads)}
    state, of_update = update(state, grads, metrics)
    return state, {**metrics, **of_update, 'parameter_norm': optax.tree.norm(state.params)}

  return train_step


def with_teacher(step: Callable, model, loss_fn, parts: int):
  """The running mean of the parameters sees the batch first, as the step will see it, but without dropout. What it
  gives joins the batch, less what it gave of clips before on average: else it could give the same of all."""

  def train_step(state: State, batch, rng):
    given = in_parts(batch, jax.random.fold_in(rng, state.step), parts)
    _, said = jax.lax.scan(lambda _, xs: (None, loss_fn.ask(model.apply, state.ema, *xs)), None, given)
    said = jax.tree.map(merge, said)
    less = {name: x - jnp.expand_dims(state.centre[name], range(x.ndim - 1)) for name, x in said.items()}
    new, metrics = step(state, batch | less, rng)
    mean = {name: x.mean(axis=tuple(range(x.ndim - 1))) for name, x in said.items()}
    follow = lambda old, now: jnp.where(metrics['finite'], CENTRE * old + (1 - CENTRE) * now, old)
    return new._replace(centre=jax.tree.map(follow, state.centre, mean)), metrics

  return train_step


def plain_update(tx: optax.GradientTransformation):
  tx = optax.with_extra_args_support(tx)

  def update(state: State, gradient, metrics):
    del metrics
    updates, opt_state = tx.update(gradient, state.opt_state, state.params, step=state.step)
    params = optax.apply_updates(state.params, updates)
    state = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
    return state, {'update_norm': optax.tree.norm(updates)}

  return update


def with_ema(update: Callable, decay: float, teaches: bool):
  """The running mean follows the parameters, closely at first, or it would be that of the initial ones for long. One
  that teaches is slow from the first step: a student that sees itself soon gives the same of all clips."""

  def averaged(state: State, gradient, metrics):
    new, of_update = update(state, gradient, metrics)
    follow = 1 - (jnp.float32(decay) if teaches else jnp.minimum(decay, (1 + state.step) / (10 + state.step)))
    ema = jax.tree.map(lambda mean, leaf: mean + follow.astype(mean.dtype) * (leaf - mean), state.ema, new.params)
    return new._replace(ema=ema), of_update

  return averaged


def without_nan(update: Callable):
  """A loss or gradient that is not finite must not reach the parameters: nothing changes but the step's number."""

  def guarded(state: State, gradient, metrics):
    finite = jnp.isfinite(metrics['loss']) & jnp.isfinite(metrics['gradient_norm'])
    new, of_update = take_or_keep(finite, update, state, gradient, metrics)
    return new._replace(step=state.step + 1), {**of_update, 'finite': finite}

  return guarded


def without_spikes(update: Callable, sigmas: float):
  """A step with a spike changes nothing but the step's number and what the rule remembers."""

  def guarded(state: State, gradient, metrics):
    spike, spikes = is_spike(state.spikes, metrics['loss'], metrics['gradient_norm'], sigmas)
    new, of_update = take_or_keep(~spike, update, state, gradient, metrics)
    return new._replace(step=state.step + 1, spikes=spikes), {**of_update, 'spike': spike, 'skipped': spikes.skipped}

  return guarded


def take_or_keep(take, update: Callable, state: State, gradient, metrics):
  """What update makes if `take`, else the same state and zeros."""
  update = jax.jit(update)  # Traced once, for all of what follows.
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(update, state, gradient, metrics)[1])
  # A branch would keep TPUs and GPUs from fusing; on CPUs a choice reads and writes the state twice as often.
  branch = lambda state: jax.lax.cond(take, lambda s: update(s, gradient, metrics), lambda s: (s, zeros), state)
  choice = lambda state: jax.tree.map(
    lambda new, old: jnp.where(take, new, old), update(state, gradient, metrics), (state, zeros)
  )
  return jax.lax.platform_dependent(state, cpu=branch, default=choice)


def is_spike(spikes: Spikes, loss, gradient_norm, sigmas: float) -> tuple[jax.Array, Spikes]:
  """Whether one of the two is more than `sigmas` deviations above its last USUAL values; and what to remember.

  A spike is remembered as the limit that it broke: one changes little, and a level that has truly risen becomes usual.
  """
  now_2 = jnp.stack([loss, gradient_norm]).astype(jnp.float32)
  limit_2 = spikes.recent.mean(axis=1) + sigmas * spikes.recent.std(axis=1)
  limit_2 = jnp.where(spikes.seen < USUAL, jnp.inf, limit_2)
  spike = (now_2 > limit_2).any()
  recent = spikes.recent.at[:, spikes.seen % USUAL].set(jnp.minimum(now_2, limit_2))
  return spike, Spikes(recent, spikes.seen + 1, spikes.skipped + spike)


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
  return jitted.lower(state, spec, rng).compile(compiler_options=COMPILER_OPTIONS.get(mesh.devices.flat[0].platform))


def specs_of(source) -> list[dict]:
  """Shapes and types of the batches that the step is given, of steps 0, 1, ... in turn."""
  return [
    {name: jax.ShapeDtypeStruct(*kind) for name, kind in spec.items() if name != 'example_id'} for spec in source.specs
  ]


def compile_steps(train_step, state, specs, rng, place, mesh) -> list:
  """One for each of the specs; those of batches of one shape share theirs."""
  specs = [tuple(spec.items()) for spec in specs]
  compiled = {spec: compile_step(train_step, state, dict(spec), rng, place, mesh) for spec in dict.fromkeys(specs)}
  return [compiled[spec] for spec in specs]
