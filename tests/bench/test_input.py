import json

import pytest

from tests.support import media
from tvts_jax.bench import input, synthetic, turns


@pytest.fixture(scope='module')
def report(tmp_path_factory):
  folder = tmp_path_factory.mktemp('bench')
  media.make_video(folder / 'a.mp4', frames=60, fps=10)
  args = ['--records', '4', '--batch', '2', '--batches', '4', '--rounds', '1', '--from-mp4', str(folder / 'a.mp4')]
  patch = pytest.MonkeyPatch()
  patch.setattr('tvts_jax.bench.synthetic.SECONDS', 30)  # a smaller record; the setting stays the paper's
  try:
    assert input.main([*args, '--out', str(folder / 'out.json')]) == 0
  finally:
    patch.undo()
  assert 'mp4, one seek a frame' in (folder / 'out.html').read_text()
  return json.loads((folder / 'out.json').read_text())


@pytest.mark.long
def test_reports_every_contestant_and_stage(report):
  names = ['shards to batches', 'the same, 1 worker', 'plain decode, whole', 'plain decode, cropped']
  names.append('mp4, one seek a frame')
  assert list(report['clips_per_core_s']) == names
  for speed in report['clips_per_core_s'].values():
    assert 0 < speed['min'] <= speed['median'] <= speed['max']
  assert list(report['ms_a_clip']) == ['read and draw', 'tokenise', 'decode', 'hand over and batch']
  assert sum(report['share_of_time'].values()) == pytest.approx(1)
  total = 1 / report['clips_per_core_s']['shards to batches']['median']
  assert sum(report['ms_a_clip'].values()) == pytest.approx(1000 * total)
  assert report['ms_a_clip']['decode'] > report['ms_a_clip']['tokenise'] > 0
  assert 0 < report['serial_ms_a_clip'] < 1000 * total
  assert report['most_clips_s'] == pytest.approx(1000 / report['serial_ms_a_clip'])
  assert report['setting'] == {
    'frames': 16, 'image_size': 224, 'transcripts': 4, 'mask_ratio': 0.75, 'max_tokens': 32,
  }  # fmt: skip


@pytest.mark.long
def test_a_folder_is_read_as_it_was_built_to_be(tmp_path, monkeypatch, capsys):
  """Records of short transcripts: nobody has to say so again."""
  monkeypatch.setattr('tvts_jax.bench.synthetic.SECONDS', 12)
  synthetic.make_folder(f'{tmp_path}/shards', 2)
  manifest = json.loads((tmp_path / 'shards/manifest.json').read_text())
  manifest['sampling'] |= {'transcripts': 2, 'seconds': [1.0], 'gap_s': 0.5}
  (tmp_path / 'shards/manifest.json').write_text(json.dumps(manifest))
  media.make_video(tmp_path / 'a.mp4', frames=60, fps=10)
  args = ['--folder', f'{tmp_path}/shards', '--batch', '1', '--batches', '4', '--rounds', '1']
  assert input.main([*args, '--from-mp4', f'{tmp_path}/a.mp4', '--out', f'{tmp_path}/out.json']) == 0
  assert json.loads((tmp_path / 'out.json').read_text())['setting']['transcripts'] == 2


@pytest.mark.long
def test_other_load_voids_a_measurement(report, monkeypatch):
  for cores, void in ((0.05, False), (1.5, True), (None, True)):
    text = input.table({**report, 'other_load_cores': cores, 'void': turns.is_void(cores)})
    assert ('VOID' in text) == void


def test_load_counts_others_and_not_ourselves(monkeypatch):
  clock = {'wall': 0.0, 'own': 0.0, 'children': 0.0, 'all': 0.0}
  monkeypatch.setattr(turns.time, 'monotonic', lambda: clock['wall'])
  monkeypatch.setattr(turns.os, 'times', lambda: (clock['own'], 0.0, clock['children'], 0.0, clock['wall']))
  monkeypatch.setattr(turns.Load, '_busy_seconds', staticmethod(lambda: clock['all']))
  load = turns.Load()
  clock.update(wall=10.0, own=7.0, children=1.0, all=23.0)
  assert load.other_cores() == pytest.approx(1.5)


@pytest.mark.parametrize('args', [['--batches', '3'], ['--folder', '/nowhere'], ['--from-mp4', '/nowhere.mp4']])
def test_bad_requests_are_one_sentence(args, capsys, monkeypatch):
  monkeypatch.setattr('tvts_jax.bench.synthetic.SECONDS', 30)
  assert input.main(['--records', '2', '--batch', '1', '--rounds', '1', *args]) == 2
  lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1
