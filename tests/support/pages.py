"""What documents tell their readers to type: commands and code, out of indented and fenced blocks and out of prose."""

import argparse
import importlib
import importlib.util
import pathlib
import re
import shlex
import sys
from typing import NamedTuple
from unittest import mock

from absl import flags
from ml_collections import config_flags

from tests.support.paths import ROOT

PAGES = ['README.md', 'launch/README.md', *sorted(f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md'))]


class Block(NamedTuple):
  kind: str  # What stands behind the fence; '' for indented blocks.
  before: str  # The last line of text above it.
  text: str


def blocks(page: str) -> list[Block]:
  found, before, lines = [], '', (ROOT / page).read_text().splitlines()
  while lines:
    line = lines.pop(0)
    if line.startswith('```'):
      end = lines.index('```')
      found.append(Block(line[3:], before, '\n'.join(lines[:end])))
      del lines[: end + 1]
    elif line.startswith('    '):
      own = [line]
      while lines and (lines[0].startswith('    ') or (not lines[0] and lines[1:2] and lines[1].startswith('    '))):
        own.append(lines.pop(0))
      found.append(Block('', before, '\n'.join(line[4:] for line in own)))
    elif line.strip():
      before = line
  return found


def file(page: str, path: str) -> str:
  """The code that a page shows as the whole of a file, which it names just before."""
  (found,) = (block.text for block in blocks(page) if block.kind == 'python' and block.before.endswith(f'`{path}`:'))
  return found


def code(page: str) -> list[str]:
  """Python that a page shows."""
  of_python = lambda block: block.kind == 'python' or block.text.startswith(('import ', 'from '))
  return [block.text for block in blocks(page) if of_python(block)]


def commands(page: str) -> list[list[str]]:
  """The words of each command of Python that a page shows in a block, in its order."""
  lines = '\n'.join(block.text for block in blocks(page)).replace('\\\n', ' ').splitlines()
  lines = [line.removeprefix('until ').removesuffix('; do') for line in lines]
  return [shlex.split(line, comments=True) for line in lines if line.startswith('python ')]


def mentions(page: str) -> list[list[str]]:
  """Those that it names in a sentence."""
  prose = re.sub(r'^```.*?^```', '', (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
  said = re.sub(r'\s+', ' ', prose)
  return [shlex.split(words) for words in re.findall(r'`(python [^`]+)`', said)]


class Understood(Exception):
  """A command line is one that its program takes; with what is left for others to understand."""


def understand(words: list[str]) -> None:
  """Has the program of a command take its words, and do nothing. SystemExit or a flags.Error if it does not."""
  if words[1] != '-m':
    parse(script(words[1]).main, words[2:])
    if '--' in words:
      understand(words[words.index('--') + 1 :])
    return
  name, given = runs(words[2]), words[3:]
  program = importlib.util.find_spec(name)
  if given in ([], ['--help']):
    return
  if 'DEFINE_' in pathlib.Path(program.origin).read_text():
    flags_of(program.origin, given)
    return
  left = parse(importlib.import_module(name).main, given)
  if '--runner' in given:
    importlib.import_module('data.builder.beam').parse_options(left)
    return
  assert all(word.startswith('--config.') for word in left), left
  if config := [word for word in given if word.startswith('--config')]:
    read_flags([('config_file', 'config')], config)


def runs(name: str) -> str:
  """The module that `python -m name` runs."""
  program = importlib.util.find_spec(name)
  assert program, f'there is no {name}'
  return f'{name}.__main__' if program.submodule_search_locations else name


def script(path: str):
  spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, ROOT / path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def parse(main, given: list[str]) -> list[str]:
  """What a program's own argparse leaves."""
  real = argparse.ArgumentParser.parse_known_args

  def stop(parser, *arguments, **options):
    raise Understood(real(parser, *arguments, **options)[1])

  with mock.patch.object(argparse.ArgumentParser, 'parse_known_args', stop):
    try:
      main(given)
    except Understood as understood:
      return understood.args[0]
  raise AssertionError(f'{main} parses no arguments')


def flags_of(source, given: list[str]) -> flags.FlagValues:
  """Of a program with flags of absl, which it would define for this whole process."""
  return read_flags(re.findall(r"DEFINE_(\w+)\(\s*'(\w+)'", pathlib.Path(source).read_text()), given)


def read_flags(names: list[tuple[str, str]], given: list[str]) -> flags.FlagValues:
  """The values of absl's flags, given their kinds and names; a config is loaded with its variations and settings."""
  values, argv = flags.FlagValues(), ['program', *given]
  for kind, name in names:
    if kind == 'config_file':
      config_flags.DEFINE_config_file(name, flag_values=values)
    else:
      # Which words one of a few may be is for its program to say.
      getattr(flags, f'DEFINE_{kind}'.replace('enum', 'string'))(name, None, '', flag_values=values)
  with mock.patch.object(sys, 'argv', argv):  # Where settings by name are looked for, too.
    left = values(argv)
  assert left == ['program'], left
  return values
