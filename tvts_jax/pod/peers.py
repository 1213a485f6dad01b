"""The other processes of a run: says which of them is gone, and then ends this one.

Every process holds a connection to process 0. It breaks when either end dies, however that happens, and both ends send
a sign of life over it, so that silence tells of a process that is stopped or cannot be reached. What process 0 hears
it tells the others. JAX has heartbeats as well, but ends a process by abort(), without a word that a person can use.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from typing import NoReturn

from tvts_jax.errors import RESTART, UserError

CONNECT_S = 60  # For the connections; the processes have met already.
GOODBYE_S = 300  # In which all processes come to their end once the first has.
SIGNS = 6  # Of life, in the time after which their lack counts.
KEY = 'tvts_jax/peers'
LIBC = ctypes.CDLL(None)
LIBC.signal.argtypes, LIBC.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p


class Peers:
  def __init__(self, index: int, count: int, address: str, client, silence_s: int):
    """address: host:port of process 0. client: of JAX, with a store of keys and values that all processes see."""
    self.silence_s, self._sign_s = silence_s, silence_s / SIGNS
    self._client = client
    self._own = f'process {index} (pid {os.getpid()} on {socket.gethostname()})'
    self._peers = {}  # The name of the process at the other end of each connection.
    self._quiet, self._ending = threading.Event(), threading.Lock()
    try:
      if index == 0:
        self._answer(count)
      else:
        self._call(address.rpartition(':')[0].strip('[]'))
    except OSError as e:
      raise UserError(
        f'not all processes could connect to process 0 at {address} ({e}); all ports of its machine must be open to '
        'the others of the run'
      ) from e
    # What abort() calls first is now sleep(SIGABRT): six seconds to say why, when JAX hears of a loss before us.
    LIBC.signal(signal.SIGABRT, ctypes.cast(LIBC.sleep, ctypes.c_void_p))
    for peer in self._peers:
      threading.Thread(target=self._listen, args=(peer,), name='peers', daemon=True).start()
    threading.Thread(target=self._live, name='peers', daemon=True).start()

  def leave(self, code: int, what: str, *, stacks: bool = False) -> NoReturn:
    """Ends this process at once, and then the others, with the same code.

    what: what is to be said of this process. stacks: whether the others shall show where they stand.
    """
    self._ending.acquire()  # For good: to end once is enough.
    self._tell(code, f'{self._own} {what}', stacks)
    os._exit(code)

  def say_goodbye(self) -> None:
    """Waits until all processes have come to their end; after that it is no news that one is gone."""
    self._client.wait_at_barrier(KEY, GOODBYE_S * 1000)
    self._quiet.set()

  def _answer(self, count: int) -> None:
    host = os.environ.get('JAX_COORDINATOR_BIND_ADDRESS', '').rpartition(':')[0].strip('[]')
    both = host in ('', '::') and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ':' in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=count, dualstack_ipv6=both) as server:
      server.settimeout(CONNECT_S)
      token = secrets.token_hex()
      self._client.key_value_set(KEY, f'{server.getsockname()[1]} {token} {self._own}')
      while len(self._peers) < count - 1:
        peer, _ = server.accept()
        peer.settimeout(self._sign_s)
        with contextlib.suppress(OSError):
          # A stranger does not know the token, and need not be answered.
          given, _, name = peer.makefile('rb', 0).readline(1000).decode(errors='replace').strip().partition(' ')
          if given == token:
            self._peers[peer] = name

  def _call(self, host: str) -> None:
    port, token, name = self._client.blocking_key_value_get(KEY, CONNECT_S * 1000).split(maxsplit=2)
    peer = socket.create_connection((host, int(port)), CONNECT_S)
    peer.settimeout(self._sign_s)
    peer.sendall(f'{token} {self._own}\n'.encode())
    self._peers[peer] = name

  def _live(self) -> None:
    while not self._quiet.wait(self._sign_s):
      for peer in self._peers:
        with contextlib.suppress(OSError):  # The thread that listens hears of it, too.
          peer.sendall(b'\n')

  def _listen(self, peer: socket.socket) -> None:
    heard, silent, lost = b'', 0, f'has given no sign of life for {self.silence_s} s'
    while silent < SIGNS:  # Counted, because a process that was paused as a whole has heard nothing, either.
      try:
        new = peer.recv(4096)
      except TimeoutError:
        silent += 1
        continue
      except OSError:
        new = b''
      if not new:
        lost = 'died'
        break
      *lines, heard = (heard + new).split(b'\n')
      silent = 0
      for line in filter(None, lines):
        self._follow(*json.loads(line))
    self._follow(RESTART, f'{self._peers[peer]} {lost}', False)

  def _follow(self, code: int, what: str, stacks: bool) -> None:
    """Ends this process because of another, of which process 0 tells the others."""
    if self._quiet.is_set():
      return
    self._ending.acquire()
    # In one piece even where Python does not buffer (python -u), since JAX's own threads write at this moment as well.
    print(f'tvts_jax: {what}, so this process leaves with {code}\n', end='', file=sys.stderr, flush=True)
    if stacks:
      faulthandler.dump_traceback(sys.__stderr__)
    self._tell(code, what, stacks)
    os._exit(code)

  def _tell(self, code: int, what: str, stacks: bool) -> None:
    for peer in self._peers:
      with contextlib.suppress(OSError):  # It is gone itself.
        peer.sendall(json.dumps([code, what, stacks]).encode() + b'\n')
    time.sleep(1)  # Until all have read it: what comes first is the reason.
