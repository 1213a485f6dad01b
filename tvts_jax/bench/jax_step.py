"""Our train step, compiled and on the devices with a batch of random data, for benchmarks to call."""

import contextlib
import functools
import tempfile
import time

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from tvts_jax import config as config_lib
from tvts_jax import sharding
from tvts_jax import step as step_lib
from tvts_jax.errors import UserError
from tvts_jax.models import flops


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


@contextlib.contextmanager
def fresh_cache():
  """An empty persistent cache for what is compiled within."""
  with tempfile.TemporaryDirectory(prefix='bench_step.') as folder:
    given = {'jax_compilation_cache_dir': folder, 'jax_persistent_cache_min_compile_time_secs': 0.0}
    before = {name: getattr(jax.config, name) for name in given}
    try:
      for name, value in given.items():
        jax.config.update(name, value)
      compilation_cache.reset_cache()
      yield
    finally:
      for name, value in before.items():
        jax.config.update(name, value)
      compilation_cache.reset_cache()


class Step:
  """The step of a config, compiled and with all that it is given on the devices. Calling it takes one."""

  def __init__(self, config: config_lib.RunConfig, devices=None):
    self.config, self.mesh = config, sharding.make_mesh(config.mesh, devices)
    sharding.check_batch(config.input.batch, config.micro_batches, self.mesh)
    self.batch = random_batch(config)
    self.parts = step_lib.describe(config, steps=1000)
    self.place = sharding.state_layout(self.parts.shapes, config.sharding, self.mesh)
    self.rng = jax.random.key(config.seed)
    with jax.set_mesh(self.mesh):
      self.state = jax.jit(self.parts.init, out_shardings=self.place)(self.rng)
      self.on_devices = sharding.put(self.batch, self.mesh)
    if self.mesh.size > 1 and jax.default_backend() == 'cpu':
      # Programs of several CPU devices must not come out of the cache: they hang.
      (self.compiled, self.compile_s), self.cached_compile_s = self.compile(), None
    else:
      with fresh_cache():
        self.compiled, self.compile_s = self.compile()
        jax.clear_caches()
        _, self.cached_compile_s = self.compile()

  def compile(self):
    """The program, and the seconds from a Python function to it."""
    spec = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in self.batch.items()}
    began = time.perf_counter()
    with jax.set_mesh(self.mesh):
      compiled = step_lib.compile_step(self.parts.train_step, self.state, spec, self.rng, self.place, self.mesh)
    return compiled, time.perf_counter() - began

  def __call__(self) -> float:
    self.state, values = self.compiled(self.state, self.on_devices, self.rng)
    values = jax.device_get(values)
    if not values['finite']:
      raise UserError('the step gave no number, so its time means nothing; lower config.optim.lr')
    return float(values['loss'])

  def loss_without_dropout(self) -> float:
    model, loss_fn = self.parts.model, self.parts.loss_fn

    def forward(params, batch):
      batch = batch | loss_fn.ask(model.apply, params, batch, None)
      return loss_fn(model.apply(params, batch), batch)[0]

    apply = jax.jit(forward)
    with jax.set_mesh(self.mesh):
      return float(apply(self.state.params, self.on_devices))

  @functools.cached_property
  def clip_flops(self) -> float:
    return flops.of_clip(self.config.model, self.parts.loss_fn, self.parts.spec)
