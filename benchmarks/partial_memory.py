r"""What one step of HST takes beyond the backbone's maps: the process's peak memory, and time.

    python benchmarks/partial_memory.py --classes 80 --width 1024 --hidden 512

All its parts, forward and backward, with an Adam step: power normalisation, semantic decoupling,
graph, IST, CST, thresholds, both contrasts, three partial BCEs, on random maps and labels with
everything known.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import torch
from torch import nn

from relabel.partial.losses import instance_contrast, partial_bce, prototype_contrast
from relabel.partial.model import power_normalised
from relabel.partial.networks.prototypes import Examples, Prototypes
from relabel.partial.networks.semantic import SemanticAware
from relabel.partial.networks.transfer import IntraImage, Thresholds, complement


def peak() -> float:
    """The process's peak memory so far, GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--present", type=float, default=3, help="classes present per image")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--channels", type=int, default=2048, help="of the backbone")
    parser.add_argument("--side", type=int, default=14, help="of the maps")
    parser.add_argument("--width", type=int, default=1024, help="of class features")
    parser.add_argument("--hidden", type=int, default=512)
    args = parser.parse_args()
    torch.manual_seed(0)
    b, c = args.images, args.classes
    maps = torch.randn(b, args.channels, args.side, args.side)
    present = torch.rand(b, c) < args.present / c
    known = torch.where(present, 1, -1).to(torch.int8)
    before = peak()
    net = SemanticAware(
        args.channels, torch.randn(c, 300), torch.rand(c, c), args.width, args.hidden
    )
    ist = IntraImage(args.width, torch.rand(c, c), args.hidden)
    examples, prototypes = Examples(c, args.width), Prototypes(c, args.width)
    by_ist, by_cst = Thresholds(c), Thresholds(c)
    parts = nn.ModuleList([net, ist, by_ist, by_cst])
    optimizer = torch.optim.Adam([p for p in parts.parameters() if p.requires_grad], lr=1e-4)
    weights = peak() - before
    for step in range(2):  # Adam's own memory is there from the second
        start = time.perf_counter()
        logits, features = net(power_normalised(maps))
        pairs = ist(features, known)
        examples.add(features, known)
        if step == 0:
            prototypes.fit(examples, seed=0)
        ist_scores, cst_scores = pairs.scores(b), prototypes.scores(features)
        loss = partial_bce(logits, known) + 10 * pairs.loss(known)
        loss = loss + partial_bce(logits, complement(known, ist_scores, by_ist.values))
        loss = loss + partial_bce(logits, complement(known, cst_scores, by_cst.values))
        loss = loss + 0.1 * by_ist.loss(*pairs.held_out(known))
        loss = loss + 0.1 * by_cst.loss(cst_scores, known * prototypes.seen)
        loss = loss + 0.05 * instance_contrast(features, known)
        loss = loss + 0.05 * prototype_contrast(cst_scores, known * prototypes.seen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(
            f"step {step}: {time.perf_counter() - start:.1f} s, peak {peak() - before:.2f} GB "
            f"beyond the maps, {weights:.2f} GB of it weights; {len(pairs.image)} rows of IST"
        )


if __name__ == "__main__":
    main()
