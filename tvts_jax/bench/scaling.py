"""How does the step of a config scale over the devices of this machine, and what does it move between them?

  python -m tvts_jax.bench.scaling --config=configs/pretrain.py --out=runs/bench/scaling.json
  python -m tvts_jax.bench.scaling --config=configs/demo.py --devices=4 --batch=8

takes 1, 2, 4, ... devices, doubling while there are as many (of six it takes four), with --batch clips on each, once
with parameters copied to all (data) and once with parameters split over all (fsdp). It prints clips/s for each device,
that as a share of what one device does alone (efficiency), and the bytes that a device sends in a step as the compiled
program has it. No data or weights are needed. --devices=N pretends N devices on a CPU: one of them already computes on
all cores, so that their speed means nothing, while what they move is as it would be.
"""

import dataclasses
import json
import sys

import jax
from absl import flags
from ml_collections import config_flags

from tvts_jax import command
from tvts_jax import config as config_lib
from tvts_jax.bench import turns
from tvts_jax.bench.step import Step
from tvts_jax.errors import UserError
from tvts_jax.human import columns, number, percent, size
from tvts_jax.pages import charts, results
from tvts_jax.pages.charts import Curve
from tvts_jax.plan import hlo

MESHES = {'data': 'own', 'fsdp': 'other'}  # Axes that are tried, and how each is drawn.


def on(config: config_lib.RunConfig, axis: str, devices: int, batch: int) -> config_lib.RunConfig:
  """The config with so many clips on each device."""
  given = dataclasses.replace(config.input, batch=batch * devices)
  return dataclasses.replace(config, input=given, mesh={'data': 1, 'fsdp': 1, 'tensor': 1, axis: devices})


def moved(step: Step) -> dict[str, float]:
  """Bytes that a device sends in a step, by the kind of what sends them."""
  sent = {}
  for each in hlo.read(step.compiled.as_text(), step.mesh.size).collectives:
    sent[each.kind] = sent.get(each.kind, 0.0) + each.sent()
  return sent


def measure(config: config_lib.RunConfig, batch: int, steps: int) -> dict:
  everyone, rows = jax.devices(), []
  load = turns.Load()
  counts = [2**k for k in range(len(everyone).bit_length())]
  for axis in MESHES:
    for count in counts:
      if count == 1 and axis != 'data':
        rows.append({**rows[0], 'axis': axis})  # One device has nothing to split.
        continue
      step = Step(on(config, axis, count, batch), everyone[:count])
      step()
      seconds = turns.turn(step, steps).wall
      each = batch / seconds
      rows.append(
        {'axis': axis, 'devices': count, 'clips_per_s_each': each, 'step_s': seconds, 'sent_bytes': moved(step)}
      )
      del step  # The next one needs its memory.
  for row in rows:
    row['efficiency'] = row['clips_per_s_each'] / rows[0]['clips_per_s_each']
  quiet = turns.quiet(load)
  return {
    'rows': rows,
    'batch_each': batch,
    'device': everyone[0].device_kind,
    **quiet,
    'pretended': jax.default_backend() == 'cpu' and len(everyone) > 1,
    'host': turns.host(),
    'versions': turns.versions('jax', 'jaxlib'),
  }


def table(found: dict) -> list[list[str]]:
  rows = [['split by', 'devices', 'clips/s each', 'efficiency', 'sent by a device in a step']]
  for row in found['rows']:
    sent = ', '.join(f'{kind} {size(count)}' for kind, count in sorted(row['sent_bytes'].items()))
    each = [row['axis'], str(row['devices']), number(row['clips_per_s_each']), percent(row['efficiency'])]
    rows.append([*each, sent or 'nothing'])
  return rows


def doubts(found: dict):
  if found['pretended']:
    yield 'Pretended devices share the cores that one has to itself: their speed and efficiency mean nothing.'
  if found['void']:
    yield turns.void_sentence(found['other_load_cores'])


def parts(found: dict) -> list[str]:
  """Of the page."""
  head, *rows = table(found)
  most = max(row['devices'] for row in found['rows'])

  def drawn(of, **options) -> str:
    points = {axis: [(row['devices'], of(row)) for row in found['rows'] if row['axis'] == axis] for axis in MESHES}
    lines = [Curve(axis, points[axis], look) for axis, look in MESHES.items()]
    return charts.curves(lines, most, unit='devices', **options)

  sent = drawn(lambda row: sum(row['sent_bytes'].values()), form=size)
  return [
    *(f'<p class="missing">{results.text(line, 500)}</p>' for line in doubts(found)),
    results.card(
      'clips per second of each device', 'A fixed number of clips on each.', drawn(lambda row: row['clips_per_s_each'])
    ),
    results.card('what a device sends in a step', 'As the compiled program says it.', sent),
    results.table(head, rows),
  ]


def main(argv):
  del argv
  given = flags.FLAGS
  if given.devices:
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', given.devices)
  try:
    if min(given.batch, given.steps) < 1:
      raise UserError('--batch and --steps must be at least 1')
    found = measure(config_lib.resolve(given.config), given.batch, given.steps)
  except UserError as error:
    sys.exit(f'bench_scaling: {error}')
  print(columns(table(found)))
  for line in doubts(found):
    print(line)
  if given.out:
    print(f'the page is {results.save(given.out, "The step on more devices", found, parts(found))}')
  print(json.dumps(found))


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config', None, 'the run whose step is meant')
  flags.DEFINE_integer('devices', 0, 'pretend so many CPU devices; 0: take the accelerators that are there')
  flags.DEFINE_integer('batch', 8, 'clips on each device')
  flags.DEFINE_integer('steps', 10, 'timed steps')
  flags.DEFINE_string('out', None, 'a JSON file for all numbers, beside which a page is written')
  flags.mark_flag_as_required('config')
  command.run(main)
