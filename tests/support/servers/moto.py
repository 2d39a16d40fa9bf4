"""moto as a server: `python -m tests.support.servers.moto`.

Its S3 checks a condition and then writes, so of two requests at once both may win. Here one lock
lets in one request at a time, after its body was read.
"""

from __future__ import annotations

import logging
import os

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from tests.support.servers import child


def main() -> None:
    child.die_with_parent()
    logging.disable(logging.CRITICAL)
    application = child.OneAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server(
        "127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler
    )
    os.environ["MOTO_PORT"] = str(server.port)
    child.announce(server.port)
    server.serve_forever()


if __name__ == "__main__":
    main()
