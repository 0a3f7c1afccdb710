"""RecordSizes: how many task records to ask for at a time, judged by the sizes of those read so far.

The size of a record is not known before it is read: from a few bytes to almost 1 MB. A reply arrives whole, and the
replies to heartbeats wait behind it. So one reply should hold few bytes, and all that is under way should pass even a
slow link in a small part of a session timeout. Two limits see to that:

* The **expected** bytes, by a moving average. At first it is as high as if one record filled a request, so the numbers
  grow from one record to many within a few replies, if these are small.
* The **most** bytes that it can be, if all records under way are as large as the largest of late. Otherwise, many small
  records followed by many large ones would be asked for all at once, again and again. If that happens before any large
  one is known, the session may be lost. So a read that is not answered for long counts as one of too many large
  records, and each attempt asks for fewer than the last. (One that an ordinary reconnect breaks off teaches nothing.)

With small records the numbers are high on purpose: a reply wakes the event loop, which costs as much as many records.
"""

from __future__ import annotations

from metafora_trio_zookeeper._layout import MAX_REQUEST_BYTES

__all__ = ["RecordSizes"]

MAX_RECORDS_A_READ = 128
MAX_RECORDS_UNDER_WAY = 256
EXPECTED_BYTES_A_READ = 256 << 10
EXPECTED_BYTES_UNDER_WAY = 1 << 20
MOST_BYTES_UNDER_WAY = 8 << 20

_OVERHEAD = 100
"""Bytes of a record besides its data: header, length and stat."""
_SHARE = 1 / 8
"""The share of the newest record in the average."""
_FORGETTING = 1 - 1 / 4096
"""How the size of the largest record fades with each further record."""


class RecordSizes:
    """One for all sessions of a coordinator, so that a session that was lost teaches the next."""

    def __init__(self) -> None:
        self._average = float(EXPECTED_BYTES_A_READ)
        self._largest = 0.0

    def add(self, size: int) -> None:
        """Note that a record of `size` bytes has been read."""
        size += _OVERHEAD
        self._average += (size - self._average) * _SHARE
        self._largest = max(size, self._largest * _FORGETTING)

    def lost(self, count: int) -> None:
        """Note that the connection broke although a read of `count` records had time to be answered: perhaps half are
        enough. A single one says nothing, since there is no smaller read."""
        if count > 1:
            self._largest = max(self._largest, min(MAX_REQUEST_BYTES, 2 * MOST_BYTES_UNDER_WAY / count))

    @property
    def per_read(self) -> int:
        """The number of records to ask for in one request."""
        expected = EXPECTED_BYTES_A_READ / self._average
        return max(1, min(MAX_RECORDS_A_READ, int(expected), self.under_way))

    @property
    def under_way(self) -> int:
        """The number of records that may be asked for and not answered."""
        expected = EXPECTED_BYTES_UNDER_WAY / self._average
        most = MOST_BYTES_UNDER_WAY / max(self._largest, 1.0)
        return max(1, min(MAX_RECORDS_UNDER_WAY, int(expected), int(most)))
