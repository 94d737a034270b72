"""awskms: a root key in AWS Key Management Service, or in what speaks its protocol. Credentials: boto3's own chain."""

import hashlib
import hmac
from typing import Any
from urllib.parse import urlsplit

from controller.errors import Damaged, Unavailable
from controller.kms.root import extra
from controller.kms.root.port import KEY_BYTES
from controller.kms.root.uri import Uri
from controller.model import Secret

ATTEMPTS = 4  # the first and three more
CONNECT_SECONDS, READ_SECONDS = 5, 8
_CHECKSUM_BYTES = 8
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class AwsKmsRootKey:
    """A symmetric key of AWS KMS. What it wraps is bound to its context by the encryption context.

    That context (ids, never names or secrets) is in AWS's own log; it is there as hexadecimal under "kps".
    """

    # Says how: this class; then which key, a checksum, and what KMS gave.
    MARK = b"kps-awskms-1:"

    def __init__(self, uri: Uri) -> None:
        """Unavailable: root_key_support_missing, root_key_unreachable, root_key_missing. Invalid(root_key_uri_unusable)."""
        self._key_id = uri.path
        self._botocore = extra.load("botocore.exceptions", "aws")
        self._client = _client(uri, self._botocore)
        # The ARN, and not the key's alias: an alias may lead elsewhere tomorrow.
        arn = self._encrypt(bytes(KEY_BYTES), b"")["KeyId"]
        self._key_id = arn
        self.check_value = hashlib.sha256(b"kps root key check value:" + arn.encode()).hexdigest()[:16]

    def wrap(self, key: Secret, context: bytes) -> bytes:
        blob: bytes = self._encrypt(key.open(), context)["CiphertextBlob"]
        return self._head(blob) + blob

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        blob = wrapped[len(self.MARK) + 2 * _CHECKSUM_BYTES :]
        # What is plainly damaged is told so by ourselves: of some of it KMS says that access is denied.
        if not blob or not hmac.compare_digest(wrapped[: -len(blob)], self._head(blob)):
            raise Damaged("root_wrap_damaged", "not something that a root key in AWS KMS has wrapped, or it was changed")
        try:
            opened = self._client.decrypt(KeyId=self._key_id, CiphertextBlob=blob, EncryptionContext=_context(context))
        except self._botocore.ClientError as error:
            if _code(error) in ("InvalidCiphertextException", "IncorrectKeyException"):
                message = f"AWS KMS does not open this ({_code(error)}): it was changed, or belongs elsewhere"
                raise Damaged("root_wrap_damaged", message) from error
            raise self._unavailable(error) from error
        except self._botocore.BotoCoreError as error:
            raise self._unavailable(error) from error
        return Secret(bytearray(opened["Plaintext"]))

    def _encrypt(self, plain: bytes, context: bytes) -> dict[str, Any]:
        try:
            made: dict[str, Any] = self._client.encrypt(KeyId=self._key_id, Plaintext=plain, EncryptionContext=_context(context))
        except (self._botocore.ClientError, self._botocore.BotoCoreError) as error:
            raise self._unavailable(error) from error
        return made

    def _unavailable(self, error: Exception) -> Unavailable:
        code = _code(error)
        if code == "NotFoundException":
            message = f"{self._key_id}: AWS KMS has no such key here; see its id, region and account"
            return Unavailable("root_key_missing", message)
        return Unavailable(
            "root_key_unreachable",
            f"{self._key_id}: AWS KMS does not do it ({code}: {error}); see the network, the credentials and the key's state",
        )

    def _head(self, blob: bytes) -> bytes:
        return self.MARK + bytes.fromhex(self.check_value) + hashlib.sha256(blob).digest()[:_CHECKSUM_BYTES]


def _client(uri: Uri, botocore: Any) -> Any:
    endpoint = uri.query.get("endpoint")
    if endpoint is not None:
        parts = urlsplit(endpoint)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise uri.refused("the endpoint must be https, for keys travel there")
    config = extra.load("botocore.config", "aws").Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
    )
    try:
        return extra.load("boto3", "aws").client(
            "kms", region_name=uri.query.get("region"), endpoint_url=endpoint, config=config
        )  # fmt: skip
    except botocore.BotoCoreError as error:
        raise Unavailable("root_key_unreachable", f"{uri.text}: {error}; give the region in the URI: ?region=R") from error
    except ValueError as error:
        raise uri.refused(f"{error}") from error


def _context(context: bytes) -> dict[str, str]:
    return {"kps": "context:" + context.hex()}


def _code(error: Exception) -> str:
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code") or type(error).__name__)
