"""The training loop, in reading order."""

import dataclasses
import json
import math
from collections.abc import Mapping

import jax
import numpy as np
from absl import logging
from etils import epath

from tvts_jax import __version__, chips, convert, evaluators, optim, report, sharding
from tvts_jax import config as config_lib
from tvts_jax import step as step_lib
from tvts_jax.errors import UserError
from tvts_jax.evaluators.sorting import Sorting, examples
from tvts_jax.files import read_rows, sweep, write_whole
from tvts_jax.input import pipeline
from tvts_jax.models import flops, tvts
from tvts_jax.models.encoders.vit import resize_positions
from tvts_jax.run import clock as clock_lib
from tvts_jax.run import metrics
from tvts_jax.run import stop as stop_lib
from tvts_jax.run.checkpoint import FOLDER, Checkpoints, differences, of_run
from tvts_jax.run.profiling import Profile
from tvts_jax.run.watchdog import Watchdog
from tvts_jax.shards import annotations

EXAMPLES = 8  # Clips that the report shows.
# Settings that change no number of a run, or by rounding alone, as other devices do, so resumes may change them. What
# is in the two folders is compared itself.
FREE = (
  *('checkpoint.', 'evals', 'input.decoded:', 'input.folder:', 'input.max_bad:', 'input.threads:', 'input.tokenizer:'),
  *('log_every:', 'mesh.', 'model.remat:', 'model.scan:', 'profile_at:', 'sharding:'),
)


def train(config: config_lib.RunConfig, workdir) -> bool:
  """Trains to the end, or until it is asked to stop; True if it came to the end."""
  workdir = epath.Path(workdir)
  clock = clock_lib.Clock()

  # 1. Describe ------------------------------------------------------------------------ nothing is allocated yet
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch(config.input.batch, config.micro_batches, mesh)
  check_files(config)
  source = pipeline.open(config.input)
  check_vocabulary(config, config.input.tokenizer, source.vocab_size)
  check_labels(config)
  total = config.steps if config.steps is not None else round(config.epochs * source.steps_per_epoch)
  model, loss_fn, train_step, _, init, shapes = step_lib.describe(config, total)
  place = sharding.state_layout(shapes, config.sharding, mesh)
  evals = evaluators.build(config, model, mesh)

  # 2. Materialise ------------------------------------------------ resume before init, init before random numbers
  workdir.mkdir(parents=True, exist_ok=True)
  with (
    Watchdog(clock),
    stop_lib.WorkdirLock(workdir),
    stop_lib.Stop() as stop,
    jax.set_mesh(mesh),
    Checkpoints(workdir / FOLDER, config.checkpoint) as checkpoints,
    Profile(workdir, config.profile_at, config.log_every) as profile,
  ):
    identity = {
      'config': config_lib.text(config),
      'version': __version__,
      'model': config_lib.plain(config.model),
      'tokenizer': config.input.tokenizer,
      'ema': config.ema > 0,
      'data': [manifest.sha256 for manifest in source.manifests] + annotations.hashes(config.input),
      'vocabulary': source.fingerprint,
    }
    first = 0
    abstract = jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, place)
    if found := checkpoints.resume(abstract, lambda meta: check_identity(meta, identity, workdir)):
      first, state, meta = found
      clock.restore(meta['clock'], clock_lib.read(workdir))
      logging.info('resuming %s at step %d of %d', workdir, first, total)
    else:
      clock.restore(None, clock_lib.read(workdir))
      state = jax.jit(init, out_shardings=place)(jax.random.key(config.seed))
      state = state._replace(params=start_from(config, state.params, shapes.params, place.params))
      if config.ema:
        state = state._replace(ema=jax.tree.map(lambda leaf: leaf.copy(), state.params))
    writers = metrics.Writers(workdir, jax.process_index(), first)
    source.trouble.keep(workdir, jax.process_index(), first)
    if jax.process_index() == 0:
      for folder in (workdir, workdir / 'eval'):
        sweep(folder)
      write_whole(workdir / 'config.txt', identity['config'])
      write_whole(workdir / 'parameters.txt', parameter_table(shapes.params, place.params, config))

    batches = source.batches(first, sharding.rows(config.input.batch, mesh))
    rng = jax.jit(lambda: jax.random.key(config.seed), out_shardings=jax.NamedSharding(mesh, jax.P()))()
    logging.info('compiling the step, which takes minutes for large models')
    with clock.span('compile'):
      step_fns = compile_steps(train_step, state, source, rng, place, mesh)
    watch = Watch(
      config,
      workdir,
      source,
      clock,
      writers,
      total,
      mesh,
      clip_flops(source, config, loss_fn, mesh),
    )

    # 3. Loop ------------------------------------------------------------------------------------- do not reorder
    # What is evaluated and saved as step s is the state before step s, and the batch of s is taken only after, so a
    # resume at s repeats nothing and skips nothing. Metrics are looked at one step late, so the device never waits.
    for s in range(first, total + 1):
      done = s == total
      for name, evaluate in evals.items():
        if done or (s > first and s % config.evals[name].get('every_steps', total) == 0):
          with clock.span('evaluate'):
            watch.evaluation(s, name, evaluate(state.ema or state.params))
      leave = stop.requested()
      if (s > first or done) and (done or leave or checkpoints.due(s)):
        watch.flush()  # A state whose last step was no number must not be saved as if it had been taken.
        with clock.span('save'):
          save = checkpoints.save_last if done or leave else checkpoints.save
          save(s, state, {**identity, 'clock': clock.state()})
      if done or leave:
        break
      profile.before(s, state)
      with clock.span('input'), jax.profiler.TraceAnnotation('input'):
        batch = next(batches)
        batch.pop('example_id')  # For people: JAX has no uint64.
        batch = sharding.put(batch, mesh)
      with clock.span('step'), jax.profiler.StepTraceAnnotation('train', step_num=s):
        state, step_metrics = step_fns[s % len(step_fns)](state, batch, rng)
        watch.step(s, step_metrics)
    watch.flush()
    profile.close()
    with clock.span('save'):
      checkpoints.close()
    writers.close()
    if jax.process_index() == 0:
      clock.write(workdir)
    if done:
      write_report(workdir, evals, model, state.ema or state.params)
  return done


class Watch:
  """What a person sees of the run: each step's numbers, one step late, and a line now and then."""

  def __init__(self, config, workdir, source, clock, writers, total, mesh, clip_flops):
    self.config, self.workdir, self.source, self.clock, self.writers = config, workdir, source, clock, writers
    self.total, self.devices, self.clip_flops = total, mesh.devices.flatten(), clip_flops
    self.pending = None

  def step(self, s: int, device_metrics):
    self.flush()
    self.pending = s, device_metrics

  def flush(self):
    """Looks at the step that was dispatched last."""
    if self.pending is None:
      return
    s, device_metrics = self.pending
    self.pending = None
    values = {name: float(value) for name, value in jax.device_get(device_metrics).items()}
    if not values.pop('finite'):
      self.stop_for_nan(s, values)
    if values.pop('spike', False):
      self.tell_of_spike(s, values)
    if (s + 1) % self.config.log_every == 0 or s + 1 == self.total:
      self.writers.write(s + 1, values)
      if jax.process_index() == 0:
        self.clock.write(self.workdir)
      batch = self.config.input.batch
      rates = self.clock.rates(self.total - s - 1, batch)
      mfu = rates and metrics.mfu(rates.clips_per_s, self.clip_flops, self.devices)
      line = metrics.progress_line(
        s + 1, self.total, values, rates, transcripts=self.config.model.transcripts, batch=batch, mfu=mfu
      )
      skipped = f'spikes skipped: {values["skipped"]:.0f}' if values.get('skipped') else ''
      logging.info('%s', '  '.join(filter(None, [line, skipped, str(self.source.trouble)])))

  def clips_of(self, s: int) -> str:
    named = ', '.join(f'{video} #{window}' for video, window in self.source.examples(s, 4))
    return f'Its clips begin with {named}; look at them with: python -m data.inspect --run {self.workdir} --step {s}. '

  def tell_of_spike(self, s: int, values: Mapping):
    logging.warning(
      'step %d was skipped: its loss of %.4g or its gradient norm of %.4g is more than %g deviations above those of '
      'the last %d steps. %s',
      *(s, values['loss'], values['gradient_norm'], self.config.spike_sigmas, step_lib.USUAL, self.clips_of(s)),
    )

  def stop_for_nan(self, s: int, values: Mapping):
    bad = ', '.join(name for name, value in values.items() if not np.isfinite(value))
    raise UserError(
      f'step {s} gave no number ({bad}), so its update was not made; the parameters are those before it. '
      f'{self.clips_of(s)}Running again goes on from the last checkpoint in {self.workdir}/checkpoints.'
    )

  def evaluation(self, s: int, name: str, values: Mapping):
    self.flush()
    self.writers.write(s, {f'{name}/{key}': value for key, value in values.items()})
    if jax.process_index() == 0:
      path = self.workdir / 'eval' / f'{name}.jsonl'
      path.parent.mkdir(exist_ok=True)
      # An earlier process may have evaluated this step and died before it saved.
      rows = [row for row in read_rows(path)[0] if row['step'] < s] + [{'step': s, **values}]
      write_whole(path, ''.join(json.dumps(row) + '\n' for row in rows))
    logging.info('step %d %s: %s', s, name, ', '.join(f'{key} {value:.4g}' for key, value in values.items()))


def check_vocabulary(config, tokenizer: str, pieces: int):
  if pieces > (known := config.model.text.vocab_size):
    raise UserError(
      f'the tokenizer {tokenizer!r} has {pieces} word pieces, but model.text.vocab_size is {known}; set it to at least '
      'that'
    )


def check_labels(config):
  for part in config.input.parts()[0]:
    if 'label' in part.fields:
      classes = config.objectives['classify'].get('classes', 0)
      found = annotations.labels_of(part.annotations, part.split, part.label)
      if beyond := [clip for clip, label in found.items() if label >= classes]:
        raise UserError(
          f'{part.annotations} numbers classes up to {max(found.values())}, {beyond[0]!r} the first clip beyond '
          f'objectives.classify.classes={classes}; set it to at least {max(found.values()) + 1}'
        )


def check_files(config):
  """What a newcomer lacks most often, told before anything slow."""
  make = 'make them with: python -m data.build YOUR_VIDEOS --val-fraction 0.1 --out'
  needed = [(f'{config.input.folder}/manifest.json', 'shards', make)]
  if config.input.sources:
    needed = []  # Each has a folder of its own, which opens with errors of its own.
  needed += [
    (path, f'init.{part}', config_lib.INIT[part] + ' belongs at') for part, path in config.init.items() if path
  ]
  for path, what, how in needed:
    if not epath.Path(path).exists():
      folder = path.removesuffix('/manifest.json')
      raise UserError(f'{what} {folder} is not there; {how} {folder}. A run without either: bash launch/local.sh')


def check_identity(meta, identity, workdir):
  """Resuming another run than the one that was saved would be a mistake of which nobody would hear."""
  for name in ('data', 'vocabulary'):
    if meta[name] != identity[name]:
      raise UserError(f'{workdir} was trained on other {name}; give a new --workdir, or bring the old {name} back')
  changed = differences(meta['config'], identity['config'])
  if changed := [line for line in changed if not line.startswith(FREE)]:
    raise UserError(
      f'{workdir} holds a run with another config ({"; ".join(changed[:8])}); give a new --workdir, the old '
      f'config, or start from it with --config.init.run={workdir}'
    )


def start_from(config, params, shapes, place):
  """Fresh parameters with those of `config.init` in their places."""
  run = config.init.get('run')
  if run and not (epath.Path(run) / 'config.json').exists():
    given = from_run(run, config.model.video, shapes, place)
    if fresh := sorted(set(params) - set(given)):
      logging.info('%s has no %s, which start afresh', run, ', '.join(fresh))
    return {**params, **given}
  given = shapes
  for part, path in (dict.fromkeys(shapes, run) if run else config.init).items():
    if not path or part.startswith(tvts.HEADS):
      continue
    given, loaded = convert.load_part(given, config.model, part, path)
    logging.info('%s', loaded)
  take = lambda new, old: old if isinstance(new, jax.ShapeDtypeStruct) else jax.device_put(new, old.sharding)
  return jax.tree.map(take, given, params)


def from_run(run, video, shapes, place, part='params'):
  """Parameters of another run; positions of another clip length or image size are resized.

  Heads of objectives are those that both have.
  """
  abstract = jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, place)
  with of_run(run) as checkpoints:
    step = checkpoints.latest()
    theirs = tvts.TVTSConfig.from_dict(checkpoints.read_meta(step)['model']).video
    # Theirs but for what restoring compares, so that it refuses any other difference by name.
    grid = math.isqrt(theirs.places)
    old = dataclasses.replace(video, frames=theirs.slots * video.tubelet, image_size=grid * video.patch)
    for name, length in (('space_position', old.places), ('time_position', old.slots)):
      leaf = abstract['video'][name]
      everywhere = jax.NamedSharding(leaf.sharding.mesh, jax.P())
      abstract['video'][name] = jax.ShapeDtypeStruct((length, video.width), leaf.dtype, sharding=everywhere)
    params = checkpoints.restore_part(part, abstract, step, optional=tvts.HEADS)
  resize = jax.jit(lambda params: resize_positions(params, old, video), out_shardings=place['video'])
  return {**params, 'video': resize(params['video'])}


def specs_of(source) -> list[dict]:
  """Shapes and types of the batches that the step is given, of steps 0, 1, ... in turn."""
  return [
    {name: jax.ShapeDtypeStruct(*kind) for name, kind in spec.items() if name != 'example_id'} for spec in source.specs
  ]


def compile_steps(train_step, state, source, rng, place, mesh) -> list:
  """One for each source that takes turns, of steps 0, 1, ...; those with batches of one shape share theirs."""
  specs = [tuple(spec.items()) for spec in specs_of(source)]
  compiled = {
    spec: step_lib.compile_step(train_step, state, dict(spec), rng, place, mesh) for spec in dict.fromkeys(specs)
  }
  return [compiled[spec] for spec in specs]


def clip_flops(source, config, loss_fn, mesh) -> float:
  """Of one clip in one step, on the average over the sources that take turns; 0 for devices whose peak is unknown."""
  if chips.peak(mesh.devices.flat[0].device_kind) is None:
    return 0.0
  found = [flops.of_clip(config.model, loss_fn, spec) for spec in specs_of(source)]
  return sum(found) / len(found)


def parameter_table(shapes, place, config) -> str:
  """One line a parameter: path, shape, where it lies, and what the optimizer does with it."""
  groups = optim.groups_of(config.optim, shapes)
  lines = []
  for (path, leaf), where in zip(jax.tree.leaves_with_path(shapes), jax.tree.leaves(place)):
    own = groups[sharding.path_name(path)]
    fate = 'frozen' if own['frozen'] else f'lr ×{optim.rate_text(own["lr"])}{", decays" if own["decay"] else ""}'
    shape = '×'.join(map(str, leaf.shape))
    lines.append(f'{sharding.path_name(path):<40} {shape:>20}  {where.spec!s:<50} {fate}')
  total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  return '\n'.join([*lines, f'{total:,} parameters']) + '\n'


def write_report(workdir, evals, model, params):
  sorter = next((e for e in evals.values() if isinstance(e, Sorting)), None)
  if jax.process_count() == 1 and sorter is not None:
    write_whole(workdir / 'eval' / 'examples.json', json.dumps(examples(sorter, model, params, EXAMPLES)))
  if jax.process_index() == 0:
    logging.info('the report is %s', report.write(workdir))
