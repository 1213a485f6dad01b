"""How fast is the train step of a config, on random data? And beside PyTorch's, another config's, or on more devices?

  python -m tvts_jax.bench.step --config=configs/pretrain.py --config.input.batch=256
  python -m tvts_jax.bench.step --config=configs/pretrain.py --config.input.batch=4 --config.model.dtype=float32 \
    --against=torch --out=runs/bench/step.json
  python -m tvts_jax.bench.step --config=configs/pretrain.py --other=configs/pretrain.py --other.model.remat=full
  python -m tvts_jax.bench.step --config=configs/demo.py --config.input.batch=8 --devices=4

Prints clips/s, the model's own arithmetic per second, its share of the devices' peak where that is known (MFU), memory,
and how long compiling takes, without a cache and out of JAX's persistent one; then the same as one line of JSON. No
data, weights or TensorFlow are needed. Times on a shared machine mean little by themselves.

--against=torch has a plain PyTorch step of the same model take turns with ours, on one GPU or on the CPU: eager or by
torch.compile, with fused AdamW or PyTorch's other one. Both start from the same weights, and must agree on the loss of
the batch. --other has the step of a second config take turns, which tells what a setting buys. Turns are taken in the
order A B B A, and the first step of each is dropped. What counts is the ratio of turns side by side; it is void where
the rest of the machine was busy. On CPUs give both huge pages: GLIBC_TUNABLES=glibc.malloc.hugetlb=1.

--devices=N takes 1, 2, 4, ... up to N devices, with config.input.batch clips on each, once with parameters copied to
all (data) and once with parameters split over all (fsdp). It prints clips/s for each device, that as a share of what
one device does alone (efficiency), and the bytes that a device sends in a step as the compiled program has it. Where
there is no accelerator, N devices of the CPU are pretended: one of them already computes on all cores, so that their
speed means nothing, while what they move is as it would be.
"""

import json
import os
import statistics
import time

import jax
from absl import flags
from ml_collections import config_flags

from tvts_jax import command, machine
from tvts_jax import config as config_lib
from tvts_jax.bench import scaling
from tvts_jax.bench import turns as turns_lib
from tvts_jax.bench.jax_step import Step
from tvts_jax.errors import UserError
from tvts_jax.models import attention
from tvts_jax.pages import charts, measurements
from tvts_jax.pages.charts import Curve
from tvts_jax.run import metrics

# The losses of one batch by ours and by PyTorch differ by less than this share: sums in another order. Accelerators
# round the factors of float32 products, too.
AGREE = {'float32': 1e-4, 'bfloat16': 3e-2}


def bench(step: Step, steps: int) -> dict:
  step()
  load, times = turns_lib.Load(), []
  for _ in range(steps + 1):
    began = time.perf_counter()
    step()
    times.append(time.perf_counter() - began)
  quiet = turns_lib.quiet(load)
  result = about(step) | speed(step, statistics.median(times[1:]))
  return result | {'step_s_min_max': [min(times[1:]), max(times[1:])], **quiet}


def speed(step: Step, seconds: float) -> dict:
  clips, clip_flops = step.config.input.batch / seconds, step.clip_flops
  return {
    'clips_per_s': clips,
    'flops_per_s': clips * clip_flops,
    'mfu': metrics.mfu(clips, clip_flops, step.mesh.devices.flatten()),
    'step_s': seconds,
  }


def kernels_of(step: Step) -> str:
  model, params = step.parts.model, step.parts.shapes.params
  uses = attention.calls(lambda *given: model.apply(*given, True), params, step.parts.spec, jax.random.key(0))
  return ' and '.join(sorted({use.kernel for use in uses}))


def about(step: Step) -> dict:
  memory, model = step.compiled.memory_analysis(), step.config.model
  used = step.mesh.devices.flat[0].memory_stats() or {}
  return {
    'compile_s': step.compile_s,
    'cached_compile_s': step.cached_compile_s,
    'temporary_bytes': memory.temp_size_in_bytes if memory else None,
    'peak_bytes': used.get('peak_bytes_in_use'),
    'gflop_per_clip': step.clip_flops / 1e9,
    'model': f'{model.encoder} {model.video.width} wide, {model.video.depth} deep',
    'batch': step.config.input.batch,
    'dtype': model.dtype,
    'attention': kernels_of(step),
    'devices': f'{step.mesh.size} × {jax.devices()[0].device_kind}',
    'host': machine.host(),
    'versions': machine.versions(),
  }


def race_torch(config: config_lib.RunConfig, *, fused: bool, compiled: bool, rounds: int, steps: int) -> dict:
  """Ours beside PyTorch's."""
  try:
    from tvts_jax.bench import torch_step
  except ImportError as error:
    raise UserError(f'--against=torch needs PyTorch ({error}); install torch') from error
  torch_step.check(config, compiled)
  ours = Step(config, jax.devices()[:1])
  theirs = torch_step.TorchStep(config, jax.device_get(ours.state.params), ours.batch, fused=fused, compiled=compiled)
  losses = {'ours': ours.loss_without_dropout(), 'theirs': theirs.loss_without_dropout()}
  agree = AGREE[config.model.dtype if jax.default_backend() == 'cpu' else 'bfloat16']
  if not abs(losses['ours'] - losses['theirs']) <= agree * abs(losses['theirs']):
    raise UserError(
      f'on the same weights and batch our loss is {losses["ours"]:.6g} and that of PyTorch {losses["theirs"]:.6g}: the '
      'two steps do not do the same, so their times cannot be compared'
    )
  how = ', '.join(['torch.compile'] * compiled + ['fused AdamW' if fused else "PyTorch's other AdamW", theirs.about])
  return race(ours, theirs, rounds, steps) | {'loss_without_dropout': losses, 'against': f'PyTorch ({how})'}


def race_other(config: config_lib.RunConfig, other: config_lib.RunConfig, *, rounds: int, steps: int) -> dict:
  """The step of a config beside that of another."""
  changed = config_lib.differences(config_lib.text(config), config_lib.text(other))
  if not changed:
    raise UserError('--other is the same run as --config; change a setting of one of them')
  return race(Step(config), Step(other), rounds, steps) | {'against': f'that with {"; ".join(changed)}'}


def race(ours: Step, theirs, rounds: int, steps: int) -> dict:
  result = about(ours)
  for step in (ours, theirs):
    step()  # Memory is taken and, by torch.compile, the program made.
  load = turns_lib.Load()
  turns = turns_lib.take_turns(
    {'ours': lambda: turns_lib.turn(ours, steps), 'theirs': lambda: turns_lib.turn(theirs, steps)}, rounds
  )
  quiet = turns_lib.quiet(load)
  seconds = {
    kind: {name: [getattr(turn, kind) for turn in taken] for name, taken in turns.items()} for kind in ('wall', 'cpu')
  }
  result |= speed(ours, statistics.median(seconds['wall']['ours']))
  return result | {
    **quiet,
    'ratio': {kind: turns_lib.paired(of['theirs'], of['ours']) for kind, of in seconds.items()},
    'seconds_a_step': seconds,
    'rounds': rounds,
    'steps_a_turn': steps,
  }


def lines(found: dict):
  """For people."""
  mfu = 'peak unknown' if found['mfu'] is None else f'{found["mfu"]:.1%} of peak'
  cached = 'not measured' if found['cached_compile_s'] is None else f'{found["cached_compile_s"]:.1f} s'
  yield f'{found["clips_per_s"]:.1f} clips/s, {found["flops_per_s"] / 1e12:.3f} TFLOP/s ({mfu}) on {found["devices"]}'
  yield f'a step of {found["batch"]} clips takes {found["step_s"]:.4f} s'
  yield f'computed in {found["dtype"]}, attention by {found["attention"]}'
  yield f'compiling took {found["compile_s"]:.1f} s; out of the persistent cache: {cached}'
  if 'ratio' in found:
    for kind, ratio in found['ratio'].items():
      spread = f'{ratio["median"]:.2f} [{ratio["min"]:.2f} to {ratio["max"]:.2f}]'
      yield f'by {kind} time {spread} times as fast as {found["against"]}'
  if found['void']:
    yield turns_lib.void_sentence(found['other_load_cores'])


def parts(found: dict) -> list[str]:
  """Of the page."""
  batch, says = found['batch'], [f'<p>{measurements.text(line, 500)}</p>' for line in lines(found)]
  if 'ratio' not in found:
    return says
  for kind, of in found['seconds_a_step'].items():
    curves = [
      Curve(name, [(i, batch / seconds) for i, seconds in enumerate(of[who], 1)], look)
      for who, name, look in (('ours', 'this', 'own'), ('theirs', found['against'], 'other'))
    ]
    told = 'The median step of each turn, in the order in which they were taken.'
    drawn = charts.curves(curves, len(of['ours']), unit='turn')
    says.append(measurements.card(f'clips per second of {kind} time', told, drawn))
  return says


def main(argv):
  del argv
  given = flags.FLAGS
  # PyTorch must find memory left.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false' if given.against == 'torch' else 'true')
  if given.devices:
    jax.config.update('jax_num_cpu_devices', given.devices)
  return command.ending(lambda: measure(given))


def measure(given) -> None:
  title, to_lines, to_parts = 'The train step', lines, parts
  config = config_lib.resolve(given.config)
  if sum(map(bool, (given.against, given.other, given.devices))) > 1:
    raise UserError('--against, --other and --devices are three measurements; give one of them')
  if given.rounds < 5 and (given.against or given.other):
    raise UserError(f'--rounds={given.rounds} is too few to tell a difference from chance; take at least 5')
  if given.against:
    how = dict(fused=given.torch_fused, compiled=given.torch_compile)
    found = race_torch(config, **how, rounds=given.rounds, steps=given.steps)
  elif given.other:
    found = race_other(config, config_lib.resolve(given.other), rounds=given.rounds, steps=given.steps)
  elif given.devices:
    found = scaling.measure(config, given.devices, given.steps)
    title, to_lines, to_parts = 'The train step on more devices', scaling.lines, scaling.parts
  else:
    found = bench(Step(config), given.steps)
  print('\n'.join(to_lines(found)))
  if given.out:
    print(f'the page is {measurements.save(given.out, title, found, to_parts(found))}')
  print(json.dumps(found))


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config', None, 'the run whose step is meant')
  config_flags.DEFINE_config_file('other', None, 'a run whose step takes turns with it')
  flags.DEFINE_integer('steps', 20, 'timed steps; of one turn, where turns are taken', lower_bound=1)
  flags.DEFINE_integer('devices', 0, 'the most devices to spread it over; 0: the mesh of the config', lower_bound=0)
  flags.DEFINE_enum('against', None, ['torch'], 'what takes turns with our step')
  flags.DEFINE_bool('torch_compile', False, 'PyTorch compiles its step')
  flags.DEFINE_bool('torch_fused', True, 'PyTorch updates all parameters in one kernel')
  flags.DEFINE_integer('rounds', 5, 'of two turns each')
  flags.DEFINE_string('out', None, 'a JSON file for all numbers, beside which a page is written')
  flags.mark_flag_as_required('config')
  command.run(main)
