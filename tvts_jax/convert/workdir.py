"""A training run's newest checkpoint, as something to export."""

import jax

from tvts_jax.convert import names
from tvts_jax.convert.read_weights import build
from tvts_jax.files import local, read_rows
from tvts_jax.input import tokens
from tvts_jax.models.tvts import HEADS, TVTSConfig
from tvts_jax.run.checkpoint_reader import FOLDER, of_run
from tvts_jax.shards import storage


def is_workdir(path) -> bool:
  return (storage.path(path) / FOLDER).is_dir()


def load_workdir(workdir) -> tuple[TVTSConfig, dict, dict]:
  """(config, params, what save_folder wants to know besides); parameters on the host, their running mean if kept."""
  workdir = storage.path(workdir)
  checkpoints = of_run(workdir)
  step, meta = checkpoints.latest(), checkpoints.read_run()
  config = build(TVTSConfig.from_dict, meta['model'], workdir)
  place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  shapes = {path: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place) for path, s in names.spec(config).items()}
  part = 'ema' if meta['ema'] else 'params'
  # Heads of objectives are of training alone.
  params = checkpoints.restore_part(part, names.unflatten(shapes), step, optional=HEADS)
  found = {path.stem: read_rows(path)[0] for path in sorted((workdir / 'eval').glob('*.jsonl'))}
  metrics = {name: row for name, rows in found.items() for row in rows if row['step'] == step}
  run = {
    'steps': step,
    'version': meta['version'],
    'config': {name: value for name, _, value in (line.partition(': ') for line in meta['config'].splitlines())},
  }
  if changed := meta.get('changes'):
    run['changes'] = changed
  tokenizer = local(meta['tokenizer'], tokens.FILES) if storage.path(meta['tokenizer']).is_dir() else None
  return config, jax.device_get(params), {'tokenizer': tokenizer, 'metrics': metrics, 'run': run}
