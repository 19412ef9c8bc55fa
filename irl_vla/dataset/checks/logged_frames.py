"""Which log has which token, for checks: in a temporary file, so that memory does not grow with the number of logs."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoggedFrame:
    """Place of a frame.

    Attributes:
        number: of the frame among those of its log that have a token.
        time_us: its timestamp, -1 if it cannot be read.
    """

    token: str
    log_name: str
    number: int
    time_us: int


class LoggedFrames:
    """Tokens and times of the frames of many logs; gone when closed."""

    def __enter__(self) -> "LoggedFrames":
        self._base = sqlite3.connect("")
        self._base.execute("create table seen (token text primary key, log text, number int, time int) without rowid")
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()

    def take(self, log_name: str, tokens: Sequence[str], times_us: Sequence[int]) -> list[LoggedFrame]:
        """Takes the frames of a log in; returns those of earlier logs that have one of its tokens, too."""
        earlier = []
        own = set()
        for number, (token, time_us) in enumerate(zip(tokens, times_us, strict=True)):
            if token in own:
                continue
            own.add(token)
            found = self.find(token)
            if found is None:
                self._base.execute("insert into seen values (?, ?, ?, ?)", (token, log_name, number, time_us))
            else:
                earlier.append(found)
        return earlier

    def find(self, token: str) -> LoggedFrame | None:
        """The frame with a token."""
        return self._one("token = ?", (token,))

    def at(self, log_name: str, number: int) -> LoggedFrame | None:
        """The frame of a log with a number."""
        self._base.execute("create index if not exists places on seen (log, number)")
        return self._one("log = ? and number = ?", (log_name, number))

    def _one(self, condition: str, values: tuple[str | int, ...]) -> LoggedFrame | None:
        row = self._base.execute(f"select token, log, number, time from seen where {condition}", values).fetchone()
        return None if row is None else LoggedFrame(*row)
