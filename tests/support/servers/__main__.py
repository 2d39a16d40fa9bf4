"""Run a command against a server of its own: ``python -m tests.support.servers KIND COMMAND...``.

The URL of a directory in a fresh bucket is put behind the command, and the environment says how to
reach the server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from tests.support.servers import Gcs, Ministack, Moto

KINDS = {"moto": Moto, "ministack": Ministack, "gcs": Gcs}


def main(arguments: Sequence[str]) -> int:
    """Carry the command out and return its exit status."""
    with KINDS[arguments[0]]() as server:
        url = f"{server.protocol}://{server.new_bucket()}/demo-run"
        print(f"{server.kind} at {server.endpoint}: {url}", flush=True)
        options = json.dumps(server.storage_options())
        region = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
        protocol = {"s3": "S3", "gs": "GS"}[server.protocol]
        environment = os.environ | region | {f"FSSPEC_{protocol}": options}
        return subprocess.run([*arguments[1:], url], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
