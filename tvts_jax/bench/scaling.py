"""The step of a config on 1, 2, 4, ... devices: how it scales, and what the devices send each other."""

import dataclasses

import jax

from tvts_jax import config as config_lib
from tvts_jax import machine
from tvts_jax.bench import turns
from tvts_jax.bench.jax_step import Step
from tvts_jax.errors import UserError
from tvts_jax.human import columns, number, percent, size
from tvts_jax.pages import charts, kit, measurements
from tvts_jax.pages.charts import Curve
from tvts_jax.plan import hlo

MESHES = {'data': 'own', 'fsdp': 'other'}  # Axes that are tried, and how each is drawn.


def on(config: config_lib.RunConfig, axis: str, devices: int) -> config_lib.RunConfig:
  """The config with its batch on each device."""
  spread = dataclasses.replace(config.input, batch=config.input.batch * devices)
  return dataclasses.replace(config, input=spread, mesh={'data': 1, 'fsdp': 1, 'tensor': 1, axis: devices})


def moved(step: Step) -> dict[str, float]:
  """Bytes that a device sends in a step, by the kind of what sends them."""
  sent = {}
  for each in hlo.read(step.compiled.as_text(), step.mesh.size).collectives:
    sent[each.kind] = sent.get(each.kind, 0.0) + each.sent()
  return sent


def measure(config: config_lib.RunConfig, devices: int, steps: int) -> dict:
  if len(everyone := jax.devices()) < devices:
    raise UserError(f'--devices={devices}, but there are {len(everyone)}; take as many')
  load, rows = turns.Load(), []
  counts = [2**k for k in range(devices.bit_length())]
  for axis in MESHES:
    for count in counts:
      if count == 1 and axis != 'data':
        rows.append({**rows[0], 'axis': axis})  # One device has nothing to split.
        continue
      step = Step(on(config, axis, count), everyone[:count])
      step()
      seconds = turns.turn(step, steps).wall
      each = config.input.batch / seconds
      rows.append(
        {'axis': axis, 'devices': count, 'clips_per_s_each': each, 'step_s': seconds, 'sent_bytes': moved(step)}
      )
      del step  # The next one needs its memory.
  for row in rows:
    row['efficiency'] = row['clips_per_s_each'] / rows[0]['clips_per_s_each']
  return {
    'rows': rows,
    'batch_each': config.input.batch,
    'device': everyone[0].device_kind,
    **turns.quiet(load),
    'pretended': jax.default_backend() == 'cpu' and devices > 1,
    'host': machine.host(),
    'versions': machine.versions(),
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


def lines(found: dict):
  """For people."""
  yield columns(table(found))
  yield from doubts(found)


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
    *map(kit.missing, doubts(found)),
    measurements.card(
      'clips per second of each device', 'A fixed number of clips on each.', drawn(lambda row: row['clips_per_s_each'])
    ),
    measurements.card('what a device sends in a step', 'As the compiled program says it.', sent),
    measurements.table(head, rows),
  ]
