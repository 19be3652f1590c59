"""How far apart two trajectories are: in bits, absolute, relative, in ulps and as norms."""

from __future__ import annotations

import dataclasses
import mmap

import numpy as np

from pipeline.record.record import RunRecord

_BLOCK = 1 << 14  # numbers looked at together, so that they and what follows stay in the cache
_RELEASED = 1 << 23  # numbers after which the memory of a file's pages is given back


def ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return how many representable numbers lie between `a` and `b`, elementwise, as float64.

    Counted on the integers behind the bits, ordered as the numbers are, so it is exact across
    powers of two and across zero (where +0 and −0 are 0 apart). Two NaNs are 0 apart, a NaN and
    anything else infinitely far. Beyond 2⁵³ the count is rounded. Extended precision is counted in
    spacings of the larger of the two.

    Parameters
    ----------
    a, b
        float32, float64 or longdouble arrays of one shape and one dtype.
    """
    kinds = (np.float32, np.float64, np.longdouble)
    if a.dtype != b.dtype or a.shape != b.shape or a.dtype not in kinds:
        raise ValueError(f"cannot count ulps between {a.dtype}{a.shape} and {b.dtype}{b.shape}")
    with np.errstate(invalid="ignore"):
        if a.dtype.itemsize > 8:
            spacing = np.spacing(np.maximum(np.abs(a), np.abs(b)))
            apart = np.where(a == b, 0, np.abs(a - b) / spacing).astype(np.float64)
        else:
            apart = _steps(a, b).astype(np.float64)
    nan_a, nan_b = np.isnan(a), np.isnan(b)
    if nan_a.any() or nan_b.any():
        apart = np.where(nan_a & nan_b, 0.0, apart)
        apart = np.where(nan_a ^ nan_b, np.inf, apart)
    return apart


def _steps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Count the numbers between floats of up to 8 bytes, as unsigned integers of their size."""
    left, right = _ordered(a), _ordered(b)
    apart: np.ndarray = np.maximum(left, right) - np.minimum(left, right)  # wraps, as it should
    return apart.view(f"u{a.dtype.itemsize}")


def _ordered(a: np.ndarray) -> np.ndarray:
    """Map floats to integers of their size so that neighbours are one apart and order is kept."""
    bits = np.ascontiguousarray(a).view(f"i{a.dtype.itemsize}").reshape(a.shape)
    sign = bits >> (8 * a.dtype.itemsize - 1)  # -1 or 0
    ordered: np.ndarray = (bits ^ (sign & np.iinfo(bits.dtype).max)) - sign
    return ordered


def norms(stack: np.ndarray) -> np.ndarray:
    """Return the Euclidean norm and the largest element of each row, shape ``(rows, 2)``, float64.

    No square overflows or vanishes; a row with NaN has NaN, one with infinity infinity.
    """
    flat = np.abs(stack.reshape(len(stack), -1).astype(np.float64, copy=False))
    largest = flat.max(axis=1, initial=0.0)
    if largest.size and ((largest > 1e140) | ((largest < 1e-140) & (largest > 0))).any():
        scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
        scaled = flat / scale[:, None]
        whole = np.sqrt(np.einsum("ij,ij->i", scaled, scaled)) * scale
    else:
        whole = np.sqrt(np.einsum("ij,ij->i", flat, flat))
    return np.stack([whole, largest], axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """The distance of two stacks of one tensor, row by row; every array has shape ``(rows,)``.

    Attributes
    ----------
    differs
        Whether a bit differs (the sign of a zero, the payload of a NaN count).
    absolute, relative, ulp
        The largest difference of any element; relative to the larger of the two.
    apart, size
        The Euclidean norms of ``a − b`` and of ``a``, over the elements finite in both; `apart` is
        infinite where NaN or infinity stands on one side only.
    nonfinite, lonely
        Whether NaN or infinity stands at the same place on both sides; at a place on one side only,
        or as another one.
    """

    differs: np.ndarray
    absolute: np.ndarray
    relative: np.ndarray
    ulp: np.ndarray
    apart: np.ndarray
    size: np.ndarray
    nonfinite: np.ndarray
    lonely: np.ndarray


def rows(a: np.ndarray, b: np.ndarray) -> Rows:
    """Measure two stacks of one tensor, shape ``(rows, ...)``, of one shape and dtype."""
    n = len(a)
    left, right = a.reshape(n, -1), b.reshape(n, -1)
    width = max(1, left.shape[1])
    words = ("differs", "nonfinite", "lonely")
    columns = {field.name: np.zeros(n, bool if field.name in words else float)
             for field in dataclasses.fields(Rows)}  # fmt: skip
    tall, looked = max(1, _BLOCK // width), 0
    for top in range(0, n, tall):
        part = slice(top, top + tall)
        for start in range(0, width, _BLOCK):
            piece = part, slice(start, start + _BLOCK)
            for kind, values in _block(left[piece], right[piece]).items():
                join = np.add if kind in ("apart", "size") else np.maximum
                join(columns[kind][part], values, out=columns[kind][part])
        looked += tall * width
        if looked >= _RELEASED:
            looked = 0
            _release(a, b)
    _release(a, b)
    for kind in ("apart", "size"):
        np.sqrt(columns[kind], out=columns[kind])
    return Rows(**columns)


def _block(p: np.ndarray, q: np.ndarray) -> dict[str, np.ndarray]:
    """Measure a piece of some rows; of the norms it returns the squares, which add up."""
    p, q = np.ascontiguousarray(p), np.ascontiguousarray(q)
    same = _same(p, q)
    wide_p = p.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.einsum("ij,ij->i", wide_p, wide_p)
        if np.isfinite(size).all():
            if same.all():
                return {"size": size}
            difference = wide_p - q
            apart = np.einsum("ij,ij->i", difference, difference)
            if np.isfinite(apart).all() and p.dtype.itemsize <= 8:
                return _finite(p, q, wide_p, difference) | {
                    "differs": ~same.all(axis=1),
                    "apart": apart,
                    "size": size,
                }
    return _special(p, q, wide_p, same)


def _finite(
    p: np.ndarray, q: np.ndarray, wide_p: np.ndarray, difference: np.ndarray
) -> dict[str, np.ndarray]:
    """Measure what is finite and not too large for its squares; writes over the last two."""
    difference = np.abs(difference, out=difference)
    scale = np.maximum(np.abs(wide_p, out=wide_p), np.abs(q), out=wide_p)
    scale = np.maximum(scale, np.finfo(np.float64).smallest_subnormal, out=scale)  # both are zero
    return {
        "absolute": difference.max(axis=1),
        "relative": np.divide(difference, scale, out=scale).max(axis=1),
        "ulp": _steps(p, q).max(axis=1).astype(np.float64),
    }


def _special(
    p: np.ndarray, q: np.ndarray, wide_p: np.ndarray, same: np.ndarray
) -> dict[str, np.ndarray]:
    """Measure anything: NaN, infinity, extended precision."""
    finite = np.isfinite(wide_p)
    whole = bool(finite.all())
    if not whole:
        wide_p = np.where(finite, wide_p, 0.0)
    columns = {"size": np.einsum("ij,ij->i", wide_p, wide_p)}
    if same.all():
        return columns | {"nonfinite": ~finite.all(axis=1)}
    apart = ulps(p, q)
    difference = np.abs(p - q) if p.dtype.itemsize > 8 else np.abs(wide_p - q.astype(np.float64))
    difference = difference.astype(np.float64)
    both = lonely = np.zeros(len(p), bool)
    if not (whole and np.isfinite(q).all()):
        finite_q = np.isfinite(q)
        alike = ~finite & ~finite_q & (apart == 0)
        both, lonely = alike.any(axis=1), (~(finite & finite_q) & ~alike).any(axis=1)
        difference = np.where(finite & finite_q, difference, np.where(alike, 0.0, np.inf))
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.maximum(np.abs(p), np.abs(q)).astype(np.float64)
        relative = difference / scale
    relative = np.where((difference == 0) | np.isnan(relative), difference, relative)
    return columns | {
        "differs": ~same.all(axis=1),
        "absolute": difference.max(axis=1, initial=0.0),
        "relative": relative.max(axis=1, initial=0.0),
        "ulp": apart.max(axis=1, initial=0.0),
        "apart": np.einsum("ij,ij->i", difference, difference),
        "nonfinite": both,
        "lonely": lonely,
    }


def _same(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Whether numbers have the same bits, each; in extended precision all NaNs count as equal."""
    if p.dtype.itemsize > 8:  # the padding of an extended number is nobody's
        return (p == q) & (np.signbit(p) == np.signbit(q)) | (np.isnan(p) & np.isnan(q))
    same: np.ndarray = p.view(f"u{p.dtype.itemsize}") == q.view(f"u{q.dtype.itemsize}")
    return same


def _release(*arrays: np.ndarray) -> None:
    """Give back the memory of arrays that lie in a file; they are read again when looked at."""
    for array in arrays:
        pages = getattr(array, "_mmap", None)
        if pages is not None:
            pages.madvise(mmap.MADV_DONTNEED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gap:
    """The distance between two trajectories of one parameter.

    Each of the three largest differences is taken on its own over all steps and elements; `step`
    is where the ulp distance is largest, `first` the first step at which a bit differs (None if
    none does).
    """

    name: str
    first: int | None
    absolute: float
    relative: float
    ulp: float
    step: int


def gap(name: str, a: np.ndarray, b: np.ndarray) -> Gap:
    """Measure two stacks of one parameter, shape ``(rows, ...)``, row 0 the start."""
    distances = rows(a, b)
    return Gap(
        name=name,
        first=int(np.argmax(distances.differs)) if distances.differs.any() else None,
        absolute=float(distances.absolute.max()),
        relative=float(distances.relative.max()),
        ulp=float(distances.ulp.max()),
        step=int(np.argmax(distances.ulp)),
    )


def trajectories(a: RunRecord, b: RunRecord) -> list[Gap]:
    """Measure every parameter of two records over every step.

    Raises
    ------
    ValueError
        If the records do not hold the same parameters, steps, shapes or precision.
    """
    left, right = a.named("param"), b.named("param")
    if not left or not right:
        raise ValueError("one of the runs kept no parameters (record.trace=full keeps them)")
    check_alike(left, right)
    return [gap(name, left[name], right[name]) for name in left]


def check_alike(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    """Raise a `ValueError` that says how two sets of tensors differ in names, shapes or dtypes."""
    if set(left) != set(right):
        raise ValueError(f"the runs have other parameters: {sorted(left)} and {sorted(right)}")
    for name in left:
        if left[name].shape != right[name].shape or left[name].dtype != right[name].dtype:
            raise ValueError(
                f"{name} was kept as {left[name].dtype}{left[name].shape} in one run and as "
                f"{right[name].dtype}{right[name].shape} in the other"
            )
