"""Structure of image files, read from their bytes before a decoder sees them: sizes, costs, and bounds for both."""
