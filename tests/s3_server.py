"""s3_server.py FILE…: moto's S3 on a port of its own, which it prints, with the files as objects of the bucket `images`.

Signatures are verified from the first request on. A line "KEY_ID SECRET PORT" on standard output says that it is ready;
it ends with its standard input.
"""

import os
import sys
import warnings
from pathlib import Path

os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "0"
warnings.simplefilter("ignore")

from moto.iam.models import iam_backends  # noqa: E402
from moto.moto_server.threaded_moto_server import ThreadedMotoServer  # noqa: E402
from moto.s3.models import get_canned_acl, s3_backends  # noqa: E402

ACCOUNT, BUCKET, REGION = "123456789012", "images", "eu-central-1"
POLICY = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:Get*", "Resource": "*"}]}'


def main(files: list[str]) -> None:
    iam, s3 = iam_backends[ACCOUNT]["aws"], s3_backends[ACCOUNT]["aws"]
    iam.create_user(REGION, "reader")
    iam.put_user_policy("reader", "read", POLICY)
    key = iam.create_access_key("reader")
    s3.create_bucket(BUCKET, REGION)
    for file in map(Path, files):
        for prefix in ("", "team a/öffentlich+1/"):
            blob = s3.put_object(BUCKET, f"{prefix}{file.name}", file.read_bytes())
            blob.set_acl(get_canned_acl("private"))
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    print(key.access_key_id, key.secret_access_key, server.get_host_and_port()[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
