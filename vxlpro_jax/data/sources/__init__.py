"""Records of data sets: storage, file formats and mixtures."""
