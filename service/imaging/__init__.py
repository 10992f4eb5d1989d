"""Pixels in, pixels out: image files, resizing, label maps, colours, tiles."""
