"""Is everything there that a run needs? One line for each thing, before any of them costs anything:

  python -m tvts_jax.doctor --config=configs/pretrain.py --workdir=runs/first

takes the flags of tvts_jax.main and says `ok` or `!!`, what is wrong, and what to do about it. Without --config and
--workdir it looks at the machine alone. Of the model only kernels of attention are compiled and run, on accelerators.
Started as the processes of a pod, each looks around where it is, and process 0 speaks for all.

Exit codes: 0 all is well, 1 something is not, 2 the command line is wrong, 76 another process died on the way.
"""

import os
import sys
import time
import traceback
from typing import NoReturn

from tvts_jax import command
from tvts_jax.doctor.checks import CHECKS
from tvts_jax.doctor.examination import Late, Run, within
from tvts_jax.errors import UserError

PEERS = 600  # Seconds that a check may take another process.


def main(argv=None) -> int:
  run = Run(*arguments(argv))
  # So much of a GPU that a run beside this would stumble over it.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  ok = examine(run)
  if run.stuck:
    leave_at_once(run.index)
  return 0 if ok else 1


def arguments(argv) -> tuple[str | None, str | None, list[str]]:
  parser = command.parser('tvts_jax.doctor', __doc__)
  parser.add_argument('--config', metavar='FILE', help='the run; single settings follow it as --config.optim.lr=3e-4')
  parser.add_argument('--workdir', metavar='DIR', help='where the run will write; a folder or a bucket')
  args, settings = parser.parse_known_args(argv)
  for given in settings:
    if not given.startswith('--config.'):
      parser.error(f'{given!r} is no flag; settings are given as --config.optim.lr=3e-4')
    if not args.config:
      parser.error(f'{given} needs --config=FILE')
  return args.config, args.workdir, settings


def examine(run: Run) -> bool:
  """Makes all checks that can be made and prints a line for each; whether all is well."""
  passed = {flag for flag, value in (('--config', run.file), ('--workdir', run.workdir)) if value}
  failed = set()
  for name, (check, *needs) in CHECKS.items():
    if not passed | failed >= set(needs):
      continue  # A flag is not given.
    lacking = next((need for need in needs if need in failed), None)
    text, problem = attempt(run, check) if lacking is None else ('', f'not checked, since {lacking!r} is not ok')
    problems = everyone(run, problem) if 'processes' in passed else [problem]
    (failed if any(problems) else passed).add(name)
    if run.index == 0:
      for line in lines(name, text, problems):
        print(line, flush=True)
  if 'processes' in passed:
    run.stuck = any(everyone(run, 'stuck' if run.stuck else ''))
  return not failed


def attempt(run: Run, check) -> tuple[str, str]:
  """(what is in order, ''), or ('', what is not)."""
  try:
    return check(run), ''
  except Late as e:
    run.stuck = True
    return '', str(e)
  except (UserError, ImportError) as e:
    return '', str(e)
  except Exception as e:  # noqa: BLE001 - libraries break in many ways on a broken machine, and the rest goes on
    traceback.print_exc()
    return '', ': '.join([type(e).__name__, *str(e).strip().splitlines()[:1]])


def lines(name: str, text: str, problems: list[str]) -> list[str]:
  """One line, or one for each problem that some of the processes have."""
  if not any(problems):
    return [f'ok {name}: {text}']
  result = []
  for problem in dict.fromkeys(filter(None, problems)):
    where = [str(i) for i, other in enumerate(problems) if other == problem]
    which = f' (process {", ".join(where)})' if len(where) < len(problems) else ''
    result.append(f'!! {name}: {" ".join(problem.split())}{which}')
  return result


def everyone(run: Run, problem: str) -> list[str]:
  """The problem of each process, or ''. All make the same checks in the same order, so they ask at the same time."""
  import jax

  from tvts_jax.pod import messages

  if jax.process_count() == 1:
    return [problem]
  number = messages.number()
  hear = lambda: [messages.hear(number, index) for index in range(jax.process_count())]
  try:
    messages.say(problem, number)
    return within(PEERS, 'no answer', hear)
  except (Late, RuntimeError):
    print('!! processes: another one is gone or hangs; what it printed last says where', flush=True)
    leave_at_once(run.index)


def leave_at_once(index: int) -> NoReturn:
  """An ordinary exit would wait for what does not answer."""
  if index == 0:
    time.sleep(1)  # What the others still have to hear lies here.
  sys.stdout.flush()
  os._exit(1)


if __name__ == '__main__':
  sys.exit(main())
