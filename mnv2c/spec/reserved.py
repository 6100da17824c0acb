"""Names that a library cannot have, since its files and symbols would be somebody else's.

What comes in: a name that a spec may otherwise have. What goes out: whose it is.
"""

from __future__ import annotations

import re

_FILES = """
bands context cpu gpu image kernel libcuda main mnv2c runtime threads weights
"""
_HEADERS = """
aio alloca assert complex cpuid ctype dirent dlfcn elf endian errno fcntl features fenv float fnmatch glob grp iconv
inttypes iso646 langinfo libgen limits link locale malloc math memory monetary mqueue netdb nl_types poll pthread pwd
regex sched search semaphore setjmp signal spawn stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib
stdnoreturn string strings stropts syslog tar termios tgmath time timer uchar ucontext ulimit unistd utime utmpx wchar
wctype wordexp
"""


def reserved(name: str) -> str:
    """Why no library can be called ``name``; empty where one can. Its header would stand in for one of C's wherever
    its folder is searched."""
    plain = re.sub(r"\W", "_", name).lower()
    if plain in _HEADERS.split():
        return "C has a header of that name"
    if plain in _FILES.split() or "mnv2c_" in plain:
        return "files or symbols of every library are called so"
    return ""
