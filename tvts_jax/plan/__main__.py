"""What would a run be on a pod that nobody here has? Does it fit, what bounds its step, what does it cost?

  python -m tvts_jax.plan --config=configs/pretrain.py --topology=v5e:16x16
  python -m tvts_jax.plan --config=configs/pretrain.py:size=H/14 --topology=v5e:4x4 --config.mesh.fsdp=2
  python -m tvts_jax.plan --config=configs/pretrain.py --topology=v5e:4x4,2*v5e:16x16,h200:64 --out=runs/plan.json

A topology is a TPU slice by its shape, several slices as 2*v5e:16x16, or a number of GPUs, 8 to a box. The chip's own
compiler compiles the real step, and needs no chip: pip install -e '.[tpu]', or '.[plan-gpu]' in an environment of its
own. It says what memory the step takes, and that of TPUs refuses what does not fit. Without it memory is estimated from
what the backward pass keeps, and the step is compiled for as many pretended devices, to see what it moves between them.
No data or weights are needed.

The floor of a step is what its arithmetic takes at the chip's peak, or what its memory or its links take where that is
longer; a good step is within twice of it. The arithmetic is that of the products that the objectives need; efficiency
is its share of a step in which nothing runs beside anything else. Of several sources the one that asks for the most is
meant. What does not fit is tried again with the backward pass recomputing more, with parameters split over more chips,
and in micro-batches: the first of these that fits is named.

Exit codes: 0 all fit, 1 an error that one sentence names, 3 one or more do not fit.
"""

import dataclasses
import logging as stdlib_logging
import os
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags, logging
from ml_collections import config_flags

from tvts_jax import command, machine
from tvts_jax import config as config_lib
from tvts_jax.errors import UserError
from tvts_jax.human import columns
from tvts_jax.models.layers import REMAT_POLICIES
from tvts_jax.pages import measurements
from tvts_jax.plan import page
from tvts_jax.plan.bill import Bill, Topology, apart, of_one_source

DOES_NOT_FIT = 3
# What libtpu must be told on a machine without a TPU.
NO_TPU = {'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1', 'TPU_WORKER_HOSTNAMES': 'localhost'}


def nearest(config: config_lib.RunConfig, topology: Topology) -> Iterator[tuple[str, config_lib.RunConfig]]:
  """What to try where a run does not fit, the least change first; each as the flags that ask for it."""
  remats = [*REMAT_POLICIES]
  for remat in remats[remats.index(config.model.remat) + 1 :]:
    yield change(config, remat=remat)
  now, most = config.mesh.get('fsdp', 1), min(topology.linked, topology.devices) // config.mesh.get('tensor', 1)
  for fsdp in [2**k for k in range(1, most.bit_length()) if 2**k > now]:
    for remat in remats[1:]:
      yield change(config, remat=remat, fsdp=fsdp)
  for fsdp in [None, most] if most > now else [None]:
    for parts in (2, 4, 8):
      if config.input.batch % (parts * topology.devices) == 0:
        yield change(config, remat=remats[-1], fsdp=fsdp, parts=parts)


def change(config, remat: str, fsdp: int | None = None, parts: int | None = None) -> tuple[str, config_lib.RunConfig]:
  words = [f'--config.model.remat={remat}']
  changed = dataclasses.replace(config, model=dataclasses.replace(config.model, remat=remat))
  if fsdp:
    words.append(f'--config.mesh.fsdp={fsdp}')
    changed = dataclasses.replace(changed, mesh={**config.mesh, 'data': -1, 'fsdp': fsdp})
  if parts:
    words.append(f'--config.micro_batches={parts}')
    changed = dataclasses.replace(changed, micro_batches=parts)
  return ' '.join(words), changed


def mend(config: config_lib.RunConfig, topology: Topology, clips: int | None) -> tuple[str, Bill] | None:
  """The first of `nearest` that fits."""
  for words, changed in nearest(of_one_source(config), topology):
    try:
      logging.info('trying %s', words)
      bill = apart(changed, topology, clips, sparing=True)
    except UserError as error:
      logging.info('%s: %s', words, error)
      continue
    if bill.fits:
      return words, bill
  return None


def clips_of(config) -> int | None:
  """In an epoch, if the shards are here."""
  from tvts_jax.shards import index

  given = of_one_source(config).input
  if not given.folder:
    return None
  try:
    manifest = index.load(given.folder, given.split)
    return manifest.count if given.epoch == 'windows' else len(np.unique(index.load_index(manifest).video))
  except index.FolderError:
    return None


def main(argv):
  del argv
  given = flags.FLAGS
  stdlib_logging.getLogger('jax._src.xla_bridge').setLevel(stdlib_logging.ERROR)
  logging.set_verbosity(logging.INFO)
  return command.ending(lambda: plan(given))


def plan(given) -> int:
  config = config_lib.resolve(given.config)
  topologies = [Topology.parse(text) for text in given.topology]
  jax.config.update('jax_num_cpu_devices', max(topology.devices for topology in topologies))
  clips, bills, mended, shown = given.clips or clips_of(config), [], {}, []
  for topology in topologies:
    bills.append(apart(config, topology, clips))
    shown.append((bills[-1], ''))
    print('\n'.join(page.lines(bills[-1])), flush=True)
    if not bills[-1].fits and given.mend:
      if found := mend(config, topology, clips):
        words, bill = found
        mended[topology.name] = {'flags': words, **dataclasses.asdict(bill)}
        shown[-1] = bill, words
        print(f'  with {words} it fits:\n' + '\n'.join(page.lines(bill)), flush=True)
      else:
        print('  nothing that was tried fits; take more chips or a smaller batch', flush=True)
  if len(shown) > 1:
    print('\n' + columns(page.table(shown)))
  if given.out:
    found = {'bills': [dataclasses.asdict(bill) for bill in bills], 'mended': mended}
    found |= {'host': machine.host(), 'versions': machine.versions()}
    print(f'the page is {measurements.save(given.out, "What a step takes", found, page.parts(shown))}')
  return 0 if all(bill.fits for bill in bills) else DOES_NOT_FIT


if __name__ == '__main__':
  # What is compiled for pretended devices is only read.
  os.environ.update({'XLA_FLAGS': '--xla_backend_optimization_level=0', 'JAX_PLATFORMS': 'cpu', **NO_TPU})
  jax.config.update('jax_platforms', 'cpu')
  config_flags.DEFINE_config_file('config', None, 'the run that is meant')
  flags.DEFINE_list('topology', None, 'hardware: v5e:4x4, 2*v5e:16x16, h100:8; several separated by commas')
  flags.DEFINE_integer('clips', None, 'clips in an epoch, where the shards are not here')
  flags.DEFINE_bool('mend', True, 'try what would fit where the config does not')
  flags.DEFINE_string('out', None, 'a JSON file for all numbers, beside which a page is written')
  flags.mark_flags_as_required(['config', 'topology'])
  command.run(main)
