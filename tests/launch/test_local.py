"""Which Python launch/local.sh takes, and what it hands on to pytest."""

import os
import shutil
import subprocess

import pytest

from tests.support.paths import ROOT

# Makes environments whose Python notes what it is asked to do.
PYTHON = """#!/bin/sh
case "$*" in
  '-c '*) exit {fits} ;;
  '-m venv .venv')
    mkdir -p .venv/bin
    printf '#!/bin/sh\\necho "$@" >> calls\\n' > .venv/bin/python
    cp .venv/bin/python .venv/bin/ruff
    chmod +x .venv/bin/*
    echo {name} > chosen ;;
esac
"""


@pytest.fixture
def tree(tmp_path):
  (tmp_path / 'launch').mkdir()
  for name in ('launch/local.sh', 'requirements.txt', 'pyproject.toml'):
    shutil.copy(ROOT / name, tmp_path / name)
  return tmp_path


def run(tree, pythons: dict[str, int], *arguments, **variables):
  """With a folder of Pythons in front of the path; of each, 0 if it runs."""
  (tree / 'bin').mkdir(exist_ok=True)
  for name in ('python3', 'python3.11', 'python3.12', 'python3.13'):
    (tree / 'bin' / name).write_text(PYTHON.format(name=name, fits=pythons.get(name, 127)))
    (tree / 'bin' / name).chmod(0o755)
  environment = {**os.environ, 'PATH': f'{tree / "bin"}:{os.environ["PATH"]}', **variables}
  command = ['bash', str(tree / 'launch/local.sh'), *arguments]
  return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
  'pythons, variables, chosen',
  [
    (['python3', 'python3.11', 'python3.12', 'python3.13'], {}, 'python3.13'),
    (['python3', 'python3.11', 'python3.12'], {}, 'python3.12'),
    (['python3'], {}, 'python3'),
    (['python3', 'python3.11', 'python3.12', 'python3.13'], {'PYTHON': 'python3.11'}, 'python3.11'),
  ],
)
def test_the_newest_python_that_runs_is_taken(tree, pythons, variables, chosen):
  done = run(tree, dict.fromkeys(pythons, 0), 'test', **variables)
  assert done.returncode == 0, done.stderr
  assert (tree / 'chosen').read_text() == f'{chosen}\n'


def test_the_demo_installs_nothing_after_the_tests(tree):
  installs = lambda: (tree / 'calls').read_text().count('pip install')
  for task, expected in (('demo', 1), ('demo', 1), ('test', 2), ('demo', 2)):
    assert run(tree, {'python3': 0}, task).returncode == 0
    assert installs() == expected, task


def test_without_a_python_that_runs_it_says_so(tree):
  done = run(tree, {}, 'test')
  assert done.returncode == 1 and 'needs Python 3.11, 3.12 or 3.13; install one or set PYTHON' in done.stderr


@pytest.mark.parametrize('arguments', [(), ('--all',)])
def test_what_follows_goes_to_pytest(tree, arguments):
  assert run(tree, {'python3': 0}, 'test', *arguments).returncode == 0
  assert (tree / 'calls').read_text().splitlines()[-1] == ' '.join(['-m pytest', *arguments])
