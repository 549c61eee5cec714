"""Finds the end of an HTTP response in received data (RFC 9112, section 6.3). Does no I/O."""

import http.client
import io

_MAX_LINE = 1024
"""Maximum length of a line of a chunked body, in bytes. A body with a longer line is invalid."""


class BufferedResponseSocket:
    """Provides received data to `http.client.HTTPResponse`, in place of a socket.

    Args:
        data: The received data.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        """Return the data as a binary file object."""
        del mode
        return io.BytesIO(self._data)


class ResponseEndDetector:
    """Detects the end of a response, so that the probe can stop reading before the server closes the connection.

    If the header is not valid, or declares neither a length nor the chunked transfer coding, the response ends when
    the server closes the connection.
    """

    def __init__(self) -> None:
        self._scanned = 0
        """Number of bytes of the response that were already parsed."""
        self._in_header = True
        self._is_chunked = False
        self._in_trailer = False
        self._end: int | None = None
        """Length of the whole response, in bytes; None if it is not known. It stays None if the response ends when
        the server closes the connection."""

    def is_reached(self, received: bytearray) -> bool:
        """Return whether the response is complete.

        Args:
            received: All data since the start of the response, including the data of earlier calls.
        """
        if self._in_header:
            found = received.find(b"\r\n\r\n", max(0, self._scanned - 3))
            self._scanned = len(received)
            if found < 0:
                return False
            self._in_header = False
            self._read_header(bytes(received[: found + 4]))
        while self._is_chunked:
            if not self._read_chunk_line(received):
                return False
        return self._end is not None and len(received) >= self._end

    def _read_header(self, header: bytes) -> None:
        response = http.client.HTTPResponse(BufferedResponseSocket(header))  # type: ignore[arg-type] # needs only `makefile`
        try:
            response.begin()
        except (http.client.HTTPException, ValueError):
            return
        self._scanned = len(header)
        self._is_chunked = response.chunked
        if response.length is not None:
            self._end = len(header) + response.length

    def _read_chunk_line(self, received: bytearray) -> bool:
        """Parse the next line of a chunked body. If the line contains the size of a chunk, skip the chunk.

        Returns:
            False if the line is not complete yet; otherwise, True.
        """
        end = received.find(b"\r\n", self._scanned)
        if end < 0:
            self._is_chunked = len(received) - self._scanned < _MAX_LINE
            return False
        line = bytes(received[self._scanned : end])
        if self._in_trailer:
            if not line:
                self._is_chunked, self._end = False, end + 2
            self._scanned = end + 2
            return True
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            size = -1
        self._is_chunked = size >= 0
        self._in_trailer = size == 0
        self._scanned = end + 2 + (size + 2 if size > 0 else 0)
        return True
