"""`delta`: what fine-tunes changed in their base."""
