"""Words from outside, made fit for a terminal.

Never lets through a character that moves the cursor, hides text or turns its direction.
"""

import time
import unicodedata

_UNSEEN = ("C", "Zl", "Zp")


def plain(text: str) -> str:
    r"""Return text in which control, formatting, unassigned and line-ending characters are written as their codes.

    >>> plain("a\x1b[2Jb\u202e")
    'a<U+001B>[2Jb<U+202E>'
    """
    return "".join(f"<U+{ord(each):04X}>" if unicodedata.category(each).startswith(_UNSEEN) else each for each in text)


def day(at_unix_s: int) -> str:
    """Return a moment as people write it.

    >>> day(86_400)
    '1970-01-02 00:00 UTC'
    """
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at_unix_s))
