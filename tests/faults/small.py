"""The smallest run that is still the whole program, cheap enough to be started dozens of times.

Its records are made by hand, its model has one layer, and all runs share what they compile.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from unittest import mock

from absl import flags
from ml_collections import config_flags

from tests.support import folders, runs
from tvts_jax import config as config_lib
from tvts_jax.input import vocab

STEPS = runs.STEPS
ROOM = 2**14  # Bytes that no file needs but those of a checkpoint.
POD = (sys.executable, 'launch/local_pod.py', '--processes', '2', '--devices', '1')
SAMPLING = {'transcripts': 4, 'seconds': [2], 'gap_s': 1.0, 'min_words': 1}
SETTINGS = (
  *('--config.input.batch=8', '--config.log_every=1', '--config.checkpoint.every_steps=1'),
  *('--config.init.text=', '--config.evals={}'),
  *('--config.model.video.image_size=16', '--config.model.video.frames=4', '--config.model.video.depth=1'),
  *('--config.model.video.width=16', '--config.model.video.heads=2', '--config.model.sort_depth=1'),
  *('--config.model.text.n_layers=1', '--config.model.text.dim=16', '--config.model.text.hidden_dim=32'),
  *('--config.model.text.n_heads=2', '--config.model.common=16'),
)
# Programs of several CPU devices that come out of JAX's cache may hang.
TWO_DEVICES = {'JAX_NUM_CPU_DEVICES': '2', 'JAX_ENABLE_COMPILATION_CACHE': 'false'}


def make(root):
  """What the demo makes of its world: shards, and a tokenizer in the place of the text encoder."""
  clips = lambda first, last: [folders.record(f'clip {i}', height=16) for i in range(first, last)]
  folders.write(root / 'shards', {'train': [clips(0, 20), clips(20, 40)]}, sampling=SAMPLING)
  vocab.save(vocab.train(Counter(f'w{i}' for i in range(40)), 256), root / 'text')
  return root


def arguments(root, name, *settings, objective='tvts') -> list[str]:
  config = f'--config=configs/demo.py:root={root},objective={objective},steps={STEPS}'
  return [config, f'--workdir={root}/{name}', *SETTINGS, *settings]


def config(root, *settings) -> config_lib.RunConfig:
  """What a run with these settings is, for this process."""
  values, argv = flags.FlagValues(), ['train', *arguments(root, '', *settings)]
  config_flags.DEFINE_config_file('config', flag_values=values)
  flags.DEFINE_string('workdir', '', '', flag_values=values)
  with mock.patch.object(sys, 'argv', argv):  # Where settings by name are looked for, too.
    values(argv)
  return config_lib.resolve(values.config)


def start(root, name, *settings, pod=(), program=('-m', 'tvts_jax.main'), changed=(), **options) -> subprocess.Popen:
  """changed: variables of the environment that are others than usual."""
  command = [*pod, sys.executable, *program, *arguments(root, name, *settings)]
  environment = {**os.environ, **runs.variables(root), **dict(changed)}
  options = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True, **options}
  return subprocess.Popen(command, cwd=runs.ROOT, env=environment, **options)


def fork(root, name, *settings, objective='tvts') -> runs.Fork:
  return runs.Fork(root, name, arguments(root, name, *settings, objective=objective))


def steps(folder) -> list[int]:
  """Those of the complete checkpoints, rising."""
  path = folder / 'checkpoints'
  return sorted(int(p.name) for p in path.iterdir() if p.name.isdecimal()) if path.exists() else []


def unfinished(folder) -> set[str]:
  """Names of checkpoints that are being written, or were when their process died."""
  path = folder / 'checkpoints'
  return {p.name for p in path.iterdir() if p.name.endswith('.unfinished')} if path.exists() else set()


def names(folder) -> set[str]:
  """Of all that a run leaves, but for what is inside of checkpoints and what TensorBoard reads."""
  inside = [p.relative_to(folder) for p in folder.rglob('*')]
  return {str(p) for p in inside if len(p.parts) <= 2 and p.parts[0] != 'tensorboard'}


def fingerprints(folder, step: int) -> dict[str, int]:
  """Of the arrays in a checkpoint, as its run saw them."""
  return json.loads((folder / 'checkpoints' / str(step) / 'meta.json').read_text())['fingerprints']


def processes(launcher) -> list[int]:
  """The ids of the processes that local_pod.py has started, in their order."""
  with open(f'/proc/{launcher.pid}/task/{launcher.pid}/children') as file:
    return [int(pid) for pid in file.read().split()]


def limit_files(pid: int, size: int | None) -> None:
  """As if the disk of a process were full for what is larger than `size` bytes; None: there is room again."""
  hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
  resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


# When something may happen to a run: what to wait for, given its folder, the newest step saved and the names of
# unfinished checkpoints when it started, and then for how long at most, in seconds.
MOMENTS = {
  'starting': (lambda folder, newest, left: True, 6.0),
  'training': (lambda folder, newest, left: steps(folder)[-1:] > newest, 0.3),
  'saving': (lambda folder, newest, left: unfinished(folder) - left, 0.4),
}


def await_moment(run, folder, moment: str, rng, newest: list[int], left: set[str]):
  """Until a moment of a run has come, or the run has ended. newest, left: as steps(folder)[-1:] and unfinished(folder)
  were before it started."""
  come, longest = MOMENTS[moment]
  while run.poll() is None and not come(folder, newest, left):
    time.sleep(0.002)
  time.sleep(rng.uniform(0, longest))
