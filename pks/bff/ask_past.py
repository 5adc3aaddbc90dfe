"""Questions to the worker `past` from an event loop: one connection, many questions at a time, each with a deadline.

Owns the connection: made when it is first needed, and again after the worker was away. A question that was on its way when the connection
broke is not sent twice: its asker is told and decides. It knows no question's meaning.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from pks.base.errors import PksError, Retryable
from pks.past.door import HEAD, SOCKET_FILE, at_directory
from pks.past.questions import ANSWER_BYTES_MAX, QUESTION_BYTES_MAX, Answered, AnyAnswer, AnyQuestion, Asked, Failed

PATIENCE_SECONDS = 30.0
CONNECT_SECONDS = 2.0


class PastUnavailable(Retryable):
    """The worker `past` is away, busy or too slow; everything else goes on."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"questions about the past are not answered now: {reason}")
        self.reason = reason


class QuestionTooLong(PksError):
    """The question is longer than the worker takes."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"the question has {size_bytes} bytes, {QUESTION_BYTES_MAX} are taken at most")
        self.size_bytes = size_bytes


class AskPast:
    """Asks. Belongs to one event loop; any number of tasks may ask at once."""

    def __init__(self, run_directory: Path) -> None:
        self._run = run_directory
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._asked: dict[int, asyncio.Future[AnyAnswer]] = {}
        self._last = 0
        self._encoder, self._decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Answered)

    async def ask(self, question: AnyQuestion, *, seconds: float = PATIENCE_SECONDS) -> AnyAnswer:
        """The answer, a Failed among them for what the question asks amiss. Raises PastUnavailable, QuestionTooLong."""
        try:
            async with asyncio.timeout(seconds):
                found = await self._answer(question, seconds)
        except TimeoutError:
            raise PastUnavailable(f"no answer within {seconds:g} seconds") from None
        if isinstance(found, Failed) and found.code == "BUSY":
            raise PastUnavailable(found.reason)
        return found

    async def close(self) -> None:
        """Let go of the connection; who still asks is told."""
        reading = self._reading
        self._lost("this side ends")
        if reading is not None:
            reading.cancel()
            await asyncio.wait({reading})

    async def _answer(self, question: AnyQuestion, seconds: float) -> AnyAnswer:
        self._last += 1
        number = self._last
        body = self._encoder.encode(Asked(id=number, patience_ms=int(seconds * 1000), question=question))
        if len(body) > QUESTION_BYTES_MAX:
            raise QuestionTooLong(len(body))
        writer = await self._connected()
        future: asyncio.Future[AnyAnswer] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            writer.write(HEAD.pack(len(body)) + body)
            return await future
        finally:
            self._asked.pop(number, None)

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is None:
                try:
                    with at_directory(self._run) as near:
                        reader, writer = await asyncio.wait_for(asyncio.open_unix_connection(f"{near}/{SOCKET_FILE}"), CONNECT_SECONDS)
                except (OSError, TimeoutError) as error:
                    raise PastUnavailable(f"its worker cannot be reached ({type(error).__name__})") from error
                self._writer = writer
                self._reading = asyncio.get_running_loop().create_task(self._read(reader, writer))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Give answers to their askers until the connection ends."""
        reason = "its worker ended"
        try:
            while True:
                (length,) = HEAD.unpack(await reader.readexactly(HEAD.size))
                if length > ANSWER_BYTES_MAX:
                    reason = f"an answer of {length} bytes came"
                    return
                answered = self._decoder.decode(await reader.readexactly(length))
                future = self._asked.get(answered.id)
                if future is not None and not future.done():
                    future.set_result(answered.answer)
        except (asyncio.IncompleteReadError, OSError):
            return  # said by the finally clause to whom it matters
        except msgspec.DecodeError as error:
            reason = f"an answer was not understood: {error}"
        finally:
            if self._writer is writer:
                self._lost(reason)
            await _closed(writer)

    def _lost(self, reason: str) -> None:
        writer, self._writer, self._reading = self._writer, None, None
        if writer is not None:
            writer.close()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(PastUnavailable(reason))


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Wait for the end of a connection that is given up, however it ends."""
    try:
        await writer.wait_closed()
    except OSError:  # the other side went first
        return
