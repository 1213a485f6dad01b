"""Starts a worker of Beam as the program in Beam's containers does: fetches what the job has staged, installs it, and
runs the harness. Beam calls it with the endpoints of the job.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import grpc
from apache_beam.portability.api import (
  beam_artifact_api_pb2,
  beam_artifact_api_pb2_grpc,
  beam_provision_api_pb2,
  beam_provision_api_pb2_grpc,
  beam_runner_api_pb2,
)
from apache_beam.runners.worker.worker_id_interceptor import WorkerIdInterceptor
from google.protobuf import json_format


def main() -> None:
  parser = argparse.ArgumentParser()
  for name in ('id', 'logging_endpoint', 'artifact_endpoint', 'provision_endpoint', 'control_endpoint'):
    parser.add_argument(f'--{name}', required=True)
  args = parser.parse_args()
  channel = lambda address: grpc.intercept_channel(grpc.insecure_channel(address), WorkerIdInterceptor(args.id))
  provision = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel(args.provision_endpoint))
  info = provision.GetProvisionInfo(beam_provision_api_pb2.GetProvisionInfoRequest()).info
  artifacts = beam_artifact_api_pb2_grpc.ArtifactRetrievalServiceStub(channel(args.artifact_endpoint))
  with tempfile.TemporaryDirectory() as folder:
    wheels = []
    for artifact in info.dependencies:
      name = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(artifact.role_payload).staged_name
      path = pathlib.Path(folder, name)
      parts = artifacts.GetArtifact(beam_artifact_api_pb2.GetArtifactRequest(artifact=artifact))
      path.write_bytes(b''.join(part.data for part in parts))
      wheels += [path] if path.suffix == '.whl' else []
    pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--no-compile']
    subprocess.run([*pip, *wheels], check=True, stdout=sys.stderr)
  os.environ.update(
    WORKER_ID=args.id,
    PIPELINE_OPTIONS=json_format.MessageToJson(info.pipeline_options),
    CONTROL_API_SERVICE_DESCRIPTOR=f'url: "{args.control_endpoint}"',
    LOGGING_API_SERVICE_DESCRIPTOR=f'url: "{args.logging_endpoint}"',
  )
  os.execv(sys.executable, [sys.executable, '-m', 'apache_beam.runners.worker.sdk_worker_main'])


if __name__ == '__main__':
  main()
