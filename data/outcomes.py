"""Every way an item can fail or be left out, by name: one list for the builder, its log and its tests."""

CODES = {
  'too_few_words': 'no window holds enough words in every transcript',
}


class ItemError(Exception):
  """An item that can't become records, with a code out of CODES and a detail for the log."""

  def __init__(self, code: str, detail: str):
    if code not in CODES:
      raise KeyError(f'{code!r} is no outcome code; known: {", ".join(sorted(CODES))}')
    super().__init__(f'{code}: {detail}')
    self.code, self.detail = code, detail

  def __reduce__(self):
    return ItemError, (self.code, self.detail)
