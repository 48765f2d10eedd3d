"""One connection pool to the service, its token, and the translation of what can go wrong.

Every request of the project goes through `HttpSession.attempt`, inside the retry loop of `retry`.
It sees to it that

* the bearer token goes to the service's own calls and nowhere else (`HttpSession.is_api`), never
where
  a URL has come from elsewhere, and with no request on behalf of an external reference, whose peers
  are checked (``external_guard``). The `Url` that this depends on is the one that is connected to
  (``url``);
* nothing is compressed (``Accept-Encoding: identity``: sizes and ranges are those of the file);
* redirects are not followed by the library, which would carry headers along, and are no success:
  those of the service's calls name the URL that is to be set; and no cookies are kept, which go to
  every port of a host;
* an answer of 401 has the token read again from its source, once, and tried if it is another one;
* the library's exceptions and the service's status codes become errors of ``errors``.

What is in flight is registered, so that `close` shuts its socket down and the thread that reads
from it returns at once.

`open` is for the service's calls and goes by requests. `fetch` is for downloads: the same rules,
but where it can it speaks to the server directly (``connection_pool``).
"""

from __future__ import annotations

import contextlib
import io
import random
import re
import select
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Protocol, TypeVar

import requests
import urllib3

from artifactfs import __version__
from artifactfs.clock import Clock
from artifactfs.config import HttpConfig
from artifactfs.errors import (
    BadAnswer,
    Cancelled,
    ConfigError,
    Conflict,
    CreditsShort,
    Gone,
    NotAllowed,
    Refused,
    RemoteError,
    StorageFull,
    TimedOut,
    TokenRejected,
    TooLarge,
    Unreachable,
    Unsupported,
)
from artifactfs.remote import wire_artifacts
from artifactfs.remote.connection_pool import ConnectionPool
from artifactfs.remote.connection_pool import DirectResponse as DirectAnswer
from artifactfs.remote.content_encoding import decoding, read_all
from artifactfs.remote.external_guard import CheckedPeers, CheckPeer
from artifactfs.remote.header_values import http_date
from artifactfs.remote.http_connection import NotPlain
from artifactfs.remote.request_body import Adapter
from artifactfs.remote.retry import Retry, Transient
from artifactfs.remote.url import (
    Url,
    of_header,
    parse,
)
from artifactfs.token import Secret, TokenSource

T = TypeVar("T")

MOST_ANSWER_BYTES = 64 << 20
_MOST_ERROR_BYTES = 64 << 10
_PIECE_BYTES = 1 << 18
_UNUSABLE = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    urllib3.exceptions.LocationParseError,
)
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": f"artifactfs/{__version__}"}
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_OPTIONAL = frozenset({404, 405, 501})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PERMANENT = frozenset({301, 308})
_UNAUTHORIZED = 401
_MOST_RETRY_AFTER_S = 3600.0
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?")


def service_url(text: str) -> Url:
    """The service's base URL as a value. Raises `ConfigError`."""
    try:
        return parse(text)
    except BadAnswer as error:
        raise ConfigError(
            error.message, remedy="set url to one as https://computalot.com"
        ) from error


def redirected(url: Url, location: str) -> Url:
    """Where a redirect from `url` leads. Raises `BadAnswer`, also for one from https to http."""
    if not location:
        raise BadAnswer(f"{url.shown}: a redirect without a target")
    target = parse(of_header(location), url)
    if url.scheme == "https" and target.scheme == "http":
        raise BadAnswer(f"{url.shown}: a redirect from https to http, {target.shown}, is refused")
    return target


class DownloadResponse(Protocol):
    """What a download gets: a head, and a body that goes into the caller's memory.

    `headers` is asked in lower case.
    """

    url: Url
    status_code: int
    reason: str
    headers: Mapping[str, str]

    def readinto(self, view: memoryview) -> int:
        """Put some of the body into `view`, once there is some; 0 at its end."""

    def is_arriving(self) -> bool:
        """Whether more can be read without waiting."""

    def read(self, most_bytes: int) -> bytes:
        """The body, up to so many bytes."""

    def close(self) -> None:
        """Give the connection back, or cut it off if the body was not read to its end."""

    def shutdown(self) -> None:
        """End the reading in whatever thread it happens."""


A = TypeVar("A", bound=DownloadResponse)


class _CanShutDown(Protocol):
    def shutdown(self) -> None: ...


class LibraryResponse:
    """An `DownloadResponse` that requests has got."""

    def __init__(self, response: requests.Response, url: Url) -> None:
        self.url = url
        self.status_code = response.status_code
        self.reason = response.reason
        self.headers: Mapping[str, str] = response.headers
        self.close = response.close
        self.shutdown = response.raw.shutdown
        self._raw = response.raw
        self._poll = select.poll()
        if not response.raw.closed:  # as it is at once where there is no body
            self._poll.register(response.raw.fileno(), select.POLLIN)

    def readinto(self, view: memoryview) -> int:
        piece = self._raw.read1(min(len(view), _PIECE_BYTES))
        view[: len(piece)] = piece
        return len(piece)

    def is_arriving(self) -> bool:
        return bool(self._poll.poll(0))

    def read(self, most_bytes: int) -> bytes:
        body: bytes = self._raw.read(most_bytes)
        return body


class HttpSession:
    """The pool, the token and what is in flight. `_lock` guards the token and the in-flight set."""

    def __init__(
        self,
        url: str,
        token: TokenSource,
        http: HttpConfig,
        *,
        check_peer: CheckPeer,
        pool_size: int,
        clock: Clock,
    ) -> None:
        self._base = service_url(url)
        self._api = replace(self._base, path=self._base.path.rstrip("/") + "/api")
        self.origin = f"{self._base.scheme}://{self._base.host}:{self._base.port}"
        self.clock = clock
        self.retry_for_s = http.retry_for_s
        self._timeout = (http.connect_timeout_s, http.timeout_s)
        self._source = token
        self._token: Secret | None = None
        self._ahead: timedelta | None = None
        self._lock = threading.Lock()
        self._in_flight: set[_CanShutDown] = set()
        self._closed = threading.Event()
        self._retry = Retry(clock, self._closed, random.SystemRandom())
        peers = CheckedPeers(check_peer)
        pools: dict[str, Any] = {"pool_connections": 8, "pool_maxsize": pool_size, "max_retries": 0}
        self._requests = _library(Adapter(**pools))
        self._external_requests = _library(peers.adapter(**pools))
        self._environment = requests.Session()
        self._surroundings: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._connections = ConnectionPool(
            self._environment, peers, http.connect_timeout_s, http.timeout_s, pool_size
        )

    def service_now(self) -> datetime | None:
        """The present by the service's clock; None before an answer of its API has told.

        Up to a second early, as the header ``Date`` has whole seconds (RFC 9110 §6.6.1).
        """
        ahead = self._ahead
        return None if ahead is None else self.clock.now() + ahead

    def _note_clock(self, headers: Mapping[str, str]) -> None:
        date = http_date(headers.get("Date"))
        if date is not None:
            self._ahead = date - self.clock.now()

    def call(self, path: str) -> Url:
        """The URL of a call, whose path below the API is ours."""
        return parse(f"{self._api.text}/v1/{path}")

    def named(self, text: str, path: str) -> Url:
        """A URL that the answer to the call `path` has named. Raises `BadAnswer`."""
        return parse(text, self.call(path))

    def json(
        self,
        method: str,
        path: str | Url,
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        optional: bool = False,
        deadline_s: float | None = None,
        cancelled: threading.Event | None = None,
    ) -> tuple[Any, Mapping[str, str]]:
        """Call the service and return its JSON and its headers, after retries."""
        what = f"{method} {path.path if isinstance(path, Url) else path}"
        answered, headers = self.body(
            method,
            path,
            body=body,
            params=params,
            optional=optional,
            deadline_s=deadline_s,
            cancelled=cancelled,
            read=lambda data: wire_artifacts.parse(data, what),
        )
        return answered, headers

    def body(
        self,
        method: str,
        path: str | Url,
        *,
        read: Callable[[bytes], T],
        body: Any = None,
        params: Mapping[str, str] | None = None,
        optional: bool = False,
        deadline_s: float | None = None,
        cancelled: threading.Event | None = None,
    ) -> tuple[T, Mapping[str, str]]:
        """Call the service and return what `read` makes of the body, and its headers."""
        url = path if isinstance(path, Url) else self.call(path)

        def attempt() -> tuple[T, Mapping[str, str]]:
            with self.open(method, url, json=body, params=params, optional=optional) as response:
                with self.translated(url):
                    decoded = decoding(response.raw.read, response.headers, f"{method} {url.shown}")
                    data = read_all(decoded, MOST_ANSWER_BYTES + 1)
                if len(data) > MOST_ANSWER_BYTES:
                    raise BadAnswer(f"{method} {url.shown}: the answer is too large")
                self._note_clock(response.headers)
                return read(data), response.headers

        return self.run(attempt, deadline_s=deadline_s, cancelled=cancelled)

    def run(
        self,
        attempt: Callable[[], T],
        *,
        deadline_s: float | None = None,
        cancelled: threading.Event | None = None,
    ) -> T:
        """Run `attempt` in the retry loop, for `http.retry_for` unless said otherwise."""
        return self._retry.run(
            attempt,
            deadline_s=self.retry_for_s if deadline_s is None else deadline_s,
            cancelled=cancelled,
        )

    @property
    def base(self) -> Url:
        """The service's base URL."""
        return self._base

    @property
    def is_closed(self) -> bool:
        """Whether it was closed: whatever waits for an answer may stop."""
        return self._closed.is_set()

    def is_api(self, url: Url) -> bool:
        """Whether `url` is a call of the service itself, and so may see the token.

        The service's own object store can share its origin: presigned URLs take no token.
        """
        return url.is_below(self._api)

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        url: Url,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: Any = None,
        params: Mapping[str, str] | None = None,
        optional: bool = False,
        accept: frozenset[int] = frozenset(),
        token: bool = True,
    ) -> Iterator[requests.Response]:
        """One attempt: an answer of 2xx (or one in `accept`) whose body is not read yet.

        Raises `Transient` for what is worth another try, a `RemoteError` for what is not.
        """
        ours = token and self.is_api(url)
        url = url.with_parameters(params)
        with contextlib.ExitStack() as closing:
            response = self._send(method, url, headers, json, data, ours)
            if ours and response.status_code == 401 and self._read_token_again():
                response.close()
                response = self._send(method, url, headers, json, data, ours)
            closing.callback(self._done, response)
            with self._lock:
                self._in_flight.add(response.raw)
            if self._closed.is_set():
                raise Cancelled("the connection to the service is closed")
            with self.translated(url):
                if response.status_code not in accept and not _is_success(response.status_code):
                    said = response.raw.read(_MOST_ERROR_BYTES)
                    raise self._failure(response, url, said, method, optional, ours)
                yield response

    @contextlib.contextmanager
    def fetch(
        self,
        url: Url,
        headers: Mapping[str, str],
        *,
        accept: frozenset[int],
        token: bool = True,
        external: bool = False,
    ) -> Iterator[DownloadResponse]:
        """One attempt at a GET whose body is for the disk; see `open` for what it raises.

        Without `token` it carries none, wherever it leads; nor does an `external` one, whose peer
        is checked.
        """
        ours = token and self.is_api(url) and not external
        with (
            self._answered(lambda: self._get(url, headers, ours, external), ours) as answer,
            self.translated(url),
        ):
            if answer.status_code not in accept and not _is_success(answer.status_code):
                said = answer.read(_MOST_ERROR_BYTES)
                raise self._failure(answer, url, said, "GET", False, ours)
            yield answer

    def post(self, url: Url, headers: Mapping[str, str], body: bytes) -> bytes | None:
        """One attempt at a POST to the service with a small body; what is answered.

        It is sent at most once. None: it was not, the caller has to do it by `open`, which says
        what else is raised.
        """
        with self.translated(url):
            if self._closed.is_set() or not self._connections.speaks_to(url, external=False):
                return None
        length = {"Content-Length": str(len(body))}
        with (
            self._answered(lambda: self._post(url, {**headers, **length}, body), True) as answer,
            self.translated(url),
        ):
            if not _is_success(answer.status_code):
                said = answer.read(_MOST_ERROR_BYTES)
                raise self._failure(answer, url, said, "POST", False, True)
            if answer.length_bytes > MOST_ANSWER_BYTES:
                raise BadAnswer(f"POST {url.shown}: the answer is too large")
            said = answer.read(MOST_ANSWER_BYTES)
            if len(said) < answer.length_bytes:
                raise Transient(Unreachable(f"{url.shown}: the answer broke off"))
            pieces = io.BytesIO(said)
            decoded = decoding(pieces.read, answer.headers, f"POST {url.shown}")
            return read_all(decoded, MOST_ANSWER_BYTES)

    @contextlib.contextmanager
    def _answered(self, ask: Callable[[], A], ours: bool) -> Iterator[A]:
        """An answer that `close` cuts off; asked again if the token was an old one."""
        answer = ask()
        try:
            if ours and answer.status_code == 401 and self._read_token_again():
                answer.close()
                answer = ask()
            with self._lock:
                self._in_flight.add(answer)
            if self._closed.is_set():
                raise Cancelled("the connection to the service is closed")
            yield answer
        finally:
            with self._lock:
                self._in_flight.discard(answer)
            answer.close()

    def _get(
        self, url: Url, headers: Mapping[str, str], ours: bool, external: bool
    ) -> DownloadResponse:
        with self.translated(url):
            if not self._closed.is_set() and self._connections.speaks_to(url, external=external):
                sent = {**_HEADERS, **headers}
                if ours:
                    sent |= self._authorization()
                with contextlib.suppress(NotPlain):
                    return self._connections.ask("GET", url, sent, b"", external=external)
        library = self._external_requests if external else self._requests
        return LibraryResponse(self._send("GET", url, headers, None, None, ours, library), url)

    def _post(self, url: Url, headers: Mapping[str, str], body: bytes) -> DirectAnswer:
        with self.translated(url):
            try:
                return self._connections.ask(
                    "POST",
                    url,
                    {**_HEADERS, **headers, **self._authorization()},
                    body,
                    external=False,
                )
            except NotPlain as error:
                lost = Unreachable(f"{url.shown} answered as was not understood: {error}")
                raise Transient(lost) from error

    def _send(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str] | None,
        json: Any,
        data: Any,
        ours: bool,
        library: requests.Session | None = None,
    ) -> requests.Response:
        if self._closed.is_set():
            raise Cancelled("the connection to the service is closed")
        sent = dict(headers or {})
        if ours:
            sent |= self._authorization()
        if callable(data):
            data = data()
        try:
            with self.translated(url):
                return (library or self._requests).request(
                    method,
                    url.text,
                    headers=sent,
                    json=json,
                    data=data,
                    timeout=self._timeout,
                    allow_redirects=False,
                    **self._surroundings_of(url),
                )
        finally:
            close = getattr(data, "close", None)
            if close is not None:
                close()

    def _surroundings_of(self, url: Url) -> dict[str, Any]:
        """Proxies and certificates from the environment, which costs more to read than to send."""
        found = self._surroundings.get(url.origin)
        if found is None:
            found = dict(
                self._environment.merge_environment_settings(url.text, {}, True, None, None)
            )
            self._surroundings[url.origin] = found
        return found

    @contextlib.contextmanager
    def translated(self, url: Url) -> Iterator[None]:
        """Turn the libraries' exceptions into ours: `Transient` where another try may help."""
        where = url.shown
        try:
            yield
        except _UNUSABLE as error:
            raise Refused(f"{where} is no usable URL") from error
        except (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as error:
            self._raise_if_closed(error)
            raise Transient(TimedOut(f"{where} did not answer in time")) from error
        except (requests.exceptions.SSLError, urllib3.exceptions.SSLError) as error:
            raise Unreachable(f"{where}: {_reason(error)}") from error
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            ConnectionError,
        ) as error:
            self._raise_if_closed(error)
            raise Transient(Unreachable(f"{where}: {_reason(error)}")) from error

    def _raise_if_closed(self, error: BaseException) -> None:
        if self._closed.is_set():
            raise Cancelled("the connection to the service is closed") from error

    def _failure(
        self,
        response: requests.Response | DownloadResponse,
        url: Url,
        body: bytes,
        method: str,
        optional: bool,
        ours: bool,
    ) -> Exception:
        """What an answer that is no success means; `ours` is a call of the service, with token."""
        status = response.status_code
        said = wire_artifacts.wire_warning(body)
        what = f"{method} {url.shown}"
        message = f"{what}: {said.message or response.reason or 'no reason given'} ({status})"
        if optional and status in _OPTIONAL:
            return Unsupported(message)
        if status in _REDIRECTS:
            return self._redirect(url, response.headers.get("location", ""), status, what, ours)
        if status in _TRANSIENT:
            from artifactfs.clock import SYSTEM_CLOCK

            after_s = retry_after_s(response.headers.get("retry-after"), SYSTEM_CLOCK)
            return Transient(Unreachable(message), after_s)
        if status == _UNAUTHORIZED and not ours:
            return NotAllowed(message)  # a store's signature, not the token
        kind = _KINDS.get(status)
        remedy = said.action or None
        if kind is not None:
            return kind(message, remedy=remedy)
        return Refused(message, remedy=remedy, code=said.code)

    def _redirect(self, url: Url, location: str, status: int, what: str, ours: bool) -> Exception:
        """What a redirect means that is not followed."""
        try:
            target = redirected(url, location)
        except BadAnswer as error:
            return Refused(f"{what}: {error.message} ({status})")
        if not ours or status not in _PERMANENT:
            message = f"{what}: redirects to {target.shown}, which is not followed ({status})"
            # A call of the service is redirected for a while by what stands before it: a page to
            # log in to a network, or one that tells of maintenance.
            return Transient(Unreachable(message)) if ours else Refused(message)
        below = url.path.removeprefix(self._base.path.rstrip("/"))
        base = replace(target, path=target.path.removesuffix(below), query=None)
        return Refused(
            f"{what}: the service has moved to {base.shown} ({status})",
            remedy=f"set url to {base.shown}, if you trust it with the token",
        )

    def _done(self, response: requests.Response) -> None:
        with self._lock:
            self._in_flight.discard(response.raw)
        # A body that was read to its end gives the connection back; any other is cut off.
        response.close()

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._current_token().reveal()}"}

    def _current_token(self) -> Secret:
        with self._lock:
            if self._token is None:
                self._token = self._source.read()
            return self._token

    def _read_token_again(self) -> bool:
        fresh = self._source.read()
        with self._lock:
            changed = self._token is None or fresh.reveal() != self._token.reveal()
            self._token = fresh
        return changed

    def close(self) -> None:
        """Cut off what is in flight; later requests raise `Cancelled`."""
        self._closed.set()
        with self._lock:
            in_flight = list(self._in_flight)
        for one in in_flight:
            with contextlib.suppress(Exception):
                one.shutdown()
        self._connections.close()
        self._requests.close()
        self._external_requests.close()


class _Requests(requests.Session):
    """A session that leaves redirects alone.

    That of the library parses ``Location`` and reads the body of a redirect into memory, decoded
    and whole, also where redirects are not to be followed.
    """

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002
        """Return None: no answer is a redirect."""
        return None


def _library(adapter: requests.adapters.HTTPAdapter) -> requests.Session:
    """A session of requests that adds nothing of its own; see `_surroundings_of`."""
    session = _Requests()
    session.trust_env = False
    session.auth = _no_auth
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    session.headers.clear()
    session.headers.update(_HEADERS)
    return session


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps requests from adding credentials of its own (from a netrc file)."""
    return request


def _is_success(status: int) -> bool:
    return 200 <= status < 300


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words."""
    seen = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
        if not isinstance(inner, BaseException):
            break
        error = inner
    text = (
        getattr(error, "strerror", None) or str(error).rpartition(": ")[2] or type(error).__name__
    )
    return wire_artifacts.words(str(text))


def retry_after_s(value: str | None, clock: Clock) -> float | None:
    """Seconds from a ``Retry-After`` header (RFC 9110 §10.2.3): a number, or a date.

    From 0 to `_MOST_RETRY_AFTER_S`; None if it is neither.
    """
    value = (value or "").strip(" \t")
    if _SECONDS.fullmatch(value):
        return min(float(value), _MOST_RETRY_AFTER_S)
    date = http_date(value)
    if date is None:
        return None
    return min(max((date - clock.now()).total_seconds(), 0.0), _MOST_RETRY_AFTER_S)


_KINDS: dict[int, type[RemoteError]] = {
    401: TokenRejected,
    402: CreditsShort,
    403: NotAllowed,
    404: Gone,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    507: StorageFull,
}
