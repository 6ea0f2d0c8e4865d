"""`devices`: what there is to compute on."""
