import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from data import vocab as vocab_command
from tests.support import folders
from tvts_jax.errors import UserError
from tvts_jax.input import tokens, vocab

SENTENCE = "So today, we're going to fold the paper in half and turn it Über slowly twice."
TALK = SENTENCE.split()


@pytest.fixture(scope='module')
def shards(tmp_path_factory):
  folder = tmp_path_factory.mktemp('shards')
  made = [folders.record(video_id=f'v{i}', words=len(TALK)) for i in range(3)]
  made = [folders.records.Record(**{**vars(r), 'words': TALK[i:] + TALK[:i]}) for i, r in enumerate(made)]
  return folders.write(folder, {'train': [made[:2], made[2:]], 'val': [[folders.record(video_id='other')]]})


@pytest.fixture(scope='module')
def folder(shards, tmp_path_factory):
  out = tmp_path_factory.mktemp('vocab') / 'pieces'
  assert vocab_command.main([str(shards), '--out', str(out), '--size', '120']) == 0
  return out


def test_texts_become_pieces_of_one_length(folder):
  tokenizer = tokens.Tokenizer(str(folder), 8)
  ids_KxL, mask_KxL = tokenizer(['we fold the paper', 'SO', 'paper ' * 50])
  assert ids_KxL.dtype == np.int32 and mask_KxL.dtype == np.bool_ and ids_KxL.shape == mask_KxL.shape == (3, 8)
  cls, sep, pad = (tokenizer._backend.token_to_id(t) for t in ('[CLS]', '[SEP]', '[PAD]'))
  assert (ids_KxL[:, 0] == cls).all()
  assert [row[mask][-1] for row, mask in zip(ids_KxL, mask_KxL)] == [sep] * 3, 'truncation must keep [SEP]'
  assert mask_KxL[2].all() and ids_KxL[2, -1] == sep
  assert (ids_KxL[~mask_KxL] == pad).all() and (ids_KxL[mask_KxL] != pad).all()
  assert tokenizer.decode(ids_KxL, mask_KxL) == ['we fold the paper', 'so', ' '.join(['paper'] * 6)]


def test_a_trained_folder_opens_offline_and_lower_cases(folder):
  from transformers import AutoTokenizer

  # A name that is no folder would be looked up on the hub: this runs without one.
  fast = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
  assert fast.is_fast and len(fast) == tokens.Tokenizer(str(folder), 8).vocab_size <= 120
  assert fast.tokenize('PAPER') == fast.tokenize('paper') and '[UNK]' not in fast.tokenize("we're über half.")
  assert fast('so').input_ids == tokens.Tokenizer(str(folder), 3)(['SO'])[0][0].tolist()
  assert fast.all_special_tokens and set(fast.all_special_tokens) == set(vocab.SPECIAL)


def test_training_again_in_another_process_gives_the_same_bytes(shards, folder, tmp_path):
  out = tmp_path / 'again'
  env = {**os.environ, 'PYTHONHASHSEED': '5', 'RAYON_NUM_THREADS': '2'}
  command = [sys.executable, '-m', 'data.vocab', str(shards), '--out', str(out), '--size', '120']
  subprocess.run(command, env=env, check=True, capture_output=True)
  assert sorted(os.listdir(out)) == sorted(os.listdir(folder))
  for name in os.listdir(out):
    assert (out / name).read_bytes() == (folder / name).read_bytes()
  assert tokens.Tokenizer(str(out), 9).fingerprint == tokens.Tokenizer(str(folder), 32).fingerprint


def test_fingerprint_tells_vocabularies_apart():
  trained = [vocab.train(Counter(TALK), size) for size in (60, 61, 60)]
  prints = [tokens.fingerprint(t.backend_tokenizer) for t in trained]
  assert prints[0] != prints[1] and prints[0] == prints[2]
  tokens.check_fingerprint(prints[0], prints[0], 'the checkpoint')
  with pytest.raises(UserError, match='the checkpoint was made with'):
    tokens.check_fingerprint(prints[0], prints[1], 'the checkpoint')


def test_a_vocabulary_of_special_tokens_only_is_refused(tmp_path):
  from transformers import DistilBertTokenizerFast

  # The trap: this argument is ignored, and every word becomes [UNK].
  (tmp_path / 'vocab.txt').write_text('\n'.join([*vocab.SPECIAL, 'paper', 'fold']))
  DistilBertTokenizerFast(vocab_file=str(tmp_path / 'vocab.txt')).save_pretrained(tmp_path / 'lost')
  with pytest.raises(UserError, match='vocabulary is lost'):
    tokens.Tokenizer(str(tmp_path / 'lost'), 8)


def test_bad_tokenizers_are_one_sentence(tmp_path, folder):
  with pytest.raises(UserError, match='neither a folder'):
    tokens.Tokenizer(str(tmp_path), 8)
  with pytest.raises(UserError, match='no tokenizer is set'):
    tokens.Tokenizer('', 8)
  with pytest.raises(UserError, match='leaves no room'):
    tokens.Tokenizer(str(folder), 2)


def test_code_beside_a_tokenizer_is_not_run_and_nobody_is_asked(folder, tmp_path, monkeypatch):
  folder = shutil.copytree(folder, tmp_path / 'pieces')
  (folder / 'hostile.py').write_text(f'open({str(tmp_path / "made")!r}, "w")\nclass T: pass\n')
  auto = {'AutoTokenizer': ['hostile.T', 'hostile.T']}
  (folder / 'tokenizer_config.json').write_text(json.dumps({'auto_map': auto, 'tokenizer_class': 'T'}))
  monkeypatch.setattr('builtins.input', lambda *_: pytest.fail('it asks'))
  with contextlib.suppress(UserError):
    tokens.Tokenizer(str(folder), 8)
  assert not (tmp_path / 'made').exists()


def test_a_hub_name_without_a_network_is_one_sentence(monkeypatch):
  monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
  with pytest.raises(UserError, match='give a local folder when offline'):
    tokens.Tokenizer('nobody/never-made-this', 8)


@pytest.mark.parametrize(
  'change, says',
  [(['--size', '20'], 'cannot spell'), (['--split', 'test'], "no split 'test'"), (['--out', '{old}'], 'is there')],
)
def test_vocab_refuses_bad_requests_and_writes_nothing(shards, folder, tmp_path, capsys, change, says):
  out = tmp_path / 'new'
  args = [str(shards), '--out', str(out), '--size', '120', *(c.format(old=folder) for c in change)]
  assert vocab_command.main(args) == 1
  error = capsys.readouterr().err
  assert says in error and error.count('\n') == 1
  assert not os.listdir(tmp_path)
