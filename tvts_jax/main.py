"""Trains a model: python -m tvts_jax.main --config=configs/pretrain.py --workdir=runs/first

A config takes variations behind a colon (--config=configs/pretrain.py:size=S/16) and any setting by name
(--config.optim.lr=3e-4). The same command resumes a run that was stopped, and refuses to do so with other settings but
for those that --resume_with_changes names.

Exit codes:

  0     trained to the end
  1     stopped by an error that one sentence names, or by a bug; running it again would only stop again
  75    saved, because it was asked to stop; run it again to go on
  76    a process of the run died, gave no sign of life for TVTS_HEARTBEAT_S seconds (by default 30), or stood still for
        TVTS_PATIENCE_S (by default 300; watchdog.py says more); run it again to go on from the last checkpoint
  128+n ended by signal n; as 76
"""

import gc
import sys

from absl import app, flags
from ml_collections import config_flags

from tvts_jax import command

CONFIG = config_flags.DEFINE_config_file('config', None, 'the run: a file of configs/', lock_config=True)
WORKDIR = flags.DEFINE_string('workdir', None, 'where checkpoints, metrics and the report go; needed')
CHANGES = flags.DEFINE_list(
  'resume_with_changes', [], 'settings that may differ from those of the run that is resumed: optim.lr,steps,data'
)
RESUME_STEP = flags.DEFINE_integer(
  'resume_step', None, 'a checkpoint to resume from in the place of the newest; newer ones are set aside'
)
flags.mark_flags_as_required(['config', 'workdir'])


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1]!r} is not a flag; settings are given as --config.optim.lr=3e-4')
  command.tell_own()
  # Imports and traces make millions of objects that live on; to look through them all again and again takes a seventh
  # of a start.
  gc.set_threshold(100_000, 50, 100)
  from tvts_jax import config, train
  from tvts_jax.pod import distributed
  from tvts_jax.run import checkpoint_folder, stop

  sys.unraisablehook = checkpoint_folder.quieter(sys.unraisablehook)

  def work() -> int:
    # Before anything touches a device, or the processes of a pod never find each other.
    distributed.initialize()
    ended = train.train(config.resolve(CONFIG.value), WORKDIR.value, CHANGES.value, RESUME_STEP.value)
    return 0 if ended else stop.EXIT_CODE

  return command.ending(work, leave=distributed.leave)


if __name__ == '__main__':
  command.run(main)
