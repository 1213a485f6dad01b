"""launch/first_numbers.sh on a CPU, where its models are tiny, and what its table says of parts that failed."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tvts_jax.bench import first_numbers


@pytest.mark.long
def test_the_script(tmp_path):
  out = tmp_path / 'numbers'
  environment = {**os.environ, 'PYTHON': sys.executable, 'JAX_PLATFORMS': 'cpu'}
  command = ['bash', str(ROOT / 'launch/first_numbers.sh'), str(out)]
  done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
  assert done.returncode == 0, done.stdout + done.stderr[-2000:]
  found = json.loads((out / first_numbers.FILE).read_text())
  assert found['step_small']['clips_per_s'] > 0 and found['torch']['ratio']['wall']['median'] > 0
  assert found['run']['resumed_at'] == 100 and found['run']['save'] > 0 and len(found['doctor']['ok']) >= 4
  assert 'resumed at step 100' in done.stdout and 'times as fast as PyTorch' in done.stdout


def test_a_part_that_failed_is_told_and_hides_no_other(tmp_path, capsys):
  (tmp_path / 'doctor.log').write_text('ok devices    1 × cpu\n!! storage    is full\n')
  for name in ('step_small', 'step_large', 'torch', 'run_100', 'run_200'):
    (tmp_path / f'{name}.log').write_text('error: no memory\n')
  step = {'model': 'vit', 'clips_per_s': 12.5, 'attention': 'cudnn', 'mfu': 0.31, 'peak_bytes': 3 * 2**30}
  (tmp_path / 'step_small.json').write_text(json.dumps(step))
  (tmp_path / 'plan_small.log').write_text('')
  (tmp_path / 'plan_small.json').write_text(json.dumps({'bills': [{'peak_bytes': 2 * 2**30}]}))
  assert first_numbers.main([str(tmp_path)]) == 1
  told = capsys.readouterr().out
  assert '12.5 clips/s, attention by cudnn, 31.0% of the peak, 3.0 GiB of memory, plan says 2.0 GiB' in told
  assert told.count('failed') == 4 and '!! storage    is full' in told
  assert json.loads((tmp_path / first_numbers.FILE).read_text())['step_large'] is None


def test_without_our_packages_it_says_what_to_run(tmp_path):
  environment = {**os.environ, 'PYTHON': '/bin/false'}
  command = ['bash', str(ROOT / 'launch/first_numbers.sh'), str(tmp_path / 'out')]
  done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
  assert (
    done.returncode == 1 and 'run bash launch/local.sh test first' in done.stderr and not (tmp_path / 'out').exists()
  )
