"""accelerate configurations: hardware in one file, science in the recipe."""
