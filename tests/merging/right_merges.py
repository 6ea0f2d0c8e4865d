"""Merges as papers and documents define them, in float64 numpy, written for reading: what tests hold against."""

from __future__ import annotations

import numpy as np

norm = np.linalg.norm


def cosine(x, y):
    return np.vdot(x, y) / norm(x) / norm(y)


def count(share, w):
    """A share of the elements, rounded down; 0.29 of 100 are 29 although 0.29 * 100 is less."""
    return int(share * w.size + 1e-9)


def linear(xs, weights, *, normalize=True):
    return sum(w * x for w, x in zip(weights, xs, strict=True)) / (sum(weights) if normalize else 1)


def task_arithmetic(base, xs, weights):
    return base + sum(w * (x - base) for w, x in zip(weights, xs, strict=True))


def ties(base, xs, weights, density, *, normalize=True):
    """Every magnitude that equals the smallest kept one is kept."""
    moved, share = np.zeros_like(base), np.zeros_like(base)
    differences = []
    for x in xs:
        d = x - base
        least = np.sort(np.abs(d), axis=None)[-count(density, d)]
        differences.append(np.where(np.abs(d) >= least, d, 0))
    sign = np.sign(sum(w * d for w, d in zip(weights, differences, strict=True)))
    for w, d in zip(weights, differences, strict=True):
        agrees = np.sign(w * d) * sign > 0
        moved += np.where(agrees, w * d, 0)
        share += np.where(agrees, w, 0)
    return base + moved / (np.where(share == 0, 1, share) if normalize else 1)


def breadcrumbs(base, xs, weights, density, gamma):
    """Every magnitude that equals the smallest or the largest kept one is kept."""
    found = base.copy()
    for w, x in zip(weights, xs, strict=True):
        d = x - base
        kept, largest = count(density, d), count(gamma, d)
        order = np.sort(np.abs(d), axis=None)
        least, greatest = order[d.size - kept - largest], order[d.size - largest - 1]
        found += w * np.where((np.abs(d) >= least) & (np.abs(d) <= greatest), d, 0)
    return found


def slerp(t, x, y, straight=0.9995):
    """Linear where a vector has no direction, or both have nearly the same."""
    if not norm(x) or not norm(y) or abs(cosine(x, y)) > straight:
        return (1 - t) * x + t * y
    angle = np.arccos(cosine(x, y))
    return (np.sin((1 - t) * angle) * x + np.sin(t * angle) * y) / np.sin(angle)


def by_rows(merge, *tensors):
    """`merge` of the rows of matrices, of vectors as they are."""
    if tensors[0].ndim < 2:
        return merge(*tensors)
    return np.stack([merge(*rows) for rows in zip(*tensors, strict=True)])


def by_columns(merge, *tensors):
    if tensors[0].ndim < 2:
        return merge(*tensors)
    return by_rows(merge, *(w.T for w in tensors)).T


def towards(mean, x):
    """The logarithm map on the unit sphere: where x lies, seen from `mean`."""
    angle = np.arccos(np.clip(np.vdot(mean, x), -1, 1))
    across = x - np.vdot(mean, x) * mean
    return across * (angle / norm(across)) if norm(across) > 1e-12 else across


def moved(mean, step):
    """The exponential map."""
    length = norm(step)
    return np.cos(length) * mean + np.sin(length) * step / length if length else mean


def multislerp(xs, weights, *, normalize=True):
    """From the normalised mean of the directions, one move by the mean of their logarithms; mean length."""
    shares = np.array(weights) / sum(weights)
    scale = 1.0 if normalize else sum(weights)
    if not any(norm(x) for x in xs):
        return np.zeros_like(xs[0])
    used = [(share, x / norm(x)) for share, x in zip(shares, xs, strict=True) if norm(x)]
    mean = sum(share * u for share, u in used)
    mean /= norm(mean)
    step = sum(share * towards(mean, u) for share, u in used) / sum(share for share, _ in used)
    return moved(mean, step) * sum(share * norm(x) for share, x in zip(shares, xs, strict=True)) * scale


def karcher(xs, most=10, tol=1e-5):
    units = [x / norm(x) for x in xs]
    mean = sum(units) / norm(sum(units))
    for _ in range(most):
        step = sum(towards(mean, u) for u in units) / len(units)
        mean = moved(mean, step)
        if norm(step) < tol:
            break
    return mean * np.mean([norm(x) for x in xs])


def model_stock(base, *xs):
    differences = [x - base for x in xs]
    n = len(xs)
    c = np.mean([cosine(differences[i], differences[j]) for i in range(n) for j in range(i)])
    t = n * c / (1 + (n - 1) * c)
    return t * sum(xs) / n + (1 - t) * base


def sce(base, xs, select_topk=1.0):
    d = np.stack([x - base for x in xs])
    spread = d.std(axis=0)
    least = np.sort(spread, axis=None)[-count(select_topk, spread)]
    d = np.where(spread >= least, d, 0)
    weights = (d**2).mean(axis=tuple(range(1, d.ndim)), keepdims=True)
    agrees = np.sign(d) * np.sign(d.sum(axis=0)) > 0
    share = np.where(agrees, weights, 0).sum(axis=0)
    return base + np.where(agrees, weights * d, 0).sum(axis=0) / np.where(share > 0, share, 1)


def nearswap(base, x, t):
    return base + np.clip(x - base, -t, t)


def ram(base, xs, epsilon=1e-5, r=0.0, alpha=0.0):
    """With r, what one model alone changed counts 1 + r min(alpha, what it shares / what it has alone)."""
    differences = [x - base for x in xs]
    changed = [np.abs(d) > epsilon for d in differences]
    models = np.sum(changed, axis=0)
    found = base.copy()
    for d, own in zip(differences, changed, strict=True):
        alone, shared = own & (models == 1), own & (models > 1)
        rho = np.count_nonzero(shared) / max(np.count_nonzero(alone), epsilon or 1)
        found[alone] += (1 + r * np.clip(rho, 0, alpha)) * d[alone]
        found[shared] += d[shared] / models[shared]
    return found


def arcee_fusion(base, x):
    """The divergence of close rows as half the variance of their difference, which is right to its relative size."""
    rows, others = np.atleast_2d(x), np.atleast_2d(base)
    p, q = (np.exp(w - w.max(axis=1, keepdims=True)) for w in (rows, others))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    u = rows - others
    if np.abs(u).max() < 1e-5:
        divergence = 0.5 * (p * (u - (p * u).sum(axis=1, keepdims=True)) ** 2).sum(axis=1, keepdims=True)
    else:
        divergence = (p * np.log(p / q)).sum(axis=1, keepdims=True)
    score = np.abs(u) * divergence
    lower, median, upper = np.quantile(score, [0.25, 0.5, 0.75])
    return np.where(score >= median + 1.5 * (upper - lower), rows, others).reshape(x.shape)
