"""ministack as a server of S3 alone, in memory: `python -m tests.support.servers.ministack`."""

from __future__ import annotations

import asyncio
import logging
import os

from tests.support.servers import child

SETTINGS = {
    "SERVICES": "s3",
    "S3_PERSIST": "0",
    "PERSIST_STATE": "0",
    "SFTP_ENABLED": "0",
    "IOT_MTLS_ENABLED": "0",
    "USE_SSL": "0",
    "AUTH": "false",
    "LOG_LEVEL": "ERROR",
    "DOCKER_HOST": "unix:///dev/null/no-docker",
    "MINISTACK_REGION": "us-east-1",
}


def main() -> None:
    child.die_with_parent()
    listener = child.listen()
    port = listener.getsockname()[1]
    os.environ.update(SETTINGS, BIND_HOST="127.0.0.1", GATEWAY_PORT=str(port))

    from hypercorn.asyncio import serve
    from hypercorn.config import Config
    from ministack.app import app

    logging.disable(logging.CRITICAL)
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.keep_alive_timeout = 75
    config.loglevel = "ERROR"
    config.accesslog = config.errorlog = None
    child.announce(port)  # the socket listens: who connects now waits for the server
    asyncio.run(serve(app, config))


if __name__ == "__main__":
    main()
