"""Objects with a state of their own that only one user at a time may have, in one process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator

from wm_gym.run_lock import InUseError

_guard = threading.Lock()
_users: dict[int, tuple[object, str]] = {}  # the object is kept, so that its id stays its own


@contextlib.contextmanager
def sole_user(things: Iterable[object], user: str, remedy: str) -> Iterator[None]:
    """Have objects for oneself while the context lasts.

    Args:
        things: objects whose state two users would mix up.
        user: who has them, named in the error of the next one.
        remedy: end of that error's sentence.

    Raises:
        InUseError: if one of them has a user already; none is taken then.
    """
    own = list({id(thing): thing for thing in things}.values())
    user = f"{user} in thread {threading.current_thread().name!r}"
    with _guard:
        for thing in own:
            if id(thing) in _users:
                raise InUseError(
                    f"this {type(thing).__name__} is in use by {_users[id(thing)][1]}, and its "
                    f"state serves one at a time; {remedy}"
                )
        for thing in own:
            _users[id(thing)] = (thing, user)
    try:
        yield
    finally:
        with _guard:
            for thing in own:
                del _users[id(thing)]
