"""Train the digits classifiers from scratch: `python -m graphpress.tools.digits.train`. Takes about a minute."""

from __future__ import annotations

import argparse

import torch

from graphpress.ir.tensors import write_archive
from graphpress.tools.digits.trained import NETWORKS, accuracy, digits, load_trained, weights_file
from graphpress.tools.digits.training import train


def main() -> None:
    """Train each network, write its weights in float16, and print the accuracy of what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the same weights whatever the machine's number of cores
    data = digits()
    for name, network in NETWORKS.items():
        torch.manual_seed(options.seed)
        model = network()
        model.train()
        train(model, options.epochs, seed=options.seed)
        model.eval()
        held_out = accuracy(model, data.test_images, data.test_labels)
        state = {key: t.half() if t.is_floating_point() else t for key, t in model.state_dict().items()}
        facts = {"epochs": str(options.epochs), "seed": str(options.seed), "accuracy": f"{held_out:.4f}"}
        write_archive(weights_file(name), state, facts)
        stored = accuracy(load_trained(name), data.test_images, data.test_labels)
        print(f"{name}: {held_out:.2%} held out, {stored:.2%} as stored in float16")


if __name__ == "__main__":
    main()
