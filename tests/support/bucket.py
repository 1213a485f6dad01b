"""Google Cloud Storage in memory, on loopback: as much of its XML API as obstore speaks and of its JSON API as
tensorstore does, with faults to order and a count of all requests. It runs in a process of its own:

  python -m tests.support.bucket [PORT]        prints its port
"""

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from email.utils import formatdate
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from tvts_jax.shards.bucket import hedge, open_store

PAGE = 1000  # Names of one answer to a list.


class Stored(NamedTuple):
  data: bytes
  generation: int
  time: float


class Lost(Exception):
  """The connection goes before the answer has come."""


class Bucket:
  """All that the server knows; its handlers are threads."""

  def __init__(self):
    self.lock = threading.RLock()
    self.objects: dict[str, Stored] = {}  # By BUCKET/NAME.
    self.uploads: dict[str, dict[int, bytes]] = {}
    self.generation, self.random = 1, random.Random(0)
    self.rules: list[dict] = []
    self.latency = 0.0
    self.zero()

  def zero(self) -> None:
    self.counts, self.bytes_out, self.faults, self.connections = Counter(), 0, Counter(), 0

  def write(self, name: str, data: bytes, generation_match: str | None) -> Stored | None:
    """None if the condition does not hold."""
    with self.lock:
      held = self.objects.get(name)
      if generation_match is not None and int(generation_match) != (held.generation if held else 0):
        return None
      self.generation += 1
      stored = self.objects[name] = Stored(data, self.generation, time.time())
      return stored

  def fault(self, what: str) -> dict | None:
    """The rule that says what goes wrong with this request."""
    with self.lock:
      for rule in self.rules:
        if re.search(rule['match'], what) and rule.get('count', 1) > 0:
          if rule.get('skip', 0) > 0:
            rule['skip'] -= 1
          elif self.random.random() < rule.get('share', 1):
            if 'count' in rule:
              rule['count'] -= 1
            self.faults[rule['do']] += 1
            return rule
    return None


class Handler(BaseHTTPRequestHandler):
  protocol_version, disable_nagle_algorithm = 'HTTP/1.1', True
  bucket: Bucket

  def setup(self):
    super().setup()
    self.bucket.connections += 1

  def log_message(self, *_):
    pass

  def handle_one_request(self):
    try:
      super().handle_one_request()
    except (Lost, ConnectionError):
      self.close_connection = True
      with contextlib.suppress(OSError):
        self.connection.shutdown(2)

  def answer(self, status: int, body: bytes = b'', **headers: str) -> None:
    rule = self.rule
    if rule and rule['do'] == 'lost':
      raise Lost
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name.replace('_', '-'), value)
    length = headers.get('Content_Length', str(len(body)))
    if 'Content_Length' not in headers:
      self.send_header('Content-Length', length)
    self.end_headers()
    if self.command == 'HEAD':
      return
    if rule and rule['do'] == 'truncate' and len(body) > 1:
      self.wfile.write(body[: len(body) // 2])
      self.wfile.flush()
      raise Lost
    self.wfile.write(body)
    self.bucket.bytes_out += len(body)

  def serve(self) -> None:
    url = urlsplit(self.path)
    self.query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
    body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
    if 'chunked' in self.headers.get('Transfer-Encoding', ''):
      while count := int(self.rfile.readline().split(b';')[0], 16):
        body += self.rfile.read(count)
        self.rfile.readline()
      self.rfile.readline()
    self.rule = None
    if url.path.startswith('/_'):
      return self.control(url.path, body)
    kind, name = self.kind(url.path)
    client = 'tensorstore' if 'tensorstore' in self.headers.get('User-Agent', '') else 'obstore'
    with self.bucket.lock:
      self.bucket.counts[f'{client} {kind}'] += 1
    self.rule = self.bucket.fault(f'{kind} {name} {client}')
    if self.rule:
      time.sleep(self.rule.get('delay', 0))
      if self.rule['do'] == 'status':
        return self.answer(self.rule['status'], b'ordered')
      if self.rule['do'] == 'reset':
        raise Lost
    time.sleep(self.bucket.latency)
    getattr(self, kind)(name, body)

  do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve

  def kind(self, path: str) -> tuple[str, str]:
    """(name of a method, BUCKET/NAME)"""
    if m := re.fullmatch(r'/upload/storage/v1/b/([^/]+)/o', path):
      return 'put', f'{unquote(m[1])}/{self.query["name"]}'
    if m := re.fullmatch(r'/storage/v1/b/([^/]+)/o', path):
      return 'list_json', unquote(m[1]) + '/'
    if m := re.fullmatch(r'/storage/v1/b/([^/]+)/o/(.+)', path):
      name = f'{unquote(m[1])}/{unquote(m[2])}'
      media = self.query.get('alt') == 'media'
      return 'delete' if self.command == 'DELETE' else 'get' if media else 'meta', name
    bucket, _, name = unquote(path[1:]).partition('/')
    if not name:
      return 'list', bucket + '/'
    if 'uploads' in self.query or 'uploadId' in self.query:
      return 'multipart', f'{bucket}/{name}'
    kind = {'GET': 'get', 'HEAD': 'head', 'PUT': 'put', 'DELETE': 'delete'}[self.command]
    return 'copy' if 'x-goog-copy-source' in self.headers else kind, f'{bucket}/{name}'

  def get(self, name: str, body: bytes) -> None:
    stored = self.bucket.objects.get(name)
    if stored is None:
      return self.answer(404, b'<Error><Code>NoSuchKey</Code></Error>')
    data, status, headers = stored.data, 200, {}
    if m := re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range', '')):
      size = len(data)
      begin = int(m[1]) if m[1] else max(0, size - int(m[2]))
      end = min(size, int(m[2]) + 1) if m[1] and m[2] else size
      if begin >= size:
        return self.answer(416, Content_Range=f'bytes */{size}')
      data, status, headers = data[begin:end], 206, {'Content_Range': f'bytes {begin}-{end - 1}/{size}'}
    if self.command == 'HEAD':
      headers['Content_Length'] = str(len(stored.data))
    self.answer(status, data, **headers, **of(stored))

  head = get

  def meta(self, name: str, body: bytes) -> None:
    stored = self.bucket.objects.get(name)
    if stored is None:
      return self.answer(404, b'{}')
    self.answer(200, json.dumps(resource(name, stored)).encode(), Content_Type='application/json')

  def put(self, name: str, body: bytes) -> None:
    condition = self.headers.get('x-goog-if-generation-match', self.query.get('ifGenerationMatch'))
    stored = self.bucket.write(name, body, condition)
    if stored is None:
      return self.answer(412, b'<Error><Code>PreconditionFailed</Code></Error>')
    self.answer(200, json.dumps(resource(name, stored)).encode(), **of(stored))

  def copy(self, name: str, body: bytes) -> None:
    stored = self.bucket.objects.get(unquote(self.headers['x-goog-copy-source']).lstrip('/'))
    if stored is None:
      return self.answer(404)
    self.answer(200, b'<CopyObjectResult/>', **of(self.bucket.write(name, stored.data, None)))

  def multipart(self, name: str, body: bytes) -> None:
    uploads = self.bucket.uploads
    if 'uploads' in self.query:
      number = f'{len(uploads)}'
      uploads[number] = {}
      text = f'<InitiateMultipartUploadResult><UploadId>{number}</UploadId></InitiateMultipartUploadResult>'
      return self.answer(200, text.encode())
    parts = uploads[self.query['uploadId']]
    if self.command == 'PUT':
      parts[int(self.query['partNumber'])] = body
      return self.answer(200, ETag=f'"{md5(body).hexdigest()}"')
    stored = self.bucket.write(name, b''.join(parts[number] for number in sorted(parts)), None)
    text = f'<CompleteMultipartUploadResult><ETag>"{stored.generation}"</ETag></CompleteMultipartUploadResult>'
    self.answer(200, text.encode(), **of(stored))

  def delete(self, name: str, body: bytes) -> None:
    with self.bucket.lock:
      there = self.bucket.objects.pop(name, None)
    self.answer(204 if there else 404)

  def names(self, bucket: str, after: str) -> tuple[list[str], list[str], str]:
    """(names, prefixes, where the next page begins) of a list."""
    prefix, delimiter = self.query.get('prefix', ''), self.query.get('delimiter', '')
    start, end = self.query.get('startOffset', ''), self.query.get('endOffset', '')
    most = int(self.query.get('max-keys') or self.query.get('maxResults') or PAGE)
    names, prefixes = [], []
    for name in sorted(full.removeprefix(bucket) for full in self.bucket.objects if full.startswith(bucket)):
      if not name.startswith(prefix) or name < start or (end and name >= end):
        continue
      cut = name.find(delimiter, len(prefix)) if delimiter else -1
      shown = name if cut < 0 else name[: cut + 1]
      if shown <= after or shown in prefixes:
        continue
      if len(names) + len(prefixes) == most:
        return names, prefixes, max(names + prefixes)
      (names if cut < 0 else prefixes).append(shown)
    return names, prefixes, ''

  def list(self, bucket: str, body: bytes) -> None:
    with self.bucket.lock:
      names, prefixes, rest = self.names(bucket, self.query.get('continuation-token', ''))
      held = [(name, self.bucket.objects[bucket + name]) for name in names]
    parts = [f'<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>' for prefix in prefixes]
    for name, stored in held:
      when = time.strftime('%Y-%m-%dT%H:%M:%S.000Z', time.gmtime(stored.time))
      parts.append(
        f'<Contents><Key>{escape(name)}</Key><Generation>{stored.generation}</Generation><LastModified>{when}'
        f'</LastModified><ETag>"{stored.generation}"</ETag><Size>{len(stored.data)}</Size></Contents>'
      )
    more = f'<NextContinuationToken>{escape(rest)}</NextContinuationToken>' if rest else ''
    self.answer(200, f'<ListBucketResult>{"".join(parts)}{more}</ListBucketResult>'.encode())

  def list_json(self, bucket: str, body: bytes) -> None:
    with self.bucket.lock:
      names, prefixes, rest = self.names(bucket, self.query.get('pageToken', ''))
      items = [resource(bucket + name, self.bucket.objects[bucket + name]) for name in names]
    content = {'items': items, 'prefixes': prefixes} | ({'nextPageToken': rest} if rest else {})
    self.answer(200, json.dumps(content).encode(), Content_Type='application/json')

  def control(self, path: str, body: bytes) -> None:
    bucket = self.bucket
    with bucket.lock:
      if path == '/_counts':
        seen = ('counts', 'bytes_out', 'faults', 'connections')
        return self.answer(200, json.dumps({name: getattr(bucket, name) for name in seen}).encode())
      if path == '/_zero':
        bucket.zero()
      elif path == '/_set':
        for name, value in json.loads(body).items():
          bucket.random.seed(value) if name == 'seed' else setattr(bucket, name, value)
    self.answer(200)


def of(stored: Stored) -> dict[str, str]:
  return {
    'ETag': f'"{stored.generation}"',
    'x_goog_generation': str(stored.generation),
    'x_goog_stored_content_length': str(len(stored.data)),
    'Last_Modified': formatdate(stored.time, usegmt=True),
  }


def resource(name: str, stored: Stored) -> dict:
  bucket, _, key = name.partition('/')
  when = time.strftime('%Y-%m-%dT%H:%M:%S.000Z', time.gmtime(stored.time))
  return {
    'bucket': bucket,
    'name': key,
    'generation': str(stored.generation),
    'metageneration': '1',
    'size': str(len(stored.data)),
    'etag': f'"{stored.generation}"',
    'updated': when,
    'timeCreated': when,
  }


class Client:
  """What a test says to the server and asks of it."""

  def __init__(self, port: int):
    self.url = f'http://127.0.0.1:{port}'

  def ask(self, path: str, body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(f'{self.url}/{path}', body, timeout=30) as answer:
      return answer.read()

  def set(self, **values) -> None:
    """rules: [{match: a pattern for 'KIND BUCKET/NAME CLIENT', do: status, reset, lost, truncate or slow, and status,
    delay, share of the requests, count, skip}]; latency: seconds of every request; seed of the shares."""
    self.ask('_set', json.dumps(values).encode())

  def zero(self) -> None:
    self.ask('_zero', b'')

  def counts(self) -> dict:
    return json.loads(self.ask('_counts'))

  def read(self, name: str) -> bytes:
    """An object, by BUCKET/NAME."""
    return self.ask(quote(name))


@contextlib.contextmanager
def server():
  """A running server; STORAGE_EMULATOR_HOST names it meanwhile."""
  process = subprocess.Popen([sys.executable, '-m', 'tests.support.bucket'], stdout=subprocess.PIPE, text=True)
  before = os.environ.get('STORAGE_EMULATOR_HOST')
  try:
    client = Client(int(process.stdout.readline()))
    os.environ['STORAGE_EMULATOR_HOST'] = client.url
    for known in (open_store, hedge):  # Of an earlier server.
      known.cache_clear()
    yield client
  finally:
    process.kill()
    process.wait()
    os.environ.pop('STORAGE_EMULATOR_HOST')
    if before is not None:
      os.environ['STORAGE_EMULATOR_HOST'] = before


class Server(ThreadingHTTPServer):
  daemon_threads, request_queue_size = True, 256


def main() -> None:
  handler = type('Bound', (Handler,), {'bucket': Bucket()})
  served = Server(('127.0.0.1', int(sys.argv[1]) if len(sys.argv) > 1 else 0), handler)
  print(served.server_port, flush=True)
  served.serve_forever()


if __name__ == '__main__':
  main()
