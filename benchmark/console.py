"""Standard streams that cannot stop a command: neither by a reader that has gone nor by a character they lack."""

import io
import os
import sys
from typing import cast


def protect_streams() -> None:
    """Make standard output and error of this process write what they can.

    Characters that the encoding lacks become escapes such as \\xd7. Once a pipe is closed at its other end, as by
    `head`, the rest of the output is discarded, and the command goes on.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, _Protected):
            continue
        stream.flush()
        file = io.BufferedWriter(cast(io.RawIOBase, _Discarding(stream.fileno(), "w", closefd=False)))
        each_line = stream.line_buffering or stream.write_through
        setattr(sys, name, _Protected(file, stream.encoding, "backslashreplace", line_buffering=each_line))


class _Protected(io.TextIOWrapper):
    """A stream that is protected already."""


class _Discarding(io.FileIO):
    """A file that is replaced by the null device once its reader has gone."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return super().write(data)
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return len(data)
