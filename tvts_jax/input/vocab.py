"""Trains a lower-casing WordPiece vocabulary from the transcripts in shards."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tvts_jax.errors import UserError
from tvts_jax.files import appear
from tvts_jax.shards import index as shard_index
from tvts_jax.shards.head import Head
from tvts_jax.shards.reader import Reader

READS, CHUNK = 32, 1024  # Records that are read at the same time, and that are asked for.
SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
MOST_LETTERS = 1000  # Rarer ones become [UNK], so that stray scripts do not fill the vocabulary.


def words(folder: str, split: str) -> Counter:
  """How often each word stands in the transcripts of a split."""
  manifest = shard_index.load(folder, split)
  index, counts = shard_index.load_index(manifest), Counter()
  reader = Reader(manifest, index)
  with ThreadPoolExecutor(READS) as pool:
    for first in range(0, len(index), CHUNK):
      for read in pool.map(reader.head, range(first, min(first + CHUNK, len(index)))):
        counts.update(Head(*read).words)
  return counts


def train(counts: Counter, size: int):
  """A fast DistilBERT tokenizer of at most `size` pieces; equal counts give equal pieces."""
  from tokenizers import BertWordPieceTokenizer
  from transformers import DistilBertTokenizerFast

  tokenizer = BertWordPieceTokenizer(lowercase=True)
  normalize = tokenizer._tokenizer.normalizer.normalize_str
  normal = Counter()
  for word, n in counts.items():
    normal[normalize(word)] += n
  letters = Counter()
  for word, n in normal.items():
    letters.update({c: word.count(c) * n for c in set(word) if not c.isspace()})
  kept = {c for c, _ in sorted(letters.items(), key=lambda item: (-item[1], item[0]))[:MOST_LETTERS]}
  least = len(SPECIAL) + 2 * len(kept)
  if size < least:
    raise UserError(f'{size} pieces cannot spell the letters of these transcripts; ask for {least} or more')
  # The trainer numbers '##x' pieces in the order of a hash table, and numbers break ties between merges.
  # Naming these pieces beforehand, sorted, makes it deterministic; a second tokenizer forgets they were special.
  tokenizer.train_from_iterator(
    (word for word, n in sorted(normal.items()) if kept.issuperset(word.replace(' ', '')) for _ in range(n)),
    vocab_size=size,
    min_frequency=1,
    limit_alphabet=len(kept),
    special_tokens=[*SPECIAL, *(f'##{c}' for c in sorted(kept))],
    show_progress=False,
  )
  plain = BertWordPieceTokenizer(tokenizer.get_vocab(), lowercase=True)
  return DistilBertTokenizerFast(tokenizer_object=plain._tokenizer, do_lower_case=True)


def save(tokenizer, out: str) -> None:
  with appear(out) as temporary:
    tokenizer.save_pretrained(temporary)
