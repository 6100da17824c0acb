"""What lets a person's build find the library: pkg-config and CMake files that hold wherever the directory is moved to.

What comes in: the library's identifier. What goes out: the files' text, by path.
"""

from __future__ import annotations

from collections.abc import Mapping

from mnv2c import __version__

_PKG_CONFIG = """\
prefix=${pcfiledir}/../..

Name: @id@
Description: A MobileNetV2 compiled by mnv2c, weights inside
Version: @version@
Cflags: -I${prefix}/include
Libs: -L${prefix}/lib -l@id@
Libs.private: @libs@
"""

_CMAKE_CONFIG = """\
# Targets: @id@::@id@ (shared) and @id@::static.
include(CMakeFindDependencyMacro)
find_dependency(Threads)

get_filename_component(_@id@_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

if(NOT TARGET @id@::@id@)
  add_library(@id@::@id@ SHARED IMPORTED)
  set_target_properties(@id@::@id@ PROPERTIES
    IMPORTED_LOCATION "${_@id@_prefix}/lib/lib@id@.so"
    IMPORTED_SONAME "lib@id@.so"
    INTERFACE_INCLUDE_DIRECTORIES "${_@id@_prefix}/include")

  add_library(@id@::static STATIC IMPORTED)
  set_target_properties(@id@::static PROPERTIES
    IMPORTED_LOCATION "${_@id@_prefix}/lib/lib@id@.a"
    INTERFACE_INCLUDE_DIRECTORIES "${_@id@_prefix}/include"
    INTERFACE_LINK_LIBRARIES "Threads::Threads;@targets@")
endif()

unset(_@id@_prefix)
"""

_CMAKE_VERSION = """\
set(PACKAGE_VERSION "@version@")
if(PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
"""

_CMAKE_EXAMPLE = """\
cmake_minimum_required(VERSION 3.13)
project(classify C)

find_package(@id@ REQUIRED HINTS "${CMAKE_CURRENT_SOURCE_DIR}/..")
add_executable(classify main.c)
target_link_libraries(classify PRIVATE @id@::@id@ m)
"""


_FURTHER = {"cpu": ("-pthread -lm", "m"), "cuda": ("-pthread -lm -ldl", "m;dl")}


def package_files(identifier: str, kind: str) -> dict[str, str]:
    """``lib/pkgconfig``, ``lib/cmake`` and the example's ``CMakeLists.txt``, for a kind of target."""
    libraries, targets = _FURTHER[kind]
    texts = {
        f"lib/pkgconfig/{identifier}.pc": _PKG_CONFIG,
        f"lib/cmake/{identifier}/{identifier}Config.cmake": _CMAKE_CONFIG,
        f"lib/cmake/{identifier}/{identifier}ConfigVersion.cmake": _CMAKE_VERSION,
        "examples/CMakeLists.txt": _CMAKE_EXAMPLE,
    }
    names = {"id": identifier, "version": __version__, "libs": libraries, "targets": targets}
    return {path: _filled(text, names) for path, text in texts.items()}


def _filled(text: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(f"@{name}@", value)
    return text
