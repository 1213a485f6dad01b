"""What the processes of a run tell each other without their devices, so that threads beside the loop may do so, too."""

import itertools
import json

import jax
from jax._src import distributed  # The store of keys and values that joins the processes has no public name.

DAY = 24 * 60 * 60 * 1000  # Milliseconds to wait for a word; JAX ends us long before if the other process is dead.
NUMBERS = itertools.count()


def number() -> int:
  """Names a conversation: the same in all processes, as long as all ask for theirs in the same order."""
  return next(NUMBERS)


def share(word, talk: int):
  """What process 0 says, in all processes; anything that JSON can say."""
  if jax.process_count() == 1:
    return word
  if jax.process_index() == 0:
    say(word, talk)
  return hear(talk, 0)


def gather(why: str | None, talk: int) -> str | None:
  """In process 0, the first word that is not None of all that the processes say."""
  if jax.process_count() == 1:
    return why
  if jax.process_index() != 0:
    say(why, talk)
    return why
  words = [why, *(hear(talk, index) for index in range(1, jax.process_count()))]
  return next((f'{word} (process {index})' for index, word in enumerate(words) if word is not None), None)


def ask_all(why: str | None) -> str | None:
  """In all processes, what the first of them says that does not say None."""
  talk = number()
  return share(gather(why, talk), talk)


def tally(topic: str, word) -> int | None:
  """Adds a word to a set that all processes share, and waits for none → how many words it holds; None if this process
  is alone. The last of those that add at a time sees all."""
  if (client := distributed.global_state.client) is None:
    return None
  folder = f'tvts_jax/tally/{topic}'
  client.key_value_set(f'{folder}/{word}', '', allow_overwrite=True)
  return len(client.key_value_dir_get(folder))


def say(word, talk: int) -> None:
  distributed.global_state.client.key_value_set(f'tvts_jax/talk/{talk}/{jax.process_index()}', json.dumps(word))


def hear(talk: int, process: int):
  return json.loads(distributed.global_state.client.blocking_key_value_get(f'tvts_jax/talk/{talk}/{process}', DAY))
