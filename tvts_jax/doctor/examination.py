"""What the doctor is asked about, and how long its checks wait for what may never answer."""

import dataclasses
import threading
from concurrent import futures

from tvts_jax.errors import UserError

WAIT = 60  # Seconds that other processes, devices and storage have to answer.


@dataclasses.dataclass
class Run:
  """What is asked about, and what checks find out for those after them."""

  file: str | None  # --config.
  workdir: str | None
  settings: list[str]  # --config.optim.lr=3e-4.
  index: int = 0  # Of this process.
  stuck: bool = False  # Something has not answered, and may hold up an ordinary exit.
  config: object = None  # RunConfig.
  mesh: object = None
  parts: object = None  # step.Parts: what a step is made of.
  shapes: object = None  # Of the train state: step.State of jax.ShapeDtypeStructs.


class Late(UserError):
  """Something that has not answered in time, and may never do."""


def within(seconds: float | None, late: str, function, *args):
  """What the function returns. Late if that takes longer: it is left behind, because nothing can end it."""
  future = futures.Future()

  def work() -> None:
    try:
      future.set_result(function(*args))
    except BaseException as e:  # noqa: BLE001 - whatever it is, it is raised again where the result is asked for
      future.set_exception(e)

  threading.Thread(target=work, daemon=True).start()
  futures.wait([future], seconds)
  if not future.done():
    raise Late(late)
  return future.result()
