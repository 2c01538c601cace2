"""What goes wrong between here and a bucket, in one line that holds no credential."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ResponseStreamingError,
    SSLError,
    SSOError,
    UnauthorizedSSOTokenError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from tasks.remote.errors import RemoteTrouble, Unreachable

EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired", "InvalidToken")
DENIED = (
    *("AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
    *("InvalidSecurity", "NotSignedUp", "Forbidden", "Unauthorized", "401", "403"),
)
FULL = (
    *("InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded"),
    *("BucketQuotaExceeded", "EntityTooLarge", "507", "413"),
)
ABSENT = ("NoSuchKey", "404", "NotFound")
BROKEN = ("BadDigest", "RequestTimeout", "InternalError", "SlowDown", "ServiceUnavailable", "IncompleteBody")
"""Answers after which the same request may succeed."""
UNKNOWN = ("NotImplemented", "501", "InvalidArgument", "InvalidRequest", "400")
"""Answers of a store to a header that it does not know."""

LINE = (
    *(HTTPClientError, ConnectionError, IncompleteReadError, ResponseStreamingError, HTTPError),
    ResponseParserError,
)
"""What is raised when the line broke: by botocore after its own attempts or inside a body, and by urllib3
itself where an answer breaks off that botocore reads whole."""
NOBODY = (EndpointConnectionError, ConnectTimeoutError, SSLError, ProxyConnectionError)
"""Those of them after which asking again at once is futile."""
RAISED = (ClientError, BotoCoreError, HTTPError, ResponseParserError)
"""All that a request may raise."""


def absent(error: ClientError) -> bool:
    """Whether the answer is that there is no such object. (No such bucket is another matter.)"""
    return _code(error) in ABSENT


def passing(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, ClientError):
        code = _code(error)
        return code in BROKEN or (_status(error) >= 500 and code not in (*FULL, *UNKNOWN))
    return isinstance(error, LINE) and not isinstance(error, NOBODY)


def garbled(error: Exception) -> bool:
    """Whether the store found another signature than ours: where others matched, the request was damaged."""
    return isinstance(error, ClientError) and _code(error) == "SignatureDoesNotMatch"


@contextmanager
def spoken(where: str) -> Iterator[None]:
    """Turn what boto3 raises into ``RemoteTrouble`` about ``where``."""
    try:
        yield
    except ClientError as error:
        raise RemoteTrouble(
            f"{where}: {_answer(error)}", not passing(error), unknown=_code(error) in UNKNOWN
        ) from None
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound) as error:
        raise RemoteTrouble(
            f"{where}: no credentials ({type(error).__name__}); expected them where boto3 looks: "
            "AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, or the machine's role"
        ) from None
    except (SSOError, UnauthorizedSSOTokenError):
        raise RemoteTrouble(
            f"{where}: the single sign-on has expired; log in again (aws sso login)"
        ) from None
    except NoRegionError:
        raise RemoteTrouble(f"{where}: no region; set store.region, or AWS_DEFAULT_REGION") from None
    except LINE as error:
        raise Unreachable(
            f"{where}: cannot be reached ({type(error).__name__}); check store.endpoint_url and the network"
        ) from None
    except BotoCoreError as error:
        raise RemoteTrouble(f"{where}: {type(error).__name__}") from None


def _answer(error: ClientError) -> str:
    code, status = _code(error), _status(error)
    if code == "NoSuchBucket":
        return "no such bucket; create it, or correct the address"
    if code in EXPIRED:
        return f"the credentials have expired ({code}); get new ones, then the same command goes on"
    if code in FULL or status == 507:
        return f"the store is full or its quota used up ({code}); make room, then the same command goes on"
    if code in DENIED:
        return f"access denied ({code}); expected credentials that may list, read and write there"
    if code in ABSENT:
        return "not there"
    if status == 412:
        return "it was changed while it was read; start again"
    if code == "400":  # the answer to a HEAD has no body that could say more
        return "the request was refused (400); expired credentials or another region are the usual reasons"
    return f"the store answered {code} ({status})"


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
