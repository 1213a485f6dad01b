"""What others will read of launch/: the JobSet as its API takes it, and the Dockerfile as far as it can be read.

SCHEMA has the fields of JobSet v1alpha2, of a Job (batch/v1) and of a pod (core/v1) that a run has a use for. As
kubectl does, it takes no others.
"""

import copy
import fnmatch
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import yaml

from tests.support.paths import ROOT

LABEL = re.compile('[a-z]([-a-z0-9]*[a-z0-9])?')  # RFC 1035
TEXTS, COUNT = {'*': str}, (int, lambda n: n >= 0)
# How a Job can fail, by names of batch/v1.
REASONS = {
  *('BackoffLimitExceeded', 'DeadlineExceeded', 'PodFailurePolicy', 'FailedIndexes', 'MaxFailedIndexesExceeded'),
}
ACTIONS = {
  *('FailJobSet', 'RestartJobSet', 'RestartJobSetAndIgnoreMaxRestarts', 'RestartJob', 'RestartJobAndIgnoreMaxRestarts'),
}
NAMED = (str, lambda name: LABEL.fullmatch(name) and len(name) <= 63)
METADATA = {'name': NAMED, 'namespace': NAMED, 'labels': TEXTS, 'annotations': TEXTS}
VOLUME = {'name!': NAMED, 'persistentVolumeClaim': {'claimName!': str}, 'emptyDir': {'medium': str, 'sizeLimit': str}}
CONTAINER = {
  **{'name!': NAMED, 'image!': str, 'command': [str], 'args': [str], 'workingDir': str},
  'env': [{'name!': str, 'value': str}],
  'ports': [{'name': NAMED, 'containerPort!': (int, lambda port: 0 < port < 65536)}],
  'resources': {'limits': {'*': (int, str)}, 'requests': {'*': (int, str)}},
  'securityContext': {'privileged': bool},
  'volumeMounts': [{'name!': NAMED, 'mountPath!': str, 'readOnly': bool}],
}
POD = {
  'restartPolicy!': (str, {'Never', 'OnFailure'}.__contains__),
  **{'terminationGracePeriodSeconds': COUNT, 'serviceAccountName': NAMED, 'nodeSelector': TEXTS, 'hostNetwork': bool},
  **{'dnsPolicy': str, 'priorityClassName': str},
  'tolerations': [{'key': str, 'operator': str, 'value': str, 'effect': str}],
  'volumes': [VOLUME],
  'containers!': [CONTAINER],
}
EXIT_CODES = {
  **{'containerName': str, 'operator!': (str, {'In', 'NotIn'}.__contains__)},
  'values!': [(int, lambda code: 0 < code < 256)],
}
JOB = {
  **{'parallelism': COUNT, 'completions': COUNT, 'backoffLimit': COUNT, 'activeDeadlineSeconds': COUNT},
  'completionMode': (str, 'Indexed'.__eq__),
  'podFailurePolicy': {
    'rules!': [{'action!': (str, {'FailJob', 'Ignore', 'Count'}.__contains__), 'onExitCodes': EXIT_CODES}]
  },
  'template!': {'metadata': METADATA, 'spec!': POD},
}
RULE = {
  'name!': (str, re.compile('[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?').fullmatch),
  'action!': (str, ACTIONS.__contains__),
  'onJobFailureReasons': [(str, REASONS.__contains__)],
  'targetReplicatedJobs': [str],
}
SCHEMA = {
  'apiVersion!': (str, 'jobset.x-k8s.io/v1alpha2'.__eq__),
  'kind!': (str, 'JobSet'.__eq__),
  'metadata!': {**METADATA, 'name!': NAMED},
  'spec!': {
    **{'suspend': bool, 'ttlSecondsAfterFinished': COUNT},
    'network': {'enableDNSHostnames': bool, 'subdomain': NAMED, 'publishNotReadyAddresses': bool},
    'failurePolicy': {'maxRestarts': COUNT, 'restartStrategy': str, 'rules': [RULE]},
    'replicatedJobs!': [{'name!': NAMED, 'replicas': COUNT, 'template!': {'metadata': METADATA, 'spec!': JOB}}],
  },
}


def faults(value, schema, where='') -> list[str]:
  """Where a value is not as asked: {field: schema}, with ! if it must be there; [schema]; types; (type, condition)."""
  if isinstance(schema, dict):
    if not isinstance(value, dict):
      return [f'{where} is no mapping']
    known = {name.rstrip('!'): own for name, own in schema.items()}
    lacking = [f'{where}.{name[:-1]} is missing' for name in schema if name.endswith('!') and name[:-1] not in value]
    inside = [
      faults(own, known.get(name, known.get('*')), f'{where}.{name}')
      if name in known or '*' in known
      else [f'{where}.{name} is unknown']
      for name, own in value.items()
    ]
    return sum(inside, lacking)
  if isinstance(schema, list):
    if not isinstance(value, list) or not value:
      return [f'{where} is no list, or an empty one']
    return sum((faults(own, schema[0], f'{where}[{n}]') for n, own in enumerate(value)), [])
  kinds, condition = schema if isinstance(schema, tuple) and not isinstance(schema[-1], type) else (schema, bool)
  kinds = kinds if isinstance(kinds, tuple) else (kinds,)
  right = type(value) in kinds and (condition is bool or condition(value))
  return [] if right else [f'{where} cannot be {value!r}']


def contradictions(made: dict) -> list[str]:
  """What the API refuses although each field by itself is well."""
  found = []
  for set_ in made['spec']['replicatedJobs']:
    job = set_['template']['spec']
    pod = job['template']['spec']
    longest = f'{made["metadata"]["name"]}-{set_["name"]}-{set_["replicas"] - 1}-{job["completions"] - 1}-abcde'
    if not NAMED[1](longest):
      found.append(f'a pod would be called {longest}')
    names = {container['name'] for container in pod['containers']}
    for rule in job.get('podFailurePolicy', {}).get('rules', ()):
      codes = rule['onExitCodes']
      if codes['values'] != sorted(set(codes['values'])):
        found.append('exit codes must rise')
      if codes.get('containerName', *names) not in names:
        found.append('exit codes are of no container')
      if pod['restartPolicy'] != 'Never':
        found.append('a podFailurePolicy needs restartPolicy: Never')
    mounted = {mount['name'] for container in pod['containers'] for mount in container.get('volumeMounts', ())}
    if mounted - {volume['name'] for volume in pod.get('volumes', ())}:
      found.append('a volume is mounted that is not there')
  targets = {name for rule in made['spec']['failurePolicy']['rules'] for name in rule.get('targetReplicatedJobs', ())}
  if targets - {set_['name'] for set_ in made['spec']['replicatedJobs']}:
    found.append('a rule is about no replicated job')
  return found


@pytest.fixture
def made() -> dict:
  return yaml.safe_load((ROOT / 'launch/gke_jobset.yaml').read_text())


def test_the_jobset_is_as_its_api_has_it(made):
  assert faults(made, SCHEMA) == [] and contradictions(made) == []


POLICY = 'spec.failurePolicy'
JOBS = 'spec.replicatedJobs.0'
INNER = f'{JOBS}.template.spec'


@pytest.mark.parametrize(
  'path, value, words',
  [
    (f'{POLICY}.maxRestart', 3, 'maxRestart is unknown'),
    (f'{POLICY}.rules.0.onJobFailureReasons', ['ExitCode'], "cannot be 'ExitCode'"),
    (f'{POLICY}.rules.0.targetReplicatedJobs', ['slices'], 'about no replicated job'),
    (f'{JOBS}.replicas', '2', "cannot be '2'"),
    (f'{JOBS}.name', 'Slice', "cannot be 'Slice'"),
    (f'{JOBS}.name', 's' * 60, 'a pod would be called'),
    (f'{INNER}.parallelism', -1, 'cannot be -1'),
    (f'{INNER}.podFailurePolicy.rules.0.onExitCodes.values', [2, 1], 'must rise'),
    (f'{INNER}.podFailurePolicy.rules.0.onExitCodes.containerName', 'main', 'of no container'),
    (f'{INNER}.template.spec.restartPolicy', 'OnFailure', 'needs restartPolicy: Never'),
    (f'{INNER}.template.spec.containers', [], 'an empty one'),
    (f'{INNER}.template.spec.containers.0.image', None, 'cannot be None'),
  ],
)
def test_a_slip_in_it_would_be_found(made, path, value, words):
  place, *steps = copy.deepcopy(made), *path.split('.')
  changed = place
  for step in steps[:-1]:
    place = place[int(step) if step.isdigit() else step]
  place[steps[-1]] = value
  assert any(words in fault for fault in faults(changed, SCHEMA) or contradictions(changed))


def instructions() -> list[tuple[str, list[str]]]:
  """Of the Dockerfile, in order: (name, words)."""
  text = re.sub(r'^#.*\n', '', (ROOT / 'launch/Dockerfile').read_text(), flags=re.MULTILINE)
  lines = text.replace('\\\n', ' ').strip().splitlines()
  return [(line.split()[0], shlex.split(line)[1:]) for line in lines if line.strip()]


def copied() -> list[list[str]]:
  return [
    [word for word in words[:-1] if not word.startswith('--')] for name, words in instructions() if name == 'COPY'
  ]


def test_the_dockerfile_copies_what_is_there_and_names_what_it_knows():
  known = {'FROM', 'ARG', 'WORKDIR', 'COPY', 'RUN', 'ENV', 'CMD', 'ENTRYPOINT', 'USER'}
  found = instructions()
  assert {name for name, _ in found} <= known and found[0][0] == 'FROM'
  stages, arguments = set(), set()
  for name, words in found:
    if name == 'FROM':
      assert words[0] in stages or re.fullmatch(r'[\w./-]+:[\w.-]+', words[0])
      stages |= set(words[2:]) if words[1:2] in (['AS'], ['as']) else set()
    if name == 'ARG':
      arguments.add(words[0].partition('=')[0])
    assert all(word[7:] in stages for word in words if word.startswith('--from='))
    assert set(re.findall(r'\$\{?([A-Z_]+)', ' '.join(words))) <= arguments
  ignored = (ROOT / '.dockerignore').read_text().split()
  for source in sum(copied(), []):
    assert (ROOT / source).exists() and not any(fnmatch.fnmatch(source, pattern) for pattern in ignored)


def test_an_image_for_each_kind_of_machine_installs_what_is_there():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  text = (ROOT / 'launch/Dockerfile').read_text()
  extras = set(re.findall(r'EXTRA=(\w+)', text)) - {'cpu'}
  assert extras == {'gpu', 'tpu'} and extras <= set(project['optional-dependencies'])
  (python,) = (words[0] for name, words in instructions() if name == 'FROM')
  version = tuple(map(int, re.search(r'python:(\d+)\.(\d+)', python).groups()))
  low, high = (tuple(map(int, bound.split('.'))) for bound in re.findall(r'[\d.]+', project['requires-python']))
  assert low <= version < high


def test_the_layer_of_packages_builds_from_the_few_files_that_it_copies(tmp_path):
  """Before the code is there: what pip reads of the project by then says which packages to install."""
  for source in copied()[0] + copied()[1]:
    (tmp_path / source).parent.mkdir(exist_ok=True)
    (tmp_path / source).write_bytes((ROOT / source).read_bytes())
  code = "import setuptools.build_meta as build; print(build.prepare_metadata_for_build_wheel('.'))"
  done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr
  said = next(tmp_path.glob('*.dist-info/METADATA')).read_text()
  assert 'Provides-Extra: tpu' in said and 'Requires-Dist: jax' in said
