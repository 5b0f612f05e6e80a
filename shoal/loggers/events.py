"""Scalars, texts and pictures in TensorBoard's own file format, without TensorBoard.

The usual writers import protobuf and, where it is installed, PyTorch: up to two seconds, in which
a short run is over. A scalar needs three fields of one message, so they are written here; the field
numbers are those of TensorFlow's summary.proto and tensor.proto.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reflected
_MAX_FLOAT = 3.4028234e38  # of float32, in which scalars are stored


def _table() -> Iterator[int]:
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        yield byte


_TABLE = tuple(_table())


def crc32c(data: bytes) -> int:
    """CRC-32C of ``data`` (RFC 3720, appendix B.4 has the check values)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class EventWriter:
    """Appends scalars to a new ``events.out.tfevents.*`` file in ``folder``.

    ``purge_step``: the run goes on from there; TensorBoard drops what earlier files of the folder
    hold from that step on. Raises OSError when the file cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}"
        taken = len(list(folder.glob(f"{name}.*")))
        self._file = (folder / f"{name}.{taken}").open("xb")
        self._record(_double(1, now) + _bytes(3, b"brain.Event:2"))
        if purge_step is not None:
            start = _bytes(7, _integer(1, 1))  # session_log: status START
            self._record(_double(1, now) + _integer(2, purge_step) + start)
        self._file.flush()

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Every entry that is a number, at ``step``."""
        values = b"".join(
            _bytes(1, _bytes(1, tag.encode()) + _float(2, value))
            for tag, value in scalars.items()
            if isinstance(value, int | float)
        )
        self._record(_double(1, time.time()) + _integer(2, step) + _bytes(5, values))

    def text(self, step: int, tag: str, text: str) -> None:
        """A text in Markdown."""
        kind = _bytes(1, _bytes(1, b"text"))  # metadata: the plugin that shows it
        tensor = _integer(1, 7) + _bytes(2, _bytes(2, _integer(1, 1))) + _bytes(8, text.encode())
        value = _bytes(1, tag.encode()) + _bytes(8, tensor) + _bytes(9, kind)
        self._record(_double(1, time.time()) + _integer(2, step) + _bytes(5, _bytes(1, value)))

    def image(self, step: int, tag: str, encoded: bytes, height: int, width: int) -> None:
        """A picture [height, width, 3] that is encoded already: PNG, or a GIF that moves."""
        image = _integer(1, height) + _integer(2, width) + _integer(3, 3) + _bytes(4, encoded)
        value = _bytes(1, tag.encode()) + _bytes(4, image)
        self._record(_double(1, time.time()) + _integer(2, step) + _bytes(5, _bytes(1, value)))

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _record(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc(length) + event + _masked_crc(event))


def _masked_crc(data: bytes) -> bytes:
    """As TFRecord stores it: rotated and shifted, so that a CRC of CRCs stays meaningful."""
    crc = crc32c(data)
    return struct.pack("<I", (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF)


# Protocol buffer fields: a key (number << 3 | wire type), then the value.


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    clipped = max(min(value, _MAX_FLOAT), -_MAX_FLOAT)  # NaN stays NaN
    return _varint(field << 3 | 5) + struct.pack("<f", clipped)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value
