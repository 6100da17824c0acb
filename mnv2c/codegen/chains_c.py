"""Blocks in bands in the C driver: the table of chains, and the memory that they take.

What comes in: a ``Program``. What goes out: C text for ``driver_c``, and sizes in bytes. ``runtime/bands.c`` runs them.
"""

from __future__ import annotations

from mnv2c.codegen.program import ALIGNMENT, Chain, Program
from mnv2c.ir.graph import TensorType

BANDS = """\
/* A block in bands: its first step and its chain, the kernels of its layers, the operands of each; null: in scratch. */
#define BANDS(step, chain, ...) \\
    if (status == MNV2C_OK) status = mnv2c_run_bands(context, &steps[step], &chains[chain], __VA_ARGS__)
#define KERNELS(...) (const struct mnv2c_compiled *const[]){__VA_ARGS__}
#define OPERANDS(...) (void *const[]){__VA_ARGS__}
#define LAYERS(...) (void *const *const[]){__VA_ARGS__}
"""

_PROGRESS = ALIGNMENT
"""Bytes from the start of a thread's scratch to the ring: ``RING`` in ``runtime/bands.c``."""


def chains(program: Program) -> str:
    """The table of blocks in bands, in their order."""
    rows = "".join(_row(chain) for chain in program.chains)
    table = f"static const struct mnv2c_chain chains[] = {{\n{rows}}};\n"
    return f"/* Blocks in bands, as runtime.h describes them. */\n{table}"


def chains_scratch(program: Program) -> int:
    """What a thread needs for the largest, beside what its kernels do."""
    return max((_scratch(chain) for chain in program.chains), default=0)


def maps_bytes(program: Program) -> int:
    """The maps between the layers of the largest, whole."""
    return max((_map_bytes(chain) for chain in program.chains), default=0)


def _row(chain: Chain) -> str:
    top, height, rows, left, inside, pitch = _map(chain)
    counts = {
        "layers": len(chain.calls),
        "images": chain.depthwise.type.shape[0],
        "bands": chain.bands,
        "grain": chain.grain,
        "step": chain.rows * chain.stride,
        "window": chain.window,
        "top": top,
        "height": height,
        "rows": rows,
    }
    sizes = {"left": left, "inside": inside, "pitch": pitch, "band": _band_bytes(chain)}
    sizes |= {"filtered": _filtered(chain), "scratch": _scratch(chain)}
    lines = (", ".join(f".{name} = {value}" for name, value in part.items()) for part in (counts, sizes))
    return "    {" + ",\n     ".join(lines) + "},\n"


def _map(chain: Chain) -> tuple[int, int, int, int, int, int]:
    """Of what the depthwise convolution reads, if it is expanded here: rows above, inside and in all; bytes of a row
    to the left, inside and in all."""
    call = chain.expansion
    if call is None:
        return (0,) * 6
    border, (_, height, width, channels) = call.border, call.type.shape
    left, inside, pitch = (
        TensorType((pixels, channels), call.type.dtype).nbytes
        for pixels in (border.left, width, border.left + width + border.right)
    )
    return border.top, height, border.top + height + border.bottom, left, inside, pitch


def _band_bytes(chain: Chain) -> int:
    _, _, width, channels = chain.depthwise.type.shape
    return TensorType((chain.rows, width, channels), chain.depthwise.type.dtype).nbytes


def _filtered(chain: Chain) -> int:
    """Where in a thread's scratch the depthwise convolution writes: behind the ring."""
    *_, pitch = _map(chain)
    return _PROGRESS + _aligned(chain.window * pitch)


def _scratch(chain: Chain) -> int:
    """Where the kernels' own scratch begins."""
    return _filtered(chain) + _aligned(_band_bytes(chain))


def _map_bytes(chain: Chain) -> int:
    _, _, rows, _, _, pitch = _map(chain)
    return chain.depthwise.type.shape[0] * rows * pitch + chain.depthwise.type.nbytes


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
