"""Forms of a segmentation beyond pictures: run lengths, contours, tables; one module each, no HTTP."""
