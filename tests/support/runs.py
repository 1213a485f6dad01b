"""Whole runs of the demo in miniature, as processes of their own, and what they leave."""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp

from tests.support.paths import ROOT

STEPS = 12
POISONED = 'train-000009', 'clip 13'
FORKING = multiprocessing.get_context('forkserver')
# What costs most of a start.
IMPORTS = ('triton', 'tvts_jax.main', 'tvts_jax.train', 'tensorflow', 'clu.metric_writers')  # As host_tf.py has it.
FORKING.set_forkserver_preload([*IMPORTS, 'transformers.models.auto.tokenization_auto'])


def call(*arguments, **variables):
  command, own = [sys.executable, '-m', *arguments], {**os.environ, **variables}
  return subprocess.run(command, cwd=ROOT, env=own, check=True, capture_output=True, text=True)


def make(root):
  (root / 'compiled').mkdir(parents=True, exist_ok=True)
  probes = ['--probe-train', '0', '--probe-test', '0']
  call('data.world', '--out', f'{root}/world', '--clips', '40', '--val', '16', *probes)
  shape = ['--window-s', '12', '--seconds', '2', '--fps', '1.5', '--short-side', '32', '--min-words', '1']
  call('data.build', f'{root}/world/index.jsonl', '--out', f'{root}/shards', *shape)
  call('data.vocab', f'{root}/shards', '--out', f'{root}/vocab', '--size', '256')
  text = ['--config', f'configs/demo.py:root={root}', '--tokenizer', f'{root}/vocab', '--out', f'{root}/text']
  call('tvts_jax.warm_text', *text, '--steps', '2', '--config.input.batch=8')


def variables(root) -> dict[str, str]:
  """Of the environment of runs; equal between those that are compared bit for bit."""
  return {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '1',
    'JAX_COMPILATION_CACHE_DIR': f'{root}/compiled',  # Of half a program, which a death may leave, JAX makes another.
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'TF_CPP_MIN_LOG_LEVEL': '3',  # As input/host_tf.py has it, for who has imported TensorFlow before.
  }


class Fork:
  """`python -m tvts_jax.main` in a fork of a process that has imported everything; in all else as a Popen of it."""

  def __init__(self, root, name, arguments, prepare=None):
    """prepare: a function of a module, called in the fork."""
    before = dict(os.environ)
    os.environ.update(variables(root))  # For the process that forks, if this is the first.
    self._output = pathlib.Path(f'{root}/{name}.txt')
    self._output.write_text('')
    self._process = FORKING.Process(target=be_run, args=(arguments, str(self._output), prepare))
    try:
      self._process.start()
    finally:
      os.environ.clear()
      os.environ.update(before)
    self.pid = self._process.pid

  @property
  def returncode(self) -> int | None:
    return self._process.exitcode

  def poll(self) -> int | None:
    return self._process.exitcode

  def kill(self):
    self._process.kill()

  def said(self) -> str:
    return self._output.read_text(errors='replace')

  def communicate(self, timeout=None) -> tuple[str, None]:
    self._process.join(timeout)
    if self.returncode is None:
      raise subprocess.TimeoutExpired('a run', timeout)
    return self.said(), None


def be_run(arguments, output, prepare):
  from tvts_jax import command, main

  file = os.open(output, os.O_WRONLY | os.O_APPEND)
  for stream in (1, 2):
    os.dup2(file, stream)
  if prepare is not None:
    prepare()
  sys.argv[:] = ['tvts_jax.main', *arguments]
  command.run(main.main)


def arguments(demo, name, *settings) -> list[str]:
  return [
    *(f'--config=configs/demo.py:root={demo},steps={STEPS}', f'--workdir={demo}/{name}'),
    *('--config.input.batch=8', '--config.evals.sorting.batch=8', '--config.log_every=1', '--config.spike_sigmas=6'),
    *('--config.checkpoint.every_steps=5', '--config.evals.sorting.every_steps=6'),
    *settings,
  ]


def start(demo, name, *settings, prepare=None) -> Fork:
  return Fork(demo, name, arguments(demo, name, *settings), prepare)


def poisoned(load):
  """Examples.load, for which the words of some records are none of the vocabulary, and their embeddings NaN."""

  def poisoning(self, row, epoch):
    example = load(self, row, epoch)
    if self.name(row)[0] not in POISONED:
      return example
    return dataclasses.replace(example, tokens=np.full_like(example.tokens, 10**6))

  return poisoning


def poison() -> None:
  from tvts_jax.input.examples import Examples

  Examples.load = poisoned(Examples.load)


def hold_evaluations() -> None:
  """Each waits after its first batch until the run is asked to stop."""
  from tvts_jax.run import stop

  def held(go_on=stop.between_batches):
    print('held between two batches', flush=True)
    while not stop.Stop.entered.requested():
      time.sleep(0.01)
    go_on()

  stop.between_batches = held


def finish(process, code=0, timeout=240) -> str:
  try:
    output = process.communicate(timeout=timeout)[0]
  except subprocess.TimeoutExpired:
    process.kill()
    raise
  assert process.returncode == code, output[-3000:]
  return output


def wait_for(process, condition):
  while not condition():
    assert process.poll() is None, process.communicate()[0][-3000:]
    time.sleep(0.01)


def rows(folder) -> list[dict]:
  """What the run wrote of itself, without the times."""
  lines = filter(None, (folder / 'metrics.jsonl').read_text().splitlines())
  return [{key: value for key, value in json.loads(line).items() if key != 'time'} for line in lines]


def end(folder, step: int = STEPS) -> dict[str, np.ndarray]:
  """The state in a checkpoint, the last one unless a step is given."""
  path = folder / 'checkpoints' / str(step) / 'state'
  with ocp.PyTreeCheckpointer() as checkpointer:
    names = checkpointer.metadata(path).item_metadata.tree
    # On the host, because the devices that saved them may not be here.
    return checkpointer.restore(path, restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names})


def assert_equal_ends(a, b, step: int = STEPS):
  """All numbers that two runs told, and each bit of the states they ended with."""
  assert rows(a) == rows(b)
  before, after = end(a, step), end(b, step)
  assert before.keys() == after.keys()
  for name, value in before.items():
    np.testing.assert_array_equal(value, after[name], err_msg=name)
