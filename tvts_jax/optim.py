"""Optimizers: what turns gradients into updates, as one chain built from a config."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tvts_jax import sharding
from tvts_jax.errors import UserError


def scale_by_reference_adam(b1: float, b2: float, eps: float, mu_dtype=None) -> optax.GradientTransformation:
  """Adam as the reference code runs it: eps is added to √v *before* the bias correction.

  So the eps that counts at step t is eps / √(1 - b2^t), some thirty times larger at the first step than optax.adam's.
  """

  def update(gradients, state, params=None):
    del params
    count = optax.safe_increment(state.count)
    mu = optax.tree.update_moment(gradients, state.mu, b1, 1)
    nu = optax.tree.update_moment(gradients, state.nu, b2, 2)
    t = count.astype(jnp.promote_types(jnp.float32, jax.tree.leaves(nu)[0].dtype))
    correction = jnp.sqrt(1 - b2**t) / (1 - b1**t)
    updates = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu)
    return updates, optax.ScaleByAdamState(count, optax.tree.cast(mu, mu_dtype), nu)

  return optax.GradientTransformation(optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype).init, update)


OPTIMIZERS = {'adamw': optax.scale_by_adam, 'reference_adamw': scale_by_reference_adam}


def constant(config, steps):
  del config, steps
  return lambda step: 1.0


def step_decay(config, steps):
  """Times `decay_factor` after each fraction of the run in `decay_at`."""
  return optax.piecewise_constant_schedule(1.0, {round(at * steps): config.decay_factor for at in config.decay_at})


def cosine(config, steps):
  return optax.cosine_decay_schedule(1.0, max(1, steps - config.warmup_steps))


def linear(config, steps):
  """Flat, then down to zero from the first fraction in `decay_at` on."""
  begin = round(config.decay_at[0] * steps)
  return optax.linear_schedule(1.0, 0.0, max(1, steps - begin), begin)


# From (config, steps) to a function of the step that starts at one; each but cosine counts from the run's first step.
SCHEDULES = {'constant': constant, 'step': step_decay, 'cosine': cosine, 'linear': linear}


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  name: str = 'adamw'
  lr: float = 1e-4
  schedule: str = 'constant'
  warmup_steps: int = 0
  decay_at: tuple[float, ...] = (0.6, 0.8)  # Fractions of the run: the reference's epochs 12 and 16 of 20.
  decay_factor: float = 0.1
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  mean_dtype: str | None = None  # Of the mean of gradients: 'bfloat16' takes a sixth off the train state.
  weight_decay: float = 0.0
  no_decay: str = r'(bias|scale|cls|position|type|word)$'  # Paths that weight decay leaves alone.
  clip: float | None = None  # The largest norm of the whole gradient.
  # Ordered (regex, {'lr': factor} or {'frozen': True}); a parameter that none matches keeps the learning rate as it is.
  # Of stacked blocks the factor may be one for each layer; a layer with 0 stays as it is.
  groups: tuple[tuple[str, dict], ...] = ()
  # The video encoder learns the slower the farther from its output: the learning rate of its last block is so many
  # times that of what stands behind it, of the one before so many times that again, and so on to the embeddings.
  layer_decay: float = 1.0

  def __post_init__(self):
    for name, known in (('name', OPTIMIZERS), ('schedule', SCHEDULES)):
      if getattr(self, name) not in known:
        raise UserError(f'optim.{name}={getattr(self, name)!r} is unknown; known: {", ".join(known)}')
    for regex, settings in self.groups:
      if not settings or set(settings) - {'lr', 'frozen'}:
        raise UserError(f'optim.groups for {regex!r} has {sorted(settings)}; it takes one of lr, frozen')
    if self.mean_dtype not in (None, 'float32', 'bfloat16'):
      raise UserError(f"optim.mean_dtype={self.mean_dtype!r} must be None, 'float32' or 'bfloat16'")
    if self.warmup_steps < 0:
      raise UserError(f'optim.warmup_steps={self.warmup_steps} must be at least 0')
    if not 0 < self.layer_decay <= 1:
      raise UserError(f'optim.layer_decay={self.layer_decay} must be above 0 and at most 1')


def schedule(config: OptimConfig, steps: int):
  """The learning rate as a function of the step."""
  shape = SCHEDULES[config.schedule](config, steps)
  if not config.warmup_steps:
    return lambda step: config.lr * shape(step)
  # Cosine starts behind the warm-up; the others mean steps of the run.
  late = config.warmup_steps if config.schedule == 'cosine' else 0
  rise = lambda step: jnp.minimum(1.0, (step + 1) / config.warmup_steps)
  return lambda step: config.lr * rise(step) * shape(jnp.maximum(0, step - late))


def by_step(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
  """A schedule of optax that reads the step of the run. Its own count would stand still at a step that is skipped, and
  the rate would not come down to where it should end."""

  def update(updates, state, params=None, *, step):
    return tx.update(updates, state._replace(count=step), params)

  return optax.GradientTransformationExtraArgs(tx.init, update)


def groups_of(config: OptimConfig, params) -> dict[str, dict]:
  """The settings of each parameter by path: {'lr': factor, 'frozen': bool, 'decay': bool}.

  The factor of stacked blocks is an array, with one for each along the layer axis.
  """
  leaves = {sharding.path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
  chosen = sharding.first_match(config.groups, list(leaves), 'optim.groups')
  spared = sharding.first_match(((config.no_decay, True),), list(leaves), 'optim.no_decay')
  groups = {
    name: {'lr': 1.0, 'frozen': False, **(own or {}), 'decay': spare is None}
    for name, own, spare in zip(leaves, chosen, spared)
  }
  for name, own in groups.items():
    if isinstance(own['lr'], tuple):
      own['lr'] = factors_of(own['lr'], name, leaves[name])
  if config.layer_decay < 1:
    depth = next(leaf.shape[0] for name, leaf in leaves.items() if name.startswith('video/blocks/'))
    for name, own in groups.items():
      own['lr'] = own['lr'] * layer_factor(config.layer_decay, name, leaves[name], depth)
  return groups


def factors_of(factors: tuple[float, ...], name: str, leaf) -> np.ndarray:
  """One for each layer of stacked blocks."""
  if '/blocks/' not in name or leaf.shape[0] != len(factors):
    layers = f'{leaf.shape[0]} layers' if '/blocks/' in name else 'no layers'
    raise UserError(f'optim.groups has {len(factors)} learning rates for {name}, which has {layers}; give one for each')
  return np.array(factors).reshape(-1, *[1] * (leaf.ndim - 1))


def layer_factor(decay: float, name: str, leaf, depth: int):
  """Of a parameter with a path and a shape, in a video encoder of so many blocks."""
  if name.startswith('video/blocks/'):
    return (decay ** np.arange(depth, 0, -1.0)).reshape(depth, *[1] * (leaf.ndim - 1))
  return decay ** (depth + 1) if name.startswith('video/') and not name.startswith('video/norm/') else 1.0


def rate_text(factor) -> str:
  """A factor of groups_of for people."""
  low, high = np.min(factor), np.max(factor)
  return f'{low:.3g}' if low == high else f'{low:.3g}…{high:.3g}'


def parameter_table(config: OptimConfig, shapes, place) -> str:
  """One line a parameter: path, shape, where it lies, and what the optimizer does with it."""
  groups = groups_of(config, shapes)
  lines = []
  for (path, leaf), where in zip(jax.tree.leaves_with_path(shapes), jax.tree.leaves(place)):
    own = groups[sharding.path_name(path)]
    fate = 'frozen' if own['frozen'] else f'lr ×{rate_text(own["lr"])}{", decays" if own["decay"] else ""}'
    shape = '×'.join(map(str, leaf.shape))
    lines.append(f'{sharding.path_name(path):<40} {shape:>20}  {where.spec!s:<50} {fate}')
  total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  return '\n'.join([*lines, f'{total:,} parameters']) + '\n'


def stop_frozen(config: OptimConfig, params):
  """The same parameters; what is frozen of them gets a gradient of zeros, for which nothing is computed."""
  groups = groups_of(config, params)
  stop = lambda path, leaf: jax.lax.stop_gradient(leaf) if groups[sharding.path_name(path)]['frozen'] else leaf
  return jax.tree.map_with_path(stop, params)


def build(config: OptimConfig, params, steps: int) -> optax.GradientTransformationExtraArgs:
  """The whole chain, whose update takes the `step` as well; `params` may be shapes alone. Frozen parameters have no
  moments and no part in the norm."""
  groups = groups_of(config, params)
  pick = lambda key: lambda tree: jax.tree.map_with_path(lambda path, _: groups[sharding.path_name(path)][key], tree)
  factors = [own['lr'] for own in groups.values() if not own['frozen']]
  if not factors:
    raise UserError('optim.groups freezes every parameter, so there is nothing to train; freeze fewer')
  times = lambda update, factor: update * jnp.asarray(factor, update.dtype)
  scale = lambda updates, params: jax.tree.map(times, updates, pick('lr')(updates))
  tx = optax.chain(
    optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip),
    OPTIMIZERS[config.name](config.b1, config.b2, config.eps, mu_dtype=config.mean_dtype),
    optax.add_decayed_weights(config.weight_decay, pick('decay')),
    optax.identity() if all(np.all(factor == 1) for factor in factors) else optax.stateless(scale),
    by_step(optax.scale_by_learning_rate(schedule(config, steps))),
  )
  if not any(own['frozen'] for own in groups.values()):
    return tx
  labels = jax.tree.map(lambda frozen: 'frozen' if frozen else 'trained', pick('frozen')(params))
  return optax.partition({'trained': tx, 'frozen': optax.set_to_zero()}, labels)
