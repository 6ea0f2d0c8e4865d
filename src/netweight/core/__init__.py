"""Import paths that scripts written for the replaced tools use, for what netweight has under its own."""
