"""Annotations in the layouts in which they are published, and the mistakes that are made in reading them."""

import json
import os
import pickle
import tarfile
from collections import defaultdict

import pytest

from data import benchmarks
from data.benchmarks import media_files
from data.sources.items import SourceError
from tvts_jax.media.errors import MediaError
from tvts_jax.shards import annotations


def write(root, files):
  """Files under a folder, from {path: text, bytes or something that becomes JSON}."""
  for path, content in files.items():
    at = root / path
    at.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes | str):
      content = json.dumps(content)
    at.write_bytes(content if isinstance(content, bytes) else content.encode())
  return root


def read(name, path, number=1):
  """Id → clip, with the media in the same folder."""
  return {clip.id: clip for clip in benchmarks.read(name, str(path), str(path), number)}


def refused(name, path, number=1):
  with pytest.raises(SourceError) as caught:
    read(name, path, number)
  assert '\n' not in str(caught.value)
  return str(caught.value)


def rows(clips):
  return {id: annotations.row_of(clip) for id, clip in clips.items()}


def classified(clips):
  return {id: (clip.split, clip.label, clip.name) for id, clip in clips.items()}


def told(clips):
  return {id: (clip.split, *clip.captions) for id, clip in clips.items()}


# Recognition.

SPIN, PUT = 'Spinning [something] that quickly stops spinning', 'Putting [something] on [a surface]'
SSV2 = {
  'labels.json': {'Putting something on a surface': '1', 'Spinning something that quickly stops spinning': '0'},
  'train.json': [{'id': '74', 'label': 'putting a cup on a mat', 'template': PUT, 'placeholders': ['a cup', 'a mat']}],
  'validation.json': [{'id': 9, 'label': 'spinning cube that quickly stops spinning', 'template': SPIN}],
  'test.json': [{'id': '5'}],
}


@pytest.mark.parametrize('prefix', ['', 'labels/', 'something-something-v2-'])
def test_ssv2_names_classes_by_the_template_without_brackets(tmp_path, prefix):
  write(tmp_path, {prefix + name: content for name, content in SSV2.items()})
  clips = read('ssv2', tmp_path)
  assert rows(clips) == {
    '74': {
      'id': '74',
      'split': 'train',
      'label': 1,
      'class': 'Putting something on a surface',
      'captions': ['putting a cup on a mat'],
    },
    '9': {
      'id': '9',
      'split': 'val',
      'label': 0,
      'class': 'Spinning something that quickly stops spinning',
      'captions': ['spinning cube that quickly stops spinning'],
    },
    '5': {'id': '5', 'split': 'test', 'captions': []},
  }
  assert clips['5'].caption is None


def test_ssv2_as_lists_of_paths_and_labels(tmp_path):
  lists = {'sthv2_train_list_videos.txt': '74.webm 1\n', 'sthv2_val_list_videos.txt': 'videos/9.webm 0\n\n8.webm,1\n'}
  write(tmp_path, lists)
  expected = {'74': ('train', 1, None), '9': ('val', 0, None), '8': ('val', 1, None)}
  assert classified(read('ssv2', tmp_path)) == expected
  write(tmp_path, {'labels.json': SSV2['labels.json']})
  assert read('ssv2', tmp_path)['9'].name == 'Spinning something that quickly stops spinning'
  one = benchmarks.read('ssv2', str(tmp_path / 'sthv2_val_list_videos.txt'), str(tmp_path))
  assert [(clip.id, clip.label) for clip in one] == [('8', 1), ('9', 0)]
  write(tmp_path, {'sthv2_val_list_videos.txt': '9 40 0\n'})
  assert 'line 1: 3 fields where a video and a label are expected' in refused('ssv2', tmp_path)


def test_ssv2_that_makes_no_sense(tmp_path):
  assert 'no train.json' in refused('ssv2', tmp_path)
  write(tmp_path, SSV2 | {'labels.json': {'Putting something on a surface': '0'}})
  assert "the class 'Spinning something that quickly stops spinning' of clip 9 is not in" in refused('ssv2', tmp_path)
  write(tmp_path, SSV2 | {'validation.json': '[{"id": "9"'})
  assert 'validation.json is no readable JSON' in refused('ssv2', tmp_path)
  write(tmp_path, SSV2 | {'validation.json': SSV2['train.json']})
  assert "the id '74' was taken before, at" in refused('ssv2', tmp_path)
  (tmp_path / 'labels.json').unlink()
  assert 'holds no labels.json or something-something-v2-labels.json' in refused('ssv2', tmp_path)
  write(tmp_path, SSV2 | {'old/train.json': []})
  assert 'could both be meant' in refused('ssv2', tmp_path)


K400 = 'label,youtube_id,time_start,time_end,split,is_cc\n'


def test_k400_numbers_classes_by_name(tmp_path):
  write(
    tmp_path,
    {
      'kinetics_train.csv': K400 + 'washing feet,--GkrdYZ9Tc,0,10,train,0\n"air drumming",_dbcJuKJQNs,40,50,train,0\n',
      'kinetics_val.csv': K400 + 'abseiling,-3B32lodo2M,59,69,val,0\n',
      'kinetics_test.csv': 'youtube_id,time_start,time_end,split\n--AAdYZ9Tcx,7.0,17.0,test\n',
    },
  )
  clips = read('k400', tmp_path)
  assert classified(clips) == {
    '--GkrdYZ9Tc_000000_000010': ('train', 2, 'washing feet'),
    '_dbcJuKJQNs_000040_000050': ('train', 1, 'air drumming'),
    '-3B32lodo2M_000059_000069': ('val', 0, 'abseiling'),
    '--AAdYZ9Tcx_000007_000017': ('test', None, None),
  }
  assert clips['_dbcJuKJQNs_000040_000050'].caption == 'air drumming'


UCF = {
  'classInd.txt': '1 ApplyEyeMakeup\n2 YoYo\r\n',
  'trainlist01.txt': 'ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nYoYo/v_YoYo_g08_c01.avi 2\n',
  'testlist01.txt': 'ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n',
  'trainlist02.txt': 'YoYo/v_YoYo_g09_c01.avi 2\n',
  'testlist02.txt': 'YoYo/v_YoYo_g08_c01.avi\nApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n',
}


def test_ucf101_counts_from_1_and_its_test_lists_have_no_numbers(tmp_path):
  write(tmp_path, UCF)
  assert classified(read('ucf101', tmp_path)) == {
    'ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01': ('train', 0, 'Apply Eye Makeup'),
    'YoYo/v_YoYo_g08_c01': ('train', 1, 'Yo Yo'),
    'ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01': ('test', 0, 'Apply Eye Makeup'),
  }
  assert read('ucf101', tmp_path, 2)['YoYo/v_YoYo_g08_c01'].split == 'test'
  assert 'holds no trainlist03.txt' in refused('ucf101', tmp_path, 3)
  write(tmp_path, {'trainlist01.txt': 'YoYo/v_YoYo_g08_c01.avi 1\n'})
  assert 'class YoYo has the number 1, in' in refused('ucf101', tmp_path)
  write(tmp_path, {'trainlist01.txt': 'Yo/v_YoYo_g08_c01.avi 1\n'})
  assert "has no class 'Yo'" in refused('ucf101', tmp_path)
  write(tmp_path, {'classInd.txt': '0 ApplyEyeMakeup\n1 YoYo\n'})
  assert 'does not number its classes from 1' in refused('ucf101', tmp_path)


HMDB = {
  'splits/brush_hair_test_split1.txt': 'a_brush_hair_u_nm.avi 1 \nb&(c); d#1.avi 2 \nunused.avi 0 \n',
  'splits/walk_test_split1.txt': 'two words [x].avi 2\nb&(c); d#1.avi 1\n',
  'splits/walk_test_split2.txt': 'two words [x].avi 1\n',
}


def test_hmdb51_leaves_out_0_and_takes_names_as_they_are(tmp_path):
  write(tmp_path, HMDB)
  clips = read('hmdb51', tmp_path)
  assert classified(clips) == {
    'brush_hair/a_brush_hair_u_nm': ('train', 0, 'brush hair'),
    'brush_hair/b&(c); d#1': ('test', 0, 'brush hair'),
    'walk/two words [x]': ('test', 1, 'walk'),
    'walk/b&(c); d#1': ('train', 1, 'walk'),
  }
  assert clips['brush_hair/b&(c); d#1'].video == 'brush_hair/b&(c); d#1.avi'
  assert read('hmdb51', tmp_path, 2)['walk/two words [x]'].split == 'train'
  write(tmp_path, {'splits/walk_test_split1.txt': 'x.avi 3\n'})
  assert "ends in '3', not in 0, 1 or 2" in refused('hmdb51', tmp_path)


# Retrieval.

CLIP4CLIP = {
  'MSRVTT_data.json': {
    'videos': [],
    'sentences': [
      {'video_id': 'video0', 'caption': 'a car'},
      {'video_id': 'video7', 'caption': 'seven'},
      {'video_id': 'video0', 'caption': 'a red car'},
      {'video_id': 'video7', 'caption': 'a dog, seven'},
    ],
  },
  'MSRVTT_train.9k.csv': 'video_id\nvideo0\n',
  'MSRVTT_JSFUSION_test.csv': 'key,vid_key,video_id,sentence\nret0,msr7,video7,"a dog, seven"\n',
}
FROZEN = {
  'annotation/MSR_VTT.json': {
    'annotations': [
      {'image_id': s['video_id'], 'caption': s['caption']} for s in CLIP4CLIP['MSRVTT_data.json']['sentences']
    ]
  },
  'structured-symlinks/train_list_jsfusion.txt': 'video0\n',
  'structured-symlinks/val_list_jsfusion.txt': 'video7\n',
  'structured-symlinks/jsfusion_val_caption_idx.pkl': pickle.dumps({'video7': 1}, 2),
}


@pytest.mark.parametrize('layout', [CLIP4CLIP, FROZEN])
def test_msrvtt_has_one_given_caption_for_each_test_video(tmp_path, layout):
  write(tmp_path, layout)
  expected = {'video0': ('train', 'a car', 'a red car'), 'video7': ('test', 'a dog, seven')}
  assert told(read('msrvtt', tmp_path)) == expected
  assert benchmarks.BENCHMARKS['msrvtt'].sizes == ({'train': 9000, 'test': 1000},)


def test_msrvtt_that_makes_no_sense(tmp_path):
  assert 'holds no MSR_VTT.json' in refused('msrvtt', tmp_path)
  for index in ({'video7': 2}, {'video7': -1}, {}, {'video7': '1'}):
    write(tmp_path, FROZEN | {'structured-symlinks/jsfusion_val_caption_idx.pkl': pickle.dumps(index)})
    assert "chooses no caption of 'video7'" in refused('msrvtt', tmp_path)
  write(tmp_path, CLIP4CLIP | {'MSRVTT_train.9k.csv': 'video_id\nvideo1\n'})
  assert "has no caption of 'video1'" in refused('msrvtt', tmp_path)
  test = CLIP4CLIP['MSRVTT_JSFUSION_test.csv']
  write(tmp_path, CLIP4CLIP | {'MSRVTT_JSFUSION_test.csv': test + 'ret1,msr8,video7,again\n'})
  assert "the id 'video7' was taken before" in refused('msrvtt', tmp_path)


def test_didemo_joins_the_sentences_of_a_video(tmp_path):
  entry = lambda video, description: {'video': video, 'description': description, 'times': [[0, 0]]}
  moments = [
    entry('1@N02_3_a.mov', 'a dog jumps. '),
    entry('2@N03_4_b.avi', 'rain'),
    entry('1@N02_3_a.mov', 'it lands.'),
  ]
  moments += [entry('2@N03_4_b.mp4', 'more rain'), entry('3@N03_5_c.', 'sun')]  # as the published lists have it
  write(tmp_path, {'test_data.json': moments})
  assert told(read('didemo', tmp_path)) == {
    '1@N02_3_a': ('test', 'a dog jumps. it lands.'),
    '2@N03_4_b': ('test', 'rain more rain'),
    '3@N03_5_c': ('test', 'sun'),
  }
  write(tmp_path, {'test_list.txt': '1@N02_3_a.mov\n2@N03_4_b.mp4\n'})
  assert set(read('didemo', tmp_path)) == {'1@N02_3_a', '2@N03_4_b'}
  write(tmp_path, {'train_data.json': [{'video': 'x.mp4'}]})
  assert 'entry 1: description is missing' in refused('didemo', tmp_path)


MSVD = {'-4wsuPCjDBc_5_15': [['a', 'squirrel', 'eats'], ['eating']], 'mv89psg6zh4_33_46': [['a', 'bird']]}


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_msvd_keeps_every_caption(tmp_path, protocol):
  for captions in (MSVD, defaultdict(list, MSVD)):
    write(tmp_path, {'raw-captions.pkl': pickle.dumps(captions, protocol)})
    write(tmp_path, {'train_list.txt': 'mv89psg6zh4_33_46\n', 'test_list.txt': '-4wsuPCjDBc_5_15\n'})
    expected = {
      '-4wsuPCjDBc_5_15': ('test', 'a squirrel eats', 'eating'),
      'mv89psg6zh4_33_46': ('train', 'a bird'),
    }
    assert told(read('msvd', tmp_path)) == expected


class Hostile:
  """Makes a file where it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.system, (f'touch {self.path}',)


@pytest.mark.parametrize('protocol', [0, 2, 5])
def test_a_hostile_pickle_is_refused_and_does_nothing(tmp_path, protocol):
  trap = tmp_path / 'trap'
  write(tmp_path, {'raw-captions.pkl': pickle.dumps({'a': Hostile(trap)}, protocol), 'test_list.txt': 'a\n'})
  said = refused('msvd', tmp_path)
  assert 'raw-captions.pkl asks for a call of posix.system' in said and 'the file is not read' in said
  assert not trap.exists()
  pickle.loads((tmp_path / 'raw-captions.pkl').read_bytes())  # noqa: S301 - the trap is a real one
  assert trap.exists()


class Thing:
  """Harmless, and still no word."""


@pytest.mark.parametrize(
  'content, says',
  [
    (b'', 'is damaged'),
    (pickle.dumps(MSVD)[:-20], 'is damaged'),
    (pickle.dumps(['a']), 'holds list, not a dict'),
    (pickle.dumps({'a': 'words'}), "has no captions of 'a'"),
    (pickle.dumps({'a': [[1]]}), "has no captions of 'a'"),
    (pickle.dumps({'a': []}), "has no captions of 'a'"),
    (pickle.dumps({'a': pytest.Item}), "has no captions of 'a'"),
    (pickle.dumps({'a': Thing()}, 2), 'asks for an object of tests.data.benchmarks.test_benchmarks.Thing'),
    (b'cos\nsystem\n.', 'holds Name, not a dict'),
    (b'(S"true"\nios\nsystem\n.', 'uses the pickle operation INST'),
    (b'\x80\x02X\x01\x00\x00\x00aQ.', 'asks for a tensor'),
  ],
)
def test_msvd_that_makes_no_sense(tmp_path, content, says):
  write(tmp_path, {'raw-captions.pkl': content, 'test_list.txt': 'a\n'})
  assert says in refused('msvd', tmp_path)


def test_lsmdc_quotes_are_quotes(tmp_path):
  times = '\t'.join(['00:00:51,926', '00:00:54,129'] * 2)
  clip, other = '0001_American_Beauty_00.00.51.926-00.00.54.129', '1001_Flight_00.01.04.000-00.01.06.000'
  write(
    tmp_path,
    {
      'LSMDC16_annos_training.csv': f'{clip}\t{times}\t"SOMEONE looks up.\n{clip}\t{times}\tHe says "no".\n',
      'LSMDC16_challenge_1000_publictect.csv': f'{other}\t{times}\tIt\'s, well, "late\n',
    },
  )
  clips = read('lsmdc', tmp_path)
  assert told(clips) == {
    clip: ('train', '"SOMEONE looks up.', 'He says "no".'),
    other: ('test', 'It\'s, well, "late'),
  }
  assert clips[clip].video == f'0001_American_Beauty/{clip}'
  write(tmp_path, {'LSMDC16_annos_val.csv': f'{other}\t{times}\n'})
  assert 'line 1: 5 fields where 6 are expected' in refused('lsmdc', tmp_path)


def test_svo_pairs_go_with_the_image_that_the_sentence_is_true_of(tmp_path):
  head = 'sentence,pos_triplet,neg_triplet,pos_url,neg_url,pos_image_id,neg_image_id,subj_neg,verb_neg,obj_neg\n'
  lines = [
    'A man sits.,"man,sit,","man,walk,beach",http://a,http://b,1,2,False,True,False',
    'A man sits.,"man,sit,","girl,sit,sofa",http://a,http://c,1,3,True,False,True',
    'A girl on a sofa.,"girl,sit,sofa","man,sit,",http://c,http://a,3,1,True,False,False',
  ]
  write(tmp_path, {'svo_probes.csv': head + '\n'.join(lines) + '\n'})
  clips = read('svo', tmp_path)
  expected = {'1': ('test', 'A man sits.'), '2': ('test', 'man walk beach'), '3': ('test', 'A girl on a sofa.')}
  assert told(clips) == expected
  assert clips['1'].pairs == (
    {'sentence': 'A man sits.', 'negative': '2', 'negated': ['verb']},
    {'sentence': 'A man sits.', 'negative': '3', 'negated': ['subj', 'obj']},
  )
  assert clips['2'].pairs == () and 'pairs' not in annotations.row_of(clips['2'])
  write(tmp_path, {'svo_probes.csv': head + lines[0].replace('False,True', 'no,True')})
  assert "subj_neg is 'no', neither True nor False" in refused('svo', tmp_path)


# Tables of one's own, and what holds for all.


def test_a_table_of_ones_own(tmp_path):
  write(tmp_path, {'own.csv': 'id,video,split,class\na,x/a.mp4,train,run\nb,x/b.mp4,,"jump, high"\n'})
  assert classified(read('table', tmp_path)) == {'a': ('train', 1, 'run'), 'b': ('test', 0, 'jump, high')}
  write(tmp_path, {'own.csv': 'id,label\n7,1\n8,0\n'})
  assert classified(read('table', tmp_path)) == {'7': ('test', 1, None), '8': ('test', 0, None)}
  (tmp_path / 'own.csv').unlink()
  lines = [{'id': 'a', 'captions': ['one', 'two']}, {'id': 'b', 'caption': 'three', 'label': 0}]
  write(tmp_path, {'own.jsonl': ''.join(json.dumps(line) + '\n' for line in lines)})
  assert told(read('table', tmp_path)) == {'a': ('test', 'one', 'two'), 'b': ('test', 'three')}


@pytest.mark.parametrize(
  'content, says',
  [
    ('id,label\na,1\nb,2\n', 'labels go up to 2, but 1 of them, 0 the first, have no clip: labels count from 0'),
    ('id,label\na,0\na,1\n', "line 3: the id 'a' was taken before, at"),
    ('id,label\na,0\nb,run\n', "label is 'run', and those of other lines are numbers"),
    ('id,label,class\na,0,x\nb,0,y\n', "label 0 has several names: ['x', 'y']"),
    ('name\na\n', 'line 2: id is missing'),
    ('id\na\x07\n', r"holds the character '\x07'"),
    ('id,video\na,../x.mp4\n', "'../x.mp4' is not below"),
    ('id,video\na,/etc/passwd\n', "'/etc/passwd' is not below"),
    ('id,video\na,x/../../x.mp4\n', 'is not below'),
    ('id,video\na,../x.tar::x.mp4\n', 'is not below'),
    ('id,video\na,http://x/x.mp4\n', 'is an address'),
    ('id\n', 'lists not one clip'),
  ],
)
def test_tables_that_make_no_sense(tmp_path, content, says):
  assert says in refused('table', write(tmp_path, {'own.csv': content}))


def test_paths_out_of_the_folder_are_refused_in_published_lists(tmp_path):
  write(tmp_path, {'val.txt': '../../x.webm 0\n'})
  assert 'is not below' in refused('ssv2', tmp_path)
  (tmp_path / 'val.txt').unlink()
  write(tmp_path, {'test_data.json': [{'video': '/root/x.mp4', 'description': 'x'}]})
  assert 'is not below' in refused('didemo', tmp_path)


# Whose file is whose.


def found(tmp_path, name, clips, files):
  write(tmp_path, dict.fromkeys(files, b'v'))
  paths, several = media_files.locate(list(clips.values()), benchmarks.BENCHMARKS[name], str(tmp_path))
  return {id: os.path.relpath(path, tmp_path) for id, path in paths.items()}, several


def test_files_are_found_in_the_folders_that_people_have(tmp_path):
  a, b, c = (f'{id}_000010_000020' for id in ('aaaaaaaaaaa', 'AAAAAAAAAAA', '-b_ccccccc'))
  lists = ''.join(f'{label},{id[:-14]},10,20,val\n' for label, id in (('air drumming', a), ('yoga', b), ('yoga', c)))
  clips = read('k400', write(tmp_path, {'kinetics_val.csv': 'label,youtube_id,time_start,time_end,split\n' + lists}))
  paths, _ = found(tmp_path / '1', 'k400', clips, [f'val/air_drumming/{a}.mp4', f'val/yoga/{b}.mkv'])
  assert paths == {a: f'val/air_drumming/{a}.mp4', b: f'val/yoga/{b}.mkv'}
  paths, _ = found(tmp_path / '2', 'k400', clips, [f'air drumming/{a}.mp4', f'air drumming/{b}.mp4', f'{c}.mp4.webm'])
  assert paths == {a: f'air drumming/{a}.mp4', c: f'{c}.mp4.webm'}  # a clip of another class is not this one


def test_a_file_is_one_clip_only(tmp_path):
  clips = read('hmdb51', write(tmp_path, HMDB))
  names = {'brush_hair/b&(c); d#1', 'walk/b&(c); d#1'}
  paths, _ = found(tmp_path / '1', 'hmdb51', clips, [f'videos/{name}.avi' for name in names])
  assert paths == {name: f'videos/{name}.avi' for name in names}
  paths, _ = found(tmp_path / '2', 'hmdb51', clips, ['all/b&(c); d#1.avi'])
  assert len(paths) == 1
  write(tmp_path / '3', {'own.csv': 'id,video\na,train/x/1.mp4\nb,test/x/1.mp4\nc,test/x/1.mp4\n'})
  clips = read('table', tmp_path / '3')
  paths, _ = found(tmp_path / '3', 'table', clips, ['train/x/1.webm'])
  assert paths == {'a': 'train/x/1.webm'}
  paths, _ = found(tmp_path / '3', 'table', clips, ['test/x/1.mp4'])
  assert paths == {'a': 'train/x/1.webm', 'b': 'test/x/1.mp4', 'c': 'test/x/1.mp4'}


def test_several_files_for_one_clip_are_told(tmp_path):
  clips = read('ssv2', write(tmp_path, {'val.txt': '7.webm 0\n'}))
  paths, several = found(tmp_path / 'media', 'ssv2', clips, ['b/7.mp4', 'a/7.webm'])
  assert paths == {'7': 'a/7.webm'} and [os.path.basename(p) for p in several['7']] == ['7.webm', '7.mp4']


def test_members_of_archives(tmp_path):
  write(tmp_path, {'own.csv': 'id,video\na,x.tar::clips/a.mp4\nb,x.tar::b.mp4\nc,y.tar::c.mp4\n', 'a': b'v'})
  with tarfile.open(tmp_path / 'x.tar', 'w') as tar:
    tar.add(tmp_path / 'a', 'clips/a.mp4')
  paths, _ = found(tmp_path, 'table', read('table', tmp_path), [])
  assert paths == {'a': 'x.tar::clips/a.mp4', 'b': 'x.tar::b.mp4'}
  for member, code in (('b.mp4', 'missing_video'), ('clips/a.mp4', 'not_a_video')):
    assert looked_at(f'{tmp_path}/x.tar::{member}') == code
  with tarfile.open(tmp_path / 'x.tar', 'w') as tar:
    tar.add(tmp_path / 'a', '../a.mp4')
  assert looked_at(f'{tmp_path}/x.tar::../a.mp4') == looked_at(f'{tmp_path}/x.tar::a.mp4') == 'bad_archive'


def looked_at(path):
  with pytest.raises(MediaError) as caught:
    media_files.look(media_files.Look(path, is_image=False, decode=False))
  return caught.value.code
