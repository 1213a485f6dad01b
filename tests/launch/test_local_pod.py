"""The pod in miniature, with small programs in the place of a training; and the variables that join a process."""

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tvts_jax.errors import UserError
from tvts_jax.pod import distributed

POD = ROOT / 'launch' / 'local_pod.py'


def start(*args, **options):
  return subprocess.Popen(
    [sys.executable, POD, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
  )


def run(*args, **options):
  pod = start(*args, **options)
  out, err = pod.communicate(timeout=30)
  return pod.returncode, out, err


def bash(script):
  return ['--', 'bash', '-c', script]


def test_each_process_gets_its_place_and_each_line_its_number():
  names = (
    'JAX_PROCESS_ID JAX_NUM_PROCESSES JAX_NUM_CPU_DEVICES JAX_PLATFORMS JAX_COORDINATOR_ADDRESS '
    'JAX_ENABLE_COMPILATION_CACHE mine no_proxy'
  )
  code, out, err = run(
    '--processes',
    '3',
    '--devices',
    '2',
    *bash(f'for i in {names}; do echo "$i=${{!i}}"; done; echo problem >&2; printf "end\\xff"'),
    env={'PATH': os.environ['PATH'], 'mine': 'too', 'https_proxy': 'http://nowhere:1', 'no_proxy': 'here'},
    errors='surrogateescape',
  )
  assert code == 0
  addresses = set()
  for index in range(3):
    said = [line[4:] for line in out.splitlines() if line.startswith(f'[{index}] ')]
    got = dict(line.split('=') for line in said[:-1])
    addresses.add(got.pop('JAX_COORDINATOR_ADDRESS'))
    assert got == {
      'JAX_PROCESS_ID': str(index),
      'JAX_NUM_PROCESSES': '3',
      'JAX_NUM_CPU_DEVICES': '2',
      'JAX_PLATFORMS': 'cpu',
      'JAX_ENABLE_COMPILATION_CACHE': 'false',
      'mine': 'too',
      'no_proxy': 'here,127.0.0.1',
    }
    assert said[-1] == 'end\udcff'
  assert len(addresses) == 1 and addresses.pop().startswith('127.0.0.1:')
  assert sorted(err.splitlines()) == ['[0] problem', '[1] problem', '[2] problem']


def after_first(tmp_path, first: str, then: str):
  """Process 1 does `then` once process 0 has done `first`."""
  ready = tmp_path / 'ready'
  return bash(
    f'if [ $JAX_PROCESS_ID = 0 ]; then {first}; touch {ready}; sleep 60 & wait; '
    f'else while [ ! -e {ready} ]; do sleep 0.02; done; {then}; fi'
  )


def test_the_first_failure_decides_and_the_others_are_asked_to_leave(tmp_path):
  started = time.monotonic()
  code, out, err = run(*after_first(tmp_path, 'trap "echo asked; exit 9" TERM', 'exit 4'))
  assert (code, out, err) == (4, '[0] asked\n', 'local_pod: process 1 left with 4\n')
  assert time.monotonic() - started < 15


def test_those_who_do_not_leave_are_killed_with_their_children_in_the_time_said(tmp_path):
  started = time.monotonic()
  first = f'trap "" TERM; sleep 61 & echo $! > {tmp_path}/child'
  code, _, err = run('--grace', '0.5', *after_first(tmp_path, first, 'kill -9 $$'))
  assert code == 128 + signal.SIGKILL and 'process 1 left with 137' in err and 'killing the others' in err
  assert 0.5 < time.monotonic() - started < 15
  with pytest.raises(ProcessLookupError):
    gone(int((tmp_path / 'child').read_text()))


def gone(pid: int):
  """Raises ProcessLookupError as soon as the process is no more than a name."""
  for _ in range(500):
    os.kill(pid, 0)
    if Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z':
      raise ProcessLookupError
    time.sleep(0.01)


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux tells a process of the death of its parent')
def test_a_pod_dies_with_its_launcher():
  pod = start('--processes', '1', *bash('echo $$; exec sleep 60'))
  pid = int(pod.stdout.readline().removeprefix('[0] '))
  pod.kill()
  with pytest.raises(ProcessLookupError):
    gone(pid)
  pod.communicate()


def test_after_saved_run_me_again_nobody_is_hurried():
  script = 'trap "echo hurried" TERM; [ $JAX_PROCESS_ID = 0 ] && exit 75; sleep 0.5; echo saved; exit 75'
  assert run(*bash(script)) == (75, '[1] saved\n', 'local_pod: process 0 left with 75\n')


def lives(tmp_path, *ends):
  """Each time that all are started, process 1 ends as the next of `ends` says, and process 0 waits to be asked.

  Each first waits until the other counts this start, too.
  """
  script = f'cd {tmp_path}; mkdir -p $JAX_PROCESS_ID; i=$(ls $JAX_PROCESS_ID | wc -l); touch $JAX_PROCESS_ID/$i; '
  script += 'while [ ! -e $((1 - JAX_PROCESS_ID))/$i ]; do sleep 0.02; done; '
  script += 'case $JAX_PROCESS_ID,$i in ' + ' '.join(f'1,{i}) {end};;' for i, end in enumerate(ends))
  return bash(script + f' 0,{len(ends) - 1}) ;; *) exec sleep 60;; esac')


def test_all_are_started_again_after_a_failure_until_they_succeed(tmp_path):
  again = ''.join(
    f'local_pod: process 1 left with {code}\nlocal_pod: starting all again, {i} of 5\n'
    for i, code in ((1, 137), (2, 76), (3, 3))
  )
  ends = 'kill -9 $$', 'exit 76', 'exit 3', ''
  assert run('--restarts', '5', *lives(tmp_path, *ends)) == (0, '', again)


def test_after_the_last_restart_one_code_tells_of_it(tmp_path):
  code, _, err = run('--restarts', '2', *lives(tmp_path, 'exit 3', 'exit 4', 'exit 5', 'exit 0'))
  assert code == 70 and err.count('starting all again') == 2 and err.endswith('process 1 left with 5\n')


@pytest.mark.parametrize('final', [1, 2])
def test_what_would_only_fail_again_is_not_started_again(tmp_path, final):
  code, _, err = run('--restarts', '2', *lives(tmp_path, f'exit {final}'))
  assert (code, err) == (final, f'local_pod: process 1 left with {final}\n')


def test_a_pod_that_was_asked_to_stop_is_not_started_again():
  pod = start('--restarts', '2', *bash('echo up; exec sleep 60'))
  assert {pod.stdout.readline(), pod.stdout.readline()} == {'[0] up\n', '[1] up\n'}
  pod.send_signal(signal.SIGTERM)
  _, err = pod.communicate(timeout=30)
  assert pod.returncode == 128 + signal.SIGTERM and 'again' not in err


COUNTING = """
import signal, sys, time
got = []
signal.signal(int(sys.argv[1]), lambda *_: (got.append(1), print('got', len(got), flush=True)))
print('up', flush=True)
while len(got) < 2:
  time.sleep(0.01)
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_each_signal_is_passed_on_to_all(number):
  pod = start('--', sys.executable, '-c', COUNTING, str(int(number)))
  read = lambda: {pod.stdout.readline(), pod.stdout.readline()}
  assert read() == {'[0] up\n', '[1] up\n'}
  for count in (1, 2):
    pod.send_signal(number)
    assert read() == {f'[0] got {count}\n', f'[1] got {count}\n'}
  assert pod.wait(30) == 0
  pod.communicate()


def test_a_signal_that_comes_while_processes_are_started_is_sent_once():
  local_pod, sent = types.ModuleType('local_pod'), []
  exec(compile(POD.read_text(), POD.name, 'exec'), local_pod.__dict__)

  class Pod:
    def start(self, *command):
      signal.raise_signal(signal.SIGHUP)

    def send(self, number):
      sent.append(number)

    def wait(self, grace):
      return 0

  local_pod.Pod = Pod
  usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
  try:
    assert local_pod.main(['--', 'true']) == 0
  finally:
    for number, handler in usual.items():
      signal.signal(number, handler)
  assert sent == [signal.SIGHUP] * 2


def test_a_reader_who_leaves_does_not_stop_the_run(tmp_path):
  script = f'for i in $(seq 20000); do echo line $i; done; touch {tmp_path}/$JAX_PROCESS_ID'
  pod = start(*bash(script))
  pod.stdout.close()
  assert pod.wait(30) == 0 and sorted(p.name for p in tmp_path.iterdir()) == ['0', '1']
  pod.stderr.close()


def test_a_command_that_is_none():
  code, out, err = run('--', 'no-such-program')
  assert (code, out, err) == (2, '', 'local_pod: no-such-program cannot be started: No such file or directory\n')
  for args in [[], *([option, *bash('true')] for option in ('--processes=0', '--devices=two', '--restarts=-1'))]:
    code, _, err = run(*args)
    assert code == 2 and 'error: ' in err and 'Traceback' not in err
  code, out, _ = run('--help')
  assert code == 0 and 'Exit codes' in out and '--grace SECONDS' in out


@pytest.mark.parametrize(
  'values, text',
  [
    (dict(JAX_NUM_PROCESSES='2', JAX_PROCESS_ID='0'), 'JAX_COORDINATOR_ADDRESS is not set'),
    (dict(JAX_COORDINATOR_ADDRESS='a:1', JAX_PROCESS_ID='0'), 'JAX_NUM_PROCESSES is not set'),
    (dict(JAX_COORDINATOR_ADDRESS='a:1', JAX_NUM_PROCESSES='2'), 'JAX_PROCESS_ID is not set'),
    (dict(JAX_COORDINATOR_ADDRESS='a:1', JAX_NUM_PROCESSES='2', JAX_PROCESS_ID='2'), 'JAX_PROCESS_ID=2 is none of the'),
    (dict(JAX_COORDINATOR_ADDRESS='a:1', JAX_NUM_PROCESSES='x', JAX_PROCESS_ID='0'), 'JAX_NUM_PROCESSES=x'),
  ],
)
def test_variables_that_do_not_fit_together(monkeypatch, values, text):
  for name in distributed.VARIABLES:
    monkeypatch.delenv(name, raising=False)
  for name, value in values.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(UserError, match=text):
    distributed.initialize()


def test_a_process_alone_stays_alone():
  alone = (
    'from tvts_jax.pod.distributed import initialize; import jax; initialize(); print(jax.distributed.is_initialized())'
  )
  own = {name: value for name, value in os.environ.items() if name not in distributed.VARIABLES}
  names = ('SLURM_JOB_ID', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID')
  slurm = {'SLURM_STEP_NODELIST': 'localhost', **dict(zip(names, ('1', '1', '0', '0')))}
  for more in ({}, {'JAX_NUM_PROCESSES': '1', 'SLURM_JOB_ID': '1'}, slurm):
    got = subprocess.run([sys.executable, '-c', alone], env=own | more, cwd=ROOT, capture_output=True)
    assert got.stdout == b'False\n', got.stderr
