"""Are the event files what TensorBoard reads?"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from shoal.loggers.base import Begun
from shoal.loggers.events import EventWriter, crc32c
from shoal.loggers.tensorboard import TensorBoard


def test_crc32c_check_value() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # of the CRC catalogue
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4


def test_tensorboard_reads_the_events(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    writer = EventWriter(tmp_path, purge_step=7)
    writer.write(300, {"return_mean": -2.5, "time/env": 0.25, "none": None, "huge": 1e300})
    writer.close()
    (path,) = tmp_path.iterdir()
    version, start, event = loader.LegacyEventFileLoader(str(path)).Load()
    assert version.file_version == "brain.Event:2"
    assert start.step == 7 and start.session_log.status == start.session_log.START
    values = {v.tag: v.simple_value for v in event.summary.value}
    assert event.step == 300
    largest = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
    assert values == {"return_mean": -2.5, "time/env": 0.25, "huge": largest}


def test_tensorboard_keeps_the_point_at_which_a_run_goes_on(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for kept, steps in ((None, (300, 600, 900)), (600, (1000,))):  # killed after 900, saved at 600
        logger = TensorBoard()
        logger.begin(Begun(tmp_path, {}, kept))
        for step in steps:
            logger.report(step, {"env_steps": step, "wall_s": 1.0, "return_mean": 1.0})
        logger.end({})
    events = reader.EventAccumulator(str(tmp_path)).Reload()
    assert [point.step for point in events.Scalars("return_mean")] == [300, 600, 1000]
