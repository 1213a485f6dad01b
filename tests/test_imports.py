"""Imports run one way: data → tvts_jax, never back, and nowhere in a circle."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Package → what it must not import.
WALLS = {'tvts_jax': {'data', 'configs', 'tests'}, 'data': {'configs', 'tests'}, 'configs': {'tests'}}
MOST_ENTRIES = 50  # Files and folders directly inside tvts_jax and data.


class Imports:
  """What the modules of some packages import, by their text alone."""

  def __init__(self, root: Path, packages):
    trees = {}
    for path in sorted(path for package in packages for path in (root / package).rglob('*.py')):
      parts = path.relative_to(root).with_suffix('').parts
      trees['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = ast.parse(path.read_text())
    self.modules = trees.keys()
    # Module → what it imports, ours or not: at once, and when its functions are called as well.
    self.at_once, self.ever = (
      {
        module: {name for node in nodes(tree, functions) for name in self.targets(node)}
        for module, tree in trees.items()
      }
      for functions in (False, True)
    )

  def targets(self, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    else:
      assert not node.level, f'a relative import in line {node.lineno}; write the whole name'
      for alias in node.names:
        inside = f'{node.module}.{alias.name}'
        yield inside if inside in self.modules else node.module

  def loaded(self, module: str) -> set[str]:
    """Our modules that run, from their first line, when a module is imported: those it names, and packages around."""
    named = self.at_once[module]
    around = {package for name in named for package in packages_of(name)} - {module, *packages_of(module)}
    return (named | around) & self.modules

  def violations(self, walls) -> list[str]:
    return sorted(
      f'{module} imports {name}'
      for module in self.modules
      for name in self.ever[module]
      if name.split('.')[0] in walls.get(module.split('.')[0], ())
    )

  def circle(self) -> list[str]:
    """The modules of an import cycle, in order, the first one again at the end; [] if there is none."""
    done: set[str] = set()

    def search(trail: list[str]) -> list[str]:
      for name in sorted(self.loaded(trail[-1]) - done):
        if name in trail:
          return [*trail[trail.index(name) :], name]
        if found := search([*trail, name]):
          return found
      done.add(trail[-1])
      return []

    return next((found for module in self.modules if module not in done and (found := search([module]))), [])

  def reach(self, module: str) -> set[str]:
    """All modules that are imported with one, ours and others'."""
    names, waiting = set(), [module]
    while waiting:
      for name in {module := waiting.pop(), *packages_of(module)} - names:
        names.add(name)
        if name in self.modules:
          waiting += self.at_once[name]
    return names


def packages_of(module: str) -> list[str]:
  parts = module.split('.')
  return ['.'.join(parts[:n]) for n in range(1, len(parts))]


def nodes(tree: ast.AST, functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
  """The import statements that run: not those of `if TYPE_CHECKING`."""
  children = ast.iter_child_nodes(tree)
  if isinstance(tree, ast.Import | ast.ImportFrom):
    yield tree
  elif isinstance(tree, ast.If) and ast.unparse(tree.test) in ('TYPE_CHECKING', 'typing.TYPE_CHECKING'):
    children = tree.orelse
  elif isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef) and not functions:
    children = ()
  for child in children:
    if not isinstance(child, ast.expr):
      yield from nodes(child, functions)


@pytest.fixture(scope='module')
def ours():
  return Imports(ROOT, WALLS)


def test_imports_run_one_way(ours):
  assert len(ours.modules) > 150
  assert not ours.violations(WALLS)


def test_no_module_imports_itself_by_way_of_others(ours):
  assert not ours.circle(), ' → '.join(ours.circle())


def test_builders_draw_nothing_and_need_no_accelerator(ours):
  for command in ('data.build', 'data.check', 'data.validate', 'data.benchmarks'):
    heavy = {'jax', 'flax', 'tensorflow', 'tvts_jax.pages'} & ours.reach(command)
    assert not heavy, f'python -m {command} imports {heavy}'
  assert 'tvts_jax.pages' in ours.reach('data.inspect.__main__') and 'jax' in ours.reach('tvts_jax.embed')


def test_tvts_jax_and_data_are_easy_to_overlook():
  files = subprocess.run(
    ['git', 'ls-files', 'tvts_jax', 'data'], cwd=ROOT, check=True, capture_output=True, text=True
  ).stdout.splitlines()
  entries = {'/'.join(file.split('/')[:2]) for file in files}
  assert 20 < len(entries) <= MOST_ENTRIES, sorted(entries)


def planted(root: Path, files: dict[str, str]) -> Imports:
  for name, text in files.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
  return Imports(root, ('tvts_jax', 'data'))


@pytest.mark.parametrize(
  'text, names',
  [
    ('import data.vocab', ['data.vocab']),
    ('def f():\n  if f:\n    from data import vocab', ['data.vocab']),
    ('class A:\n  async def f(self):\n    import configs.demo', ['configs.demo']),
    ('try:\n  from data.vocab import words\nexcept ImportError:\n  pass', ['data.vocab']),
    ('from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import data\nelse:\n  import tests', ['tests']),
    ('import database, os\nfrom tvts_jax import other', []),
  ],
)
def test_a_hole_in_the_wall_is_found(tmp_path, text, names):
  files = {'tvts_jax/a.py': text, 'tvts_jax/other.py': '', 'data/vocab.py': 'import tvts_jax.a'}
  assert planted(tmp_path, files).violations(WALLS) == [f'tvts_jax.a imports {name}' for name in names]


@pytest.mark.parametrize(
  'files, circle',
  [
    ({'a': 'import data.b', 'b': 'from data.a import x'}, ['data.a', 'data.b']),
    ({'a': 'from data import b', 'b': 'if b:\n  import data.c', 'c': 'import data.a'}, ['data.a', 'data.b', 'data.c']),
    ({'a': 'import data.b', 'b': 'def f():\n  import data.a'}, []),
    # Importing a module of a package runs the package.
    ({'p/__init__': 'import data.a', 'p/m': '', 'a': 'import data.p.m'}, ['data.a', 'data.p']),
    # A package may hand on what its modules have, and these may import each other, but not what is handed on.
    ({'p/__init__': 'from data.p.m import x', 'p/m': 'from data.p import n', 'p/n': ''}, []),
    ({'p/__init__': 'from data.p.m import x', 'p/m': 'from data.p import x'}, ['data.p', 'data.p.m']),
  ],
)
def test_a_circle_is_found(tmp_path, files, circle):
  found = planted(tmp_path, {f'data/{name}.py': text for name, text in files.items()})
  assert found.circle() == [*circle, *circle[:1]]
