"""TinyImageNet: reading, cropping and caching images."""
