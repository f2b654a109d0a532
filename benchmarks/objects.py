"""Objects pasted into scenes: one network names the object, another the scene; and four pictures in one."""

import numpy as np
import torch
from torch import nn

import seewhy

from .taught import MAPS, explained, part, share, shares, spread, trained

PRODUCTS = {"input_x_gradient", "integrated_gradients"}  # whose channels sum to what a place adds to the score


def scenes(count, seed):
    """Pictures of four textures with four glyphs pasted anywhere; scene, object, where it is, the bare scenes."""
    draw = np.random.default_rng(seed)
    side, big = np.arange(32), np.arange(11) - 5
    down, right = np.meshgrid(side, side, indexing="ij")
    i, j = np.meshgrid(big, big, indexing="ij")
    glyphs = [
        i**2 + j**2 <= 25,
        (abs(i) <= 1) | (abs(j) <= 1),
        (i**2 + j**2 <= 27) & (i**2 + j**2 >= 12),
        abs(i - j) <= 1,
    ]
    scene, thing = draw.integers(4, size=count), draw.integers(4, size=count)
    x, mask = np.zeros((count, 3, 32, 32)), np.zeros((count, 32, 32), bool)
    for n in range(count):
        t, o = draw.uniform(4, 6), draw.uniform(0, 6)
        waves = [down, right, down + right, None][scene[n]]
        grey = np.kron(draw.choice([-1, 1], (8, 8)), np.ones((4, 4))) if waves is None else np.sin(6.28 / t * waves + o)
        x[n] = 0.5 + 0.25 * grey + 0.05 * draw.standard_normal((3, 32, 32))
        top, left = draw.integers(0, 22, size=2)
        mask[n, top : top + 11, left : left + 11] = glyphs[thing[n]]
    bare = x.copy()
    colour = np.eye(3)[draw.integers(3, size=count)][:, :, None, None]  # red, green or blue; scenes are grey
    x = np.where(mask[:, None], colour, x)
    as_tensor = lambda v: torch.from_numpy(v).float()  # noqa: E731
    return as_tensor(x), torch.from_numpy(scene), torch.from_numpy(thing), torch.from_numpy(mask), as_tensor(bare)


def taught(count=2500):
    """The networks that name the object and the scene."""
    x, scene, thing, _, _ = scenes(count, 0)
    return {"object": trained(x, thing, 4, 0, 8), "scene": trained(x, scene, 4, 0, 8)}


def pasted(nets, shown=60):
    """Rows: a method, the share of its map on the object in either network, their difference; and the sentence."""
    x, scene, thing, mask, bare = scenes(400, 1)
    with torch.no_grad():
        right = {name: float((net(x).argmax(1) == y).float().mean()) for (name, net), y in
                 zip(nets.items(), (thing, scene), strict=True)}  # fmt: skip
        # the intervention: the object is taken away
        moved = {name: (net(x).softmax(1) - net(bare).softmax(1)).abs().amax(1) for name, net in nets.items()}
    quiet, stirred = float((moved["scene"] < 0.02).float().mean()), float((moved["object"] > 0.2).float().mean())
    valid = quiet >= 0.95 and stirred >= 0.6 and min(right.values()) >= 0.95
    on = {name: shares(net, x[:shown], mask[:shown]) for name, net in nets.items()}
    rows = []
    for method in MAPS:
        a, b = on["object"][method], on["scene"][method]
        both = ~np.isnan(a + b)
        rows.append([method, spread(a[both]), spread(b[both]), spread((a - b)[both])])
    area = float(mask[:shown].float().mean())
    says = (
        f"{'Valid' if valid else 'INVALID'}: accuracy {right['object']:.1%} (object) and {right['scene']:.1%} (scene) "
        f"on 400 new pictures; with the object taken away the scene network moves by less than 0.02 in {quiet:.1%} of "
        f"them, the object network by more than 0.2 in {stirred:.1%}. The object covers {area:.1%} of a picture."
    )
    return rows, says


def unmoved(net, x, side=8, steps=200):
    """Pictures with a square of noise in them, changed until the network answers as before; and where it is.

    Yang and Kim 2019, section 3.2.3: a patch that does not count for the network.
    """
    draw = torch.Generator().manual_seed(0)
    where = torch.zeros(len(x), 1, *x.shape[2:])
    for one in where:
        top, left = torch.randint(x.shape[2] - side, (2,), generator=draw).tolist()
        one[0, top : top + side, left : left + side] = 1
    added = (torch.rand(x.shape, generator=draw) - 0.5).requires_grad_()
    rate = torch.optim.Adam([added], 0.02)
    with torch.no_grad():
        before = net(x)
    for _ in range(steps):
        (added.grad,) = torch.autograd.grad(((net(x + added * where) - before) ** 2).sum(), added)
        rate.step()
    return (x + added * where).detach(), where[:, 0].bool()


def relied(nets, shown=60):
    """Rows: a method, input dependence and independence on the scene network, two scores on the object network."""
    x, _, _, mask, bare = (v[:shown] for v in scenes(400, 1))
    net = nets["scene"]
    patched, where = unmoved(net, x)
    with torch.no_grad():
        answers, after = net(x), net(patched)
        width = answers.amax(1) - answers.amin(1)
        moved = float(((after - answers).abs().amax(1) / width).max())
        differ = float(((patched - x)[where[:, None].expand_as(x)] ** 2).mean().sqrt())
        grain = float((x - x.mean((2, 3), keepdim=True)).pow(2).mean().sqrt())
    named = answers.argmax(1)
    whole, without, beside = (explained(net, v, named) for v in (x, bare, patched))
    of_object = explained(nets["object"], x)
    rows = []
    for method in MAPS:
        less = part(whole[method], mask) < part(without[method], mask)
        change = part(beside[method], where) / part(whole[method], where) - 1
        e = of_object[method]
        hit = seewhy.measure(nets["object"], e, "pointing", mask=mask, tolerance=3).values[:, 0].numpy()
        rows.append([
            method, share(int(less.sum()), shown), share(int((abs(change) < 0.1).sum()), shown),
            spread(hit[~np.isnan(hit)]), spread(ranked(e.maps[:, 0].abs(), mask)),
        ])  # fmt: skip
    says = (
        f"The squares of noise differ from what they cover by {differ:.2f} (root mean square; the pictures vary by "
        f"{grain:.2f}), and no score moves by more than {moved:.1g} of the range of the scores."
    )
    return rows, says


def ranked(maps, mask):
    """[N]: of as many largest values as the mask has places, the share that lies on it; of equal ones any."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(mask[0].numel()))
    found = []
    for one, inside in zip(maps.flatten(1)[:, order], mask.flatten(1)[:, order], strict=True):
        best = one.argsort(descending=True, stable=True)[: int(inside.sum())]
        found.append(float(inside[best].double().mean()))
    return found


# --- four pictures in one


def laid(cells):
    """[4, C, H, W] -> [C, 2 H, 2 W]."""
    return torch.cat([torch.cat([cells[0], cells[1]], 2), torch.cat([cells[2], cells[3]], 2)], 1)


def grids(count=24):
    """Rows: a method, and what of its positive part, and of its largest values, lies in the cell of the class."""
    x, _, thing, _, bare = scenes(2500, 0)
    asks = torch.cat([nn.functional.one_hot(thing, 4).float(), torch.zeros(1000, 4)])
    net = trained(torch.cat([x, bare[:1000]]), asks, 4, 0, 12, mean=True, rate=8e-3)
    x, _, thing, _, bare = scenes(400, 1)
    with torch.no_grad():
        right = float((net(x).argmax(1) == thing).float().mean())
    draw = np.random.default_rng(2)
    of_class = [torch.nonzero(thing == c)[:, 0] for c in range(4)]
    target = torch.stack([torch.from_numpy(draw.permutation(4)) for _ in range(count)])
    picked = [[int(of_class[c][m]) for c in row] for m, row in enumerate(target.tolist())]
    mosaic = torch.stack([laid(x[rows]) for rows in picked])
    # the intervention: the object is taken away, cell by cell
    falls = torch.zeros(count, 4, 4)
    with torch.no_grad():
        whole = net(mosaic).gather(1, target)
        for i in range(4):
            bared = torch.stack([laid(torch.stack([(bare if i == j else x)[row] for j, row in enumerate(rows)]))
                                 for rows in picked])  # fmt: skip
            falls[:, i] = whole - net(bared).gather(1, target)
    most = float((falls.argmax(1) == torch.arange(4)).float().mean())
    down = falls.clamp(min=0)
    own = (down.diagonal(dim1=1, dim2=2) / down.sum(1)).mean(1)
    rows = []
    for method, e in explained(net, mosaic, target, window=8, features=64).items():
        shown = e.filtered("channel_sum") if method in PRODUCTS else e
        each = shown.maps.clamp(min=0).view(count, 4, 2, 32, 2, 32)
        mass = each.sum((3, 5)).flatten(2)
        inside = mass.diagonal(dim1=1, dim2=2) / mass.sum(2).masked_fill(mass.sum(2) == 0, torch.nan)
        peak = each.amax((3, 5)).flatten(2).argmax(2) == torch.arange(4)
        inside, known = inside.nanmean(1).numpy(), (mass.sum(2) > 0).any(1).numpy()
        rows.append([method, spread(inside[known]), spread(peak.double().mean(1))])
    says = (
        f"{'Valid' if most >= 0.95 and right >= 0.95 else 'INVALID'}: accuracy {right:.1%} on single pictures; taking "
        f"the object out of a cell lowers the score of its class most where it should in {most:.0%} of the cells, and "
        f"{spread(own)} of all that lowers it is there, which is what a right map can be expected to say."
    )
    return rows, says
