"""Where the columns of CHOLMOD's factor lie: read in place where it is supernodal, else from its copy as CSC.

scikit-sparse 0.4 gives L only as CSC, through two copies and a conversion: up to half a factorisation in time and 40
bytes a nonzero. The struct `cholmod_factor` has been the same from CHOLMOD 2 to 5. What is read is compared with what
scikit-sparse tells before it is believed; where anything differs, the copy is taken.
"""

import ctypes
from typing import Any

import numpy as np
import scipy.sparse as sp

from .._typing import FloatArray
from ..kernels.selinv import Columns

POINTER = ctypes.sizeof(ctypes.c_void_p)
REAL, DOUBLE = 1, 0
INTEGERS = {0: np.int32, 2: np.int64}  # CHOLMOD_INT, CHOLMOD_LONG


class _Struct(ctypes.Structure):
    """cholmod_factor, as in cholmod_core.h."""

    _fields_ = (
        [(name, ctypes.c_size_t) for name in ("n", "minor")]
        + [(name, ctypes.c_void_p) for name in ("Perm", "ColCount", "IPerm")]
        + [("nzmax", ctypes.c_size_t)]
        + [(name, ctypes.c_void_p) for name in ("p", "i", "x", "z", "nz", "next", "prev")]
        + [(name, ctypes.c_size_t) for name in ("nsuper", "ssize", "xsize", "maxcsize", "maxesize")]
        + [(name, ctypes.c_void_p) for name in ("super", "pi", "px", "s")]
        + [
            (name, ctypes.c_int)
            for name in ("ordering", "is_ll", "is_super", "is_monotonic", "itype", "xtype", "dtype")
        ]
    )


def csc_columns(L: sp.csc_matrix) -> tuple[Columns, FloatArray]:
    """Columns and values of an L in CSC form."""
    L.sort_indices()
    at = L.indptr.astype(np.int64)
    return Columns(at[:-1], at[:-1], np.diff(at), L.indices.astype(np.int64)), L.data


def supernodal_view(factor: Any) -> tuple[Columns, FloatArray] | None:
    """Columns and values of scikit-sparse 0.4's Factor in place, valid until it is refilled; None if not supernodal."""
    struct = _struct(factor)
    if struct is None or not struct.is_super:
        return None
    integer = INTEGERS[struct.itype]
    first, rows_at, at = (_array(p, struct.nsuper + 1, integer) for p in (struct.super, struct.pi, struct.px))
    if first[0] != 0 or first[-1] != struct.n or rows_at[-1] != struct.ssize or at[-1] != struct.xsize:
        return None
    widths, sizes = np.diff(first), np.diff(rows_at)
    place = np.arange(struct.n) - np.repeat(first[:-1], widths)
    spread = lambda a: np.repeat(a, widths)  # noqa: E731
    columns = Columns(
        spread(at[:-1]) + place * (spread(sizes) + 1), spread(rows_at[:-1]) + place, spread(sizes) - place,
        _array(struct.s, struct.ssize, integer),
    )  # fmt: skip
    return columns, _array(struct.x, struct.xsize, np.float64)


def _struct(factor: Any) -> _Struct | None:
    """The `cholmod_factor` of scikit-sparse's object: its address lies behind that of the object's Common."""
    common, size = getattr(factor, "_common", None), type(factor).__basicsize__
    words = np.frombuffer(ctypes.string_at(id(factor), size - size % POINTER), np.uintp)
    behind = np.flatnonzero(words[:-1] == id(common)) + 1
    if common is None or len(behind) != 1 or words[behind[0]] == 0:
        return None
    struct, perm = _Struct.from_address(int(words[behind[0]])), factor.P()
    plain = struct.n == struct.minor == len(perm) and struct.xtype == REAL and struct.dtype == DOUBLE
    if not plain or {struct.is_ll, struct.is_super} - {0, 1} or INTEGERS.get(struct.itype) != perm.dtype:
        return None
    return struct if np.array_equal(_array(struct.Perm, struct.n, perm.dtype), perm) else None


def _array(address: int, length: int, dtype: Any) -> Any:
    """The array at an address; integers as a copy of 64 bits."""
    raw = (ctypes.c_char * (length * np.dtype(dtype).itemsize)).from_address(address)
    array = np.frombuffer(raw, dtype)
    return array if array.dtype == np.float64 else array.astype(np.int64)
