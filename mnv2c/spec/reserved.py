"""Names that a library cannot have, since its files and symbols would be somebody else's.

What comes in: a name that a spec may otherwise have. What goes out: whose it is.
"""

from __future__ import annotations

import re

_FILES = """
bands context cpu gpu image kernel libcuda main mnv2c runtime threads weights
"""
HEADERS = """
aio alloca assert complex cpuid ctype dirent dlfcn elf endian errno fcntl features fenv float fnmatch glob grp iconv
inttypes iso646 langinfo libgen limits link locale malloc math memory monetary mqueue netdb nl_types poll pthread pwd
regex sched search semaphore setjmp signal spawn stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib
stdnoreturn string strings stropts syslog tar termios tgmath time timer uchar ucontext ulimit unistd utime utmpx wchar
wctype wordexp
"""
"""Of C, POSIX and glibc, without ``.h``."""
_LIBRARIES = "atomic c cuda dl gcc gcc_eh gcc_s m rt util"
_FUNCTIONS = r"argz|cnd|epoll|memfd|mtx|posix_spawn\w+|pthread_\w+|re_syntax|sem|thrd|timerfd|tss"
_CONSTANTS = r"eai|[frwx]|max|msg|pt_hp_core|re_char|si|so_incoming"
_NUMBERS = (
    r"bool|s?char|ptrdiff|sig_atomic|size|wint|u?(shrt|int|long|llong|intmax|intptr|int(_least|_fast)?(8|16|32|64))"
)
_ENDINGS = r"\w+_(bands|cuda|gpu|image|max|pool|run)"
"""Of names that a library with the rest of them for a name gives to something: ``net_gpu`` has NET_GPU_MEMORY, where
no memory is left, and so has ``net``, where none is left on the GPU."""


def reserved(name: str) -> str:
    """Why no library can be called ``name``; empty where one can. Its header would stand in for one of C's wherever
    its folder is searched, its archive for one of C's wherever that is linked."""
    plain = re.sub(r"\W", "_", name).lower()
    if plain in HEADERS.split():
        return "C has a header of that name"
    if plain in _LIBRARIES.split():
        return "programs are linked with a library of that name"
    if re.fullmatch(_FUNCTIONS, plain):
        return "C has functions of that prefix"
    if re.fullmatch(f"{_CONSTANTS}|{_NUMBERS}", plain):
        return "C's headers have constants of that prefix"
    if plain in _FILES.split() or "mnv2c_" in plain:
        return "files or symbols of every library are called so"
    if re.fullmatch(_ENDINGS, plain):
        other = plain.rpartition("_")[0]
        return f"a library called {other} has functions or constants of that prefix, and a program may have both"
    return ""
