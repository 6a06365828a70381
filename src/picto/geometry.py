"""Polygons as complex arrays: x + iy, y downwards, nominally inside [-1, 1]^2.

Every function returns complex128 [n], the corners of a closed polygon in order. With
complex numbers the renderer's similarity transforms are single multiplications. Angles
are in degrees, clockwise on the screen, 0 pointing right.
"""

import functools
import math

import numpy as np

Polygon = np.ndarray


@functools.cache
def _unit_circle(n: int) -> tuple[np.ndarray, np.ndarray]:
    angle = 2 * np.pi * np.arange(n) / n
    return np.cos(angle), np.sin(angle)


@functools.cache
def _ramp(n: int) -> np.ndarray:
    return np.linspace(0, 1, n)


@functools.cache
def _spline_basis(k: int) -> np.ndarray:
    """Catmull-Rom weights [k, 4] at k points between two knots."""
    t = np.arange(k)[:, None] / k
    powers = np.concatenate([np.ones_like(t), t, t**2, t**3], axis=1)
    weights = [[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]
    return powers @ (0.5 * np.array(weights, float))


def ellipse(
    x: float, y: float, rx: float, ry: float | None = None, n: int = 20
) -> Polygon:
    """Ellipse with n corners around (x, y); a circle without ry."""
    cos, sin = _unit_circle(n)
    return (x + rx * cos) + 1j * (y + (rx if ry is None else ry) * sin)


def pie(
    x: float, y: float, rx: float, ry: float, start: float, stop: float, n: int = 14
) -> Polygon:
    """Part of an ellipse between two angles, closed by its chord."""
    angle = np.radians(start + (stop - start) * _ramp(n))
    return (x + rx * np.cos(angle)) + 1j * (y + ry * np.sin(angle))


def arc(
    x: float,
    y: float,
    rx: float,
    ry: float,
    start: float,
    stop: float,
    width: float,
    n: int = 14,
) -> Polygon:
    """Band of the given width along an ellipse; 0 to 360 is a ring."""
    angle = np.radians(start + (stop - start) * _ramp(n))
    cos, sin, half = np.cos(angle), np.sin(angle), width / 2
    outer = (x + (rx + half) * cos) + 1j * (y + (ry + half) * sin)
    inner = (x + (rx - half) * cos) + 1j * (y + (ry - half) * sin)
    return np.concatenate([outer, inner[::-1]])


def box(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    """Axis-parallel rectangle."""
    return np.array([x0 + 1j * y0, x1 + 1j * y0, x1 + 1j * y1, x0 + 1j * y1])


def poly(*xy: float) -> Polygon:
    """Polygon through the corners x0, y0, x1, y1, ..."""
    return np.array(xy, float).view(complex)


def line(width: float, *xy: float) -> Polygon:
    """Polyline of the given width through x0, y0, x1, y1, ..."""
    points = poly(*xy)
    step = np.diff(points)
    step /= np.maximum(np.abs(step), 1e-6)
    normal = np.empty_like(points)
    normal[0], normal[-1] = step[0], step[-1]
    if len(points) > 2:
        normal[1:-1] = step[1:] + step[:-1]
        normal[1:-1] /= np.maximum(np.abs(normal[1:-1]), 1e-6)
    normal *= 0.5j * width
    return np.concatenate([points + normal, (points - normal)[::-1]])


def smooth(*xy: float, k: int = 4) -> Polygon:
    """Closed Catmull-Rom curve through the corners, k points per corner."""
    knots = poly(*xy)
    around = np.stack(
        [np.roll(knots, 1), knots, np.roll(knots, -1), np.roll(knots, -2)]
    )
    return (_spline_basis(k) @ around).T.ravel()


def star_polygon(points: int, outer: float, inner: float) -> Polygon:
    """Star with its first point upwards."""
    cos, sin = _unit_circle(2 * points)
    radius = np.where(np.arange(2 * points) % 2 == 0, outer, inner)
    return radius * (sin - 1j * cos)


def turned(polygon: Polygon, degrees: float, about: complex = 0j) -> Polygon:
    """The polygon turned clockwise about a point."""
    angle = math.radians(degrees)
    return (polygon - about) * complex(math.cos(angle), math.sin(angle)) + about


def mirrored(polygon: Polygon) -> Polygon:
    """The polygon reflected at the vertical axis x = 0."""
    return -polygon.conj()


SIDES = (np.positive, mirrored)  # to draw a part left and, mirrored, right
