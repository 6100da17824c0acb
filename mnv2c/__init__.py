"""mnv2c compiles MobileNetV2 layer tables into standalone C libraries."""

__version__ = "0.1.0"
