"""What others publish of the paper's networks, and of those that it compares itself with."""

# Width, resolution, and millions of MACs and weights: github.com/tensorflow/models, research/slim/nets/mobilenet.
COUNTS = [
    ("1.4", 224, 582, 6.06),
    ("1.3", 224, 509, 5.34),
    ("1.0", 224, 300, 3.47),
    ("1.0", 192, 221, 3.47),
    ("1.0", 160, 154, 3.47),
    ("1.0", 128, 99, 3.47),
    ("1.0", 96, 56, 3.47),
    ("0.75", 224, 209, 2.61),
    ("0.5", 224, 97, 1.95),
    ("0.35", 224, 59, 1.66),
]
PARAMETERS = 3_504_872
"""Of torchvision's ``mobilenet_v2``, with 1000 classes: those that are trained."""

OTHERS = [("mnv1_1.0", 569, 4.2), ("mnv1_0.5", 149, 1.3), ("resnet_50", 4089, 25.6)]
"""Millions of MACs and of parameters: arXiv 1704.04861, Table 6; ResNet-50 by torchvision, which says 4.09 G."""
PARAMETERS_OF_RESNET_50 = 25_557_032
