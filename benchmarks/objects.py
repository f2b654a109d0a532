"""Objects pasted onto textured backgrounds: networks for the object and the background, and a grid pointing game."""

import numpy as np
import torch
from torch import nn

import seewhy

from .taught import (
    METHODS,
    explain_all,
    format_mean,
    format_proportion,
    fraction_inside,
    fractions_inside,
    train_cnn,
)

# methods whose channel sum is the contribution of a position to the score
INPUT_PRODUCTS = {"input_x_gradient", "integrated_gradients"}


def pictures_with_objects(count, seed):
    """Pictures [N, 3, 32, 32] of four gray textures with one of four colored shapes at a random position.

    Returns:
        The pictures, the classes of the background, the classes of the object, masks of the object, and the pictures
        without the object.
    """
    generator = np.random.default_rng(seed)
    positions, offsets = np.arange(32), np.arange(11) - 5
    row, column = np.meshgrid(positions, positions, indexing="ij")
    i, j = np.meshgrid(offsets, offsets, indexing="ij")
    shapes = [
        i**2 + j**2 <= 25,
        (abs(i) <= 1) | (abs(j) <= 1),
        (i**2 + j**2 <= 27) & (i**2 + j**2 >= 12),
        abs(i - j) <= 1,
    ]
    background, obj = generator.integers(4, size=count), generator.integers(4, size=count)
    x, mask = np.zeros((count, 3, 32, 32)), np.zeros((count, 32, 32), bool)
    for n in range(count):
        period, phase = generator.uniform(4, 6), generator.uniform(0, 6)
        coordinate = [row, column, row + column, None][background[n]]
        if coordinate is None:
            texture = np.kron(generator.choice([-1, 1], (8, 8)), np.ones((4, 4)))
        else:
            texture = np.sin(6.28 / period * coordinate + phase)
        x[n] = 0.5 + 0.25 * texture + 0.05 * generator.standard_normal((3, 32, 32))
        top, left = generator.integers(0, 22, size=2)
        mask[n, top : top + 11, left : left + 11] = shapes[obj[n]]
    without_object = torch.from_numpy(x).float()
    color = np.eye(3)[generator.integers(3, size=count)][:, :, None, None]  # red, green or blue
    x = torch.from_numpy(np.where(mask[:, None], color, x)).float()
    return x, torch.from_numpy(background), torch.from_numpy(obj), torch.from_numpy(mask), without_object


def train_networks(count=2500):
    """Train a network that classifies the object, and one that classifies the background."""
    x, background, obj, _, _ = pictures_with_objects(count, 0)
    return {"object": train_cnn(x, obj, 4, 0, 8), "background": train_cnn(x, background, 4, 0, 8)}


def model_contrast(nets, shown=60):
    """Model contrast of Yang and Kim 2019: fraction of the map on the object, for both networks.

    Returns:
        Rows of method, fraction for each network, and their difference; and a text on the validity of the test.
    """
    x, background, obj, mask, without_object = pictures_with_objects(400, 1)
    with torch.no_grad():
        accuracy = {name: float((net(x).argmax(1) == y).float().mean()) for (name, net), y in
                    zip(nets.items(), (obj, background), strict=True)}  # fmt: skip
        # intervention: the object is removed
        change = {
            name: (net(x).softmax(1) - net(without_object).softmax(1)).abs().amax(1) for name, net in nets.items()
        }
    unchanged = float((change["background"] < 0.02).float().mean())
    changed = float((change["object"] > 0.2).float().mean())
    valid = unchanged >= 0.95 and changed >= 0.6 and min(accuracy.values()) >= 0.95
    fractions = {name: fractions_inside(net, x[:shown], mask[:shown]) for name, net in nets.items()}
    rows = []
    for method in METHODS:
        a, b = fractions["object"][method], fractions["background"][method]
        defined = ~np.isnan(a + b)
        rows.append([method, format_mean(a[defined]), format_mean(b[defined]), format_mean((a - b)[defined])])
    area = float(mask[:shown].float().mean())
    text = (
        f"{'Valid' if valid else 'INVALID'}: accuracy {accuracy['object']:.1%} (object) and "
        f"{accuracy['background']:.1%} (background) on 400 new pictures; when the object is removed, the probabilities "
        f"of the background network change by less than 0.02 in {unchanged:.1%} of them, those of the object network "
        f"by more than 0.2 in {changed:.1%}. The object covers {area:.1%} of a picture."
    )
    return rows, text


def with_irrelevant_patches(net, x, side=8, steps=200):
    """Add a square of noise to each picture, optimized so that the network's output does not change.

    Yang and Kim 2019, section 3.2.3: a patch that is irrelevant for the network.

    Returns:
        The pictures with the patch, and masks of the patch [N, H, W].
    """
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(len(x), 1, *x.shape[2:])
    for sample_mask in mask:
        top, left = torch.randint(x.shape[2] - side, (2,), generator=generator).tolist()
        sample_mask[0, top : top + side, left : left + side] = 1
    noise = (torch.rand(x.shape, generator=generator) - 0.5).requires_grad_()
    optimizer = torch.optim.Adam([noise], 0.02)
    with torch.no_grad():
        expected = net(x)
    for _ in range(steps):
        (noise.grad,) = torch.autograd.grad(((net(x + noise * mask) - expected) ** 2).sum(), noise)
        optimizer.step()
    return (x + noise * mask).detach(), mask[:, 0].bool()


def dependence_and_localization(nets, shown=60):
    """Input dependence and independence for the background network, and localization for the object network.

    Returns:
        Rows of method, input dependence, input independence, pointing and rank accuracy; and a text on the patches.
    """
    x, _, _, mask, without_object = (v[:shown] for v in pictures_with_objects(400, 1))
    net = nets["background"]
    patched, patch_mask = with_irrelevant_patches(net, x)
    with torch.no_grad():
        output, patched_output = net(x), net(patched)
        output_range = output.amax(1) - output.amin(1)
        output_change = float(((patched_output - output).abs().amax(1) / output_range).max())
        patch_size = float(((patched - x)[patch_mask[:, None].expand_as(x)] ** 2).mean().sqrt())
        std = float((x - x.mean((2, 3), keepdim=True)).pow(2).mean().sqrt())
    classes = output.argmax(1)
    original, removed, with_patch = (explain_all(net, v, classes) for v in (x, without_object, patched))
    of_object = explain_all(nets["object"], x)
    rows = []
    for method in METHODS:
        less = fraction_inside(original[method], mask) < fraction_inside(removed[method], mask)
        change = fraction_inside(with_patch[method], patch_mask) / fraction_inside(original[method], patch_mask) - 1
        e = of_object[method]
        hit = seewhy.measure(nets["object"], e, "pointing", mask=mask, tolerance=3).values[:, 0].numpy()
        rows.append([
            method, format_proportion(int(less.sum()), shown), format_proportion(int((abs(change) < 0.1).sum()), shown),
            format_mean(hit[~np.isnan(hit)]), format_mean(rank_accuracy(e.maps[:, 0].abs(), mask)),
        ])  # fmt: skip
    text = (
        f"The noise squares differ from the original values by {patch_size:.2f} (root mean square; the standard "
        f"deviation of the pictures is {std:.2f}), and no score changes by more than {output_change:.1g} of the range "
        "of the scores."
    )
    return rows, text


def rank_accuracy(maps, mask):
    """Rank accuracy: fraction of the k largest values that are inside the mask, where k is the size of the mask.

    One value per sample; equal values are ordered at random.
    """
    order = torch.from_numpy(np.random.default_rng(0).permutation(mask[0].numel()))
    accuracies = []
    for values, inside in zip(maps.flatten(1)[:, order], mask.flatten(1)[:, order], strict=True):
        largest = values.argsort(descending=True, stable=True)[: int(inside.sum())]
        accuracies.append(float(inside[largest].double().mean()))
    return accuracies


# --- grid pointing game


def tile(cells):
    """Arrange four pictures in a grid: [4, C, H, W] -> [C, 2 H, 2 W]."""
    return torch.cat([torch.cat([cells[0], cells[1]], 2), torch.cat([cells[2], cells[3]], 2)], 1)


def grid_pointing_game(count=24):
    """GridPG of Rao et al. 2022: whether the positive part of a map is in the cell of its class.

    Returns:
        Rows of method, fraction in the correct cell, and fraction of cells with the largest value in the correct cell;
        and a text on the validity of the test.
    """
    x, _, obj, _, without_object = pictures_with_objects(2500, 0)
    labels = torch.cat([nn.functional.one_hot(obj, 4).float(), torch.zeros(1000, 4)])
    net = train_cnn(torch.cat([x, without_object[:1000]]), labels, 4, 0, 12, mean=True, rate=8e-3)
    x, _, obj, _, without_object = pictures_with_objects(400, 1)
    with torch.no_grad():
        accuracy = float((net(x).argmax(1) == obj).float().mean())
    generator = np.random.default_rng(2)
    of_class = [torch.nonzero(obj == c)[:, 0] for c in range(4)]
    target = torch.stack([torch.from_numpy(generator.permutation(4)) for _ in range(count)])
    selected = [[int(of_class[c][m]) for c in classes] for m, classes in enumerate(target.tolist())]
    mosaic = torch.stack([tile(x[indices]) for indices in selected])
    # intervention: the object of one cell after the other is removed
    decrease = torch.zeros(count, 4, 4)  # [mosaic, cell without its object, class]
    with torch.no_grad():
        scores = net(mosaic).gather(1, target)
        for i in range(4):
            changed = torch.stack([
                tile(torch.stack([(without_object if i == j else x)[index] for j, index in enumerate(indices)]))
                for indices in selected
            ])  # fmt: skip
            decrease[:, i] = scores - net(changed).gather(1, target)
    largest_in_own_cell = float((decrease.argmax(1) == torch.arange(4)).float().mean())
    decrease = decrease.clamp(min=0)
    own_fraction = (decrease.diagonal(dim1=1, dim2=2) / decrease.sum(1)).mean(1)
    rows = []
    for method, e in explain_all(net, mosaic, target, window=8, features=64).items():
        signed = e.filtered("channel_sum") if method in INPUT_PRODUCTS else e
        cells = signed.maps.clamp(min=0).view(count, 4, 2, 32, 2, 32)
        mass = cells.sum((3, 5)).flatten(2)
        inside = mass.diagonal(dim1=1, dim2=2) / mass.sum(2).masked_fill(mass.sum(2) == 0, torch.nan)
        hit = cells.amax((3, 5)).flatten(2).argmax(2) == torch.arange(4)
        inside, defined = inside.nanmean(1).numpy(), (mass.sum(2) > 0).any(1).numpy()
        rows.append([method, format_mean(inside[defined]), format_mean(hit.double().mean(1))])
    valid = largest_in_own_cell >= 0.95 and accuracy >= 0.95
    text = (
        f"{'Valid' if valid else 'INVALID'}: accuracy {accuracy:.1%} on single pictures; for {largest_in_own_cell:.0%} "
        "of the cells, removing the object of the cell lowers the score of its class more than removing any other "
        f"object. On average, it accounts for {format_mean(own_fraction)} of the sum of the decreases, which is the "
        "fraction that can be expected of a correct map."
    )
    return rows, text
