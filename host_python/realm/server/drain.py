"""How a server ends: no new work, what runs may finish, and after the time allowed it gets 503.

The first SIGTERM (or Ctrl-C) begins it; a second one ends the process without waiting.
"""

from __future__ import annotations

import asyncio

from .errors import ApiError


class Drain:
    def __init__(self) -> None:
        self.begun = False
        self.expired = asyncio.Event()  # whoever still runs gives up now

    def begin(self) -> None:
        self.begun = True

    def expire(self) -> None:
        self.begun = True
        self.expired.set()

    @staticmethod
    def refusal() -> ApiError:
        """To requests that come while the server goes down; another instance will take them."""
        return ApiError(
            503,
            "this server is shutting down; try again",
            code="draining",
            retry_after=1.0,
            headers={"connection": "close"},
        )

    @staticmethod
    def cut_short() -> ApiError:
        return ApiError(
            503,
            "this server shut down before the answer was complete; try again",
            code="draining",
            retry_after=1.0,
        )
