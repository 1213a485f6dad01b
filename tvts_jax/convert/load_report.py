"""What a load found: which parameters matched, which did not, and why."""

import collections
import dataclasses

from tvts_jax.errors import UserError

LONGEST = 1000  # Characters of a line.


class ConvertError(UserError):
  """One sentence that names what is wrong, where, and what to do about it."""

  def __init__(self, sentence: str):
    super().__init__(plain(sentence))


class LoadError(ConvertError):
  """A load that found too little, or something that does not fit; `report` has all of it."""

  def __init__(self, sentence: str, report: 'Report'):
    super().__init__(sentence)
    self.report = report


@dataclasses.dataclass
class Report:
  """Names are those in the file, each with the reason why it stands where it stands."""

  source: str
  matched: dict[str, str] = dataclasses.field(default_factory=dict)  # Name in the file → our paths.
  kept: dict[str, str] = dataclasses.field(default_factory=dict)  # Not in the file, and need not be.
  unused: dict[str, str] = dataclasses.field(default_factory=dict)  # In the file, and not for us.
  missing: dict[str, str] = dataclasses.field(default_factory=dict)
  unexpected: dict[str, str] = dataclasses.field(default_factory=dict)
  mismatched: dict[str, str] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)

  def check(self) -> None:
    """One sentence unless everything fits."""
    advice = {
      'mismatched': 'give the model the geometry and types of the file',
      'missing': 'give a complete file, or allow it by name with allow_missing',
      'unexpected': 'give the file that belongs here, or allow it by name with allow_unexpected',
    }
    wrong = [(*item, what) for kind, what in advice.items() for item in getattr(self, kind).items()]
    more = f' ({len(wrong) - 1} more do not fit either)' if len(wrong) > 1 else ''
    if wrong:
      name, reason, what = wrong[0]
      raise LoadError(f'{self.source} does not fit: {name} {reason}{more}; {what}', self)
    if not self.matched:
      raise LoadError(f'{self.source} holds none of the parameters asked for; give another file', self)

  def __str__(self):
    parts = collections.Counter(paths.split('/')[0] for paths in self.matched.values())
    matched = ', '.join(f'{part} {count}' for part, count in parts.items())
    lines = [self.source, f'  matched     {len(self.matched)} parameters: {matched or "none"}']
    for title in ('kept', 'unused', 'missing', 'unexpected', 'mismatched'):
      reasons = getattr(self, title)
      for reason in dict.fromkeys(reasons.values()):
        names = [name for name, other in reasons.items() if other == reason]
        shown = ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')
        lines.append(f'  {title:10}  {shown}: {reason}')
    lines += [f'  note        {note}' for note in self.notes]
    return '\n'.join(map(plain, lines))


def plain(text: str) -> str:
  """One line that a terminal shows as it is and a reader can read, whatever a file calls its contents."""
  line = ''.join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:LONGEST])
  return line if len(text) <= LONGEST else f'{line}…'
