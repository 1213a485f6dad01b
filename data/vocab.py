"""Trains a lower-casing WordPiece vocabulary from the transcripts in shards.

python -m data.vocab DIR_OF_SHARDS --out FOLDER --size 8000

FOLDER then opens offline with transformers' AutoTokenizer, and is what the input pipeline's `tokenizer` names.
Exit code 0: FOLDER is complete; 2: a bad request, with one sentence on stderr and nothing written.
"""

import argparse
import sys

from tvts_jax import command
from tvts_jax.errors import UserError
from tvts_jax.input import vocab
from tvts_jax.shards import storage


def main(argv=None) -> int:
  parser = command.parser('data.vocab', __doc__)
  parser.add_argument('folder', help='a folder of shards, as python -m data.build makes it')
  parser.add_argument('--out', required=True, help='the folder to make; it must not exist')
  parser.add_argument('--size', type=int, default=30522, help='pieces at most (default: %(default)s, as BERT)')
  parser.add_argument('--split', default='train', help='whose transcripts to read (default: %(default)s)')
  args = parser.parse_args(argv)
  return command.ending(lambda: make(args))


def make(args: argparse.Namespace) -> None:
  if storage.path(args.out).exists():
    raise UserError(f'{args.out} is there already; name a folder that is not, or delete it')
  counts = vocab.words(args.folder, args.split)
  tokenizer = vocab.train(counts, args.size)
  vocab.save(tokenizer, args.out)
  print(f'{args.out}: {len(tokenizer)} pieces from {sum(counts.values())} words, {len(counts)} different ones')


if __name__ == '__main__':
  sys.exit(main())
