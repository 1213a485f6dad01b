"""What python -m tvts_jax.doctor looks at, in reading order.

Each check returns what is in order, or raises what is not. Checks import what they need themselves, so that a package
which is missing fails no others.
"""

from tvts_jax.doctor import devices, disk, inputs, weights

# Each check by name, then what it needs: a flag, or other checks that are passed.
CHECKS = {
  'processes': (devices.processes,),
  'versions': (devices.versions,),
  'devices': (devices.devices, 'processes'),
  'collective': (devices.collective, 'processes'),
  'storage': (disk.storage, '--workdir'),
  'lock': (disk.lock, 'storage', 'collective'),
  'config': (inputs.read_config, '--config'),
  'shards': (inputs.shards, 'config'),
  'tokenizer': (inputs.tokenizer, 'config'),
  'examples': (inputs.examples, 'shards', 'tokenizer'),
  'batch': (inputs.batch, 'config', 'collective'),
  'evaluators': (weights.evals, 'examples', 'batch'),
  'model': (weights.model, 'config', 'collective'),
  'attention': (weights.attention, 'model'),
  'reading': (inputs.reading, 'examples', 'model'),
  'weights': (weights.weights, 'model'),
  'memory': (weights.memory, 'model', 'batch'),
  'space': (disk.space, 'model', '--workdir'),
}
