"""From images to the weights of a learned augmenter."""
