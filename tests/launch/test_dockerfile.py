"""launch/Dockerfile, instruction by instruction, in a bare Debian in the place of its base image.

No Docker is needed: debootstrap makes what the base image is made of, this machine's CPython of the same version is
copied into it, and chroot executes each RUN there, with packages from where this machine gets its own.
"""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = [
  pytest.mark.long,
  pytest.mark.timeout(3600),
  pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which('debootstrap'),
    reason='needs root and debootstrap: apt-get install debootstrap',
  ),
]

TEXT = (ROOT / 'launch' / 'Dockerfile').read_text()
PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
# How this machine reaches the network, where that takes certificates, a proxy or a mirror.
FILES = ('/etc/resolv.conf', '/etc/hosts', '/etc/pip.conf', '/etc/ssl/certs/ca-certificates.crt')
VARIABLES = re.compile('pip_|ssl_cert_|(http|https|no|all)_proxy$', re.IGNORECASE)
# Runs a line in a root; what it started, and what was mounted for it, ends with it.
ENTER = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" /bin/sh -c "$1"'
SPACES = ('setpriv', '--pdeathsig', 'KILL', 'unshare', '--mount', '--pid', '--fork', '--kill-child')


def instructions() -> list[tuple[str, str]]:
  """(name, rest) of each; a line that ends on a backslash goes on."""
  lines = [line for line in TEXT.splitlines() if not line.lstrip().startswith('#')]
  return [tuple(line.split(maxsplit=1)) for line in '\n'.join(lines).replace('\\\n', '').splitlines() if line.strip()]


def call(*command) -> str:
  return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def python_prefix(version: str) -> Path:
  """Where this machine has a CPython of its own folder; skips the test if there is none."""
  pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv'))
  candidates = [f'python{version}', *map(str, sorted(pyenv.glob(f'versions/{version}.*/bin/python')))]
  for python in filter(shutil.which, candidates):
    done = subprocess.run([python, '-c', 'import sys; print(sys.base_prefix)'], capture_output=True, text=True)
    if done.returncode == 0 and done.stdout.strip() != '/usr':
      return Path(done.stdout.strip())
  pytest.skip(f'needs a CPython {version} outside of /usr, as pyenv or /usr/local has it, to copy into the root')


def libraries(prefix: Path) -> set[str]:
  """The packages of Debian that this Python is linked to, which its image has as well; that has no tkinter."""
  modules = [path for path in prefix.glob('lib/python3*/lib-dynload/*.so') if not path.name.startswith('_tkinter')]
  paths = re.findall(r'=> (/\S+)', call('ldd', *map(str, [*prefix.glob('lib/libpython3*.so*'), *modules])))
  # With or without /usr in front, as dpkg has noted them.
  ends = {'*' + path.removeprefix('/usr') for path in paths if not path.startswith(str(prefix))}
  return {line.split(':')[0] for line in call('dpkg-query', '--search', *ends).splitlines()}


@pytest.fixture(scope='module')
def image(tmp_path_factory):
  """A root as the FROM of the Dockerfile names it."""
  (source,) = [rest for name, rest in instructions() if name == 'FROM']
  version = re.fullmatch(r'python:(3\.\d+)-slim', source).group(1)
  prefix, root = python_prefix(version), tmp_path_factory.mktemp('image') / 'root'
  suite = platform.freedesktop_os_release()['VERSION_CODENAME']
  targets = call('apt-get', 'indextargets', '--format', '$(RELEASE) $(REPO_URI)').splitlines()
  mirror = next(line.split()[1] for line in targets if line.split()[0] == suite)
  packages = ','.join({'ca-certificates', 'netbase', 'tzdata'} | libraries(prefix))
  call('debootstrap', '--variant=minbase', f'--include={packages}', suite, str(root), mirror)
  for part in ('bin', 'lib', 'include'):
    skipped = shutil.ignore_patterns('site-packages', 'test', '__pycache__')
    shutil.copytree(prefix / part, root / 'usr/local' / part, symlinks=True, ignore=skipped, dirs_exist_ok=True)
  for path in (root / 'usr/local/bin').iterdir():
    if not path.name.startswith('python'):
      path.unlink()  # Scripts, which name the Python of this machine.
  for file in filter(os.path.exists, FILES):
    (root / file[1:]).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, root / file[1:])
  run(root, '/', {}, f'ldconfig && python{version} -m ensurepip && ln -s pip3 /usr/local/bin/pip')
  assert run(root, '/', {}, 'python --version').startswith(f'Python {version}.')
  return root


def run(root: Path, folder: str, environment: dict[str, str], line: str) -> str:
  network = {name: value for name, value in os.environ.items() if VARIABLES.match(name)}
  command = [*SPACES, 'sh', '-c', ENTER, str(root), f'cd {folder} && {line}']
  own = {'PATH': PATH, 'HOME': '/root', **network, **environment}
  done = subprocess.run(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  assert done.returncode == 0, f'{line}\n{done.stdout[-5000:]}'
  return done.stdout


def context() -> list[Path]:
  """All files but those that .dockerignore leaves out: the last pattern that fits a file or a folder of it decides."""
  patterns = []
  for line in filter(None, (ROOT / '.dockerignore').read_text().splitlines()):
    text = re.escape(line.lstrip('!').rstrip('/')).replace(r'\*\*/', '(.*/)?').replace(r'\*', '[^/]*')
    patterns.append((re.compile(text), not line.startswith('!')))
  files = []
  for folder, _, names in os.walk(ROOT):
    for path in (Path(folder, name).relative_to(ROOT) for name in names):
      places = [path, *path.parents]
      fits = [out for pattern, out in patterns if any(pattern.fullmatch(str(place)) for place in places)]
      if not (fits and fits[-1]):
        files.append(path)
  return files


def copy(root: Path, folder: str, sources: list[str], target: str):
  """COPY: the whole context, or files by name; a target that ends on a slash is a folder."""
  files = context()
  for source in sources:
    chosen = files if source == '.' else [path for path in files if str(path) == source]
    assert chosen, f'COPY {source}: there is none in the context'
    for path in chosen:
      name = path if source == '.' else path.name if target.endswith('/') else ''
      end = root / os.path.normpath(Path(folder, target, name))[1:]
      end.parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(ROOT / path, end, follow_symlinks=False)


def build(root: Path, extra: str, install: str = 'pip install') -> tuple[str, str]:
  """Executes all instructions, with another command to install with; → the last WORKDIR, and what was printed."""
  folder, said, environment = '/', '', {}
  for name, rest in instructions():
    if name == 'ARG':
      key, value = rest.split('=')
      environment[key] = extra if key == 'EXTRA' else value
    elif name == 'WORKDIR':
      folder = rest
      (root / folder[1:]).mkdir(parents=True, exist_ok=True)
    elif name == 'COPY':
      *sources, target = rest.split()
      copy(root, folder, sources, target)
    elif name == 'RUN':
      said += run(root, folder, environment, rest.replace('pip install', install))
    else:
      assert name == 'FROM', f'{name} is not executed here; teach this test what it does'
  return folder, said


def test_the_image_is_built_and_runs_what_it_says(image):
  folder, said = build(image, 'cpu')
  assert 'Successfully installed' in said
  assert not (image / folder[1:] / '.venv').exists() and not (image / folder[1:] / '.git').exists()
  commands = re.findall(r'tvts-jax:\w+(?: \\\n#)? +python -m (\S+)', TEXT)
  assert commands == ['tvts_jax.doctor', 'tvts_jax.main']
  for command in commands:
    said = run(image, folder, {}, f'python -m {command} --help || [ $? = 1 ]')  # Absl's --help leaves with 1.
    assert command in said, said
  assert 'ok collective' in run(image, folder, {'JAX_PLATFORMS': 'cpu'}, 'python -m tvts_jax.doctor')


@pytest.mark.parametrize(
  'extra, package, install',
  [
    ('tpu', 'libtpu', 'pip install'),
    # Gigabytes of CUDA. That the line is sound, tpu shows; that these packages go with ours, pip says without them.
    ('gpu', 'jax-cuda13-plugin', 'pip install --dry-run'),
  ],
)
def test_the_other_extras_go_on_top(image, extra, package, install):
  """After the test above, since all images begin with the same packages."""
  _, said = build(image, extra, install)
  assert re.search(rf'(Successfully|Would) install.* {package}-', said), said
