"""Device meshes, and how parameters, batches and activations are laid out over them."""
