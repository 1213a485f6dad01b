"""The training loop, in reading order."""

import dataclasses
import json
from collections.abc import Collection, Mapping

import jax
import numpy as np
import optax
from absl import logging

from tvts_jax import __version__, evaluators, machine, optim, preflight, report, sharding, warm_start
from tvts_jax import config as config_lib
from tvts_jax import step as step_lib
from tvts_jax.errors import UserError
from tvts_jax.files import sweep, write_whole
from tvts_jax.input import pipeline
from tvts_jax.models import attention_check, flops
from tvts_jax.run import changes, metrics, workdir_lock
from tvts_jax.run import clock as clock_lib
from tvts_jax.run import stop as stop_lib
from tvts_jax.run.background import Background
from tvts_jax.run.checkpoint import Checkpoints
from tvts_jax.run.checkpoint_reader import FOLDER
from tvts_jax.run.evaluations import Evaluations
from tvts_jax.run.profiling import Profile
from tvts_jax.run.watchdog import Watchdog
from tvts_jax.shards import annotations, lease, storage

EXAMPLES = 8  # Clips that the report shows.
NAMED = 4  # Clips or parameters that a message names.
GO_ON = (
  'run the same command again to go on from the last checkpoint, with other settings, such as --config.optim.lr, '
  '--config.optim.clip or --config.model.dtype, which --resume_with_changes=optim.lr,optim.clip,model.dtype allows'
)
OPTIONAL = ('ema', 'spikes', 'centre')  # Fields of the state that not every run keeps.


def train(config: config_lib.RunConfig, workdir, may_change: Collection[str] = (), back_to: int | None = None) -> bool:
  """Trains to the end, or until it is asked to stop; True if it came to the end.

  Args:
    may_change: names of settings that may differ from those of the run that it resumes.
    back_to: a step to resume from instead of the newest that was saved; what is newer is set aside.
  """
  workdir = storage.path(workdir)
  clock = clock_lib.Clock()

  # 1. Describe ------------------------------------------------------------------------ nothing is allocated yet
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch(config.input.batch, config.micro_batches, mesh)
  preflight.check_shards(config)
  source = pipeline.open(config.input)
  preflight.check_vocabulary(config, config.input.tokenizer, source.vocab_size)
  preflight.check_labels(config)
  total = config.steps if config.steps is not None else round(config.epochs * source.steps_per_epoch)
  parts = step_lib.describe(config, total)
  place = sharding.state_layout(parts.shapes, config.sharding, mesh)
  evals = evaluators.build(config, parts.model, mesh)
  logging.info('attention: %s', attention_check.check(parts.model, parts.shapes.params, parts.spec))

  # 2. Materialise ------------------------------------------------ resume before init, init before random numbers
  workdir.mkdir(parents=True, exist_ok=True)
  with (
    Watchdog(clock),
    workdir_lock.hold(workdir),
    stop_lib.Stop() as stop,
    jax.set_mesh(mesh),
    Background() as background,
    Checkpoints(workdir / FOLDER, config.checkpoint, lambda: safe_to_save(background)) as checkpoints,
    Profile(workdir, config.profile_at, config.log_every, background) as profile,
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
    abstract = jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), parts.shapes, place)
    changed = lambda meta: preflight.changes(meta, identity)
    if back_to is not None:
      checkpoints.go_back(back_to, lambda meta: changes.has_gone_back(meta, back_to) and not changed(meta))
    check = lambda meta: preflight.check_identity(meta, identity, workdir, may_change)
    if found := checkpoints.resume(abstract, check, OPTIONAL):
      first, state, meta = found
      preflight.check_length(first, total, workdir)
      clock.restore(meta['clock'], clock_lib.read(workdir))
      logging.info('resuming %s at step %d of %d', workdir, first, total)
    else:
      first, meta = 0, {}
      preflight.check_init(config)
      clock.restore(None, clock_lib.read(workdir))
      state = jax.jit(parts.init, out_shardings=place)(jax.random.key(config.seed))
      params = warm_start.start_from(config, state.params, parts.shapes.params, place.params)
      state = state._replace(params=params, ema=None)
    state = step_lib.complete(state, parts.begin, place)
    identity['changes'] = changes.record(meta, changed(meta) if meta else [], first, back_to)
    writers = metrics.Writers(workdir, jax.process_index(), first, background)
    evaluations = Evaluations(workdir, config.evals, first, total, background)
    source.trouble.keep(workdir, jax.process_index(), first)
    if jax.process_index() == 0:
      sweep(workdir)
      write_whole(workdir / 'config.txt', identity['config'])
      changes.write(workdir, identity['changes'])
      table = optim.parameter_table(config.optim, parts.shapes.params, place.params)
      write_whole(workdir / 'parameters.txt', table)

    batches = source.batches(first, sharding.rows(config.input.batch, mesh))
    rng = jax.jit(lambda: jax.random.key(config.seed), out_shardings=jax.NamedSharding(mesh, jax.P()))()
    logging.info('compiling the step, which takes minutes for large models')
    with clock.span('compile'):
      specs = step_lib.specs_of(source)
      step_fns = step_lib.compile_steps(parts.train_step, state, specs, rng, place, mesh)
    clip_flops = flops_of(config, parts.loss_fn, specs, mesh)
    devices = mesh.devices.flatten()
    watch = Watch(config, workdir, source, clock, writers, evaluations, background, total, devices, clip_flops)
    watch.nan_steps = meta.get('nan_steps', 0)

    def keep(save):
      watch.flush(state)  # It stops where there is nothing to go on from, before that is saved.
      with clock.span('save'):
        save(s, state, {**identity, 'clock': clock.state(), 'nan_steps': watch.nan_steps})

    # 3. Loop ------------------------------------------------------------------------------------- do not reorder
    # What is saved and evaluated as step s is the state before step s, and the batch of s is taken only after, so a
    # resume at s repeats nothing and skips nothing. It is saved first: what ends an evaluation costs no step, and a
    # resume evaluates again. Metrics are looked at one step late, so the device never waits.
    for s in range(first, total + 1):
      done, leave = s == total, stop.requested()
      due = [] if leave else evaluations.due(s)
      if s > first and (due or checkpoints.due(s)):
        keep(checkpoints.save)
      try:
        for name in due:
          with clock.span('evaluate'):
            watch.evaluation(s, name, evals[name](state.ema or state.params))
      except stop_lib.Stopped:
        leave = True
      if done or leave:
        break
      profile.before(s, state)
      with clock.span('input'), jax.profiler.TraceAnnotation('input'):
        batch = next(batches)
        batch.pop('example_id')  # For people: JAX has no uint64.
        batch = sharding.put(batch, mesh)
      with clock.span('step'), jax.profiler.StepTraceAnnotation('train', step_num=s):
        state, step_metrics = step_fns[s % len(step_fns)](state, batch, rng)
        watch.step(s, state, step_metrics)
    if s > first or done:
      keep(checkpoints.save_last)
    profile.close()
    checkpoints.close()
    writers.close()
    if jax.process_index() == 0:
      clock.write(workdir, background)
    background.flush()
    if not leave:
      write_report(workdir, evals, state.ema or state.params)
  return not leave


def safe_to_save(background: Background) -> None:
  """A checkpoint counts once what is known of its steps is written, and only in a folder that is still ours."""
  background.flush()
  lease.renew()


@dataclasses.dataclass
class Watch:
  """What a person sees of the run: each step's numbers, one step late, and a line now and then."""

  config: config_lib.RunConfig
  workdir: storage.Path
  source: pipeline.Source | pipeline.Alternating
  clock: clock_lib.Clock
  writers: metrics.Writers
  evaluations: Evaluations
  background: Background
  total: int  # Steps of the run.
  devices: np.ndarray
  clip_flops: float
  sound: bool = False  # Whether the parameters were finite after a step of this process.
  nan_steps: int = 0  # The last ones that were skipped in a row, because they were not finite.
  pending: tuple | None = None  # The step that was dispatched last, and its metrics.

  def step(self, s: int, state, device_metrics):
    self.flush(state)
    self.pending = s, device_metrics

  def flush(self, state):
    """Looks at the step that was dispatched last. state: the newest."""
    if self.pending is None:
      return
    s, device_metrics = self.pending
    self.pending = None
    values = {name: float(value) for name, value in jax.device_get(device_metrics).items()}
    finite, bad_clip = values.pop('finite'), int(values.pop('bad_clip'))
    self.nan_steps = 0 if finite else self.nan_steps + 1
    if not np.isfinite(values['parameter_norm']):
      self.stop_for_parameters(s, state.params)
    self.sound = True
    if not finite:
      self.skip_nan(s, values, bad_clip)
    if values.pop('spike', False):
      self.tell_of_spike(s, values)
    if (s + 1) % self.config.log_every == 0 or s + 1 == self.total:
      self.writers.write(s + 1, values)
      if jax.process_index() == 0:
        self.clock.write(self.workdir, self.background)
      batch = self.config.input.batch
      rates = self.clock.rates(self.total - s - 1, batch)
      mfu = rates and metrics.mfu(rates.clips_per_s, self.clip_flops, self.devices)
      line = metrics.progress_line(
        s + 1, self.total, values, rates, transcripts=self.config.model.transcripts, batch=batch, mfu=mfu
      )
      skipped = f'spikes skipped: {values["skipped"]:.0f}' if values.get('skipped') else ''
      logging.info('%s', '  '.join(filter(None, [line, skipped, str(self.source.trouble)])))

  def clips_of(self, s: int, bad_clip: int = -1) -> str:
    """bad_clip: the place in the batch of one that is known to be at fault, or -1."""
    places = range(min(NAMED, self.config.input.batch)) if bad_clip < 0 else [bad_clip]
    named = ', '.join(f'{video} #{window}' for video, window in self.source.examples(s, places))
    which = f'Its clips begin with {named}' if bad_clip < 0 else f'The first clip with such outputs is {named}'
    return f'{which}; look at them with: python -m data.inspect --run {self.workdir} --step {s}. '

  def tell_of_spike(self, s: int, values: Mapping):
    logging.warning(
      'step %d was skipped: its loss of %.4g or its gradient norm of %.4g is more than %g deviations above those of '
      'the last %d steps. %s',
      *(s, values['loss'], values['gradient_norm'], self.config.spike_sigmas, step_lib.USUAL, self.clips_of(s)),
    )

  def skip_nan(self, s: int, values: Mapping, bad_clip: int):
    bad = ', '.join(name for name, value in values.items() if not np.isfinite(value))
    text = (
      f'step {s} was skipped: NaN or inf in {bad}; parameters are unchanged. {self.clips_of(s, bad_clip)}'
      f'Such steps in a row: {self.nan_steps} of nan_skips={self.config.nan_skips}'
    )
    if self.nan_steps > self.config.nan_skips:
      raise UserError(f'{text}; {GO_ON}, or with a larger --config.nan_skips')
    logging.warning('%s', text)

  def stop_for_parameters(self, s: int, params):
    norms = jax.device_get(jax.jit(lambda params: jax.tree.map(optax.tree.norm, params))(params))
    norms = {sharding.path_name(path): norm for path, norm in jax.tree.leaves_with_path(norms)}
    bad = [name for name, norm in norms.items() if not np.isfinite(norm)]
    named = ', '.join(bad[:NAMED]) or 'their common norm'
    text = f'NaN or inf in {named}, {len(bad)} of {len(norms)} parameters'
    if self.sound:
      raise UserError(f'step {s} made {text}; {GO_ON}')
    raise UserError(
      f'step {s}, the first since the start, began with or made {text}; go back to an earlier checkpoint of '
      f'{self.workdir / FOLDER} with --resume_step=STEP, start from other weights, or {GO_ON}'
    )

  def evaluation(self, s: int, name: str, values: Mapping):
    self.writers.write(s, {f'{name}/{key}': value for key, value in values.items()})
    self.evaluations.write(s, name, values)
    logging.info('step %d %s: %s', s, name, ', '.join(f'{key} {value:.4g}' for key, value in values.items()))


def flops_of(config, loss_fn, specs, mesh) -> float:
  """Of one clip in one step, on the average over the sources that take turns; 0 for devices whose peak is unknown."""
  if machine.peak(mesh.devices.flat[0].device_kind) is None:
    return 0.0
  return sum(flops.of_clip(config.model, loss_fn, spec) for spec in specs) / len(specs)


def write_report(workdir, evals, params):
  show = next((evaluator.examples for evaluator in evals.values() if hasattr(evaluator, 'examples')), None)
  if jax.process_count() == 1 and show is not None:
    write_whole(workdir / 'eval' / 'examples.json', json.dumps(show(params, EXAMPLES)))
  if jax.process_index() == 0:
    logging.info('the report is %s', report.write(workdir))
