"""How fast is the train step of a config on these devices, on random data?

  python -m tvts_jax.bench_step --config=configs/pretrain.py --config.input.batch=256

Prints clips/s, the model's own arithmetic per second, its share of the devices' peak where that is known (MFU), compile
time and memory, then the same as one line of JSON. No data, weights or TensorFlow are needed. Times on a shared machine
mean little by themselves: compare with another run side by side.
"""

import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from tvts_jax import command, flops, metrics, sharding
from tvts_jax import config as config_lib
from tvts_jax import step as step_lib
from tvts_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'the run whose step is meant')
_STEPS = flags.DEFINE_integer('steps', 20, 'timed steps, after two that are not')
flags.mark_flag_as_required('config')


def random_batch(config: config_lib.RunConfig) -> dict[str, np.ndarray]:
  """A batch with the shapes and types of the input pipeline."""
  rng = np.random.default_rng(config.seed)
  given = config.input
  _, _, spec = step_lib.build(config)
  places = np.stack([rng.permutation(given.grid)[: given.visible] for _ in range(given.slices)])
  positions = (np.sort(places) + np.arange(given.slices)[:, None] * given.grid).reshape(-1)
  # What objectives ask for beyond the usual may be anything: it changes no time.
  return {name: np.zeros(x.shape, x.dtype) for name, x in spec.items()} | {
    'patches': rng.integers(0, 256, spec['patches'].shape, np.uint8),
    'positions': np.tile(positions[: given.tubelets].astype(np.int32), (given.batch, 1)),
    'tokens': rng.integers(0, config.model.text.vocab_size, spec['tokens'].shape, np.int32),
    'token_mask': np.ones(spec['token_mask'].shape, bool),
    'order': np.argsort(rng.random((given.batch, given.transcripts))).astype(np.int32),
  }


def bench(config: config_lib.RunConfig, steps: int) -> dict:
  mesh = sharding.make_mesh(config.mesh)
  batch = random_batch(config)
  spec = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
  rng = jax.random.key(config.seed)
  _, _, train_step, _, init, shapes = step_lib.describe(config, steps + 2)
  place = sharding.state_layout(shapes, config.sharding, mesh)
  with jax.set_mesh(mesh):
    state = jax.jit(init, out_shardings=place)(rng)
    began = time.perf_counter()
    step = step_lib.compile_step(train_step, state, spec, rng, place, mesh)
    compiled = time.perf_counter() - began
    device_batch, times = sharding.put(batch, mesh), []
    for _ in range(steps + 2):
      began = time.perf_counter()
      state, values = step(state, device_batch, rng)
      jax.block_until_ready(values)
      times.append(time.perf_counter() - began)
  clip_flops = flops.train_flops(config.model, spec['patches'].shape[1], config.input.max_tokens)
  seconds = statistics.median(times[2:])
  clips = config.input.batch / seconds
  memory = step.memory_analysis()
  return {
    'clips_per_s': clips,
    'flops_per_s': clips * clip_flops,
    'mfu': metrics.mfu(clips, clip_flops, mesh.devices.flatten()),
    'step_s': seconds,
    'step_s_min_max': [min(times[2:]), max(times[2:])],
    'compile_s': compiled,
    'temporary_bytes': memory.temp_size_in_bytes if memory else None,
    'gflop_per_clip': clip_flops / 1e9,
    'batch': config.input.batch,
    'devices': f'{mesh.size} × {jax.devices()[0].device_kind}',
    'jax': jax.__version__,
    'finite': bool(jnp.all(values['finite'])),
  }


def main(argv):
  del argv
  try:
    found = bench(config_lib.resolve(_CONFIG.value), _STEPS.value)
  except UserError as error:
    sys.exit(f'bench_step: {error}')
  mfu = 'peak unknown' if found['mfu'] is None else f'{found["mfu"]:.1%} of peak'
  print(f'{found["clips_per_s"]:.1f} clips/s, {found["flops_per_s"] / 1e12:.3f} TFLOP/s ({mfu}) on {found["devices"]}')
  print(f'a step of {found["batch"]} takes {found["step_s"]:.4f} s; compiling took {found["compile_s"]:.1f} s')
  print(json.dumps(found))


if __name__ == '__main__':
  command.run(main)
