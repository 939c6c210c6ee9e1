"""Run gallery examples without a display and save their figures as PNG files.

Usage: python examples/save_figures.py EXAMPLE [EXAMPLE ...] OUTPUT_DIR [--data FOLDER]
"""

import argparse
import runpy
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt


def show_nothing(*args, **kwargs):
    """Stand in for ``plt.show``, which on a backend without a display would warn."""


def main():
    """Run the examples named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("examples", nargs="+", type=Path, metavar="EXAMPLE")
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("--data", help="folder of Fashion-MNIST, for the examples on images")
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    plt.show = show_nothing

    for example in arguments.examples:
        runpy.run_path(str(example), run_name="__main__")
        for number in plt.get_fignums():
            figure = plt.figure(number)
            path = arguments.output_dir / f"{figure.get_label() or f'{example.stem}_{number}'}.png"
            figure.savefig(path, dpi=150)
            print(f"figure saved to {path}")
        plt.close("all")


if __name__ == "__main__":
    main()
