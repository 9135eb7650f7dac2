"""Queues and tasks have names of any length; rows and indexes have their numbers."""

from __future__ import annotations

import apsw


class Names:
    """The names of one file, as far as this process has met them. They are never changed or forgotten.

    Any thread may read; entries appear only after the transaction that made them is committed.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._texts: dict[int, str] = {}

    def text(self, db: apsw.Connection, number: int) -> str:
        """The name that *number* stands for."""
        text = self._texts.get(number)
        if text is None:
            text = db.execute("SELECT text FROM name WHERE number = ?", (number,)).get
            self._texts[number] = text
        return text

    def number(self, db: apsw.Connection, text: str) -> int | None:
        """The number of *text*; None if no job ever had it."""
        number = self._numbers.get(text)
        if number is None:
            number = db.execute("SELECT number FROM name WHERE text = ?", (text,)).get
            if number is not None:
                self._numbers[text] = number
        return number

    def known(self, text: str) -> int | None:
        """The number of *text*, if this process has met it."""
        return self._numbers.get(text)

    def learn(self, fresh: dict[str, int]) -> None:
        """Keep names that were committed."""
        self._numbers.update(fresh)
        self._texts.update({number: text for text, number in fresh.items()})
