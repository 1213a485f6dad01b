"""Checks of the model: its evaluators, the weights that it starts from, the memory that its state takes."""

import math

from tvts_jax.doctor.devices import device_memory
from tvts_jax.doctor.examination import Run
from tvts_jax.errors import UserError
from tvts_jax.human import size


def evals(run: Run) -> str:
  from tvts_jax import evaluators
  from tvts_jax.models import tvts

  built = evaluators.build(run.config, tvts.build(run.config.model), run.mesh)
  return f'{", ".join(built)} can be made' if built else 'none are asked for'


def model(run: Run) -> str:
  """Shapes of the train state; nothing is allocated."""
  import jax

  from tvts_jax import step as step_lib

  run.parts = step_lib.describe(run.config, steps=1)
  run.shapes = run.parts.shapes
  count = sum(leaf.size for leaf in jax.tree.leaves(run.shapes.params))
  return f'{count:,} parameters, {size(state_bytes(run.shapes))} with the state of the optimizer'


def attention(run: Run) -> str:
  """Each process on its first device."""
  from tvts_jax.models import attention_check

  return attention_check.check(run.parts.model, run.shapes.params, run.parts.spec)


def weights(run: Run) -> str:
  """Reads every file as a run that begins does, so that a damaged or unfitting one shows here."""
  from tvts_jax import convert
  from tvts_jax.config import INIT
  from tvts_jax.models.tvts import HEADS
  from tvts_jax.run.checkpoint_folder import is_complete
  from tvts_jax.run.checkpoint_reader import FOLDER, of_run
  from tvts_jax.shards import storage

  saved = (storage.path(run.workdir) / FOLDER).glob('*') if run.workdir else []
  if any(path.name.isdecimal() and is_complete(path) for path in saved):
    return f'not read, because the run in {run.workdir} goes on from its checkpoint'
  found, wrong = [], []
  for part, path in run.config.init.items():
    if not path:
      continue
    try:
      if part == 'run' and not (storage.path(path) / 'config.json').exists():
        of_run(path).read_run()
      else:  # A folder of weights brings every part.
        parts = [name for name in run.shapes.params if not name.startswith(HEADS)]
        for each in parts if part == 'run' else [part]:
          convert.load_part(run.shapes.params, run.config.model, each, path)
    except UserError as e:
      wrong.append(f'{e}; init.{part} is {INIT[part]}')
    else:
      found.append(f'{part} from {path}')
  if wrong:
    raise UserError('; '.join(wrong))
  return ', '.join(found) or 'none are asked for'


def memory(run: Run) -> str:
  from tvts_jax import sharding

  place = sharding.state_layout(run.shapes, run.config.sharding, run.mesh)
  need, there = state_bytes(run.shapes, place), device_memory()
  what = f'parameters and state of the optimizer take {size(need)} of each device'
  if there is None:
    return f'{what}, and activations more; how much a device has is not known'
  if need > there:
    raise UserError(f'{what}, which has {size(there)}; split them over more devices with --config.mesh.fsdp')
  return f'{what}, which has {size(there)} for them and for activations'


def state_bytes(shapes, place=None) -> int:
  """Of the whole train state, or of the part that a device holds."""
  import jax

  leaves = jax.tree.leaves(shapes)
  held = [leaf.shape for leaf in leaves]
  if place is not None:
    held = [where.shard_shape(shape) for where, shape in zip(jax.tree.leaves(place), held)]
  return sum(math.prod(shape) * leaf.dtype.itemsize for shape, leaf in zip(held, leaves))
