"""Train the built-in feature net: python -m recipes.train_features OUT.safetensors.

Cosine softmax over the concepts of the training split (emoji designs and photographs), with a
second head for subgroups. Held-out quality is logged as the share of test images whose nearest
other test image (by cosine) is of the same subgroup, and of the same concept where there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2l_core.evaluation.features import WIDTHS, FeatureNet
from l2l_core.models.checkpoints import save_weights
from recipes.sampling import TrainingImages

BATCH, SIZE, SCALE = 128, 64, 16.0


def labels_of(names: list[str]) -> tuple[Tensor, int]:
    """Names as class numbers (N,), and how many classes there are."""
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return torch.tensor([numbers[name] for name in names]), len(numbers)


def cosine_logits(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """Scaled cosines (B, classes)."""
    return SCALE * F.normalize(embeddings, dim=1) @ F.normalize(prototypes, dim=1).T


@torch.no_grad()
def nearest_agreement(net: FeatureNet, test: TrainingImages) -> dict[str, float]:
    """Share of held-out images whose nearest neighbour is of the same concept, and subgroup."""
    net.eval()
    pixels = test.pixels.float() / 255
    embeddings = torch.cat([net.embed(part) for part in pixels.split(128)])
    unit = F.normalize(embeddings, dim=1)
    similarity = unit @ unit.T
    similarity.fill_diagonal_(-1)
    nearest = similarity.argmax(dim=1).tolist()
    net.train()
    concept = [f"{i.group}/{i.concept}" for i in test.images]
    subgroup = [f"{i.group}/{i.subgroup}" for i in test.images]
    several = [i for i in range(len(concept)) if concept.count(concept[i]) > 1]
    return {
        "same concept": sum(concept[i] == concept[nearest[i]] for i in several) / len(several),
        "same subgroup": sum(a == subgroup[b] for a, b in zip(subgroup, nearest, strict=True))
        / len(subgroup),
    }


def main() -> None:
    """Parse options and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="where to write the weights")
    parser.add_argument("--images", type=int, default=150_000, help="training images in total")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    train, test = TrainingImages("train"), TrainingImages("test")
    concepts, concept_count = labels_of([f"{i.group}/{i.concept}" for i in train.images])
    subgroups, subgroup_count = labels_of([f"{i.group}/{i.subgroup}" for i in train.images])
    net = FeatureNet().to(args.device, memory_format=torch.channels_last)
    heads = nn.ParameterList(
        nn.Parameter(torch.randn(count, WIDTHS[-1], device=args.device) * 0.1)
        for count in (concept_count, subgroup_count)
    )
    parameters = [*net.parameters(), *heads]
    optimizer = torch.optim.AdamW(parameters, args.lr, weight_decay=0.05)
    total = args.images // BATCH
    started = time.time()
    for step in range(total):
        rate = min(1, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / total))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        images, picked = train.batch(BATCH, SIZE, generator)
        with torch.autocast(torch.device(args.device).type, torch.bfloat16):
            embeddings = net.embed(images.to(args.device))
        embeddings = embeddings.float()
        loss = F.cross_entropy(
            cosine_logits(embeddings, heads[0]), concepts[picked].to(args.device)
        ) + 0.5 * F.cross_entropy(
            cosine_logits(embeddings, heads[1]), subgroups[picked].to(args.device)
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % 200 == 0 or step + 1 == total:
            record: dict[str, object] = {"images": (step + 1) * BATCH, "loss": loss.item()}
            record["seconds"] = round(time.time() - started)
            print(json.dumps(record | nearest_agreement(net, test)), flush=True)
    save_weights(net.cpu().state_dict(), args.out, {"network": "FeatureNet"}, half=True)


if __name__ == "__main__":
    main()
