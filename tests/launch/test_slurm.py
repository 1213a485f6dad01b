"""launch/slurm.sbatch on a Slurm of the test's own, whose two nodes are namespaces of this machine and end with it."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from tests.faults import small
from tests.support import runs
from tests.support.paths import ROOT

TOOLS = ('slurmctld', 'slurmd', 'sbatch', 'munged', 'unshare', 'nsenter', 'setpriv', 'ip')
pytestmark = [
  pytest.mark.long,
  pytest.mark.timeout(3600),
  pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, TOOLS)),
    reason='needs root and Slurm: apt-get install slurm-wlm munge iproute2',
  ),
]

LONGEST = 900  # Seconds that a start may take where the machine is busy.
STEPS, EVERY, HELD_AT = 16, 4, 6
LONG = f'--config.steps={STEPS}', f'--config.checkpoint.every_steps={EVERY}', '--config.spike_sigmas=6'
SIZE = ('--nodes=2', '--ntasks-per-node=1', '--cpus-per-task=1', '--gpus-per-node=1')

CONFIG = """
ClusterName=tests
SlurmctldHost=box
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdTimeout=10
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/%n.log
SlurmdParameters=config_overrides
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n0 Port=17000 CPUs=4 RealMemory=4000 Gres=gpu:1
NodeName=n1 Port=17001 CPUs=4 RealMemory=4000 Gres=gpu:1
PartitionName=gpu Nodes=n[0-1] Default=YES PriorityTier=1 GraceTime=300
PartitionName=urgent Nodes=n[0-1] PriorityTier=2
"""
# A machine of its own, whose processes all end with the first one, which ends with the process that started it.
ALONE = (
  'setpriv',
  '--pdeathsig',
  'KILL',
  'unshare',
  '--mount',
  '--uts',
  '--pid',
  '--fork',
  '--kill-child',
  '--mount-proc',
)
BOX = """
set -e
hostname box
mount --bind {root}/hosts /etc/hosts
ip link set lo up
ip address add 10.0.0.1/32 dev lo # Slurm needs one beside 127.0.0.1.
munged --force --foreground --socket={root}/munge.socket --key-file={root}/munge.key --log-file={root}/munge.log \
  --pid-file={root}/munge.pid --seed-file={root}/munge.seed &
slurmctld -D -f {root}/slurm.conf &
touch {root}/booted
wait
"""
NODE = """
hostname {name}
slurmd -D -f {root}/slurm.conf &
wait
"""
# In the place of .venv/bin/python: a run whose first life waits at a step until the test lets it go on.
PYTHON = """#!/bin/sh
[ "$1 $2" = '-m tvts_jax.main' ] || exit 99
shift 2
cd {repository} && PYTHONPATH=. exec {python} {root}/held.py "$@"
"""
HELD = """
import os, pathlib, time
from absl import app
from tvts_jax import main
from tvts_jax.run import metrics

def hold(self, step, values, write=metrics.Writers.write):
  if step == {step} and 'SLURM_RESTART_COUNT' not in os.environ:
    print('held', flush=True)
    while not pathlib.Path('{root}/go').exists():
      time.sleep(0.05)
  write(self, step, values)

metrics.Writers.write = hold
app.run(main.main)
"""


def wait_for(condition, tell, seconds: float = LONGEST):
  """tell: a function that says what is wrong if the condition does not come true."""
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, tell()
    time.sleep(0.2)


class Cluster:
  """All its files are in a folder; small.make has made the data of its runs in another."""

  def __init__(self, root, data):
    self.root, self.data, self._box, self._nodes = root, data, None, {}
    for name in ('state', 'n0', 'n1', '.venv/bin'):
      (root / name).mkdir(parents=True)
    (root / 'slurm.conf').write_text(CONFIG.format(root=root))
    (root / 'gres.conf').write_text('Name=gpu File=/dev/null\n')
    (root / 'hosts').write_text('127.0.0.1 localhost\n10.0.0.1 box n0 n1\n')
    (root / 'munge.key').write_bytes(os.urandom(1024))
    (root / 'munge.key').chmod(0o400)
    (root / 'held.py').write_text(HELD.format(root=root, step=HELD_AT))
    (root / '.venv/bin/python').write_text(PYTHON.format(repository=ROOT, python=sys.executable, root=root))
    (root / '.venv/bin/python').chmod(0o755)

  def boot(self):
    self._box = self._begin('box', [*ALONE, '--net', 'bash', '-c', BOX.format(root=self.root)])
    wait_for((self.root / 'booted').exists, (self.root / 'box.txt').read_text, 30)
    for node in ('n0', 'n1'):
      self.start(node)

  def stop(self):
    for process in filter(None, (self._box, *self._nodes.values())):
      process.kill()
      process.wait()

  def start(self, node: str):
    """On a machine of its own as well, within the other: with its first process it loses all others at once."""
    self._nodes[node] = self._begin(node, self._inside(*ALONE, 'bash', '-c', NODE.format(root=self.root, name=node)))
    states = lambda: self.call('sinfo', '-h', '-N', '-p', 'gpu', '-n', node, '-o', '%T')
    wait_for(lambda: states() == 'idle', lambda: f'{states()}\n{(self.root / f"{node}.txt").read_text()}', 60)

  def lose(self, node: str):
    self._nodes[node].kill()
    self._nodes[node].wait()

  def _begin(self, name: str, command: list[str]) -> subprocess.Popen:
    with open(self.root / f'{name}.txt', 'a') as file:
      return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

  def _inside(self, *command) -> list[str]:
    (first,) = small.processes(self._box)
    return ['nsenter', f'--target={first}', '--mount', '--net', '--uts', '--pid', f'--wd={self.root}', *command]

  def call(self, *command, **variables) -> str:
    """What a command of Slurm prints."""
    environment = {**os.environ, 'SLURM_CONF': f'{self.root}/slurm.conf', **variables}
    done = subprocess.run(self._inside(*command), env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

  def submit(self, name: str, *settings, size=('--time=60',)) -> 'Job':
    """launch/slurm.sbatch as it is, but for its size."""
    variables = {**runs.variables(self.data), 'JAX_ENABLE_COMPILATION_CACHE': 'false'}
    script = [ROOT / 'launch' / 'slurm.sbatch', *small.arguments(self.data, name, *LONG, *settings)]
    return Job(self, self.call('sbatch', '--parsable', *SIZE, *size, *script, **variables), self.data / name)


class Job:
  def __init__(self, cluster: Cluster, number: str, folder):
    self.cluster, self.number, self.folder = cluster, number, folder

  def log(self) -> str:
    path = self.cluster.root / f'tvts-{self.number}.log'
    return path.read_text() if path.exists() else ''

  def show(self) -> str:
    return self.cluster.call('scontrol', 'show', 'job', '-o', self.number)

  def field(self, name: str) -> str:
    return re.search(rf'\b{name}=(\S+)', self.show())[1]

  def change(self, setting: str):
    self.cluster.call('scontrol', 'update', f'job={self.number}', setting)

  def await_field(self, name: str, value: str):
    wait_for(lambda: self.field(name) == value, lambda: f'{self.show()}\n{self.log()}')

  def await_line(self, text: str):
    """From both tasks."""
    wait_for(lambda: self.log().count(text) == 2, lambda: f'{self.show()}\n{self.log()}')

  def await_hold(self):
    self.await_line('held')
    wait_for(lambda: small.steps(self.folder) == [EVERY], self.log)

  def await_save(self):
    """Until both tasks have got SIGTERM, saved, and the job is in the queue again."""
    self.await_line('SIGTERM: saving at the next step')
    (self.cluster.root / 'go').touch()
    self.await_field('Restarts', '1')
    assert not re.search('forcing job termination|Killed|SIGTERM again', self.log()), self.log()
    assert self.log().count('Exited with exit code 75') == 2, self.log()

  def assert_resumed(self, undisturbed) -> int:
    """Once it has ended, like an undisturbed run; → the step at which it went on."""
    self.await_field('JobState', 'COMPLETED')
    assert self.field('Restarts') == '1' and self.field('ExitCode') == '0:0'
    (step,) = set(re.findall(rf'resuming {self.folder} at step (\d+) of {STEPS}', self.log()))
    runs.assert_equal_ends(undisturbed, self.folder, STEPS)
    return int(step)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return small.make(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def undisturbed(data):
  runs.finish(small.start(data, 'undisturbed', *LONG, pod=[*small.POD, '--']), timeout=LONGEST)
  return data / 'undisturbed'


@pytest.fixture
def cluster(tmp_path, data):
  cluster = Cluster(tmp_path, data)
  try:
    cluster.boot()
    yield cluster
  finally:
    cluster.stop()


def test_before_its_time_is_up_a_job_saves_and_resumes(cluster, undisturbed):
  job = cluster.submit('limit', size=['--time=60', '--signal=B:TERM@60'])
  job.await_hold()
  # Now the signal is due: Slurm sends it a minute before the end, or up to another one earlier.
  hours, minutes, _ = map(int, job.field('RunTime').split(':'))
  job.change(f'TimeLimit={60 * hours + minutes + 2}')
  job.await_save()
  job.change('TimeLimit=60')
  assert job.assert_resumed(undisturbed) > HELD_AT


def test_a_job_that_makes_room_saves_and_resumes(cluster, undisturbed):
  job = cluster.submit('preempted')
  job.await_hold()
  urgent = cluster.call('sbatch', '--parsable', '--partition=urgent', '--nodes=2', '--exclusive', '--wrap=true')
  job.await_save()
  assert job.assert_resumed(undisturbed) > HELD_AT
  assert 'JobState=COMPLETED' in cluster.call('scontrol', 'show', 'job', urgent)


def test_a_job_that_loses_a_node_resumes_from_the_last_checkpoint(cluster, undisturbed):
  job = cluster.submit('lost')
  job.await_hold()
  cluster.lose('n1')
  job.await_field('Restarts', '1')
  cluster.start('n1')
  assert job.assert_resumed(undisturbed) == EVERY


def test_an_error_that_a_person_must_mend_ends_a_job(cluster):
  job = cluster.submit('wrong', '--config.no_such_setting=1')
  job.await_field('JobState', 'FAILED')
  assert job.field('Restarts') == '0' and job.field('ExitCode') == '1:0', job.log()
  assert 'no_such_setting' in job.log()


def test_a_job_that_is_cancelled_saves_and_stays_so(cluster):
  job = cluster.submit('cancelled')
  job.await_hold()
  cluster.call('scancel', job.number)
  job.await_line('SIGTERM: saving at the next step')
  (cluster.root / 'go').touch()
  job.await_field('JobState', 'CANCELLED')
  assert job.field('Restarts') == '0' and small.steps(job.folder)[-1] > HELD_AT
