"""An S3 server of the tests' own: moto, in this process, on a free port; started once, when first asked for.

bucket = new_bucket()           # "s3://motet-1", empty
"""

from __future__ import annotations

import os
import uuid
from functools import lru_cache


@lru_cache(maxsize=1)
def endpoint() -> str:
    """Starts the server and points AWS's usual variables at it."""
    if given := os.environ.get("MOTET_TEST_S3"):
        os.environ["AWS_ENDPOINT_URL"] = given
        return given
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()  # a daemon thread: it ends with the tests
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    os.environ.update(
        {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    )
    return url


def new_bucket() -> str:
    from pipelines.storage.roots import s3_filesystem

    endpoint()
    name = f"motet-{uuid.uuid4().hex[:12]}"
    s3_filesystem().mkdir(name)
    return f"s3://{name}"
