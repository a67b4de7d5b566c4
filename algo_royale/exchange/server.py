"""The twin on loopback: Alpaca's REST and both websockets on one port, and control routes under `/sim` that Alpaca does not have.

One event loop owns the exchange, so requests, messages and the passing of time are handled one after the other.

Time passes in one of two ways. At a speed of N it runs N times as fast as the wall clock. Paced (`speed` None, "max" outside) it
stands still until `POST /sim/advance` moves it to the next event or to `until_ns`, whichever is earlier; that is refused with 409
while the caller has not received every frame sent on its live connections, and answered when the frames of the new instant are on
the wire. So nothing depends on how fast either side computes.
"""

import asyncio
import ipaddress
import os
import signal
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.exceptions import InvalidState

from algo_royale.clock import WallClock
from algo_royale.errors import BadInput, BrokerUnavailable
from algo_royale.exchange.control import FORMS, control
from algo_royale.exchange.core import Exchange
from algo_royale.exchange.faults import Cut, Faults, Restart, Sent
from algo_royale.exchange.faults import Order as FaultOrder
from algo_royale.exchange.faults import answer as faulty_answer
from algo_royale.exchange.journal import Journal
from algo_royale.exchange.streams import DataStream, Stream, TradingStream
from algo_royale.exchange.wire import SECOND_NS, parse_instant
from algo_royale.exchange.wire import Response as Answer

AUTH_TIMEOUT_S = 10.0
SLOW_CLIENT_S = 5.0
PARENT_CHECK_S, LOOK_S = 0.5, 0.5
ENDED_KEPT = 1000  # connections that are told of after their end
BODY_BYTES_MAX = 1_000_000
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


Transports = Callable[[tuple[str, int] | None], list[Any]]  # the server's protocols that speak with a peer


class Connection:
    """A websocket and its stream. Frames leave in the order in which they were made, whoever asks for it.

    `lines` keeps what was written, as (virtual time, text), while `recording`.
    """

    def __init__(
        self, websocket: WebSocket, stream: Stream, faults: Faults, number: int, transport: Transports
    ) -> None:
        self._websocket, self.stream, self._faults, self.number = websocket, stream, faults, number
        self.opened_ns, self.closed_ns = stream.now_ns, 0
        self.written = 0
        self.recording = False
        self.lines: list[tuple[int, str]] = []
        self.muted_until_s = 0.0
        self.deaf_until_s = 0.0
        self._msgpack = "msgpack" in websocket.headers.get("content-type", "")
        self._lock = asyncio.Lock()
        self._reader = asyncio.current_task()
        self._late: set[asyncio.Task[None]] = set()
        self._transport = transport
        self._closed = False  # by us, while frames may still wait
        self.lost = False

    async def flush(self) -> None:
        """Write everything that waits. A client that does not read in time, or is gone, loses its connection."""
        try:
            async with asyncio.timeout(SLOW_CLIENT_S), self._lock:
                while self.stream.outbox:
                    frame = self.stream.outbox.popleft()
                    if self._closed or self._is_mute:
                        continue
                    told = self._faults.sent(self.stream.endpoint, frame) if self.signed_in else [Sent(frame)]
                    for each in told:
                        if each.late_s:
                            self._later(each)
                        else:
                            await self._write(each)
        except (TimeoutError, WebSocketDisconnect, OSError):
            self.lost = True
            self.stream.outbox.clear()
            self.stream.close()
            if self._reader is not None and self._reader is not asyncio.current_task():
                self._reader.cancel()

    async def say(self, text: str) -> None:
        """Write something that the stream did not say."""
        with suppress(WebSocketDisconnect, OSError):
            async with self._lock:
                if not self._closed:
                    await self._write(Sent(text))

    def _later(self, frame: Sent) -> None:
        async def wait() -> None:
            await asyncio.sleep(frame.late_s)
            await self.say(frame.text)

        task = asyncio.get_running_loop().create_task(wait())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    @property
    def signed_in(self) -> bool:
        """Whether the conversation that faults leave alone is over."""
        return self.stream.listening if isinstance(self.stream, TradingStream) else self.stream.authenticated

    @property
    def peer(self) -> tuple[str, int] | None:
        client = self._websocket.client
        return None if client is None else (client.host, client.port)

    async def close(self, code: int) -> None:
        """End the connection with a close frame, which comes after the message that is being written."""
        async with self._lock:
            self._closed = True
            with suppress(RuntimeError, WebSocketDisconnect, OSError):  # it may be gone already
                await self._websocket.close(code)
        self.stream.close()

    async def hang_up(self) -> None:
        """Write what waits and end the connection from our side."""
        await self.flush()
        await self.close(1000)

    @property
    def _is_mute(self) -> bool:
        return self.muted_until_s > asyncio.get_running_loop().time()

    def receive(self, message: Mapping[str, Any]) -> None:
        """Hand one message of the client to the stream."""
        content: str | bytes = message.get("text") or message.get("bytes") or ""
        if self._msgpack and isinstance(content, bytes):
            try:
                content = msgspec.json.encode(msgspec.msgpack.decode(content))
            except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, RecursionError):
                content = b""
        self.stream.receive(content)

    async def _write(self, frame: Sent) -> None:
        packed = _packed(frame.text) if self._msgpack else None
        if packed is None and self.stream.endpoint == "trading":
            packed = frame.text.encode()  # paper sends binary frames that hold JSON
        self.written += 1
        if self.recording:
            self.lines.append((self.stream.now_ns, frame.text))
        if frame.split:
            await self._write_split(packed or frame.text.encode(), binary=packed is not None)
        elif packed is not None:
            await self._websocket.send_bytes(packed)
        else:
            await self._websocket.send_text(frame.text)

    async def _write_split(self, content: bytes, *, binary: bool) -> None:
        """One message as three fragments, of which each leaves in two writes. Nothing is read meanwhile: the answer to a ping would
        get between the pieces."""
        for protocol in self._transport(self.peer):
            third = len(content) // 3
            send = protocol.conn.send_binary if binary else protocol.conn.send_text
            try:
                send(content[:third], fin=False)
                protocol.conn.send_continuation(content[third : 2 * third], fin=False)
                protocol.conn.send_continuation(content[2 * third :], fin=True)
            except InvalidState:
                raise WebSocketDisconnect(1006) from None  # the client has said goodbye
            out = b"".join(protocol.conn.data_to_send())
            protocol.transport.pause_reading()
            try:
                for first in range(0, len(out), max(1, len(out) // 6)):
                    protocol.transport.write(out[first : first + max(1, len(out) // 6)])
                    await asyncio.sleep(0.001)
            finally:  # a line that became mute meanwhile, or was given up, is still to be heard
                if self.deaf_until_s <= asyncio.get_running_loop().time():
                    _read_again(protocol.transport)


def _packed(frame: str) -> bytes:
    """A JSON frame as msgpack; instants of market data become msgpack timestamps of nanosecond precision."""
    try:
        content = msgspec.json.decode(frame)
    except msgspec.DecodeError:  # a frame that was cut in half on request
        return frame.encode()
    for message in content if isinstance(content, list) else ():
        if "t" in message:
            seconds, fraction = divmod(parse_instant(message["t"]), SECOND_NS)
            message["t"] = msgspec.msgpack.Ext(-1, struct.pack(">Q", fraction << 34 | seconds))
    return msgspec.msgpack.encode(content)


class TwinServer:
    """Serves one exchange. `speed`: virtual seconds per second of wall time, or None for paced."""

    def __init__(self, exchange: Exchange, *, speed: float | None, journal: Journal | None = None) -> None:
        if speed is not None and not 0 < speed < float("inf"):
            raise BadInput(f"a speed of {speed} is impossible; it must be a positive number, or max")
        self.exchange, self.speed, self._journal = exchange, speed, journal
        self._clock = WallClock()
        self._anchor_wall_ns, self._anchor_ns = self._clock.now_ns(), exchange.now_ns
        self.connections: list[Connection] = []
        self.faults = Faults()
        self._refused_until_s = {"data": 0.0, "trading": 0.0}
        self._refused_status = {"data": 0, "trading": 0}
        self._gone_until_s = 0.0
        self._recording = False
        self._connected = 0
        self._ended: deque[Connection] = deque(maxlen=ENDED_KEPT)
        self._requests: list[dict[str, Any]] = []
        exchange.refuses = lambda: self._refused("data")
        self._server: _Server | None = None
        self.app = Starlette(
            routes=[
                WebSocketRoute("/v2/iex", self._data),
                WebSocketRoute("/v2/sip", self._sip),
                WebSocketRoute("/v2/test", self._test),
                WebSocketRoute("/stream", self._trading),
                WebSocketRoute("/{path:path}", self._no_stream),
                Route("/sim/clock", self._sim_clock),
                Route("/sim/advance", self._sim_advance, methods=["POST"]),
                Route("/sim/truth", self._sim_truth),
                Route("/sim/wire", self._sim_wire),
                Route("/sim/faults", self._sim_faults, methods=["POST"]),
                *(Route(path, self._sim_control, methods=["POST"]) for path in FORMS),
                Route("/{path:path}", self._rest, methods=_METHODS),
            ]
        )

    async def run(
        self, host: str, port: int, on_ready: Callable[[str], None], *, parent_pid: int | None = None
    ) -> None:
        """Serve until SIGTERM, SIGINT, `stop()`, or the death of the parent process; then end cleanly.

        `on_ready(url)` is called once connections are accepted. Raises BadInput for a host that is not loopback or a port in use.
        """
        listener = _listen(host, port)
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            self.app, http="h11", ws="websockets-sansio", loop="asyncio", lifespan="off", log_config=None, access_log=False,
            server_header=False, date_header=False, ws_per_message_deflate=False, ws_ping_interval=None,
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = _Server(config, lambda: on_ready(url))
        self._anchor_wall_ns, self._anchor_ns = self._clock.now_ns(), self.exchange.now_ns
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self.stop)
        background = [asyncio.create_task(self._pass_time())] if self.speed is not None else []
        if parent_pid is not None:
            background.append(asyncio.create_task(self._watch(parent_pid)))
        for task in background:
            task.add_done_callback(self._stop_on_failure)
        try:
            await self._server.serve(sockets=[listener])
        finally:
            listener.close()
            for task in background:
                task.cancel()
            ends = await asyncio.gather(*background, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    def stop(self) -> None:
        """Ask the server to end; safe from any thread."""
        if self._server is not None:
            self._server.should_exit = True

    def _stop_on_failure(self, task: asyncio.Task[None]) -> None:
        """A twin whose time has stopped by a fault must not look alive."""
        if not task.cancelled() and task.exception() is not None:
            self.stop()

    # --- time

    def _catch_up(self) -> None:
        """Where time runs by itself: let it be now."""
        if self.speed is not None:
            passed_ns = int((self._clock.now_ns() - self._anchor_wall_ns) * self.speed)
            self.exchange.advance(self._anchor_ns + passed_ns)

    async def _pass_time(self) -> None:
        """Let each event happen when its time has come."""
        assert self.speed is not None
        while (at := self.exchange.next_event_ns()) is not None:
            wall_ns = self._anchor_wall_ns + (at - self._anchor_ns) / self.speed
            wait_s = (wall_ns - self._clock.now_ns()) / SECOND_NS
            await asyncio.sleep(min(LOOK_S, max(0.0, wait_s)))  # an earlier one may come up meanwhile
            if wait_s > LOOK_S:
                continue
            self._catch_up()
            await self._flush()

    async def _watch(self, parent_pid: int) -> None:
        """Nobody needs a twin whose parent is gone."""
        while os.getppid() == parent_pid:
            await asyncio.sleep(PARENT_CHECK_S)
        self.stop()

    async def _flush(self) -> None:
        if self._journal is not None:
            self._journal.time()
        for connection in list(self.connections):
            await connection.flush()

    # --- REST

    async def _rest(self, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                return _answer(413, {"message": "request body is too large"})
        peer = request.client and (request.client.host, request.client.port)
        if self._gone:
            self._abort(peer)
            return Response(status_code=503)
        method, path = request.method, request.scope["path"]
        fault = self.faults.request(method, path)
        late_s = self.faults.late_s() + (fault.seconds if fault is not None and fault.kind == "latency" else 0.0)
        if late_s:
            await asyncio.sleep(late_s)
        self._catch_up()

        def process() -> Answer:
            asked = (method, path, dict(request.query_params), body)
            if self._journal is not None:
                self._journal.request(*asked)
            return self.exchange.handle(*asked, dict(request.headers))

        now_s = self._clock.now_ns() // SECOND_NS
        answer = process() if fault is None else faulty_answer(fault, process, now_s)
        if self._recording:
            told = {
                "at_ns": self.exchange.now_ns,
                "method": method,
                "path": path,
                "body": body.decode(errors="replace"),
            }
            told |= {"fault": fault and fault.kind, "status": answer and answer.status}
            self._requests.append(told)
        await self._flush()
        if fault is not None and fault.kind == "timeout":
            await asyncio.sleep(fault.seconds)
        if answer is None:
            self._abort(peer)
            return Response(status_code=503)
        return _answer(answer.status, answer.json, answer.headers)

    def _protocols(self, peer: tuple[str, int] | None) -> list[Any]:
        """Those that speak with a client (None: with all of them)."""
        assert self._server is not None
        found = [p for p in list(self._server.server_state.connections) if p.transport is not None]
        return [p for p in found if peer is None or p.transport.get_extra_info("peername")[:2] == peer]

    def _abort(self, peer: tuple[str, int] | None) -> None:
        """Reset the connection of that client."""
        for protocol in self._protocols(peer) if peer is not None else ():
            raw = protocol.transport.get_extra_info("socket")
            with suppress(OSError):  # lingering for no time makes the system send RST instead of a polite end
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            protocol.transport.abort()

    # --- websockets

    async def _data(self, websocket: WebSocket) -> None:
        await self._serve_stream(websocket, "data")

    async def _sip(self, websocket: WebSocket) -> None:
        await self._serve_stream(websocket, "data", feed="sip")

    async def _test(self, websocket: WebSocket) -> None:
        await self._serve_stream(websocket, "test")

    async def _trading(self, websocket: WebSocket) -> None:
        await self._serve_stream(websocket, "trading")

    async def _no_stream(self, websocket: WebSocket) -> None:
        await websocket.send_denial_response(_answer(404, {"message": "endpoint not found."}))

    async def _serve_stream(self, websocket: WebSocket, endpoint: str, *, feed: str = "") -> None:
        status = self._refused_status.get(endpoint, 0) or (429 if endpoint == "trading" else 0)
        if self._gone or (self._refused(endpoint) and status):
            await websocket.send_denial_response(
                _answer(503 if self._gone else status, {"message": "refused on request"})
            )
            return
        try:
            stream = self.exchange.open_stream(feed or endpoint, dict(websocket.headers))
        except BrokerUnavailable:
            await websocket.send_denial_response(_answer(429, {"message": "too many requests"}))
            return
        self._connected += 1
        connection = Connection(websocket, stream, self.faults, self._connected, self._protocols)
        connection.recording = self._recording
        self.connections.append(connection)
        deadline = asyncio.get_running_loop().time() + AUTH_TIMEOUT_S
        try:
            await websocket.accept()
            await connection.flush()
            while not stream.closed:
                waiting = isinstance(stream, DataStream) and not stream.authenticated
                async with asyncio.timeout_at(deadline if waiting else None):
                    message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                self._catch_up()
                connection.receive(message)
                await connection.flush()
            await connection.hang_up()
        except TimeoutError:
            assert isinstance(stream, DataStream)
            stream.error(404)
            await connection.hang_up()
        except (WebSocketDisconnect, OSError):
            pass  # the client is gone: that is how connections end
        except asyncio.CancelledError:
            if not connection.lost:
                raise
        finally:
            stream.close()
            connection.closed_ns = self.exchange.now_ns
            self.connections.remove(connection)
            self._ended.append(connection)

    # --- control

    async def _sim_clock(self, request: Request) -> Response:
        self._catch_up()
        next_ns = self.exchange.next_event_ns()
        return _answer(
            200,
            {
                "now_ns": self.exchange.now_ns,
                "wall_ns": self._clock.now_ns(),
                "speed": "max" if self.speed is None else self.speed,
                "next_event_ns": next_ns,
                "ended": next_ns is None,
                "events": len(self.exchange.events),
            },
        )

    async def _sim_advance(self, request: Request) -> Response:
        try:
            asked = msgspec.json.decode(await request.body(), type=_Advance)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return _answer(400, {"message": f"request body format is invalid: {error}"})
        if self.speed is not None:
            return _answer(400, {"message": f"time passes by itself at speed {self.speed:g}"})
        sent = self._sent()
        if any(sent.get(endpoint) != count for endpoint, count in asked.received.items()):
            return _answer(409, {"sent": sent})
        targets = [ns for ns in (asked.until_ns, self.exchange.next_event_ns()) if ns is not None]
        if targets:
            self.exchange.advance(min(targets))
        await self._flush()
        next_ns = self.exchange.next_event_ns()
        return _answer(
            200,
            {
                "now_ns": self.exchange.now_ns,
                "sent": self._sent(),
                "next_event_ns": next_ns,
                "ended": next_ns is None,
            },
        )

    async def _sim_faults(self, request: Request) -> Response:
        try:
            asked = msgspec.json.decode(await request.body(), type=FaultOrder)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return _answer(400, {"message": f"request body format is invalid: {error}"})
        if asked.restart is not None and not asked.restart.keep and self._journal is not None:
            return _answer(422, {"message": "an exchange that is kept on disk loses nothing: run it without --state"})
        self.faults.ask(asked)
        if asked.clock_skew_s is not None:
            self.exchange.clock_skew_ns = int(asked.clock_skew_s * SECOND_NS)
        if asked.frame_messages is not None:
            self.exchange.frame_messages = max(1, asked.frame_messages)
        if asked.record is not None:
            self._recording = asked.record
            for connection in self.connections:
                connection.recording = asked.record
        for said in asked.say:
            for connection in [c for c in self.connections if c.stream.endpoint == said.endpoint]:
                await connection.say(said.text)
        for cut in asked.cut:
            await self._cut(cut)
        if asked.restart is not None:
            self._restart(asked.restart)
        return _answer(200, {"happened": self.faults.happened})

    async def _cut(self, cut: Cut) -> None:
        until_s = asyncio.get_running_loop().time() + cut.seconds
        self.faults.happened[cut.how] = self.faults.happened.get(cut.how, 0) + 1
        for connection in [c for c in self.connections if c.stream.endpoint == cut.endpoint]:
            match cut.how:
                case "mute":
                    connection.muted_until_s = until_s
                case "half_open":
                    connection.muted_until_s = connection.deaf_until_s = until_s
                    self._stop_reading(connection, cut.seconds)
                case "reset":
                    self._abort(connection.peer)
                case "close":
                    await connection.close(cut.code)
                case "slow":
                    if isinstance(connection.stream, DataStream):
                        connection.stream.error(407)
                        await connection.flush()
                    await connection.close(1008)
        if cut.how not in ("mute", "half_open"):
            self._refused_until_s[cut.endpoint], self._refused_status[cut.endpoint] = until_s, cut.status

    def _restart(self, restart: Restart) -> None:
        """Lose every connection, and what was ordered if it is not kept; time goes on."""
        self._gone_until_s = asyncio.get_running_loop().time() + restart.seconds
        self.faults.happened["restart"] = self.faults.happened.get("restart", 0) + 1
        for connection in list(self.connections):
            connection.stream.close()
            self._abort(connection.peer)
        if not restart.keep:
            old = self.exchange
            config = replace(old.config, start_ns=old.now_ns, seed=old.config.seed + 1)
            self.exchange = Exchange(old.replay, config)
            self.exchange.refuses, self.exchange.clock_skew_ns = old.refuses, old.clock_skew_ns

    @property
    def _gone(self) -> bool:
        return self._gone_until_s > asyncio.get_running_loop().time()

    def _stop_reading(self, connection: Connection, seconds: float) -> None:
        """Neither messages nor pings of the client are seen for so long."""
        for protocol in self._protocols(connection.peer):
            protocol.transport.pause_reading()
            asyncio.get_running_loop().call_later(seconds, _read_again, protocol.transport)

    def _refused(self, endpoint: str) -> bool:
        return self._refused_until_s.get(endpoint, 0.0) > asyncio.get_running_loop().time()

    def _sent(self) -> dict[str, int]:
        """Frames written on the connection of each endpoint that counts: the authenticated one, else the newest."""
        counts = dict(self.exchange.sent())
        for endpoint in counts:
            live = [c for c in self.connections if c.stream.endpoint == endpoint and c.stream in self.exchange.streams]
            live.sort(key=lambda c: c.stream.authenticated)
            counts[endpoint] = live[-1].written if live else 0
        return counts

    async def _sim_control(self, request: Request) -> Response:
        body, path = await request.body(), request.scope["path"]
        self._catch_up()
        if self._journal is not None:
            self._journal.request("POST", path, {}, body)
        answer = control(self.exchange, path, body)
        await self._flush()
        return _answer(answer.status, answer.json)

    async def _sim_truth(self, request: Request) -> Response:
        return _answer(200, self.exchange.truth())

    async def _sim_wire(self, request: Request) -> Response:
        """What went over the wire, of each connection ever; frames and requests since recording was asked for."""
        connections = [
            {
                "number": c.number, "endpoint": c.stream.endpoint, "opened_ns": c.opened_ns, "closed_ns": c.closed_ns or None,
                "written": c.written, "frames": c.lines,
            }
            for c in sorted([*self._ended, *self.connections], key=lambda c: c.number)
        ]  # fmt: skip
        return _answer(200, {"connections": connections, "requests": self._requests})


class _Advance(msgspec.Struct):
    until_ns: int | None = None
    received: dict[str, int] = {}


class _Server(uvicorn.Server):
    """uvicorn that says when it listens and leaves signals to us (its own way ends the process by the signal)."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _read_again(transport: asyncio.Transport) -> None:
    if not transport.is_closing():
        transport.resume_reading()


def _answer(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Response:
    body = b"" if content is None else msgspec.json.encode(content)
    return Response(body, status, dict(headers or {}), media_type="application/json")


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket on loopback. There are no secrets worth the name here, so nobody else may connect."""
    address = "127.0.0.1" if host == "localhost" else host
    loopback = False
    with suppress(ValueError):
        loopback = ipaddress.ip_address(address).is_loopback
    if not loopback:
        raise BadInput(f"the exchange serves loopback only; {host!r} is not a loopback address (try 127.0.0.1)")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # naming the protocol is what makes asyncio set TCP_NODELAY; without it each answer waits 40 ms for an acknowledgement
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise BadInput(f"cannot listen on {host} port {port}: {error}") from error
    return listener
