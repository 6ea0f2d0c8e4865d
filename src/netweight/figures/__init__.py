"""Pictures of what jobs have measured, drawn with Pillow."""
