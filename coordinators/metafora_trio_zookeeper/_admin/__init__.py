"""The tool for operators: `metafora doctor`'s checks."""
