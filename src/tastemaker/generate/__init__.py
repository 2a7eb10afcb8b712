"""Pictures: load models, draw, invert, inject, mix. Import the modules; this package itself loads no torch."""
