"""A few train steps on a mesh, alone or in a pod: python -m tests.support.meshes FSDP.npz TENSOR.npz"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from tests.models.test_tvts import LOSS, TINY, make
from tvts_jax import optim, sharding
from tvts_jax import step as step_lib
from tvts_jax.pod import distributed

STEPS, BATCH = 3, 16
# Without dropout, because a batch cut in other pieces draws other dropout masks.
TEXT = {'vocab_size': 50, 'dim': 32, 'hidden_dim': 64, 'n_layers': 2, 'n_heads': 2}
PLAIN = {'text': {**TEXT, 'dropout': 0.0, 'attention_dropout': 0.0}}
# One block of each kind, where more would prove no more and compile for twice as long.
SHALLOW = {'video': {**TINY['video'], 'depth': 1}, 'text': {**PLAIN['text'], 'n_layers': 1}, 'sort_depth': 1}
# A large eps: else Adam's first steps are the signs of gradients, even of those that are nothing but rounding.
OPTIM = optim.OptimConfig(lr=1e-2, eps=1e-3, clip=1.0, weight_decay=0.1)


def run(sizes, devices=None, **changes) -> dict[str, np.ndarray]:
  """Metrics of all steps and the parameters after the last, by name, whole and on the host."""
  model, params, batches = make(B=STEPS * BATCH, visible=12, **{**SHALLOW, **changes})
  tx = optim.build(OPTIM, params, 10)
  state = step_lib.State(jnp.zeros((), jnp.int32), params, tx.init(params), None)
  mesh = sharding.make_mesh(sizes, devices)
  place = sharding.state_layout(state, sharding.RULES, mesh)
  own = sharding.rows(BATCH, mesh)
  found = {}
  with jax.set_mesh(mesh):
    state = jax.device_put(state, place)
    key = jax.device_put(jax.random.key(0), jax.NamedSharding(mesh, jax.P()))
    spec = {name: jax.ShapeDtypeStruct((BATCH, *x.shape[1:]), x.dtype) for name, x in batches.items()}
    step = step_lib.compile_step(step_lib.make_train_step(model, LOSS, tx), state, spec, key, place, mesh)
    for s in range(STEPS):
      batch = {name: np.asarray(x[s * BATCH : (s + 1) * BATCH][own]) for name, x in batches.items()}
      state, metrics = step(state, sharding.put(batch, mesh), key)
      found |= {f'{name} of step {s}': np.asarray(value) for name, value in metrics.items()}
  kernel = state.params['video']['blocks']['mlp']['up']['kernel']
  assert kernel.addressable_shards[0].data.size * mesh.shape['fsdp'] * mesh.shape['tensor'] == kernel.size
  whole = multihost_utils.process_allgather(state.params, tiled=True)
  return found | {sharding.path_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(whole)}


def load(file) -> dict[str, np.ndarray]:
  """What the processes of a pod found."""
  with np.load(file) as found:
    return {key.replace('|', '/'): value for key, value in found.items()}


if __name__ == '__main__':
  distributed.initialize()
  # Pods of TPUs are arranged along their links, so that the devices of a process do not lie side by side.
  apart = sorted(jax.devices(), key=lambda device: (device.id % jax.local_device_count(), device.process_index))
  for sizes, file in zip(({'fsdp': 8}, {'fsdp': 4, 'tensor': 2}), sys.argv[1:]):
    found = run(sizes, apart)
    if jax.process_index() == 0:
      np.savez(file, **{key.replace('/', '|'): value for key, value in found.items()})
