# SPDX-License-Identifier: Apache-2.0
"""A client of a kps controller's REST API, /fleet/v1, with the standard library alone."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import http.client
import ipaddress
import json
import re
import ssl
import time
from urllib.parse import quote, urlencode, urlsplit

from ansible_collections.kps.fleet.plugins.module_utils.signing import authorization

ANSWER_BYTES = 64 * 1024 * 1024  # of a page of a thousand tasks with all their evidence
REQUEST_BYTES = 1024 * 1024  # the controller takes no more
PAGE = 1000
POLL_SECONDS = 20
TOO_MANY_TIMES = 30  # a request that came too soon is made again so often, each time a second later
ASKED_AGAIN = (0.2, 1.0)  # a question without an answer
LOST_SECONDS = 120  # of a wait for a task: over a restart of the controller
ENDINGS = frozenset(("task_finished", "task_cancelled", "task_interrupted"))


class Refused(Exception):
    """The controller says no, or cannot be asked. code: stable; status: 0 where there was no answer."""

    def __init__(self, code, message, status=0, evidence=None):
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.evidence = evidence or {}


class Controller:
    """A controller on the network. Its certificate is known by fingerprint (SHA-256), by ca_certificate (a PEM file), or by
    the authorities that this machine trusts. Nothing is sent before it has been judged; no redirect is followed."""

    def __init__(self, url, access_key, secret_key, fingerprint=None, ca_certificate=None, security_token=None, timeout=30):
        self._parts = _usable(url)
        self._access_key, self._secret_key, self._security_token = access_key, secret_key, security_token
        self._timeout = timeout
        self._fingerprint = None if fingerprint is None else _digits(fingerprint)
        if self._fingerprint and ca_certificate:
            raise Refused("fingerprint_unusable", "fingerprint and ca_certificate exclude each other; give one")
        self._context = None
        if self._parts.scheme == "https":
            try:
                self._context = ssl.create_default_context(cafile=ca_certificate)
            except (OSError, ssl.SSLError) as error:
                raise Refused("ca_certificate_unusable", f"{ca_certificate}: {error}; give certificates as PEM") from error
            if self._fingerprint:
                # Neither names nor authorities count: the one certificate does, and is compared before anything is sent.
                self._context.check_hostname = False
                self._context.verify_mode = ssl.CERT_NONE

    def ask(self, method, path, query=(), body=None, wait=0):
        """Return what a call below /fleet/v1 answers, decoded; None where it answers nothing. Refused: as the controller says.

        query: pairs. wait: seconds for which the controller was asked to wait. Only a question is asked twice.
        """
        again = list(ASKED_AGAIN) if method == "GET" else []
        too_many = 0
        while True:
            try:
                status, content = self._sent(method, path, query, body, wait)
            except Refused as refused:
                if refused.code != "controller_unreachable" or not again:
                    raise
                time.sleep(again.pop(0))
                continue
            if status == 429 and too_many < TOO_MANY_TIMES:
                too_many += 1
                time.sleep(1)  # what the controller says: "come again in a second"
                continue
            return _understood(method, path, status, content)

    def pages(self, path, query=(), after="name"):
        """Return all that a list has: each page begins after what the last one ended with."""
        found = []
        while True:
            begins = [("after", str(found[-1][after]))] if found else []
            page = self.ask("GET", path, list(query) + begins + [("limit", str(PAGE))])
            found += page
            if len(page) < PAGE:
                return found

    def ended(self, task_id, seconds):
        """Wait until a task has ended, and return it. Refused(task_not_ended): it goes on, and this stops waiting for it."""
        until = time.monotonic() + seconds
        after, lost_since = 0, None
        while time.monotonic() < until:
            wait = int(max(1, min(POLL_SECONDS, until - time.monotonic())))
            try:
                query = [("task", task_id), ("after", str(after)), ("wait", str(wait))]
                events = self.ask("GET", "/events", query, wait=wait)
                if any(event["kind"] in ENDINGS for event in events):
                    return self.ask("GET", f"/tasks/{segment(task_id)}")
                after = max([after] + [event["id"] for event in events])
                lost_since = None
            except Refused as refused:
                # A controller that is started anew comes back, and goes on with the task or tells how it ended.
                lost_since = lost_since or time.monotonic()
                gone = refused.code == "controller_unreachable" or refused.status == 503
                if not gone or time.monotonic() - lost_since > LOST_SECONDS:
                    raise
                time.sleep(1)  # a controller that is away answers nothing that could be waited for
        raise Refused(
            "task_not_ended",
            f"the task {task_id} has not ended within {seconds} s; it goes on by itself",
            evidence={"task": task_id},
        )

    def _sent(self, method, path, query, body, wait):
        sent = b"" if body is None else json.dumps(body).encode("utf-8")
        if len(sent) > REQUEST_BYTES:
            raise Refused("request_too_large", f"the request is larger than the {REQUEST_BYTES} bytes that a controller takes")
        target = "/fleet/v1" + path
        if query:
            target += "?" + urlencode(list(query), quote_via=quote, safe="~")
        headers = {
            "Host": self._parts.netloc,
            "Content-Type": "application/json",
            "X-Sdk-Date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ"),
        }
        if self._security_token:
            headers["X-Security-Token"] = self._security_token
        headers["Authorization"] = authorization(method, target, headers, sent, self._access_key, self._secret_key)
        headers["Connection"] = "close"
        connection = self._connection(self._timeout + wait)
        try:
            connection.connect()
            self._judge(connection)
            connection.request(method, target, sent or None, headers)
            with contextlib.closing(connection.getresponse()) as answer:
                return answer.status, self._read(answer, wait)
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                "certificate_not_trusted",
                f"{self._parts.netloc}: {error.verify_message}; give ca_certificate, or the fingerprint that `kps serve` prints",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            told = str(error) or type(error).__name__
            raise Refused("controller_unreachable", f"no answer from the controller at {self._parts.netloc}: {told}") from error
        finally:
            connection.close()

    def _connection(self, seconds):
        if self._context is None:
            return http.client.HTTPConnection(self._parts.hostname, self._parts.port or 80, timeout=seconds)
        return http.client.HTTPSConnection(self._parts.hostname, self._parts.port or 443, timeout=seconds, context=self._context)

    def _judge(self, connection):
        if self._fingerprint is None or self._context is None:
            return
        seen = hashlib.sha256(connection.sock.getpeercert(binary_form=True) or b"").hexdigest().upper()
        if seen != self._fingerprint:
            raise Refused(
                "certificate_not_trusted",
                "{}: its certificate's fingerprint is {}, and not the one that was given; somebody may be in between".format(
                    self._parts.netloc, ":".join(re.findall("..", seen))
                ),
            )

    def _read(self, answer, wait):
        """Return the body, within limits of size and time: no answer that trickles holds a play up."""
        until = time.monotonic() + self._timeout + wait
        found = bytearray()
        while True:
            piece = answer.read1(65536)
            if not piece:
                return bytes(found)
            found += piece
            if len(found) > ANSWER_BYTES:
                raise Refused("answer_too_large", f"the answer of the controller is larger than {ANSWER_BYTES} bytes")
            if time.monotonic() > until:
                raise Refused("controller_unreachable", "the answer of the controller did not come to its end in time")


def segment(name):
    """Return a name as one segment of a path. Refused: it cannot be one, so there is nothing of this name."""
    if name in ("", ".", "..") or "/" in name:
        raise Refused("not_found", f"{name!r}: there is nothing of this name", status=404)
    return quote(name, safe="")


def _usable(url):
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Refused("url_unusable", f"url: {error}; give https://HOST:PORT") from error
    more = parts.path not in ("", "/") or parts.query or parts.fragment or parts.username or parts.password
    if parts.scheme not in ("http", "https") or not parts.hostname or more:
        raise Refused("url_unusable", "url: give https://HOST:PORT and nothing more")
    if parts.scheme == "http" and not _loopback(parts.hostname):
        raise Refused(
            "url_unusable", "url: plain HTTP is for loopback only, since requests carry passwords and keys; use https://"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return parts._replace(netloc=host if port is None else f"{host}:{port}")


def _loopback(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digits(fingerprint):
    digits = fingerprint.strip().upper().replace(":", "")
    if not re.match("[0-9A-F]{64}$", digits):
        raise Refused("fingerprint_unusable", "fingerprint: give the SHA-256 fingerprint that `kps serve` prints, 64 hex digits")
    return digits


def _understood(method, path, status, content):
    if 200 <= status < 300:
        try:
            return json.loads(content.decode("utf-8")) if content else None
        except ValueError:
            raise Refused("unexpected", f"{method} {path} answered what is no JSON", status) from None
    try:
        problem = json.loads(content.decode("utf-8"))
        code, message, evidence = str(problem["code"]), str(problem["detail"]), problem.get("evidence")
    except (ValueError, KeyError, TypeError):
        raise Refused("unexpected", f"{method} {path} answered {status} without saying why", status) from None
    raise Refused(code, message, status, evidence)
