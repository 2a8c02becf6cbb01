"""Sign a GET or HEAD of one object for a while: AWS Signature Version 4 in the query string.

obstore signs too, but cannot sign what the answer shall be called: `response-content-disposition`.
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True)
class Credentials:
    access_key_id: str
    secret_access_key: str
    region: str
    session_token: str | None = None


def presign(
    url: str,
    credentials: Credentials,
    *,
    method: str,
    expires_s: int,
    parameters: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> str:
    """Return the URL with a signature that holds for `expires_s` seconds."""
    moment = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/{credentials.region}/s3/aws4_request"
    query = {
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{credentials.access_key_id}/{scope}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": str(expires_s),
        "X-Amz-SignedHeaders": "host",
        **(parameters or {}),
    }
    if credentials.session_token:
        query["X-Amz-Security-Token"] = credentials.session_token
    parts = urlsplit(url)
    path = quote(parts.path, safe="/~")
    line = "&".join(f"{quote(k, safe='~')}={quote(v, safe='~')}" for k, v in sorted(query.items()))
    request = "\n".join((method, path, line, f"host:{parts.netloc}", "", "host", "UNSIGNED-PAYLOAD"))
    hashed = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{credentials.secret_access_key}".encode()
    for word in (moment[:8], credentials.region, "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    signed = hmac.digest(key, "\n".join((_ALGORITHM, moment, scope, hashed)).encode(), "sha256")
    return f"{parts.scheme}://{parts.netloc}{path}?{line}&X-Amz-Signature={signed.hex()}"
