"""What the literature reports of the techniques in docs/evidence.md, with its sources."""

from __future__ import annotations

PUBLISHED = (
    "## published: what the literature reports",
    "",
    "Larger networks, more data and longer training than here; to see the signs and the sizes, not "
    "to compare digits. Accuracy in %, unless it says error.",
    "",
    "| technique | where | reported | source |",
    "|---|---|---|---|",
    "| rand_augment | CIFAR-10, 4,000 images, WRN-28-2 | 82.14 ± 0.25 to 85.53 ± 0.25 | "
    "arXiv 1909.13719 |",
    "| label smoothing | the same | 82.14 ± 0.25 to 82.21 ± 0.18 | arXiv 1909.13719 |",
    "| TrivialAugment | CIFAR-100, WRN-28-10 | 84.33 | arXiv 2103.10158 |",
    "| TeachAugment | CIFAR-10, WRN-28-10 | 97.5 | arXiv 2202.12513 |",
    "| mixup | CIFAR-10, DenseNet-BC-190 | error 3.7 to 2.7 | arXiv 1710.09412 |",
    "| cutmix | CIFAR-100, PyramidNet-200 | error 16.45 to 14.23 | arXiv 1905.04899, its code |",
    "| random erasing | Fashion-MNIST, ResNet-20 | error 4.39 to 4.02 | arXiv 1708.04896 |",
    "| random erasing | CIFAR-10, ResNet-20 | error 7.21 to 6.73 | arXiv 1708.04896 |",
    "| cutout | CIFAR-10, WRN-28-10 | error 3.9 to 3.1 | arXiv 1708.04552 |",
    "| AutoAugment | CIFAR-10, WRN-28-10, 5,000 GPU hours of search | error 3.9 to 2.6 | "
    "arXiv 1805.09501 |",
    "| DADA | CIFAR-10, WRN-28-10, 0.1 GPU hours | error 2.7; most of its learned numbers stay "
    "where they began | arXiv 2003.03780 |",
    "| stacking | ImageNet, ResNet-200: label smoothing, then stochastic depth, RandAugment, "
    "dropout, less weight decay | +1.3, +0.2, +0.4, -0.3, +1.5 | arXiv 2103.07579 |",
    "| images of a GAN in place of real ones | CIFAR-10, ResNet-56, BigGAN | 92.58 to 71.87 | "
    "arXiv 1905.10887 |",
    "| reconstructed images | ImageNet, near-perfect autoencoder | 73.09 to 69.90 | "
    "arXiv 1905.10887 |",
    "| extrapolation of features | helps most of the three, interpolation can hurt | | "
    "arXiv 1702.05538 |",
    "| one augmented copy of each image, kept | hurts: strong policies need fresh draws and many "
    "epochs | | arXiv 2210.06441 |",
    "| tuning the plain baseline | beats nearly all special methods for small data | | "
    "arXiv 2108.13122 |",
    "",
)
