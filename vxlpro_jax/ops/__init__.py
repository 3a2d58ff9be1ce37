"""Pure numerics: no parameters, no Flax."""
