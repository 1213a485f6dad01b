"""Reads the checkpoints of a run, which may be alive: nothing in their folder is created, renamed or deleted."""

import errno
import os
from collections.abc import Collection

import jax

from tvts_jax.pod import messages
from tvts_jax.run import checkpoint_folder, checksums
from tvts_jax.run.checkpoint_folder import CheckpointError, describe, named, refuse_differing
from tvts_jax.shards import storage

FOLDER = 'checkpoints'  # Their place in a work directory.
FORMAT = 2
# What train.py saves beside the arrays, as far as others read it.
RUN = {'config': str, 'version': str, 'model': dict, 'tokenizer': str, 'ema': bool, 'data': list, 'vocabulary': str}


class DamagedError(CheckpointError):
  """A checkpoint that is not as it was saved; another may be."""


class CheckpointReader:
  """All processes of a run make the same calls in the same order."""

  def __init__(self, folder):
    # Orbax takes absolute paths alone.
    self.folder = storage.path(os.path.abspath(folder)) if storage.is_local(folder) else storage.path(folder)
    if getattr(self.folder, 'scheme', 'gs') != 'gs':
      raise CheckpointError(
        f'{self.folder} cannot hold checkpoints: orbax writes to disks and to gs:// alone; give such a work directory'
      )
    listed = self._list() if jax.process_index() == 0 else None
    self._steps, why = messages.share(listed, messages.number())
    if why is not None:
      raise CheckpointError(f'{self.folder} cannot hold checkpoints: {why}')
    self._sound = set()  # Those whose files were read since, and found as listed; of process 0 alone.
    self._last = None  # The step that was saved or restored last.

  def _list(self) -> tuple[list[int], str | None]:
    """(the complete steps, None), or ([], why not)."""
    try:
      paths = list(self.folder.iterdir()) if self.folder.exists() else []
      complete = [path for path in paths if path.name.isdecimal() and checkpoint_folder.is_complete(path)]
      self._clear([path for path in paths if path not in complete])
      return sorted(int(path.name) for path in complete), None
    except storage.StorageError:
      raise
    except OSError as e:
      return [], checkpoint_folder.reason(e)

  def _failure(self, sentence: str) -> Exception:
    """A disk is mended by a person, a bucket by itself: then the same command goes on."""
    if storage.is_local(self.folder):
      return CheckpointError(sentence)
    return storage.StorageError(errno.EIO, sentence, str(self.folder))

  def _clear(self, paths: list) -> None:
    """What was never completed is for the owner to remove."""

  def latest(self) -> int | None:
    """The newest complete step."""
    return max(self._steps, default=None)

  def restore(self, abstract_state, step: int | None = None):
    """(state, meta) of a step, by default the newest; `abstract_state` is as for Checkpoints.resume()."""
    step, content = self._open(step)
    return self._state(step, content, abstract_state), content['meta']

  def _state(self, step: int, content: dict, abstract_state, optional: Collection[str] = ()):
    fields = lambda arrays: {name.partition('/')[0] for name in arrays}
    for field in set(optional) - fields(content['arrays']):
      abstract_state = abstract_state._replace(**{field: None})
    wanted = named(abstract_state)
    unread = set(optional) - fields(wanted)
    held = {name: array for name, array in content['arrays'].items() if name.partition('/')[0] not in unread}
    refuse_differing(held, wanted, self.folder / str(step))
    arrays = self._arrays(step, wanted, content)
    self._last = step
    return jax.tree.unflatten(jax.tree.structure(abstract_state), arrays.values())

  def read_meta(self, step: int | None = None) -> dict:
    """What was given to save(); no array is read."""
    return self._open(step)[1]['meta']

  def read_run(self, step: int | None = None) -> dict:
    """The same of a checkpoint that the trainer saved."""
    meta = self.read_meta(step)
    check_run(meta, self.folder)
    return meta

  def restore_part(self, part: str, abstract, step: int | None = None, optional: str = '\0'):
    """One field of the saved state alone, such as 'params' or 'ema'.

    At its top, what begins with `optional` need not be the same here and there: what both have alike is restored.
    """
    step, content = self._open(step)
    parts = {name.split('/')[0] for name in content['arrays']}
    if part not in parts:
      raise CheckpointError(f'{self.folder / str(step)} holds no {part!r}; it holds {", ".join(sorted(parts))}')
    below = lambda top, arrays: {name: x for name, x in arrays.items() if name.startswith(f'{part}/{top}/')}
    alike = lambda top: (
      below(top, content['arrays']) == {name: describe(x) for name, x in below(top, named({part: abstract})).items()}
    )
    abstract = {top: own for top, own in abstract.items() if not top.startswith(optional) or alike(top)}
    tops = {name.split('/')[1] for name in content['arrays'] if name.startswith(f'{part}/{optional}')}
    skipped = tuple(f'{part}/{top}/' for top in tops - set(abstract))
    wanted = {f'{part}/{name}': x for name, x in named(abstract).items()}
    of_part = lambda name: name.startswith(f'{part}/') and not name.startswith(skipped)
    held = {name: value for name, value in content['arrays'].items() if of_part(name)}
    refuse_differing(held, wanted, self.folder / str(step))
    return jax.tree.unflatten(jax.tree.structure(abstract), self._arrays(step, wanted, content).values())

  def _look(self, step: int) -> str | None:
    """For process 0: None, or in what the files of a checkpoint are not as they were saved. They are read but once."""
    if step not in self._sound:
      if found := checksums.damage(self.folder / str(step)):
        return f'{self.folder / str(step)} is damaged: {found}'
      self._sound.add(step)
    return None

  def _damage(self, step: int) -> str | None:
    """What process 0 sees, in all processes."""
    return messages.share(self._look(step) if jax.process_index() == 0 else None, messages.number())

  def _instead(self, step: int) -> str:
    """What to do about one that is damaged, as a reader leaves another's folder as it is."""
    good = next((s for s in reversed(self._steps) if s != step and self._damage(s) is None), None)
    return '; no other is whole' if good is None else f'; move it away to use {good}, the newest that is whole'

  def _open(self, step: int | None) -> tuple[int, dict]:
    """(step, what its META holds) of a checkpoint whose files are as they were saved; by default of the newest."""
    if not self._steps:
      raise CheckpointError(f'there is no checkpoint in {self.folder}')
    if step is not None and step not in self._steps:
      there = ', '.join(map(str, self._steps))
      raise CheckpointError(f'there is no checkpoint of step {step} in {self.folder}; there are {there}')
    step = max(self._steps) if step is None else step
    if found := self._damage(step):
      raise DamagedError(found + self._instead(step))
    content = checkpoint_folder.read_content(self.folder / str(step))
    if content.get('format') != FORMAT:
      raise CheckpointError(
        f'{self.folder / str(step)} has the format {content.get("format")!r:.60}, and this version reads {FORMAT}; '
        'use the version of tvts_jax that wrote it'
      )
    if not checkpoint_folder.is_content(content):
      raise DamagedError(
        f'{self.folder / str(step) / checkpoint_folder.META} is damaged: it does not describe the arrays that a run '
        'saves; move this checkpoint away'
      )
    return step, content

  def _arrays(self, step: int, wanted: dict, content: dict) -> dict:
    arrays, why = checkpoint_folder.read_arrays(self.folder / str(step), wanted)
    if why := messages.ask_all(why):
      if not storage.is_local(self.folder):  # Its files have come and were sound, so it is the bucket's fault.
        raise self._failure(f'{self.folder / str(step)} cannot be read: {why}')
      raise DamagedError(f'{self.folder / str(step)} cannot be read: {why}')
    found, saved = checksums.fingerprints(arrays), content['fingerprints']
    wrong = next((name for name in wanted if found[name] != saved[name]), None)
    if wrong := messages.ask_all(wrong):
      raise DamagedError(f'{self.folder / str(step)} is damaged: {wrong} is not what was saved, though the files are')
    return arrays


def check_run(meta: dict, where) -> None:
  """DamagedError unless it has what the trainer saves."""
  for name, kind in RUN.items():
    if type(meta.get(name)) is not kind:
      raise DamagedError(
        f'a checkpoint in {where} is damaged: its {checkpoint_folder.META} has {name}={meta.get(name)!r:.60}, which no '
        'run saves; move it away'
      )


def of_run(folder) -> CheckpointReader:
  """Those of another run, which may be alive, to read them; folder: its work directory, or that of its checkpoints."""
  folder = storage.path(folder)
  return CheckpointReader(folder / FOLDER if (folder / FOLDER).exists() else folder)
