"""Files in, arrays out: decoding, encoding, and folders of images."""
