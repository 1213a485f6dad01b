"""A tokenizer that acts when it meets one word, in whichever process."""

import dataclasses
import os
import signal
import time
from typing import Any

WORD = 'boom'


@dataclasses.dataclass
class Special:
  tokenizer: Any
  deed: str  # 'sleep', 'die' or 'fail'.
  seconds: float = 0.0

  def __call__(self, texts):
    if any(WORD in text for text in texts):
      if self.deed == 'sleep':
        time.sleep(self.seconds)
      elif self.deed == 'die':
        os.kill(os.getpid(), signal.SIGKILL)
      else:
        raise TypeError('a bug')
    return self.tokenizer(texts)

  def __getattr__(self, name):
    if name.startswith('__') or name == 'tokenizer':  # While it is made again, it has none.
      raise AttributeError(name)
    return getattr(self.tokenizer, name)
